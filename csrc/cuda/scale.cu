// tensor *= factor, the factor read on the device: what a backward pass does to a gradient that the forward pass
// computed.
#include "api.h"
#include "gpu.h"

namespace fastloss {

constexpr int kScaleThreads = 256;
constexpr int kScaleInFlight = 4;
constexpr int kScaleBlocksPerProcessor = 8;  // 2048 threads, all that a processor holds

// `lines` stretches of `length` elements; line i begins at data + (i / steps) * outer + (i % steps) * step. Blocks take
// chunks of a line in turn.
template <class T>
__global__ void __launch_bounds__(kScaleThreads, kScaleBlocksPerProcessor)
    scale_kernel(T* data, long long outer, long long step, long long steps, long long lines, long long length,
                 const Accumulator<T>* factor_pointer) {
  using A = Accumulator<T>;
  constexpr int N = Pack<T>::count;
  constexpr long long chunk = (long long)kScaleThreads * kScaleInFlight * N;
  const A factor = *factor_pointer;
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
int scale(FastlossMatrix matrix, long long outer_size, long long classes, long long inner, const void* factor,
          const FastlossDevice& device) {
  // Lines run along d, or along the classes where they have unit stride; a dense tensor is one line.
  long long lines = outer_size * classes, steps = classes, length = inner;
  if (inner == 1 && matrix.step == 1) {
    lines = outer_size;
    steps = 1;
    length = classes;
  }
  const bool dense = matrix.outer == classes * inner && (length == classes || matrix.step == inner);
  if (dense) {
    length *= lines;
    lines = steps = 1;
  }
  constexpr long long chunk = (long long)kScaleThreads * kScaleInFlight * Pack<T>::count;
  const long long chunks = lines * ((length + chunk - 1) / chunk);
  const long long resident = (long long)device.processors * kScaleBlocksPerProcessor;
  return launch(scale_kernel<T>, dim3(unsigned(chunks < resident ? chunks : resident)), dim3(kScaleThreads), 1, 0,
                static_cast<GpuStream>(device.stream), static_cast<T*>(matrix.data), matrix.outer, matrix.step, steps,
                lines, length, static_cast<const Accumulator<T>*>(factor));
}

}  // namespace
}  // namespace fastloss

int fastloss_scale(int dtype, FastlossMatrix matrix, long long outer_size, long long classes, long long inner,
                   const void* factor, const FastlossDevice* device) {
  switch (dtype) {
    case FASTLOSS_FLOAT32:
      return fastloss::scale<float>(matrix, outer_size, classes, inner, factor, *device);
    case FASTLOSS_FLOAT64:
      return fastloss::scale<double>(matrix, outer_size, classes, inner, factor, *device);
    case FASTLOSS_FLOAT16:
      return fastloss::scale<__half>(matrix, outer_size, classes, inner, factor, *device);
    case FASTLOSS_BFLOAT16:
      return fastloss::scale<__nv_bfloat16>(matrix, outer_size, classes, inner, factor, *device);
  }
  return FASTLOSS_UNKNOWN_DTYPE;
}
