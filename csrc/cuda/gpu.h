// The one header that a kernel file includes for the machine underneath: thin names over CUDA when nvcc compiles, and
// over tests/lanes/cuda/emulator when g++ compiles the same file to run it on a CPU, under sanitizers, in a machine
// without a GPU.
//
// What a kernel file has to keep to, so that both worlds build it:
//   * launch(...) instead of <<<>>>; SHARED and SharedMemory instead of __shared__; no inline PTX outside this header;
//   * GPU_ARCH instead of __CUDA_ARCH__, and cluster code inside #if GPU_ARCH >= 900;
//   * every thread of a block reaches the same __syncthreads in the same source line, or the whole block has returned;
//   * shuffles name the lanes that take part, and do not order memory: __syncwarp does;
//   * kernels have external linkage, so that a report can name them.
#pragma once

#ifdef __CUDACC__
#include <assert.h>
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#define GPU_EMULATED 0
#else
#include "emulator.h"
#define GPU_EMULATED 1
#endif

#include "../dtypes.h"
#include "../losses/math.h"
#include "limits.h"

#ifdef __CUDA_ARCH__
#define GPU_ARCH __CUDA_ARCH__
#else
#define GPU_ARCH 900  // nvcc's host pass and the emulator compile every branch
#endif

#define GPU_INLINE __device__ __forceinline__

// const GPU_PARAMETER T name: a kernel parameter that stays in constant memory though it is indexed at run time;
// without it nvcc copies the struct to the stack first.
#if GPU_EMULATED
#define GPU_PARAMETER
#else
#define GPU_PARAMETER __grid_constant__
#endif

namespace fastloss {

// ---- shared memory --------------------------------------------------------------------------------------------------

template <class T>
struct SharedType {
  using type = T;
};

// SHARED(name, type): a static shared variable of a trivial type, e.g. SHARED(partial, float[32]).
#if GPU_EMULATED
#define SHARED(name, ...)      \
  static char name##_identity; \
  auto& name = emulator::shared_variable<typename SharedType<__VA_ARGS__>::type>(&name##_identity)
#else
#define SHARED(name, ...) __shared__ typename SharedType<__VA_ARGS__>::type name
#endif

// Hands out the dynamic shared memory of the launch in 16-byte aligned pieces. Every thread takes the same pieces in
// the same order. The emulator fences each piece and refuses a take beyond what the launch asked for.
class SharedMemory {
 public:
  template <class T>
  GPU_INLINE T* take(unsigned count) {
    const unsigned begin = used_;
    used_ += round_up(count * unsigned(sizeof(T)));
#if GPU_EMULATED
    return reinterpret_cast<T*>(emulator::dynamic_shared_piece(begin, used_ - begin));
#else
    extern __shared__ __align__(16) unsigned char gpu_dynamic_shared[];
    return reinterpret_cast<T*>(gpu_dynamic_shared + begin);
#endif
  }
  static constexpr __host__ __device__ unsigned round_up(unsigned bytes) { return (bytes + 15u) & ~15u; }

 private:
  unsigned used_ = 0;
};

// ---- 16-byte accesses -----------------------------------------------------------------------------------------------

template <class To, class From>
GPU_INLINE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs equal sizes");
  To to;
  memcpy(static_cast<void*>(&to), &from, sizeof(to));
  return to;
}

// The unit of vector code: 16 bytes of T. As words, and not as elements, because nvcc keeps every 16-bit element that
// it can name in a 32-bit register: four packs of bfloat16 took 32 registers instead of 16, and the row kernels
// spilled.
template <class T>
struct alignas(16) Pack {
  static constexpr int count = 16 / int(sizeof(T));
  uint32_t word[4];
};

GPU_INLINE int misalignment(const void* pointer) { return int(reinterpret_cast<uintptr_t>(pointer) & 15); }

// Global memory that this thread reads once: it does not settle in L1. Not ld.global.nc, because the in-place operators
// overwrite what they read.
template <class T>
GPU_INLINE Pack<T> load_once(const T* pointer) {
  Pack<T> pack;
#if GPU_EMULATED
  emulator::copy_16_bytes(&pack, pointer);
#else
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(pack.word[0]), "=r"(pack.word[1]), "=r"(pack.word[2]), "=r"(pack.word[3])
               : "l"(pointer));
#endif
  return pack;
}

