// Kernels with one bug each, and two without: bug(name, ...) runs one of them, and test_planted_bugs.py says who must
// notice. Each writes `output`, n floats; `input` holds 0, 1, 2 ...
#include <cstring>

#include "../../../../csrc/cuda/gpu.h"

namespace fastloss {

GPU_INLINE float warp_sum(float value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

__global__ void writes_past_the_end(const float*, float* output, int n) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i <= n) output[i] = 1;
}
__global__ void reads_past_the_end(const float* input, float* output, int n) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) output[i] = input[i + 1];
}
__global__ void no_barrier(const float* input, float* output, int) {
  SHARED(shared, float[128]);
  shared[threadIdx.x] = input[threadIdx.x];
  output[threadIdx.x] = shared[127 - threadIdx.x];
}
__global__ void no_second_barrier(const float* input, float* output, int) {  // the array is used again too early
  SHARED(shared, float[128]);
  float sum = 0;
  for (int round = 0; round < 3; ++round) {
    shared[threadIdx.x] = input[threadIdx.x] + float(round);
    __syncthreads();
    sum += shared[127 - threadIdx.x];
  }
  output[threadIdx.x] = sum;
}
__global__ void two_barriers(const float* input, float* output, int) {  // the same without the bug
  SHARED(shared, float[128]);
  float sum = 0;
  for (int round = 0; round < 3; ++round) {
    shared[threadIdx.x] = input[threadIdx.x] + float(round);
    __syncthreads();
    sum += shared[127 - threadIdx.x];
    __syncthreads();
  }
  output[threadIdx.x] = sum;
}
__global__ void no_syncwarp(const float* input, float* output, int) {
  SHARED(shared, float[128]);
  shared[threadIdx.x] = input[threadIdx.x];
  output[threadIdx.x] = shared[threadIdx.x ^ 31];
}
__global__ void shuffle_for_barrier(const float* input, float* output, int) {  // shuffles do not order memory
  SHARED(shared, float[128]);
  shared[threadIdx.x] = input[threadIdx.x];
  const float sum = warp_sum(1);
  output[threadIdx.x] = shared[threadIdx.x ^ 31] + 0 * sum;
}
__global__ void two_pieces(const float*, float* output, int) {  // launched with room for one
  SharedMemory memory;
  float* const first = memory.take<float>(blockDim.x);
  float* const second = memory.take<float>(blockDim.x);
  first[threadIdx.x] = second[threadIdx.x] = 1;
  output[threadIdx.x] = first[threadIdx.x] + second[threadIdx.x];
}
__global__ void writes_into_the_next_piece(const float*, float* output, int) {
  SharedMemory memory;
  float* const first = memory.take<float>(100);
  float* const second = memory.take<float>(100);
  for (int i = int(threadIdx.x); i <= 100; i += int(blockDim.x)) first[i] = 0;
  __syncthreads();
  if (threadIdx.x < 100) second[threadIdx.x] = 1;
  output[threadIdx.x] = first[threadIdx.x % 100];
}
__global__ void static_array_too_small(const float*, float* output, int) {  // for 2 warps, launched with 4
  SHARED(of_warp, float[2]);
  if ((threadIdx.x & 31) == 0) of_warp[threadIdx.x >> 5] = 1;
  __syncthreads();
  output[threadIdx.x] = of_warp[0];
}
__global__ void two_places_of_one_barrier(const float*, float* output, int) {
  if (threadIdx.x < 64) {
    output[threadIdx.x] = 1;
    __syncthreads();
  } else {
    output[threadIdx.x] = 2;
    __syncthreads();
  }
}
__global__ void barrier_in_a_ragged_loop(const float*, float* output, int) {
  for (int i = int(threadIdx.x); i < 130; i += int(blockDim.x)) {
    output[i % 128] = 1;
    __syncthreads();
  }
  __syncwarp();
}
__global__ void shuffle_in_half_a_warp(const float*, float* output, int) {
  float value = 1;
  if ((threadIdx.x & 31) < 16) value = warp_sum(value);
  output[threadIdx.x] = value;
}
__global__ void shuffle_from_nobody(const float*, float* output, int) {  // launched with 48 threads
  output[threadIdx.x] = __shfl_down_sync(0xffffffffu, 1.f, 16);
}
__global__ void misaligned_pack(const float* input, float* output, int) {
  store_global(output + 4 * threadIdx.x, load_once(input + 4 * threadIdx.x + 1));
}
__global__ void reads_uninitialised(const float*, float* output, int) {
  SHARED(shared, float[128]);
  if (threadIdx.x != 77) shared[threadIdx.x] = 1;
  __syncthreads();
  output[threadIdx.x] = shared[threadIdx.x];
}
__global__ void int_overflow(const float*, float* output, int n) {
  const int elements = n * 33554432;
  output[threadIdx.x] = float(elements);
}
__global__ void same_output_from_all_blocks(const float*, float* output, int) {
  if (threadIdx.x == 0) output[0] += 1;
}
__global__ void traps(const float*, float* output, int) {
  if (threadIdx.x == 77) GPU_TRAP("something is wrong");
  output[threadIdx.x] = 1;
}

