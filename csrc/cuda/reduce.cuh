// Sums over rows, in double and always in the same order: the mean's denominator before the row kernel, the reduced
// loss after it. One block adds up to 16384 numbers; more go through partial sums, one a block, and a second launch.
#pragma once
#include "gpu.h"

namespace fastloss {

constexpr int kMaxSumThreads = 1024;
constexpr long long kSumPerBlock = 16384;
constexpr int kReductionBlocks = 1024;  // at most: so many partial sums

template <class A>
struct Numbers {
  const A* data;
  GPU_INLINE double operator()(long long i) const { return double(data[i]); }
};

// What row i adds to the denominator of the mean.
template <class A>
struct RowWeights {
  const long long* target;  // null for soft targets, which all count as 1
  const A* weight;
  long long ignore_index, classes;
  GPU_INLINE double operator()(long long i) const {
    if (target == nullptr) return 1;
    const long long y = target[i];
    if (y == ignore_index || y < 0 || y >= classes) return 0;  // the row kernel traps on the latter
    return weight != nullptr ? double(weight[y]) : 1;
  }
};

// Which function of a block's sum is written: the sum times *scale (1 if null), or its reciprocal.
enum class SumResult { scaled, reciprocal };

template <class Source, class Out>
__global__ void __launch_bounds__(kMaxSumThreads)
    sum_kernel(const Source source, long long count, SumResult result, const double* scale, Out* out) {
  SHARED(of_warp, double[32]);
  const long long share = (count + gridDim.x - 1) / gridDim.x, begin = blockIdx.x * share;
  const long long end = begin + share < count ? begin + share : count;
  double sum = 0;
#pragma unroll 4
  for (long long i = begin + threadIdx.x; i < end; i += blockDim.x) sum += source(i);
  const int lane = int(threadIdx.x & 31), warp = int(threadIdx.x >> 5);
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (lane == 0) of_warp[warp] = sum;
  __syncthreads();
  if (warp > 0) return;
  sum = lane < int(blockDim.x >> 5) ? of_warp[lane] : 0;
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (lane > 0) return;
  if (result == SumResult::reciprocal) {
    sum = 1.0 / sum;
  } else if (scale != nullptr) {
    sum *= *scale;
  }
  out[blockIdx.x] = Out(sum);
}

inline unsigned sum_threads(long long count) {  // whole warps
  return count < kMaxSumThreads ? unsigned(count + 31) / 32 * 32 : unsigned(kMaxSumThreads);
}

// `partial` has kReductionBlocks elements.
template <class Source, class Out>
int sum_rows(const Source& source, long long count, SumResult result, const double* scale, Out* out, double* partial,
             GpuStream stream) {
  constexpr long long most = kReductionBlocks;
  const long long wanted = (count + kSumPerBlock - 1) / kSumPerBlock;
  const unsigned blocks = unsigned(wanted < most ? wanted : most);
  if (blocks == 1) {
    return launch(sum_kernel<Source, Out>, dim3(1), dim3(sum_threads(count)), 1, 0, stream, source, count, result,
                  scale, out);
  }
  const double* no_scale = nullptr;
  const int status = launch(sum_kernel<Source, double>, dim3(blocks), dim3(kMaxSumThreads), 1, 0, stream, source, count,
                            SumResult::scaled, no_scale, partial);
  if (status != 0) return status;
  const Numbers<double> partials = {partial};
  return launch(sum_kernel<Numbers<double>, Out>, dim3(1), dim3(sum_threads(blocks)), 1, 0, stream, partials,
                (long long)blocks, result, scale, out);
}

}  // namespace fastloss
