// The CPU skeleton of losses over all pairs of a source and a target within a row, for one instruction set (vector.h).
// It knows no loss; see csrc/losses/contracts/outer.h.
//
// A lane is a source; the targets pass by, one for all lanes. Each source so has its sums to itself, and nothing is
// added up across lanes but once in a chunk, where the sums go to double. No pair is ever stored.
//
// At the end of the file, once for all instruction sets: the tasks of a call, and its sums.
#include "../problems/outer.h"

#include <algorithm>

#include "../losses/all.h"
#include "simd/isa.h"
#include "threads.h"
#include "tiles.h"

namespace fastloss {

// A tensor in the order of its elements, which is that of memory if it is contiguous.
struct OuterWalk {
  void* data;
  DType dtype;
  Iteration walk;
};

struct OuterWork {
  const OuterProblem& p;
  OuterWalk source, target, operand[kMaxOuterOperands], gradient;
};

// A task is up to so many sources of a row, so that sums do not depend on the number of threads.
constexpr int64_t kTaskSources = 1024;

inline int64_t tasks_of_row(const OuterProblem& p) { return (p.sources + kTaskSources - 1) / kTaskSources; }

using RunOuter = void (*)(const OuterWork&, int64_t first_task, int64_t last_task);
using FindOuter = int (*)(const OuterProblem&, RunOuter* found);  // a Status
namespace avx512 {
extern const FindOuter find_outer;
}
namespace avx2 {
extern const FindOuter find_outer;
}
namespace baseline {
extern const FindOuter find_outer;
}

namespace FASTLOSS_ISA {
namespace {

constexpr int kSources = int(kTaskSources);
constexpr int64_t kTargets = 1024;  // of a tile: 4 KB of floats
constexpr int64_t kChunk = 128;     // targets that a lane adds up before it goes to double
static_assert(kSources <= kTile && kTargets <= kTile, "see tiles.h");

// The pairs of `kVectors` vectors of sources with some targets. Adds to `slopes`, the sources' derivatives; returns the
// sum of the losses.
template <int kVectors, class F>
FASTLOSS_INLINE double some_sources(const F& functor, const typename F::A* source,
                                    const typename F::A* const (&operand)[F::operands], int count,
                                    const typename F::A* target, int64_t targets, double* slopes) {
  using A = typename F::A;
  using S = Vectors<A>;
  using V = typename S::V;
  const F f = functor;  // a local copy stays in registers
  V s[kVectors], x[kVectors][F::operands];
  const auto lanes = [&](int k) __attribute__((always_inline)) {
    const int left = count - k * S::lanes;
    return left < S::lanes ? left : S::lanes;
  };
#pragma GCC unroll 4
  for (int k = 0; k < kVectors; ++k) {
    s[k] = S::get(source + k * S::lanes, lanes(k), A(0));
    for (int o = 0; o < F::operands; ++o) x[k][o] = S::get(operand[o] + k * S::lanes, lanes(k), A(0));
  }
  double total = 0;
  for (int64_t start = 0; start < targets; start += kChunk) {
    const int64_t end = targets - start < kChunk ? targets : start + kChunk;
    V loss[kVectors] = {}, slope[kVectors] = {};
    for (int64_t j = start; j < end; ++j) {
      const V t = V{} + target[j];
#pragma GCC unroll 4
      for (int k = 0; k < kVectors; ++k) {
        const Pair<V> pair = f(s[k], t, x[k]);
        loss[k] += pair.loss;
        slope[k] += pair.derivative;
      }
    }
#pragma GCC unroll 4
    for (int k = 0; k < kVectors; ++k) {
      total += S::sum(S::first(lanes(k), loss[k], V{}));
      alignas(64) A of_lane[S::lanes];
      S::put(of_lane, slope[k], S::lanes);
      for (int lane = 0; lane < S::lanes; ++lane) slopes[k * S::lanes + lane] += double(of_lane[lane]);
    }
  }
  return total;
}

// A hot loop is a function of its own: inlined into its caller, GCC keeps the caller's values in registers.
template <class F>
__attribute__((noinline)) double all_pairs(const F& f, const typename F::A* source,
                                           const typename F::A* const (&operand)[F::operands], int sources,
                                           const typename F::A* target, int64_t targets, double* slopes) {
  constexpr int lanes = Vectors<typename F::A>::lanes, wide = 2 * lanes;
  double total = 0;
  int i = 0;
  const typename F::A* x[F::operands];
  const auto at = [&](int start) __attribute__((always_inline)) {
    for (int o = 0; o < F::operands; ++o) x[o] = operand[o] + start;
  };
  for (; i + lanes < sources; i += wide) {
    at(i);
    total += some_sources<2>(f, source + i, x, sources - i, target, targets, slopes + i);
  }
  if (i < sources) {
    at(i);
    total += some_sources<1>(f, source + i, x, sources - i, target, targets, slopes + i);
  }
  return total;
}

template <class F>
void run_task(const OuterWork& work, const F& f, int64_t task) {
  using A = typename F::A;
  const OuterProblem& p = work.p;
  alignas(64) A staged[3 + F::operands][kTile];
  double slopes[kSources + 2 * Vectors<A>::lanes];
  const int64_t tasks = tasks_of_row(p), row = task / tasks, first = task % tasks * kSources;
  const int sources = int(p.sources - first < kSources ? p.sources - first : kSources);
  const auto read = [&](const OuterWalk& t, int64_t start, int64_t count, int place) {
    return read_tile(t.data, t.dtype, t.walk, 0, start, count, staged[place]);
  };
  const int64_t start = row * p.sources + first;
  const A factor = p.row_factor ? static_cast<const A*>(p.row_factor)[row] : A(1);
  memset(slopes, 0, sizeof slopes);
  double total = 0;
  if (factor != A(0)) {  // else the row is not there
    const A *source = read(work.source, start, sources, 0), *operand[F::operands];
    for (int o = 0; o < F::operands; ++o) operand[o] = read(work.operand[o], start, sources, 3 + o);
    for (int64_t j = 0; j < p.targets; j += kTargets) {
      const int64_t targets = p.targets - j < kTargets ? p.targets - j : kTargets;
      const A* target = read(work.target, row * p.targets + j, targets, 1);
      total += all_pairs(f, source, operand, sources, target, targets, slopes);
    }
  }
  const double scale = factor != A(0) ? p.factor * double(factor) / double(p.targets) : 0;
  p.scratch[task] = total * scale;
  const OuterWalk& g = work.gradient;
  if (!g.data) return;
  A* gradient = output_tile(g.data, g.dtype, g.walk, 0, start, staged[2]);
  for (int i = 0; i < sources; ++i) gradient[i] = A(slopes[i] * scale);
  if (gradient == staged[2]) write_tile(g.data, g.dtype, g.walk, 0, start, sources, gradient);
}

template <class F>
void run(const OuterWork& work, int64_t first, int64_t last) {
  const F f(work.p.parameters);
  for (int64_t task = first; task < last; ++task) run_task(work, f, task);
}

int find(const OuterProblem& p, RunOuter* found) {
#if !FASTLOSS_BASELINE
  if (p.in_double) return baseline::find_outer(p, found);  // scalar code, compiled once
#endif
  int status = kUnknownLoss;
  visit_outer_loss(p.loss, [&](auto tag) {
    using InFloat = typename decltype(tag)::template with<float>;
    const OuterDescription expected = describe_outer<InFloat>();
    status = p.parameter_count != expected.parameters ? kWrongParameters
             : p.operand_count != expected.operands   ? kWrongOperands
                                                      : 0;
    *found = run<InFloat>;
#if FASTLOSS_BASELINE
    if (p.in_double) *found = run<typename decltype(tag)::template with<double>>;
#endif
  });
  return status;
}

}  // namespace

const FindOuter find_outer = find;

}  // namespace FASTLOSS_ISA

#if FASTLOSS_BASELINE
namespace {

OuterWalk walk_of(const OuterTensor& tensor, int64_t rows, int64_t elements) {
  OuterWalk result = {tensor.data, tensor.dtype, {}};
  Iteration& walk = result.walk;
  walk.tensors = 1;
  walk.numel = rows * elements;
  if (rows == 1 || tensor.row == elements * tensor.step) {
    walk.dimensions = 1;
    walk.size[0] = walk.numel;
    walk.stride[0][0] = tensor.step;
  } else {
    walk.dimensions = 2;
    walk.size[0] = rows;
    walk.size[1] = elements;
    walk.stride[0][0] = tensor.row;
    walk.stride[0][1] = tensor.step;
  }
  return result;
}

// A loss of each row, or one of all.
template <class A>
void join(const OuterProblem& p) {
  const int64_t losses = p.reduce ? 1 : p.rows, tasks = p.rows * tasks_of_row(p) / losses;
  for (int64_t row = 0; row < losses; ++row) {
    double sum = 0;
    for (int64_t k = 0; k < tasks; ++k) sum += p.scratch[row * tasks + k];
    static_cast<A*>(p.losses)[row] = A(sum);
  }
}

}  // namespace
#endif

}  // namespace fastloss