// Each block gets a number from its right neighbour in the cluster.
GPU_INLINE void pass_on([[maybe_unused]] float* output, [[maybe_unused]] bool first, [[maybe_unused]] bool last) {
#if GPU_ARCH >= 900
  const Cluster cluster{};
  SHARED(shared, float[32]);
  shared[threadIdx.x] = float(cluster.rank());
  if (first) {
    cluster.arrive();
    cluster.wait();
  } else {
    __syncthreads();
  }
  output[blockIdx.x * blockDim.x + threadIdx.x] =
      cluster.peer(shared, (cluster.rank() + 1) % cluster.size())[threadIdx.x];
  if (last) {
    cluster.arrive();
    cluster.wait();
  }
#endif
}
__global__ void no_first_cluster_barrier(const float*, float* output, int) { pass_on(output, false, true); }
__global__ void no_last_cluster_barrier(const float*, float* output, int) { pass_on(output, true, false); }
__global__ void both_cluster_barriers(const float*, float* output, int) { pass_on(output, true, true); }
__global__ void half_a_cluster_barrier(const float*, float* output, int) {
  output[blockIdx.x * blockDim.x + threadIdx.x] = 1;
#if GPU_ARCH >= 900
  Cluster().arrive();
#endif
}

}  // namespace fastloss

using namespace fastloss;

struct Bug {
  const char* name;
  void (*kernel)(const float*, float*, int);
  unsigned grid, block, cluster, shared_bytes;
};
#define BUG(name, grid, block, cluster, shared_bytes) {#name, name, grid, block, cluster, shared_bytes}

extern "C" int bug(const char* name, const float* input, float* output, int n) {
  static const Bug bugs[] = {
      BUG(writes_past_the_end, 2, 128, 1, 0),
      BUG(reads_past_the_end, 1, 128, 1, 0),
      BUG(no_barrier, 1, 128, 1, 0),
      BUG(no_second_barrier, 1, 128, 1, 0),
      BUG(two_barriers, 1, 128, 1, 0),
      BUG(no_syncwarp, 1, 128, 1, 0),
      BUG(shuffle_for_barrier, 1, 128, 1, 0),
      BUG(two_pieces, 1, 128, 1, 512),
      BUG(writes_into_the_next_piece, 1, 128, 1, 800),
      BUG(static_array_too_small, 1, 128, 1, 0),
      BUG(two_places_of_one_barrier, 1, 128, 1, 0),
      BUG(barrier_in_a_ragged_loop, 1, 128, 1, 0),
      BUG(shuffle_in_half_a_warp, 1, 128, 1, 0),
      BUG(shuffle_from_nobody, 1, 48, 1, 0),
      BUG(misaligned_pack, 1, 8, 1, 0),
      BUG(reads_uninitialised, 1, 128, 1, 0),
      BUG(int_overflow, 1, 128, 1, 0),
      BUG(same_output_from_all_blocks, 4, 32, 1, 0),
      BUG(traps, 1, 128, 1, 0),
      BUG(no_first_cluster_barrier, 4, 32, 4, 0),
      BUG(no_last_cluster_barrier, 4, 32, 4, 0),
      BUG(both_cluster_barriers, 4, 32, 4, 0),
      BUG(half_a_cluster_barrier, 4, 32, 4, 0),
  };
  for (const Bug& bug : bugs) {
    if (std::strcmp(bug.name, name) != 0) continue;
    return launch(bug.kernel, dim3(bug.grid), dim3(bug.block), bug.cluster, bug.shared_bytes, nullptr, input, output,
                  n);
  }
  return -1;
}
