// The losses over all pairs of a source and a target within a row on a GPU. It knows no loss; see csrc/losses/pairs.h.
//
// A block takes 32 sources of a row, one a lane. Its warps share the row's targets, which pass through shared memory,
// so a pair costs one shared read that all lanes get together. Sums of at most kPairsTargets / kPairsWarps pairs are in
// the accumulator, everything beyond in double and in a fixed order.
#include "../losses/pairs.h"
#include "api.h"
#include "gpu.h"
#include "reduce.cuh"

namespace fastloss {

constexpr int kPairsWarps = 4, kPairsThreads = 32 * kPairsWarps;
constexpr int kPairsSources = 32;
constexpr int kPairsTargets = 256;           // of a tile
constexpr long long kMaxPairsBlocks = 4096;  // of a launch: two waves on an H100

// (rows, elements of a row)
struct PairsView {
  const void* data;
  int dtype;
  long long row, step;
};

template <class Functor>
struct PairsJob {
  using A = typename Functor::A;
  Functor functor;
  PairsView source, target, operand[Functor::operands];
  void* gradient;  // contiguous, of the source's dtype; null: not wanted
  const A* row_factor;
  double factor;  // the mean over the targets included
  long long sources, targets;
  long long tiles, tasks;  // of a row; of all rows
  double* partial;         // (tasks)
};

template <class A>
GPU_INLINE A load_element(const PairsView& view, long long row, long long i) {
  const long long at = row * view.row + i * view.step;
  switch (view.dtype) {
    case FASTLOSS_FLOAT64:
      return A(static_cast<const double*>(view.data)[at]);
    case FASTLOSS_FLOAT16:
      return A(widen(static_cast<const __half*>(view.data)[at]));
    case FASTLOSS_BFLOAT16:
      return A(widen(static_cast<const __nv_bfloat16*>(view.data)[at]));
    default:
      return A(static_cast<const float*>(view.data)[at]);
  }
}

GPU_INLINE void store_element(void* data, int dtype, long long at, double value) {
  switch (dtype) {
    case FASTLOSS_FLOAT64:
      static_cast<double*>(data)[at] = value;
      break;
    case FASTLOSS_FLOAT16:
      static_cast<__half*>(data)[at] = narrow<__half>(float(value));
      break;
    case FASTLOSS_BFLOAT16:
      static_cast<__nv_bfloat16*>(data)[at] = narrow<__nv_bfloat16>(float(value));
      break;
    default:
      static_cast<float*>(data)[at] = float(value);
  }
}

template <class Functor>
__global__ void __launch_bounds__(kPairsThreads) pairs_kernel(const GPU_PARAMETER PairsJob<Functor> job) {
  using A = typename Functor::A;
  SHARED(target, A[kPairsTargets]);
  SHARED(of_warp, double[2][kPairsWarps][32]);  // losses and slopes
  const int lane = int(threadIdx.x & 31), warp = int(threadIdx.x >> 5);
  for (long long task = blockIdx.x; task < job.tasks; task += gridDim.x) {
    const long long row = task / job.tiles, i = task % job.tiles * kPairsSources + lane;
    const bool exists = i < job.sources;
    const A factor = job.row_factor != nullptr ? job.row_factor[row] : A(1);
    const A source = exists ? load_element<A>(job.source, row, i) : A(0);
    A x[Functor::operands];
#pragma unroll
    for (int k = 0; k < Functor::operands; ++k) x[k] = exists ? load_element<A>(job.operand[k], row, i) : A(0);
    double loss = 0, slope = 0;
    for (long long first = 0; first < job.targets; first += kPairsTargets) {
      const long long left = job.targets - first;
      const int count = left < kPairsTargets ? int(left) : kPairsTargets;
      __syncthreads();  // the last tile has been read, and the last task's sums
      for (int t = int(threadIdx.x); t < count; t += kPairsThreads)
        target[t] = load_element<A>(job.target, row, first + t);
      __syncthreads();
      A loss_sum = 0, slope_sum = 0;
#pragma unroll 4
      for (int t = warp; t < count; t += kPairsWarps) {
        const Pair<A> pair = job.functor(source, target[t], x);
        loss_sum += pair.loss;
        slope_sum += pair.derivative;
      }
      loss += double(loss_sum);
      slope += double(slope_sum);
    }
    of_warp[0][warp][lane] = loss;
    of_warp[1][warp][lane] = slope;
    __syncthreads();
    if (warp > 0) continue;
    for (int w = 1; w < kPairsWarps; ++w) {
      loss += of_warp[0][w][lane];
      slope += of_warp[1][w][lane];
    }
    const bool there = factor != A(0);
    const double scale = job.factor * double(factor);
    loss = exists && there ? loss * scale : 0;
    for (int step = 16; step > 0; step /= 2) loss += __shfl_xor_sync(0xffffffffu, loss, step);
    if (lane == 0) job.partial[task] = loss;
    if (job.gradient != nullptr && exists)
      store_element(job.gradient, job.source.dtype, row * job.sources + i, there ? slope * scale : 0);
  }
}

// loss[row] = the sum of the row's tiles; a thread a row
template <class A>
__global__ void __launch_bounds__(kPairsThreads)
    pairs_rows_kernel(const double* partial, long long rows, long long tiles, A* loss) {
  const long long step = (long long)gridDim.x * kPairsThreads;
  for (long long row = (long long)blockIdx.x * kPairsThreads + threadIdx.x; row < rows; row += step) {
    double sum = 0;
    for (long long k = 0; k < tiles; ++k) sum += partial[row * tiles + k];
    loss[row] = A(sum);
  }
}

namespace {

long long tiles_of(const FastlossPairsCall& call) { return (call.sources + kPairsSources - 1) / kPairsSources; }

PairsView view_of(const FastlossPairsTensor& tensor) { return {tensor.data, tensor.dtype, tensor.row, tensor.step}; }

unsigned blocks_for(long long tasks) { return unsigned(tasks < kMaxPairsBlocks ? tasks : kMaxPairsBlocks); }

template <class Functor>
int run_pairs(const FastlossPairsCall& call, const FastlossDevice& device) {
  using A = typename Functor::A;
  static_assert(Functor::operands <= FASTLOSS_PAIRS_OPERANDS, "see api.h");
  if (call.parameter_count != Functor::parameters) return FASTLOSS_WRONG_PARAMETERS;
  if (call.operand_count != Functor::operands) return FASTLOSS_WRONG_OPERANDS;
  const GpuStream stream = static_cast<GpuStream>(device.stream);
  PairsJob<Functor> job = {Functor(call.parameters),
                           view_of(call.source),
                           view_of(call.target),
                           {},
                           call.gradient,
                           static_cast<const A*>(call.row_factor),
                           call.factor / double(call.targets),
                           call.sources,
                           call.targets,
                           tiles_of(call),
                           call.rows * tiles_of(call),
                           call.scratch};
  for (int k = 0; k < Functor::operands; ++k) job.operand[k] = view_of(call.operand[k]);
  const int status = launch(pairs_kernel<Functor>, dim3(blocks_for(job.tasks)), dim3(kPairsThreads), 1, 0, stream, job);
  if (status != 0) return status;
  A* const loss = static_cast<A*>(call.losses);
  if (call.reduce) {
    const double* no_scale = nullptr;
    return sum_rows(Numbers<double>{call.scratch}, job.tasks, SumResult::scaled, no_scale, loss,
                    call.scratch + job.tasks, stream);
  }
  const unsigned blocks = blocks_for((call.rows + kPairsThreads - 1) / kPairsThreads);
  const double* partial = call.scratch;
  return launch(pairs_rows_kernel<A>, dim3(blocks), dim3(kPairsThreads), 1, 0, stream, partial, call.rows, job.tiles,
                loss);
}

}  // namespace
}  // namespace fastloss

long long fastloss_pairs_scratch(const FastlossPairsCall* call) {
  return call->rows * fastloss::tiles_of(*call) + FASTLOSS_REDUCTION_BLOCKS;
}

int fastloss_pairs(const FastlossPairsCall* call, const FastlossDevice* device) {
  int status = FASTLOSS_UNKNOWN_LOSS;
  fastloss::visit_pairs_loss(call->loss, [&](auto loss) {
    using Loss = decltype(loss);
    status = call->in_double ? fastloss::run_pairs<typename Loss::template with<double>>(*call, *device)
                             : fastloss::run_pairs<typename Loss::template with<float>>(*call, *device);
  });
  return status;
}