// Global memory that the whole grid reads and nobody writes (class weights): through L1.
template <class T>
GPU_INLINE Pack<T> load_cached(const T* pointer) {
  Pack<T> pack;
#if GPU_EMULATED
  emulator::copy_16_bytes(&pack, pointer);
#else
  const uint4 words = __ldg(reinterpret_cast<const uint4*>(pointer));
  pack = {{words.x, words.y, words.z, words.w}};
#endif
  return pack;
}

// Default cache policy: a gradient small enough for L2 is found there by the matrix product that consumes it.
template <class T>
GPU_INLINE void store_global(T* pointer, const Pack<T>& pack) {
#if GPU_EMULATED
  emulator::copy_16_bytes(pointer, &pack);
#else
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(pointer), "r"(pack.word[0]), "r"(pack.word[1]),
               "r"(pack.word[2]), "r"(pack.word[3])
               : "memory");
#endif
}

template <class T>
GPU_INLINE Pack<T> load_shared(const T* pointer) {
  Pack<T> pack;
#if GPU_EMULATED
  emulator::copy_16_bytes(&pack, pointer);
#else
  const uint4 words = *reinterpret_cast<const uint4*>(pointer);  // bit_cast of the reference would copy bytes
  pack = {{words.x, words.y, words.z, words.w}};
#endif
  return pack;
}

template <class T>
GPU_INLINE void store_shared(T* pointer, const Pack<T>& pack) {
#if GPU_EMULATED
  emulator::copy_16_bytes(pointer, &pack);
#else
  *reinterpret_cast<uint4*>(pointer) = make_uint4(pack.word[0], pack.word[1], pack.word[2], pack.word[3]);
#endif
}

// ---- thread-block clusters (Hopper and later) -----------------------------------------------------------------------

#if GPU_ARCH >= 900
class Cluster {
 public:
  GPU_INLINE unsigned rank() const { return cooperative_groups::this_cluster().block_rank(); }
  GPU_INLINE unsigned size() const { return cooperative_groups::this_cluster().num_blocks(); }
  // Barrier of all threads of the cluster, whole or in two halves: what a thread wrote before arrive, others see after
  // wait.
#if GPU_EMULATED
  void arrive(EMULATOR_HERE) const { emulator::cluster_arrive(file, line); }
  void wait(EMULATOR_HERE) const { emulator::cluster_wait(file, line); }
#else
  GPU_INLINE void arrive() const { asm volatile("barrier.cluster.arrive;" ::: "memory"); }
  GPU_INLINE void wait() const { asm volatile("barrier.cluster.wait;" ::: "memory"); }
#endif
  // The variable of block `rank` of the cluster that lies where `variable` does in this block's shared memory.
  template <class T>
  GPU_INLINE T* peer(T* variable, unsigned rank) const {
    return cooperative_groups::this_cluster().map_shared_rank(variable, rank);
  }
};
#endif

// ---- storage and accumulator types ----------------------------------------------------------------------------------

// Sums of float and half logits are kept in float, sums of double logits in double.
template <class T>
using Accumulator = std::conditional_t<std::is_same<T, double>::value, double, float>;

GPU_INLINE double widen(double x) { return x; }
GPU_INLINE float widen(float x) { return x; }
GPU_INLINE float widen(__half x) { return __half2float(x); }
GPU_INLINE float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
GPU_INLINE T narrow(Accumulator<T> x) {
  if constexpr (std::is_same<T, __half>::value) {
    return __float2half_rn(x);
  } else if constexpr (std::is_same<T, __nv_bfloat16>::value) {
    return __float2bfloat16_rn(x);
  } else {
    return x;
  }
}

// A bfloat16 is the upper half of a float: one shift or mask for each element of a word.
template <class T>
GPU_INLINE void widen(const Pack<T>& pack, Accumulator<T> (&x)[Pack<T>::count]) {
#pragma unroll
  for (int j = 0; j < Pack<T>::count; ++j) {
    if constexpr (std::is_same<T, double>::value) {
      x[j] = bit_cast<double>(uint64_t(pack.word[2 * j + 1]) << 32 | pack.word[2 * j]);
    } else if constexpr (std::is_same<T, float>::value) {
      x[j] = bit_cast<float>(pack.word[j]);
    } else if constexpr (std::is_same<T, __nv_bfloat16>::value) {
      x[j] = bit_cast<float>(j % 2 ? pack.word[j / 2] & 0xffff0000u : pack.word[j / 2] << 16);
    } else {
      const __half2 pair = bit_cast<__half2>(pack.word[j / 2]);
      x[j] = j % 2 ? __high2float(pair) : __low2float(pair);
    }
  }
}

