// The kernel of the pointwise losses: one for each functor and accumulator. It computes what the call asks for, losses,
// gradients and metrics together, in one pass over the operands.
//
// Sums are deterministic: a thread adds its shares in double, a block its threads, and a second launch (a block for
// each result) the blocks. How the elements are split depends on their number and layout only, never on the device.
#pragma once
#include "../../losses/contracts/pointwise.h"
#include "access.cuh"

namespace fastloss {

constexpr unsigned kMaxPointwiseBlocks = 4096;  // of a launch: 8 waves on an H100, so that the last one costs little
constexpr int kFinishThreads = 256;

// What a partial result is: one of these, then the metrics.
enum PartialSlot { kLossSlot, kWeightSlot, kFirstMetricSlot };

// Where results go, and how partial results become them.
struct PointwiseResults {
  double* partial;  // (slots, blocks); null if the call is for elements only
  unsigned first_block, blocks;
  bool reduce, measure;
  bool in_double;
  int metrics;
  int kind[kFirstMetricSlot + kMaxMetrics];  // of each slot
  void* loss;                                // () of the accumulator
  void* metric;                              // (metrics,) of the accumulator
};

template <class Functor>
struct PointwiseJob {
  using A = typename Functor::A;
  Functor functor;
  Walk walk = {};
  bool masked = false;
  bool in_groups = false;  // see packed_share
  A factor = 1;
  View operand[Functor::operands] = {};
  A constant[Functor::operands] = {};
  View weight = {}, scale = {}, upstream = {};
  View loss = {};  // f_i loss_i
  View gradient[Functor::operands] = {};
  PointwiseResults results = {};
};

template <class T>
GPU_INLINE T combine(int kind, T a, T b) {
  return kind == kMinMetric ? math::minimum(a, b) : kind == kMaxMetric ? math::maximum(a, b) : a + b;
}
template <class T>
GPU_INLINE T nothing_of(int kind) {
  return kind == kMinMetric ? T(INFINITY) : kind == kMaxMetric ? T(-INFINITY) : T(0);
}

// All lanes get the result.
GPU_INLINE double join_warp(int kind, double value) {
  for (int step = 16; step > 0; step /= 2) value = combine(kind, value, __shfl_xor_sync(0xffffffffu, value, step));
  return value;
}

// Slot `slot` of the results, from its joined partial results.
GPU_INLINE void write_result(const PointwiseResults& results, int slot, double value, double weight) {
  if (results.kind[slot] == kMeanMetric) value = weight == 0 ? 0 : value / weight;
  void* const out = slot == kLossSlot ? results.loss : results.metric;
  const int at = slot == kLossSlot ? 0 : slot - kFirstMetricSlot;
  if (results.in_double) {
    static_cast<double*>(out)[at] = value;
  } else {
    static_cast<float*>(out)[at] = float(value);
  }
}

// The kinds of a functor's metrics, 4 bits each. A functor's metric_kind is a function of the host: on a device it can
// be called in constant expressions only, and those of namespace scope.
template <class Functor>
constexpr uint64_t packed_kinds() {
  uint64_t kinds = 0;
  for (int m = 0; m < Functor::metrics; ++m) kinds |= uint64_t(Functor::metric_kind(m)) << 4 * m;
  return kinds;
}
template <class Functor>
constexpr uint64_t kMetricKinds = packed_kinds<Functor>();
template <class Functor>
GPU_INLINE int metric_kind(int metric) {
  return int(kMetricKinds<Functor> >> 4 * metric & 15);
}

// What a thread has added up: the losses in double, everything else, which nobody differentiates, in A. That is at most
// 1100 elements even of 2^30; two registers for each of a dozen metrics would spill.
template <class Functor>
struct PointwiseSums {
  using A = typename Functor::A;
  static constexpr int metrics = Functor::metrics, slots = kFirstMetricSlot + metrics;
  double loss = 0;
  A weight = 0;
  A metric[metrics ? metrics : 1];

