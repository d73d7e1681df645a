// Row losses on a GPU: which kernel a call gets, for every loss functor and storage type.

#include "../../losses/all.h"
#include "../reduce.cuh"
#include "contiguous.cuh"
#include "launch.cuh"
#include "strided.cuh"

namespace fastloss {
namespace {

constexpr int kMaxClusterBlocks = 8;     // the portable limit
constexpr int kStaticShared = 2 * 1024;  // statistics of warps and blocks, with the 1 KiB the system keeps
constexpr int kBlocksAtOnce = 2;         // blocks to have on a processor at once, see block_shape

// How a kernel for unit class stride is launched. It depends on the row and the device only, never on the number of
// rows: a row has the same loss in every batch.
struct LaunchShape {
  unsigned blocks_per_row;  // 1, or the size of the cluster
  unsigned threads;
  int slice;  // classes of a block, a multiple of the pack
  bool keep, keep_soft;
  size_t shared_bytes;
};

// A gradient needs every logit twice, so the row stays in shared memory between the passes. If it took most of a
// processor's shared memory, one block would have the processor to itself and its loads would never overlap another's
// stores: on Hopper a row goes to the smallest cluster that leaves room for kBlocksAtOnce blocks (112 KiB each on an
// H100; the registers of 512 threads allow two as well), or else to the largest. A row too long even so is read twice
// by one block, the second time mostly from L2.
LaunchShape block_shape(int classes, size_t element, bool soft, bool gradient, int max_threads, int max_blocks,
                        const Device& device) {
  const int pack = int(16 / element);
  LaunchShape shape = {1, block_threads(classes, pack, max_threads), round_up(classes, pack), false, false, 0};
  if (!gradient) return shape;
  const auto bytes = [&](int slice, int streams) { return size_t(streams) * (slice + pack) * element; };
  const size_t limit = size_t(device.shared_per_block - kStaticShared);
  const size_t comfortable = size_t(device.shared_per_processor / kBlocksAtOnce - kStaticShared);
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
  return shape;
}

template <class Loss, class T, bool kDense, bool kBackward>
int launch_lanes(RowJob<Loss, T> job, const Device& device) {
  constexpr int N = Pack<T>::count;
  const int threads = kMaxThreads<LanesTeam, kDense>;
  job.lanes = lanes_for(job.classes, N);
  job.slice = round_up(job.classes, N);
  job.keep = !kBackward && job.gradient.data != nullptr;
  job.keep_soft = job.keep && job.soft_target.data != nullptr;
  const int teams = threads / job.lanes;
  const size_t bytes = size_t(job.keep + job.keep_soft) * teams * (job.slice + N) * sizeof(T);
  const auto kernel =
      kBackward ? row_backward_kernel<Loss, T, LanesTeam, kDense> : row_forward_kernel<Loss, T, LanesTeam, kDense>;
  return launch_all(kernel, job, teams, 1, dim3(threads), 1, bytes, device);
}

template <class Loss, class T, bool kDense, bool kBackward>
int launch_blocks(RowJob<Loss, T> job, const Device& device) {
  const bool keep = !kBackward && job.gradient.data != nullptr, soft = job.soft_target.data != nullptr;
  const auto shape_with = [&](int max_blocks) {
    return block_shape(job.classes, sizeof(T), soft, keep, kMaxThreads<BlockTeam, kDense>, max_blocks, device);
  };
  LaunchShape shape = shape_with(device.arch >= 90 ? kMaxClusterBlocks : 1);
  if constexpr (!kBackward) {
    if (shape.blocks_per_row > 1 && !cluster_fits(row_forward_cluster_kernel<Loss, T, kDense>, dim3(shape.threads),
                                                  shape.blocks_per_row, shape.shared_bytes))
      shape = shape_with(1);
  }
  job.slice = shape.slice;
  job.keep = shape.keep;
  job.keep_soft = shape.keep_soft;
  const dim3 block(shape.threads);
  if constexpr (kBackward) {
    return launch_all(row_backward_kernel<Loss, T, BlockTeam, kDense>, job, 1, 1, block, 1, 0, device);
  } else {
    const auto kernel = shape.blocks_per_row > 1 ? row_forward_cluster_kernel<Loss, T, kDense>
                                                 : row_forward_kernel<Loss, T, BlockTeam, kDense>;
    return launch_all(kernel, job, 1, shape.blocks_per_row, block, shape.blocks_per_row, shape.shared_bytes, device);
  }
}

template <class Loss, class T, bool kDense, bool kBackward>
int launch_strided(const RowJob<Loss, T>& job, const Device& device) {
  const unsigned parts = parts_for(job.classes, kMaxParts, kClassGroup);
  return launch_all(row_strided_kernel<Loss, T, kDense, kBackward>, job, kColumns, 1, dim3(kColumns, parts), 1, 0,
                    device);
}

template <class Loss, class T, bool kDense, bool kBackward>
int launch_rows(const RowJob<Loss, T>& job, const Device& device) {
  const bool contiguous = job.inner == 1 && job.logits.step == 1 &&
                          (job.soft_target.data == nullptr || job.soft_target.step == 1) &&
                          (job.gradient.data == nullptr || job.gradient.step == 1);
  if (!contiguous) return launch_strided<Loss, T, kDense, kBackward>(job, device);
  // Double logits are for gradient checks: no kernel of their own for short rows.
  if constexpr (sizeof(T) < 8) {
    if (job.classes <= kLaneRowClasses) return launch_lanes<Loss, T, kDense, kBackward>(job, device);
  }
  return launch_blocks<Loss, T, kDense, kBackward>(job, device);
}

template <class Loss, class T, bool kBackward>
int run(const RowProblem& problem, const Device& device) {
  using A = typename Loss::A;
  if (problem.parameter_count != Loss::parameters) return kWrongParameters;
  if (problem.classes > kMaxClasses) return kTooManyClasses;
  const Loss loss(problem.parameters, problem.classes);
  const RowMatrix &logits = problem.logits, &soft = problem.soft_target, &gradient = problem.gradient;
  RowJob<Loss, T> job = {loss, Units<Loss, T>(loss)};
  job.logits = {static_cast<const T*>(logits.data), logits.outer, logits.step};
  job.soft_target = {static_cast<const T*>(soft.data), soft.outer, soft.step};
  job.gradient = {static_cast<T*>(gradient.data), gradient.outer, gradient.step};
  job.target = reinterpret_cast<const long long*>(problem.index_target);
  job.weight = static_cast<const A*>(problem.weight);
  job.loss_gradient = static_cast<const A*>(problem.loss_gradient);
  job.row_loss = static_cast<A*>(problem.row_loss);
  job.state = static_cast<A*>(problem.state);
  job.rows = job.all_rows = problem.rows;
  job.inner = problem.inner;
  job.ignore_index = problem.ignore_index;
  job.classes = int(problem.classes);
  const GpuStream stream = static_cast<GpuStream>(device.stream);
  double* const partial = problem.scratch + 1;
  if (!kBackward && problem.reduction == Reduction::mean) {
    // The gradient of the mean needs the denominator before the first row is written.
    const RowWeights<A> weights = {job.target, job.weight, job.ignore_index, problem.classes};
    const double* no_scale = nullptr;
    const int status = sum_rows(weights, job.rows, SumResult::reciprocal, no_scale, problem.scratch, partial, stream);
    if (status != 0) return status;
    job.scale = problem.scratch;
  }
  int status;
  if (!Loss::modulated && job.loss.dense(soft.data != nullptr)) {
    status = launch_rows<Loss, T, !Loss::modulated, kBackward>(job, device);
  } else {
    status = launch_rows<Loss, T, false, kBackward>(job, device);
  }
  if (kBackward || status != 0 || problem.reduction == Reduction::none) return status;
  const Numbers<A> losses = {job.row_loss};
  return sum_rows(losses, job.rows, SumResult::scaled, job.scale, static_cast<A*>(problem.reduced_loss), partial,
                  stream);
}

template <template <class> class Loss, bool kBackward>
int run_by_dtype(const RowProblem& problem, const Device& device) {
  switch (problem.dtype) {
    case DType::float32:
      return run<Loss<float>, float, kBackward>(problem, device);
    case DType::float64:
      return run<Loss<double>, double, kBackward>(problem, device);
    case DType::float16:
      return run<Loss<float>, __half, kBackward>(problem, device);
    case DType::bfloat16:
      return run<Loss<float>, __nv_bfloat16, kBackward>(problem, device);
    default:
      return kUnknownDType;
  }
}

}  // namespace
}  // namespace fastloss

long long fastloss_row_scratch(const fastloss::RowProblem*) { return 1 + fastloss::kReductionBlocks; }

int fastloss_row(const fastloss::RowProblem* problem, fastloss::Device* device) {
  using namespace fastloss;
  int status = kUnknownLoss;
  visit_one_pass_row_loss(problem->loss, [&](auto loss) {
    status = problem->loss_gradient != nullptr ? run_by_dtype<decltype(loss)::template with, true>(*problem, *device)
                                               : run_by_dtype<decltype(loss)::template with, false>(*problem, *device);
  });
  return status;
}