// Halves are rounded in pairs: one conversion instruction instead of two and a byte permutation.
template <class T>
GPU_INLINE Pack<T> narrow_pack(const Accumulator<T> (&x)[Pack<T>::count]) {
  Pack<T> pack;
  if constexpr (std::is_same<T, __half>::value) {
#pragma unroll
    for (int i = 0; i < 4; ++i) pack.word[i] = bit_cast<uint32_t>(__floats2half2_rn(x[2 * i], x[2 * i + 1]));
  } else if constexpr (std::is_same<T, __nv_bfloat16>::value) {
#pragma unroll
    for (int i = 0; i < 4; ++i) pack.word[i] = bit_cast<uint32_t>(__floats2bfloat162_rn(x[2 * i], x[2 * i + 1]));
  } else {
    memcpy(&pack, x, sizeof(pack));
  }
  return pack;
}

// 2^x by the hardware, for x <= 0: a relative error of 2^-22; 0 below 2^-126, which spares three instructions.
GPU_INLINE float fast_exp2(float x) {
#if GPU_EMULATED
  return exp2f(x);
#else
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
#endif
}

template <class A>
constexpr __host__ __device__ A lowest() {
  return std::is_same<A, double>::value ? A(-DBL_MAX) : A(-FLT_MAX);
}

GPU_INLINE float maximum(float a, float b) { return fmaxf(a, b); }
GPU_INLINE double maximum(double a, double b) { return fmax(a, b); }

// ---- errors and launches --------------------------------------------------------------------------------------------

// Ends the grid with a message, as torch's device assertions do; the host sees cudaErrorAssert at its next call.
#if GPU_EMULATED
#define GPU_TRAP(message) emulator::trap(message)
#else
#define GPU_TRAP(message) __assert_fail(message, __FILE__, __LINE__, __func__)
#endif

using GpuStream = cudaStream_t;

// Lets a kernel have more dynamic shared memory than needs no opting in. Returns cudaSuccess (0) or the error code.
template <class... Parameters>
int allow_shared(void (*kernel)(Parameters...), size_t shared_bytes) {
#if GPU_EMULATED
  (void)kernel, (void)shared_bytes;
  return 0;
#else
  constexpr size_t without_opt_in = 48 * 1024;
  if (shared_bytes <= without_opt_in) return 0;
  return int(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)));
#endif
}

#if !GPU_EMULATED
// The launch of blocks in clusters of `cluster`; `attribute` has to live as long as what is returned.
inline cudaLaunchConfig_t launch_config(dim3 grid, dim3 block, unsigned cluster, size_t shared_bytes, GpuStream stream,
                                        cudaLaunchAttribute& attribute) {
  attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = cluster;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = cluster > 1 ? 1 : 0;
  return config;
}
#endif

// Can the device run one such cluster? A slice of a GPU (MIG) may have too few processors side by side.
template <class... Parameters>
bool cluster_fits(void (*kernel)(Parameters...), dim3 block, unsigned cluster, size_t shared_bytes) {
#if GPU_EMULATED
  (void)kernel, (void)block, (void)shared_bytes;
  return emulator::cluster_fits(cluster);
#else
  if (allow_shared(kernel, shared_bytes) != 0) return false;
  cudaLaunchAttribute attribute;
  const cudaLaunchConfig_t config = launch_config(dim3(cluster), block, cluster, shared_bytes, nullptr, attribute);
  int clusters = 0;
  const cudaError_t error = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config);
  if (error != cudaSuccess) cudaGetLastError();  // an answer, which the next launch must not find as its own error
  return error == cudaSuccess && clusters > 0;
#endif
}

// Starts kernel<<<grid, block, shared_bytes, stream>>>(arguments...) in clusters of `cluster` blocks. Returns
// cudaSuccess (0) or the CUDA error code.
template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, unsigned cluster, size_t shared_bytes,
           GpuStream stream, Arguments... arguments) {
#if GPU_EMULATED
  (void)stream;
  return emulator::launch(kernel, grid, block, cluster, shared_bytes, arguments...);
#else
  if (const int error = allow_shared(kernel, shared_bytes)) return error;
  cudaLaunchAttribute attribute;
  const cudaLaunchConfig_t config = launch_config(grid, block, cluster, shared_bytes, stream, attribute);
  return int(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
#endif
}

}  // namespace fastloss
