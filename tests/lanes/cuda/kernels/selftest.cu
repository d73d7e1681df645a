// What the emulator's primitives must do, by the CUDA programming guide. Every thread writes one int: 0, or the source
// line of the first check that failed. Also a kernel file like any other: nvcc compiles it.
#include "../../../../csrc/cuda/gpu.h"

#define EXPECT(condition)                               \
  do {                                                  \
    if (!(condition) && failed == 0) failed = __LINE__; \
  } while (0)

namespace fastloss {

constexpr unsigned kAll = 0xffffffffu;

__global__ void shuffles(int* failures) {
  int failed = 0;
  const int thread = int(threadIdx.x), lane = thread & 31;
  EXPECT(__shfl_sync(kAll, thread, 5) == (thread & ~31) + 5);
  EXPECT(__shfl_sync(kAll, lane, 9, 8) == (lane & ~7) + 1);
  EXPECT(__shfl_up_sync(kAll, lane, 3) == (lane < 3 ? lane : lane - 3));
  EXPECT(__shfl_up_sync(kAll, lane, 3, 16) == ((lane & 15) < 3 ? lane : lane - 3));
  EXPECT(__shfl_down_sync(kAll, lane, 4) == (lane > 27 ? lane : lane + 4));
  EXPECT(__shfl_down_sync(kAll, lane, 4, 8) == ((lane & 7) > 3 ? lane : lane + 4));
  EXPECT(__shfl_xor_sync(kAll, lane, 16) == (lane ^ 16));
  EXPECT(__shfl_xor_sync(kAll, double(lane), 1) == double(lane ^ 1));
  EXPECT(__shfl_xor_sync(kAll, float(lane), 2) == float(lane ^ 2));
  // Two halves of a warp, each in a collective of its own, and lanes that have left.
  if (lane < 16) {
    EXPECT(__shfl_xor_sync(0x0000ffffu, lane, 8) == (lane ^ 8));
  } else {
    EXPECT(__shfl_xor_sync(0xffff0000u, lane, 4) == (lane ^ 4));
    EXPECT(__shfl_xor_sync(0xffff0000u, lane, 2) == (lane ^ 2));
  }
  __syncwarp();
  failures[blockIdx.x * blockDim.x + threadIdx.x] = failed;
  if (lane >= 8) return;
  EXPECT(__shfl_xor_sync(kAll, lane, 4) == (lane ^ 4));
  __syncthreads();
  failures[blockIdx.x * blockDim.x + threadIdx.x] = failed;
}

__global__ void barriers(int* failures) {
  SHARED(table, int[8][16]);
  SHARED(last, int);
  int failed = 0;
  const int thread = int(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
  EXPECT(blockDim.x == 16 && blockDim.y == 4 && blockDim.z == 2 && gridDim.y == 2 && blockIdx.y < 2);
  EXPECT(sizeof(table) == 512);
  SharedMemory memory;
  int* const first = memory.take<int>(3);
  double* const second = memory.take<double>(128);
  EXPECT(misalignment(second) == 0);
  for (int round = 0; round < 3; ++round) {
    table[thread / 16][thread % 16] = thread + round;
    second[thread] = round;
    if (thread < 3) first[thread] = 10 * thread + round;
    if (thread == 127) last = round;
    __syncthreads();
    EXPECT(table[7 - thread / 16][15 - thread % 16] == 127 - thread + round);
    EXPECT(second[127 - thread] == round && first[thread % 3] == 10 * (thread % 3) + round && last == round);
    __syncthreads();
  }
  failures[(blockIdx.y * gridDim.x + blockIdx.x) * 128 + thread] = failed;
  if (thread % 2 == 1) return;
  __syncthreads();  // of those that are left
  failures[(blockIdx.y * gridDim.x + blockIdx.x) * 128 + thread] = failed;
}

__global__ void clusters(int* failures) {
  int failed = 0;
#if GPU_ARCH >= 900
  SHARED(box, int[8]);
  const Cluster cluster{};
  const unsigned rank = cluster.rank(), size = cluster.size();
  SharedMemory memory;
  int* const dynamic = memory.take<int>(4);
  EXPECT(size == 4 && rank == blockIdx.x % 4);
  if (threadIdx.x < 4) dynamic[threadIdx.x] = int(rank * 10 + threadIdx.x);
  cluster.arrive();
  cluster.wait();
  if (threadIdx.x < size) *cluster.peer(&box[rank], threadIdx.x) = int(100 * rank + threadIdx.x);
  const int far = cluster.peer(dynamic, (rank + 1) % size)[2];
  cluster.arrive();
  EXPECT(__shfl_xor_sync(kAll, far, 1) == int((rank + 1) % size * 10 + 2));
  cluster.wait();
  if (threadIdx.x < size) EXPECT(box[threadIdx.x] == int(100 * threadIdx.x + rank));
#endif
  failures[blockIdx.x * blockDim.x + threadIdx.x] = failed;
}

__global__ void conversions(int* failures) {
  int failed = 0;
  alignas(16) __nv_bfloat16 halves[8];
  alignas(16) float floats[4] = {1.5f, -2.25f, 0.f, 3e38f};
  for (int j = 0; j < 8; ++j) halves[j] = narrow<__nv_bfloat16>(float(j) - 3.5f);
  Pack<__nv_bfloat16> pack;
  memcpy(&pack, halves, sizeof(pack));
  float wide[8], four[4];
  widen(pack, wide);
  for (int j = 0; j < 8; ++j) EXPECT(wide[j] == float(j) - 3.5f);
  const Pack<__nv_bfloat16> again = narrow_pack<__nv_bfloat16>(wide);
  EXPECT(memcmp(&again, &pack, sizeof(pack)) == 0);
  float values[8] = {1, 2, 3, 0.1f, -65504, 6e-8f, 0, -0.f};
  float back[8];
  widen(narrow_pack<__half>(values), back);
  for (int j = 0; j < 8; ++j) EXPECT(back[j] == widen(narrow<__half>(values[j])));
  Pack<float> quad;
  memcpy(&quad, floats, sizeof(quad));
  widen(quad, four);
  for (int j = 0; j < 4; ++j) EXPECT(four[j] == floats[j]);
  const double two[2] = {1.0 / 3, -1e300};
  double same[2];
  widen(narrow_pack<double>(two), same);
  EXPECT(same[0] == two[0] && same[1] == two[1]);
  EXPECT(fast_exp2(0.f) == 1 && fast_exp2(-2.f) == 0.25f && fast_exp2(-INFINITY) == 0);
  failures[threadIdx.x] = failed;
}

}  // namespace fastloss

using namespace fastloss;

extern "C" int selftest(int which, int* failures) {
  switch (which) {
    case 0:
      return launch(shuffles, dim3(2), dim3(128), 1, 0, nullptr, failures);
    case 1:
      return launch(barriers, dim3(3, 2), dim3(16, 4, 2), 1, 16 + 128 * 8, nullptr, failures);
    case 2:
      return launch(clusters, dim3(12), dim3(64), 4, 16, nullptr, failures);
    case 3:
      return launch(conversions, dim3(1), dim3(32), 1, 0, nullptr, failures);
    // Launches that a device refuses.
    case 10:
      return launch(shuffles, dim3(0), dim3(32), 1, 0, nullptr, failures);
    case 11:
      return launch(shuffles, dim3(1), dim3(1025), 1, 0, nullptr, failures);
    case 12:
      return launch(shuffles, dim3(3), dim3(32), 2, 0, nullptr, failures);
    case 13:
      return launch(shuffles, dim3(1), dim3(32), 1, 233000, nullptr, failures);
  }
  return -1;
}
