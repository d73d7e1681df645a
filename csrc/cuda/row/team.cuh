// Who works on a row of unit class stride: some lanes of a warp, a block, or a cluster of blocks. Every team offers
//
//   row               the row, among those of this launch
//   rank, ranks       which slice of the row this thread's block works on, of how many
//   thread, threads   this thread's place among those of the slice
//   slot              place of the slice in the block's shared memory
//   reports()         true in one thread of the row
//   join(units, s)    the statistics of the row, the same bits in every thread of it; also a barrier for the shared
//                     memory of the slice
//   leave()           comes before the end of the kernel if join() has been called
//   fold(part, add)   another kind of sums of the row, add(a, b) being add(b, a) to the bit, in the thread that reports
//   all(part)         what the thread that reports has, in every thread of the row
#pragma once
#include "math.cuh"

namespace fastloss {

class LanesTeam;
class BlockTeam;
class ClusterTeam;

// Launch bounds. Without a dense target 64 registers are enough for everything, so 1024 threads stay on a processor;
// with one they spilled (up to 300 bytes), and 768 threads have 85 each. Double needs two for a number and is not about
// speed.
template <class Team, bool kDense>
constexpr int kMaxThreads = kDense || std::is_same<Team, LanesTeam>::value ? 256 : 512;
template <class Team, class T, bool kDense>
constexpr int kResidentBlocks = sizeof(T) == 8                     ? 1
                                : kMaxThreads<Team, kDense> == 256 ? 3
                                                                   : 2;

template <bool kDense, class Units, class A>
GPU_INLINE Statistics<A> join_block(const Units& units, Statistics<A> s) {
  SHARED(of_warp, Statistics<A>[16]);  // of at most 512 threads; used once in a kernel, so one barrier is enough
  const int lane = int(threadIdx.x & 31), warp = int(threadIdx.x >> 5), warps = int(blockDim.x >> 5);
  s = join_lanes<kDense>(units, s, 32, 0xffffffffu);
  if (lane == 0) of_warp[warp] = s;
  __syncthreads();
  s = lane < warps ? of_warp[lane] : no_statistics<A>();
  return join_lanes<kDense>(units, s, 32, 0xffffffffu);
}

// Of a Part made of `number[Part::count]`, every lane gets the sum.
template <class Part, class Add>
GPU_INLINE Part fold_lanes(Part part, const Add& add, int lanes, unsigned mask) {
  for (int step = lanes / 2; step > 0; step /= 2) {
    Part other;
#pragma unroll
    for (int i = 0; i < Part::count; ++i) other.number[i] = __shfl_xor_sync(mask, part.number[i], step);
    part = add(part, other);
  }
  return part;
}

// A power of two lanes of a warp. The other teams of the warp may work on rows that are not counted, so every
// collective names the lanes of this one.
class LanesTeam {
 public:
  template <class Job>
  GPU_INLINE explicit LanesTeam(const Job& job)
      : thread(int(threadIdx.x) & (job.lanes - 1)),
        threads(job.lanes),
        slot(int(threadIdx.x) / job.lanes),
        row((long long)blockIdx.x * (int(blockDim.x) / job.lanes) + slot),
        mask_((0xffffffffu >> (32 - job.lanes)) << (threadIdx.x & 31u & ~(unsigned(job.lanes) - 1u))) {}

  const int thread, threads, slot;
  const long long row;
  static constexpr int rank = 0, ranks = 1;

  GPU_INLINE bool reports() const { return thread == 0; }
  template <bool kDense, class Units, class A>
  GPU_INLINE Statistics<A> join(const Units& units, const Statistics<A>& s) const {
    __syncwarp(mask_);
    return join_lanes<kDense>(units, s, threads, mask_);
  }
  template <class Part, class Add>
  GPU_INLINE Part fold(Part part, const Add& add) const {
    return fold_lanes(part, add, threads, mask_);
  }
  template <class Part>
  GPU_INLINE Part all(const Part& part) const {
    return part;  // fold() has given it to all lanes
  }
  GPU_INLINE void leave() const {}

 private:
  const unsigned mask_;
};

class BlockTeam {
 public:
  template <class Job>
  GPU_INLINE explicit BlockTeam(const Job&)
      : thread(int(threadIdx.x)), threads(int(blockDim.x)), row((long long)blockIdx.x) {}

  const int thread, threads;
  const long long row;
  static constexpr int slot = 0, rank = 0, ranks = 1;

  GPU_INLINE bool reports() const { return thread == 0; }
  template <bool kDense, class Units, class A>
  GPU_INLINE Statistics<A> join(const Units& units, const Statistics<A>& s) const {
    return join_block<kDense>(units, s);
  }
  template <class Part, class Add>
  GPU_INLINE Part fold(Part part, const Add& add) const {
    SHARED(of_warp, Part[16]);  // as in join_block
    part = fold_lanes(part, add, 32, 0xffffffffu);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = part;
    __syncthreads();
    for (int warp = 1; warp < int(blockDim.x) / 32; ++warp) part = add(part, of_warp[warp]);  // in thread 0
    return part;
  }
  template <class Part>
  GPU_INLINE Part all(const Part& part) const {
    SHARED(of_block, Part);
    if (reports()) of_block = part;
    __syncthreads();
    return of_block;
  }
  GPU_INLINE void leave() const {}
};

#if GPU_ARCH >= 900
class ClusterTeam {
 public:
  template <class Job>
  GPU_INLINE explicit ClusterTeam(const Job&)
      : thread(int(threadIdx.x)),
        threads(int(blockDim.x)),
        rank(int(cluster_.rank())),
        ranks(int(cluster_.size())),
        row((long long)(blockIdx.x / unsigned(ranks))) {}

  static constexpr int slot = 0;

 private:
  Cluster cluster_;

 public:
  const int thread, threads, rank, ranks;
  const long long row;

  GPU_INLINE bool reports() const { return thread == 0 && rank == 0; }

  // Every warp reads the sums of all blocks for itself, so that one barrier of the cluster is enough.
  template <bool kDense, class Units, class A>
  GPU_INLINE Statistics<A> join(const Units& units, Statistics<A> s) const {
    SHARED(of_block, Statistics<A>);
    s = join_block<kDense>(units, s);
    if (thread == 0) of_block = s;
    cluster_.arrive();
    cluster_.wait();
    const int lane = thread & 31;
    s = lane < ranks ? *cluster_.peer(&of_block, unsigned(lane)) : no_statistics<A>();
    s = join_lanes<kDense>(units, s, 32, 0xffffffffu);
    cluster_.arrive();  // this thread has read its peers; the gradient is written before it waits in leave()
    return s;
  }
  // A block must not end, and free its shared memory, before its peers have read it.
  GPU_INLINE void leave() const { cluster_.wait(); }
};
#endif

}  // namespace fastloss
