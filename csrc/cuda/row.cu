// Row losses on a GPU: which kernel a call gets, for every loss functor and storage type.

#include "api.h"
#include "reduce.cuh"
#include "row_contiguous.cuh"
#include "row_strided.cuh"

namespace fastloss {
namespace {

constexpr int kLaneRowClasses = 1024;         // rows up to here are shared by lanes of a warp
constexpr int kPacksPerThread = 4;            // what a thread has in flight (traverse)
constexpr int kMaxClusterBlocks = 8;          // the portable limit
constexpr int kStaticShared = 2 * 1024;       // statistics of warps and blocks, with the 1 KiB the system keeps
constexpr int kBlocksAtOnce = 2;              // blocks to have on a processor at once, see plan_block
constexpr long long kMaxClasses = 1ll << 30;  // a row is indexed with int

// How a kernel for unit class stride is launched. It depends on the row and the device only, never on the number of
// rows: a row has the same loss in every batch.
struct Plan {
  unsigned blocks_per_row;  // 1, or the size of the cluster
  unsigned threads;
  int slice;  // classes of a block, a multiple of the pack
  bool keep, keep_soft;
  size_t shared_bytes;
};

int round_up(long long count, int multiple) { return int((count + multiple - 1) / multiple * multiple); }

unsigned block_threads(int slice, int pack, int max_threads) {
  unsigned threads = 128;
  while (threads < unsigned(max_threads) && slice > int(threads) * kPacksPerThread * pack) threads *= 2;
  return threads;
}

// A gradient needs every logit twice, so the row stays in shared memory between the passes. If it took most of a
// processor's shared memory, one block would have the processor to itself and its loads would never overlap another's
// stores: on Hopper a row goes to the smallest cluster that leaves room for kBlocksAtOnce blocks (112 KiB each on an
// H100; the registers of 512 threads allow two as well), or else to the largest. A row too long even so is read twice
// by one block, the second time mostly from L2.
Plan plan_block(int classes, size_t element, bool soft, bool gradient, int max_threads, const FastlossDevice& device) {
  const int pack = int(16 / element);
  Plan plan = {1, block_threads(classes, pack, max_threads), round_up(classes, pack), false, false, 0};
  if (!gradient) return plan;
  const auto bytes = [&](int slice, int streams) { return size_t(streams) * (slice + pack) * element; };
  const size_t limit = size_t(device.shared_per_block - kStaticShared);
  const size_t comfortable = size_t(device.shared_per_processor / kBlocksAtOnce - kStaticShared);
  const int max_blocks = device.arch >= 90 ? kMaxClusterBlocks : 1;
  for (int streams = soft ? 2 : 1; streams > 0; --streams) {
    int blocks = 1;
    while (blocks < max_blocks && bytes(round_up((classes + blocks - 1) / blocks, pack), streams) > comfortable) {
      blocks *= 2;
    }
    const int slice = round_up((classes + blocks - 1) / blocks, pack);
    if (bytes(slice, streams) <= limit) {
      return {unsigned(blocks),     block_threads(slice, pack, max_threads), slice, true, streams == 2,
              bytes(slice, streams)};
    }
  }
  return plan;
}

template <class Loss, class T, bool kDense, bool kBackward>
int launch_lanes(RowJob<Loss, T> job, GpuStream stream) {
  constexpr int N = Pack<T>::count;
  const int threads = kMaxThreads<LanesTeam, kDense>;
  job.lanes = 4;
  while (job.lanes < 32 && job.lanes * N < job.classes) job.lanes *= 2;
  job.slice = round_up(job.classes, N);
  job.keep = !kBackward && job.gradient.data != nullptr;
  job.keep_soft = job.keep && job.soft_target.data != nullptr;
  const int teams = threads / job.lanes;
  const size_t bytes = size_t(job.keep + job.keep_soft) * teams * (job.slice + N) * sizeof(T);
  const dim3 grid(unsigned((job.rows + teams - 1) / teams));
  const auto kernel =
      kBackward ? row_backward_kernel<Loss, T, LanesTeam, kDense> : row_forward_kernel<Loss, T, LanesTeam, kDense>;
  return launch(kernel, grid, dim3(threads), 1, bytes, stream, job);
}

template <class Loss, class T, bool kDense, bool kBackward>
int launch_blocks(RowJob<Loss, T> job, const FastlossDevice& device) {
  const GpuStream stream = static_cast<GpuStream>(device.stream);
  const bool keep = !kBackward && job.gradient.data != nullptr;
  const Plan plan =
      plan_block(job.classes, sizeof(T), job.soft_target.data != nullptr, keep, kMaxThreads<BlockTeam, kDense>, device);
  job.slice = plan.slice;
  job.keep = plan.keep;
  job.keep_soft = plan.keep_soft;
  const dim3 grid(unsigned(job.rows) * plan.blocks_per_row);
  if constexpr (kBackward) {
    return launch(row_backward_kernel<Loss, T, BlockTeam, kDense>, grid, dim3(plan.threads), 1, 0, stream, job);
  } else {
    const auto kernel = plan.blocks_per_row > 1 ? row_forward_cluster_kernel<Loss, T, kDense>
                                                : row_forward_kernel<Loss, T, BlockTeam, kDense>;
    return launch(kernel, grid, dim3(plan.threads), plan.blocks_per_row, plan.shared_bytes, stream, job);
  }
}

template <class Loss, class T, bool kDense, bool kBackward>
int launch_strided(const RowJob<Loss, T>& job, GpuStream stream) {
  unsigned parts = 1;
  while (parts < unsigned(kMaxParts) && long(parts) * 2 * kClassGroup <= job.classes) parts *= 2;
  const dim3 grid(unsigned((job.rows + kColumns - 1) / kColumns)), block(kColumns, parts);
  return launch(row_strided_kernel<Loss, T, kDense, kBackward>, grid, block, 1, 0, stream, job);
}

template <class Loss, class T, bool kDense, bool kBackward>
int launch_rows(const RowJob<Loss, T>& job, const FastlossDevice& device) {
  const bool contiguous = job.inner == 1 && job.logits.step == 1 &&
                          (job.soft_target.data == nullptr || job.soft_target.step == 1) &&
                          (job.gradient.data == nullptr || job.gradient.step == 1);
  const GpuStream stream = static_cast<GpuStream>(device.stream);
  if (!contiguous) return launch_strided<Loss, T, kDense, kBackward>(job, stream);
  // Double logits are for gradient checks: no kernel of their own for short rows.
  if constexpr (sizeof(T) < 8) {
    if (job.classes <= kLaneRowClasses) return launch_lanes<Loss, T, kDense, kBackward>(job, stream);
  }
  return launch_blocks<Loss, T, kDense, kBackward>(job, device);
}

template <class Loss, class T, bool kBackward>
int run(const FastlossRowCall& call, const FastlossDevice& device) {
  using A = typename Loss::A;
  if (call.parameter_count != Loss::parameter_count) return FASTLOSS_WRONG_PARAMETERS;
  if (call.classes > kMaxClasses) return FASTLOSS_TOO_MANY_CLASSES;
  const Loss loss(call.parameters, call.classes);
  RowJob<Loss, T> job = {
      loss,
      Units<Loss, T>(loss),
      {static_cast<const T*>(call.logits.data), call.logits.outer, call.logits.step},
      {call.soft ? static_cast<const T*>(call.target.data) : nullptr, call.target.outer, call.target.step},
      {static_cast<T*>(call.gradient.data), call.gradient.outer, call.gradient.step},
      call.soft ? nullptr : static_cast<const long long*>(call.target.data),
      static_cast<const A*>(call.weight),
      static_cast<const A*>(call.loss_gradient),
      nullptr,
      static_cast<A*>(call.row_loss),
      static_cast<A*>(call.state),
      call.rows,
      call.inner,
      call.ignore_index,
      int(call.classes),
      0,
      0,
      false,
      false};
  const GpuStream stream = static_cast<GpuStream>(device.stream);
  double* const partial = call.scratch + 1;
  if (!kBackward && call.reduction == FASTLOSS_MEAN) {
    // The gradient of the mean needs the denominator before the first row is written.
    const RowWeights<A> weights = {job.target, job.weight, job.ignore_index, call.classes};
    const double* no_scale = nullptr;
    const int status = sum_rows(weights, job.rows, SumResult::reciprocal, no_scale, call.scratch, partial, stream);
    if (status != 0) return status;
    job.scale = call.scratch;
  }
  int status;
  if (!Loss::modulated && job.loss.dense(call.soft != 0)) {
    status = launch_rows<Loss, T, !Loss::modulated, kBackward>(job, device);
  } else {
    status = launch_rows<Loss, T, false, kBackward>(job, device);
  }
  if (kBackward || status != 0 || call.reduction == FASTLOSS_NONE) return status;
  const Numbers<A> losses = {job.row_loss};
  return sum_rows(losses, job.rows, SumResult::scaled, job.scale, static_cast<A*>(call.reduced_loss), partial, stream);
}

template <template <class> class Loss, bool kBackward>
int run_by_dtype(const FastlossRowCall& call, const FastlossDevice& device) {
  switch (call.dtype) {
    case FASTLOSS_FLOAT32:
      return run<Loss<float>, float, kBackward>(call, device);
    case FASTLOSS_FLOAT64:
      return run<Loss<double>, double, kBackward>(call, device);
    case FASTLOSS_FLOAT16:
      return run<Loss<float>, __half, kBackward>(call, device);
    case FASTLOSS_BFLOAT16:
      return run<Loss<float>, __nv_bfloat16, kBackward>(call, device);
  }
  return FASTLOSS_UNKNOWN_DTYPE;
}

template <bool kBackward>
int run_by_name(const FastlossRowCall& call, const FastlossDevice& device) {
  int status = FASTLOSS_UNKNOWN_LOSS;
  visit_row_loss(call.loss,
                 [&](auto loss) { status = run_by_dtype<decltype(loss)::template with, kBackward>(call, device); });
  return status;
}

}  // namespace
}  // namespace fastloss

int fastloss_row_forward(const FastlossRowCall* call, const FastlossDevice* device) {
  return fastloss::run_by_name<false>(*call, *device);
}

int fastloss_row_backward(const FastlossRowCall* call, const FastlossDevice* device) {
  return fastloss::run_by_name<true>(*call, *device);
}