#if FASTLOSS_BASELINE
long long fastloss_outer_scratch(const fastloss::OuterProblem* problem) {
  return problem->rows * fastloss::tasks_of_row(*problem);
}

int fastloss_outer(const fastloss::OuterProblem* problem, fastloss::Device* device) {
  using namespace fastloss;
  const OuterProblem& p = *problem;
  static const FindOuter find = FASTLOSS_FOR_THIS_CPU(find_outer);
  RunOuter run;
  if (const int status = find(p, &run)) return status;
  OuterWork work = {p, walk_of(p.source, p.rows, p.sources), walk_of(p.target, p.rows, p.targets), {}, {}};
  for (int k = 0; k < p.operand_count; ++k) work.operand[k] = walk_of(p.operand[k], p.rows, p.sources);
  if (p.gradient) work.gradient = walk_of({p.gradient, p.source.dtype, p.sources, 1}, p.rows, p.sources);
  const int64_t task_pairs = std::max<int64_t>(1, std::min(p.sources, kTaskSources) * p.targets);
  const int64_t grain = std::max<int64_t>(1, 32768 / task_pairs);  // pairs worth waking a thread for
  for_tasks(*device, p.rows * tasks_of_row(p), grain, [&](int64_t first, int64_t last) { run(work, first, last); });
  if (p.in_double)
    join<double>(p);
  else
    join<float>(p);
  return 0;
}
#endif
