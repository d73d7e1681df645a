// tensor *= factor, the factor read on the device: what a backward pass does to a gradient that the forward pass
// computed.
#include "../problems/scale.h"
#include "gpu.h"

namespace fastloss {

constexpr int kScaleThreads = 256;
constexpr int kScaleInFlight = 4;
constexpr int kScaleBlocksPerProcessor = 8;  // 2048 threads, all that a processor holds

// The factor in its own dtype, which need not be the tensor's: one float64 operand makes the loss, and its upstream
// gradient, float64 beside float32 gradients.
template <class A>
GPU_INLINE A read_factor(const void* factor, DType dtype) {
  switch (dtype) {
    case DType::float64:
      return A(*static_cast<const double*>(factor));
    case DType::float16:
      return A(widen(*static_cast<const __half*>(factor)));
    case DType::bfloat16:
      return A(widen(*static_cast<const __nv_bfloat16*>(factor)));
    default:
      return A(*static_cast<const float*>(factor));
  }
}

// `lines` stretches of `length` elements; line i begins at data + (i / steps) * outer + (i % steps) * step. Blocks take
// chunks of a line in turn.
template <class T>
__global__ void __launch_bounds__(kScaleThreads, kScaleBlocksPerProcessor)
    scale_kernel(T* data, long long outer, long long step, long long steps, long long lines, long long length,
                 const void* factor_pointer, DType factor_dtype) {
  using A = Accumulator<T>;
  constexpr int N = Pack<T>::count;
  constexpr long long chunk = (long long)kScaleThreads * kScaleInFlight * N;
  const A factor = read_factor<A>(factor_pointer, factor_dtype);
  if (factor == 1) return;  // the usual case: loss.backward()
  const long long chunks_per_line = (length + chunk - 1) / chunk;
  for (long long at = blockIdx.x; at < lines * chunks_per_line; at += gridDim.x) {
    const long long line = at / chunks_per_line, begin = at % chunks_per_line * chunk;
    T* const pointer = data + line / steps * outer + line % steps * step + begin;
    const int count = int(length - begin < chunk ? length - begin : chunk);
    const int to_boundary = (16 - misalignment(pointer)) % 16 / int(sizeof(T));
    const int head = to_boundary < count ? to_boundary : count, packs = (count - head) / N;
    Pack<T> pack[kScaleInFlight];
#pragma unroll
    for (int u = 0; u < kScaleInFlight; ++u) {
      const int k = int(threadIdx.x) + u * kScaleThreads;
      if (k < packs) pack[u] = load_once(pointer + head + k * N);
    }
#pragma unroll
    for (int u = 0; u < kScaleInFlight; ++u) {
      const int k = int(threadIdx.x) + u * kScaleThreads;
      if (k < packs) {
        A value[N];
        widen(pack[u], value);
#pragma unroll
        for (int j = 0; j < N; ++j) value[j] *= factor;
        store_global(pointer + head + k * N, narrow_pack<T>(value));
      }
    }
    for (int i = int(threadIdx.x); i < count - packs * N; i += kScaleThreads) {
      T& element = pointer[i < head ? i : i + packs * N];
      element = narrow<T>(widen(element) * factor);
    }
  }
}

namespace {

template <class T>
int scale(const ScaleProblem& problem, const Device& device) {
  // Lines run along d, or along the classes where they have unit stride; a dense tensor is one line.
  const RowMatrix& matrix = problem.matrix;
  long long lines = problem.outer * problem.classes, steps = problem.classes, length = problem.inner;
  if (problem.inner == 1 && matrix.step == 1) {
    lines = problem.outer;
    steps = 1;
    length = problem.classes;
  }
  const bool dense =
      matrix.outer == problem.classes * problem.inner && (length == problem.classes || matrix.step == problem.inner);
  if (dense) {
    length *= lines;
    lines = steps = 1;
  }
  constexpr long long chunk = (long long)kScaleThreads * kScaleInFlight * Pack<T>::count;
  const long long chunks = lines * ((length + chunk - 1) / chunk);
  const long long resident = (long long)device.processors * kScaleBlocksPerProcessor;
  return launch(scale_kernel<T>, dim3(unsigned(chunks < resident ? chunks : resident)), dim3(kScaleThreads), 1, 0,
                static_cast<GpuStream>(device.stream), static_cast<T*>(matrix.data), (long long)matrix.outer,
                (long long)matrix.step, steps, lines, length, problem.factor, problem.factor_dtype);
}

}  // namespace
}  // namespace fastloss

int fastloss_scale(const fastloss::ScaleProblem* problem, fastloss::Device* device) {
  using namespace fastloss;
  if (!is_floating(problem->factor_dtype)) return kUnknownDType;
  switch (problem->dtype) {
    case DType::float32:
      return scale<float>(*problem, *device);
    case DType::float64:
      return scale<double>(*problem, *device);
    case DType::float16:
      return scale<__half>(*problem, *device);
    case DType::bfloat16:
      return scale<__nv_bfloat16>(*problem, *device);
    default:
      return kUnknownDType;
  }
}
