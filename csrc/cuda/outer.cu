// The losses over all pairs of a source and a target within a row on a GPU. It knows no loss; see
// csrc/losses/contracts/outer.h.
//
// A block takes 32 sources of a row, one a lane. Its warps share the row's targets, which pass through shared memory,
// so a pair costs one shared read that all lanes get together. Sums of at most kOuterTargets / kOuterWarps pairs are in
// the accumulator, everything beyond in double and in a fixed order.
#include "../losses/all.h"
#include "gpu.h"
#include "reduce.cuh"

namespace fastloss {

constexpr int kOuterWarps = 4, kOuterThreads = 32 * kOuterWarps;
constexpr int kOuterSources = 32;
constexpr int kOuterTargets = 256;           // of a tile
constexpr long long kMaxOuterBlocks = 4096;  // of a launch: two waves on an H100

// (rows, elements of a row)
struct OuterView {
  const void* data;
  DType dtype;
  long long row, step;
};

template <class Functor>
struct OuterJob {
  using A = typename Functor::A;
  Functor functor;
  OuterView source = {}, target = {}, operand[Functor::operands] = {};
  void* gradient = nullptr;  // contiguous, of the source's dtype; null: not wanted
  const A* row_factor = nullptr;
  double factor = 1;  // the mean over the targets included
  long long sources = 0, targets = 0;
  long long tiles = 0, tasks = 0;  // of a row; of all rows
  double* partial = nullptr;       // (tasks)
};

template <class A>
GPU_INLINE A load_element(const OuterView& view, long long row, long long i) {
  const long long at = row * view.row + i * view.step;
  switch (view.dtype) {
    case DType::float64:
      return A(static_cast<const double*>(view.data)[at]);
    case DType::float16:
      return A(widen(static_cast<const __half*>(view.data)[at]));
    case DType::bfloat16:
      return A(widen(static_cast<const __nv_bfloat16*>(view.data)[at]));
    default:
      return A(static_cast<const float*>(view.data)[at]);
  }
}

GPU_INLINE void store_element(void* data, DType dtype, long long at, double value) {
  switch (dtype) {
    case DType::float64:
      static_cast<double*>(data)[at] = value;
      break;
    case DType::float16:
      static_cast<__half*>(data)[at] = narrow<__half>(float(value));
      break;
    case DType::bfloat16:
      static_cast<__nv_bfloat16*>(data)[at] = narrow<__nv_bfloat16>(float(value));
      break;
    default:
      static_cast<float*>(data)[at] = float(value);
  }
}

template <class Functor>
__global__ void __launch_bounds__(kOuterThreads) outer_kernel(const GPU_PARAMETER OuterJob<Functor> job) {
  using A = typename Functor::A;
  SHARED(target, A[kOuterTargets]);
  SHARED(of_warp, double[2][kOuterWarps][32]);  // losses and slopes
  const int lane = int(threadIdx.x & 31), warp = int(threadIdx.x >> 5);
  for (long long task = blockIdx.x; task < job.tasks; task += gridDim.x) {
    const long long row = task / job.tiles, i = task % job.tiles * kOuterSources + lane;
    const bool exists = i < job.sources;
    const A factor = job.row_factor != nullptr ? job.row_factor[row] : A(1);
    const A source = exists ? load_element<A>(job.source, row, i) : A(0);
    A x[Functor::operands];
#pragma unroll
    for (int k = 0; k < Functor::operands; ++k) x[k] = exists ? load_element<A>(job.operand[k], row, i) : A(0);
    double loss = 0, slope = 0;
    for (long long first = 0; first < job.targets; first += kOuterTargets) {
      const long long left = job.targets - first;
      const int count = left < kOuterTargets ? int(left) : kOuterTargets;
      __syncthreads();  // the last tile has been read, and the last task's sums
      for (int t = int(threadIdx.x); t < count; t += kOuterThreads)
        target[t] = load_element<A>(job.target, row, first + t);
      __syncthreads();
      A loss_sum = 0, slope_sum = 0;
#pragma unroll 4
      for (int t = warp; t < count; t += kOuterWarps) {
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
    for (int w = 1; w < kOuterWarps; ++w) {
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
__global__ void __launch_bounds__(kOuterThreads)
    outer_rows_kernel(const double* partial, long long rows, long long tiles, A* loss) {
  const long long step = (long long)gridDim.x * kOuterThreads;
  for (long long row = (long long)blockIdx.x * kOuterThreads + threadIdx.x; row < rows; row += step) {
    double sum = 0;
    for (long long k = 0; k < tiles; ++k) sum += partial[row * tiles + k];
    loss[row] = A(sum);
  }
}

namespace {

long long tiles_of(const OuterProblem& problem) { return (problem.sources + kOuterSources - 1) / kOuterSources; }

OuterView view_of(const OuterTensor& tensor) { return {tensor.data, tensor.dtype, tensor.row, tensor.step}; }

unsigned blocks_for(long long tasks) { return unsigned(tasks < kMaxOuterBlocks ? tasks : kMaxOuterBlocks); }

template <class Functor>
int run_outer(const OuterProblem& problem, const Device& device) {
  using A = typename Functor::A;
  if (problem.parameter_count != Functor::parameters) return kWrongParameters;
  if (problem.operand_count != Functor::operands) return kWrongOperands;
  const GpuStream stream = static_cast<GpuStream>(device.stream);
  OuterJob<Functor> job = {Functor(problem.parameters)};
  job.source = view_of(problem.source);
  job.target = view_of(problem.target);
  for (int k = 0; k < Functor::operands; ++k) job.operand[k] = view_of(problem.operand[k]);
  job.gradient = problem.gradient;
  job.row_factor = static_cast<const A*>(problem.row_factor);
  job.factor = problem.factor / double(problem.targets);
  job.sources = problem.sources;
  job.targets = problem.targets;
  job.tiles = tiles_of(problem);
  job.tasks = problem.rows * job.tiles;
  job.partial = problem.scratch;
  const int status = launch(outer_kernel<Functor>, dim3(blocks_for(job.tasks)), dim3(kOuterThreads), 1, 0, stream, job);
  if (status != 0) return status;
  A* const loss = static_cast<A*>(problem.losses);
  if (problem.reduce) {
    const double* no_scale = nullptr;
    return sum_rows(Numbers<double>{problem.scratch}, job.tasks, SumResult::scaled, no_scale, loss,
                    problem.scratch + job.tasks, stream);
  }
  const unsigned blocks = blocks_for((problem.rows + kOuterThreads - 1) / kOuterThreads);
  const double* partial = problem.scratch;
  return launch(outer_rows_kernel<A>, dim3(blocks), dim3(kOuterThreads), 1, 0, stream, partial, (long long)problem.rows,
                job.tiles, loss);
}

}  // namespace
}  // namespace fastloss

long long fastloss_outer_scratch(const fastloss::OuterProblem* problem) {
  return problem->rows * fastloss::tiles_of(*problem) + fastloss::kReductionBlocks;
}

int fastloss_outer(const fastloss::OuterProblem* problem, fastloss::Device* device) {
  using namespace fastloss;
  int status = kUnknownLoss;
  visit_outer_loss(problem->loss, [&](auto loss) {
    using Loss = decltype(loss);
    status = problem->in_double ? run_outer<typename Loss::template with<double>>(*problem, *device)
                                : run_outer<typename Loss::template with<float>>(*problem, *device);
  });
  return status;
}
