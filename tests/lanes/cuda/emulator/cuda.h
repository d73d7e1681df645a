// The names of CUDA that kernels use, on the emulator.
#pragma once
#include <cfloat>
#include <cmath>
#include <type_traits>

#include "launch.h"

#undef __global__
#undef __device__
#undef __host__
#undef __forceinline__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// A static would be neither poisoned nor one for each block.
#undef __shared__
#define __shared__ static_assert(false, "use SHARED of gpu.h");

constexpr int warpSize = emulator::kWarp;
using cudaStream_t = struct CUstream_st*;

inline void __syncthreads(EMULATOR_HERE) { emulator::block_barrier("__syncthreads", file, line); }
inline void __syncwarp(unsigned mask = ~0u, EMULATOR_HERE) {
  emulator::meet(emulator::kSyncWarp, mask, 0, 0, warpSize, "__syncwarp", file, line);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = warpSize, EMULATOR_HERE) {
  return emulator::shuffle(emulator::kShuffle, mask, value, lane, width, "__shfl_sync", file, line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize, EMULATOR_HERE) {
  return emulator::shuffle(emulator::kShuffleUp, mask, value, int(delta), width, "__shfl_up_sync", file, line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize, EMULATOR_HERE) {
  return emulator::shuffle(emulator::kShuffleDown, mask, value, int(delta), width, "__shfl_down_sync", file, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = warpSize, EMULATOR_HERE) {
  return emulator::shuffle(emulator::kShuffleXor, mask, value, lanes, width, "__shfl_xor_sync", file, line);
}

// The device's exp2 of a rounded product, with its error in x: about |x| 2^-24. glibc declares __expf for itself.
#define __expf emulator_expf
inline float emulator_expf(float x) { return exp2f(x * 1.44269504f); }

namespace cooperative_groups {

struct cluster_group {
  static unsigned block_rank() { return emulator::state().current->block->rank; }
  static unsigned num_blocks() { return unsigned(emulator::state().cluster.blocks.size()); }
  template <class T>
  static T* map_shared_rank(T* variable, unsigned rank) {
    return static_cast<T*>(emulator::map_shared(variable, rank));
  }
};
inline cluster_group this_cluster() { return {}; }

}  // namespace cooperative_groups
