// What runs over time on a GPU. It knows no functor; see csrc/losses/contracts/scan.h.
//
// Short sequences that are neighbours in memory have a thread each, whose steps come in their order. Any other sequence
// has a warp: a lane composes a few steps, as affine maps, the lanes are composed by shuffles, and each goes through
// its steps once more with the y that comes in. Every input is read once, every output written once. Which of the two
// takes a call depends on the layout and the number of steps, never on how many sequences there are, so a sequence has
// the same bits in every batch.
#include "../losses/all.h"
#include "gpu.h"

namespace fastloss {

constexpr int kScanThreads = 128, kScanWarps = kScanThreads / 32;
constexpr int kLaneSteps = 4;                // that a lane composes; with 8, kernels of six operands spilled
constexpr long long kShortScan = 1024;       // steps of a thread's sequence at most
constexpr long long kMaxScanBlocks = 16384;  // of a launch

// As ScanTensor; null: there is none.
struct ScanView {
  void* data;
  DType dtype;
  long long outer, step, inner;
};

template <class Functor>
struct ScanJob {
  using A = typename Functor::A;
  Functor functor;
  ScanView operand[Functor::operands] = {}, output[Functor::outputs] = {};
  A constant[Functor::operands] = {};
  ScanView terminated = {}, truncated = {}, there = {};
  const long long* starts = nullptr;
  long long sequences = 0, steps = 0, inner = 0;
  bool reverse = false;
};

struct ScanSequence {
  long long outer, inner, begin, length;
};

template <class Functor>
GPU_INLINE ScanSequence sequence_of(const ScanJob<Functor>& job, long long number) {
  ScanSequence q = {number / job.inner, number % job.inner, 0, job.steps};
  if (job.starts != nullptr) {  // nothing checks them here: not beyond the tensors
    const long long begin = job.starts[q.outer], end = job.starts[q.outer + 1];
    q.begin = begin < 0 ? 0 : begin > job.steps ? job.steps : begin;
    q.length = end < q.begin ? 0 : (end > job.steps ? job.steps : end) - q.begin;
    q.outer = 0;
  }
  return q;
}

// Of the step number s in the order of the scan.
GPU_INLINE long long place(const ScanView& view, const ScanSequence& q, long long s, bool reverse) {
  const long long time = q.begin + (reverse ? q.length - 1 - s : s);
  return q.outer * view.outer + time * view.step + q.inner * view.inner;
}

template <class A>
GPU_INLINE A load_number(const ScanView& view, long long at) {
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

template <class A>
GPU_INLINE void store_number(const ScanView& view, long long at, A value) {
  switch (view.dtype) {
    case DType::float64:
      static_cast<double*>(view.data)[at] = double(value);
      break;
    case DType::float16:
      static_cast<__half*>(view.data)[at] = narrow<__half>(float(value));
      break;
    case DType::bfloat16:
      static_cast<__nv_bfloat16*>(view.data)[at] = narrow<__nv_bfloat16>(float(value));
      break;
    default:
      static_cast<float*>(view.data)[at] = float(value);
  }
}

GPU_INLINE bool flag_at(const ScanView& view, const ScanSequence& q, long long s, bool reverse, bool otherwise) {
  return view.data == nullptr ? otherwise
                              : static_cast<const unsigned char*>(view.data)[place(view, q, s, reverse)] != 0;
}

// What is read of a step.
template <class Functor>
struct ScanStep {
  using A = typename Functor::A;
  A x[Functor::operands];
  A alive;
  bool goes_on, there;  // has it not ended; does the mask count it
};

template <class Functor>
GPU_INLINE ScanStep<Functor> read_step(const ScanJob<Functor>& job, const ScanSequence& q, long long s) {
  using A = typename Functor::A;
  ScanStep<Functor> step;
  step.there = flag_at(job.there, q, s, job.reverse, true);
  const bool over = flag_at(job.terminated, q, s, job.reverse, false);
  step.goes_on = !over && !flag_at(job.truncated, q, s, job.reverse, false);
  step.alive = over ? A(0) : A(1);
#pragma unroll
  for (int k = 0; k < Functor::operands; ++k) {
    const ScanView& view = job.operand[k];
    const A value = view.data == nullptr ? job.constant[k] : load_number<A>(view, place(view, q, s, job.reverse));
    step.x[k] = step.there ? value : A(0);
  }
  return step;
}

// Writes the outputs of a step, and makes y of it that of the next one.
template <class Functor>
GPU_INLINE void finish_step(const ScanJob<Functor>& job, const ScanSequence& q, long long s,
                            const ScanStep<Functor>& step, const Recurrence<typename Functor::A>& r, bool follows,
                            typename Functor::A& y) {
  using A = typename Functor::A;
  const A next = follows ? y : A(0), found = r.b + carried(r.a, next);
  A out[Functor::outputs];
  job.functor.finish(step.x, step.alive, follows ? A(1) : A(0), found, next, out);
#pragma unroll
  for (int k = 0; k < Functor::outputs; ++k) {
    const ScanView& view = job.output[k];
    store_number<A>(view, place(view, q, s, job.reverse), step.there ? out[k] : A(0));
  }
  if (step.there) y = found;
}

// A thread a sequence.
template <class Functor>
__global__ void __launch_bounds__(kScanThreads) scan_thread_kernel(const GPU_PARAMETER ScanJob<Functor> job) {
  using A = typename Functor::A;
  const long long stride = (long long)gridDim.x * kScanThreads;
  for (long long n = (long long)blockIdx.x * kScanThreads + threadIdx.x; n < job.sequences; n += stride) {
    const ScanSequence q = sequence_of(job, n);
    A y = 0;
    bool seen = false;
    for (long long s = 0; s < q.length; ++s) {
      const ScanStep<Functor> step = read_step(job, q, s);
      const bool follows = step.goes_on && seen;
      const Recurrence<A> r = job.functor.step(step.x, step.alive, follows ? A(1) : A(0));
      finish_step(job, q, s, step, r, follows, y);
      seen |= step.there;
    }
  }
}

// A warp a sequence.
template <class Functor>
__global__ void __launch_bounds__(kScanThreads) scan_warp_kernel(const GPU_PARAMETER ScanJob<Functor> job) {
  using A = typename Functor::A;
  constexpr unsigned all = 0xffffffffu;
  const int lane = int(threadIdx.x & 31);
  const long long stride = (long long)gridDim.x * kScanWarps;
  for (long long n = (long long)blockIdx.x * kScanWarps + threadIdx.x / 32; n < job.sequences; n += stride) {
    const ScanSequence q = sequence_of(job, n);
    A carry = 0;
    int seen_before = 0;  // is a step there before these?
    for (long long start = 0; start < q.length; start += 32 * kLaneSteps) {
      const long long first = start + lane * kLaneSteps;
      ScanStep<Functor> step[kLaneSteps];
      int here = 0;
#pragma unroll
      for (int e = 0; e < kLaneSteps; ++e) {
        if (first + e < q.length) {
          step[e] = read_step(job, q, first + e);
          here |= step[e].there;
        }
      }
      int seen = here;  // in this lane or one before
#pragma unroll
      for (int d = 1; d < 32; d *= 2) {
        const int other = __shfl_up_sync(all, seen, d);
        if (lane >= d) seen |= other;
      }
      const int lower = __shfl_up_sync(all, seen, 1);
      bool known = seen_before || (lane > 0 && lower);
      Recurrence<A> r[kLaneSteps];
      bool follows[kLaneSteps];
      A a = 1, b = 0;  // of this lane's steps, and then of all up to here
#pragma unroll
      for (int e = 0; e < kLaneSteps; ++e) {
        follows[e] = false;
        if (first + e >= q.length) continue;
        follows[e] = step[e].goes_on && known;
        known |= step[e].there;
        r[e] = job.functor.step(step[e].x, step[e].alive, follows[e] ? A(1) : A(0));
        if (!step[e].there) continue;
        if (!follows[e]) r[e].a = 0;
        b = r[e].b + carried(r[e].a, b);
        a = carried(r[e].a, a);
      }
#pragma unroll
      for (int d = 1; d < 32; d *= 2) {
        const A before_a = __shfl_up_sync(all, a, d), before_b = __shfl_up_sync(all, b, d);
        if (lane >= d) {
          b = b + carried(a, before_b);
          a = carried(a, before_a);
        }
      }
      const A before_a = __shfl_up_sync(all, a, 1), before_b = __shfl_up_sync(all, b, 1);
      A y = lane == 0 ? carry : before_b + carried(before_a, carry);
#pragma unroll
      for (int e = 0; e < kLaneSteps; ++e)
        if (first + e < q.length) finish_step(job, q, first + e, step[e], r[e], follows[e], y);
      carry = __shfl_sync(all, y, 31);
      seen_before |= __shfl_sync(all, seen, 31);
    }
  }
}

namespace {

ScanView view_of(const ScanTensor& t) { return {t.data, t.dtype, t.outer, t.step, t.inner}; }

template <class Functor>
int run_scan(const ScanProblem& problem, const Device& device) {
  using A = typename Functor::A;
  if (problem.parameter_count != Functor::parameters) return kWrongParameters;
  if (problem.operand_count != Functor::operands || problem.output_count != Functor::outputs) return kWrongOperands;
  ScanJob<Functor> job = {Functor(problem.parameters)};
  for (int k = 0; k < Functor::operands; ++k) {
    job.operand[k] = view_of(problem.operand[k]);
    job.constant[k] = A(problem.constant[k]);
  }
  for (int k = 0; k < Functor::outputs; ++k) job.output[k] = view_of(problem.output[k]);
  job.terminated = view_of(problem.terminated);
  job.truncated = view_of(problem.truncated);
  job.there = view_of(problem.there);
  job.starts = reinterpret_cast<const long long*>(problem.starts);
  job.sequences = problem.outer * problem.inner;
  job.steps = problem.steps;
  job.inner = problem.inner;
  job.reverse = problem.reverse != 0;
  const ScanView& first = job.output[0];
  const bool threads = problem.inner > 1 && first.inner <= first.step && problem.steps <= kShortScan;
  const long long of_block = threads ? kScanThreads : kScanWarps;
  const long long blocks = (job.sequences + of_block - 1) / of_block;
  if (blocks == 0) return 0;
  const dim3 grid(unsigned(blocks < kMaxScanBlocks ? blocks : kMaxScanBlocks));
  const GpuStream stream = static_cast<GpuStream>(device.stream);
  return threads ? launch(scan_thread_kernel<Functor>, grid, dim3(kScanThreads), 1, 0, stream, job)
                 : launch(scan_warp_kernel<Functor>, grid, dim3(kScanThreads), 1, 0, stream, job);
}

}  // namespace
}  // namespace fastloss

int fastloss_scan(const fastloss::ScanProblem* problem, fastloss::Device* device) {
  using namespace fastloss;
  int status = kUnknownLoss;
  visit_scan(problem->loss, [&](auto tag) {
    using Tag = decltype(tag);
    status = problem->in_double ? run_scan<typename Tag::template with<double>>(*problem, *device)
                                : run_scan<typename Tag::template with<float>>(*problem, *device);
  });
  return status;
}