  GPU_INLINE PointwiseSums() {
#pragma unroll
    for (int m = 0; m < metrics; ++m) metric[m] = nothing_of<A>(metric_kind<Functor>(m));
  }
  GPU_INLINE double of(int slot) const {
    return slot == kLossSlot ? loss : slot == kWeightSlot ? double(weight) : double(metric[slot - kFirstMetricSlot]);
  }
  static GPU_INLINE int kind(int slot) {
    return slot < kFirstMetricSlot ? int(kPartMetric) : metric_kind<Functor>(slot - kFirstMetricSlot);
  }
};

// The sums of a block's threads go to `partial`, or, from the only block, into the results.
template <class Functor>
GPU_INLINE void finish_block(const PointwiseResults& results, const PointwiseSums<Functor>& sums) {
  constexpr int warps = kPointwiseThreads / 32, slots = PointwiseSums<Functor>::slots;
  SHARED(of_warp, double[slots][warps]);
  const int lane = int(threadIdx.x & 31), warp = int(threadIdx.x >> 5);
#pragma unroll
  for (int s = 0; s < slots; ++s) {
    if (s == kLossSlot ? !results.reduce : !results.measure) continue;
    const double value = join_warp(PointwiseSums<Functor>::kind(s), sums.of(s));
    if (lane == 0) of_warp[s][warp] = value;
  }
  __syncthreads();
  const int slot = int(threadIdx.x);
  if (slot >= slots || (slot == kLossSlot ? !results.reduce : !results.measure)) return;
  const int kind = results.kind[slot];
  double value = of_warp[slot][0];
  for (int w = 1; w < warps; ++w) value = combine(kind, value, of_warp[slot][w]);
  if (results.blocks > 1) {
    results.partial[(long long)slot * results.blocks + results.first_block + blockIdx.x] = value;
  } else if (slot != kWeightSlot) {
    double weight = 0;
    if (results.measure) {
      for (int w = 0; w < warps; ++w) weight += of_warp[kWeightSlot][w];
    }
    write_result(results, slot, value, weight);
  }
}

// Losses, gradients and metrics of one share.
template <class Mode, class Functor>
GPU_INLINE void take_share(const PointwiseJob<Functor>& job, const Share& share, PointwiseSums<Functor>& sums) {
  using A = typename Functor::A;
  constexpr int E = Mode::share, K = Functor::operands, M = Functor::metrics;
  Word<A> word[K][E], weight_word[E];
#pragma unroll
  for (int k = 0; k < K; ++k) load_share<Mode>(job.walk, job.operand[k], share, word[k]);
  load_share<Mode>(job.walk, job.weight, share, weight_word);

  // What every loss is multiplied by, but for the weight.
  A multiple[E];
#pragma unroll
  for (int j = 0; j < E; ++j) multiple[j] = job.factor;
#pragma unroll 1
  for (int which = 0; which < 2; ++which) {
    const View& view = which == 0 ? job.scale : job.upstream;
    if (view.layout == kAbsent) continue;
    Word<A> some[E];
    A value[E];
    load_share<Mode>(job.walk, view, share, some);
    convert_share<Mode>(view, some, value);
#pragma unroll
    for (int j = 0; j < E; ++j) multiple[j] *= value[j];
  }

  A x[K][E], weight[E];
#pragma unroll
  for (int k = 0; k < K; ++k) {
    if (job.operand[k].layout == kAbsent) {
#pragma unroll
      for (int j = 0; j < E; ++j) x[k][j] = job.constant[k];
    } else {
      convert_share<Mode>(job.operand[k], word[k], x[k]);
    }
  }
  if (job.weight.layout == kAbsent) {
#pragma unroll
    for (int j = 0; j < E; ++j) weight[j] = 1;
  } else {
    convert_share<Mode>(job.weight, weight_word, weight);
  }

  A loss_sum = 0;
#pragma unroll
  for (int j = 0; j < E; ++j) {
    A at[K];
#pragma unroll
    for (int k = 0; k < K; ++k) at[k] = x[k][j];
    const bool counted = (Mode::packed || share.has(j)) && !(job.masked && weight[j] == 0);
    if constexpr (Functor::requirement != nullptr) {
      if (counted && !job.functor.valid(at)) GPU_TRAP(Functor::requirement);
    }
    const auto element = job.functor(at);
    const A f = multiple[j] * weight[j];
    multiple[j] = counted ? f * element.loss : A(0);
#pragma unroll
    for (int k = 0; k < K; ++k) x[k][j] = counted ? f * element.derivative[k] : A(0);
    loss_sum += multiple[j];
    if constexpr (M > 0) {
      sums.weight += counted ? weight[j] : A(0);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        const int kind = metric_kind<Functor>(m);
        const A metric = element.metric[m];
        const bool measured = counted && (kind == kMeanMetric || kind == kPartMetric || weight[j] != 0);
        const A scaled = kind == kMeanMetric ? weight[j] * metric : kind == kPartMetric ? f * metric : metric;
        sums.metric[m] = measured ? combine(kind, sums.metric[m], scaled) : sums.metric[m];
      }
    }
  }

  sums.loss += double(loss_sum);
  if (job.loss.layout != kAbsent) store_share<Mode>(job.walk, job.loss, share, multiple);
#pragma unroll
  for (int k = 0; k < K; ++k) {
    if (job.gradient[k].layout != kAbsent) store_share<Mode>(job.walk, job.gradient[k], share, x[k]);
  }
}

// Blocks that a processor is to hold at once. A thread in packs has 8 words of each operand in registers: with two
// operands, 3 blocks of 80 registers have 48 KiB of floats or 24 KiB of halves in flight, where an H100 asks for 18.
template <class Mode, class Functor>
constexpr int pointwise_resident() {
  if (Functor::operands > 4) return Mode::packed ? 1 : 2;
  if (sizeof(typename Mode::A) == 8 || Functor::operands > 2) return 2;
  if (Mode::packed) return Functor::metrics > 0 ? 2 : 3;
  return Functor::metrics > 0 ? 3 : 4;
}
template <class Mode, class Functor>
constexpr int kPointwiseResident = pointwise_resident<Mode, Functor>();

// A block takes chunks of kPointwiseThreads shares in turn. Neighbouring threads have neighbouring elements, or groups.
template <class Mode, class Functor>
__global__ void __launch_bounds__(kPointwiseThreads, kPointwiseResident<Mode, Functor>)
    pointwise_kernel(const GPU_PARAMETER PointwiseJob<Functor> job) {
  constexpr uint32_t chunk = kPointwiseThreads * Mode::share;
  const uint32_t chunks = (job.walk.numel + chunk - 1) / chunk;
  PointwiseSums<Functor> sums;
  for (uint32_t c = blockIdx.x; c < chunks; c += gridDim.x) {
    Share share = {c * chunk + threadIdx.x, kPointwiseThreads, job.walk.numel};
    if constexpr (Mode::packed) share = packed_share(c * chunk, job.walk.numel, job.in_groups);
    if (share.first < share.end) take_share<Mode>(job, share, sums);
  }
  if (job.results.partial != nullptr) finish_block(job.results, sums);
}

}  // namespace fastloss
