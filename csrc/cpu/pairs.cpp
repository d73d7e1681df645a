// The CPU skeleton of losses over all pairs of a source and a target within a row, for one instruction set (vector.h).
// It knows no loss; see csrc/losses/pairs.h.
//
// A lane is a source; the targets pass by, one for all lanes. Each source so has its sums to itself, and nothing is
// added up across lanes but once in a chunk, where the sums go to double. No pair is ever stored.
#include "pairs.h"

#include "tiles.h"
// after the vector functions, which the functors call
#include "../losses/pairs.h"

namespace fastloss {
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
void run_task(const PairsProblem& p, const F& f, int64_t task) {
  using A = typename F::A;
  alignas(64) A staged[3 + F::operands][kTile];
  double slopes[kSources + 2 * Vectors<A>::lanes];
  const int64_t tasks = pairs_tasks_of_row(p), row = task / tasks, first = task % tasks * kSources;
  const int sources = int(p.sources - first < kSources ? p.sources - first : kSources);
  const auto read = [&](const PairsTensor& t, int64_t start, int64_t count, int place) {
    return read_tile(t.data, t.dtype, t.walk, 0, start, count, staged[place]);
  };
  const int64_t start = row * p.sources + first;
  const A factor = p.row_factor ? static_cast<const A*>(p.row_factor)[row] : A(1);
  memset(slopes, 0, sizeof slopes);
  double total = 0;
  if (factor != A(0)) {  // else the row is not there
    const A *source = read(p.source, start, sources, 0), *operand[F::operands];
    for (int o = 0; o < F::operands; ++o) operand[o] = read(p.operand[o], start, sources, 3 + o);
    for (int64_t j = 0; j < p.targets; j += kTargets) {
      const int64_t targets = p.targets - j < kTargets ? p.targets - j : kTargets;
      const A* target = read(p.target, row * p.targets + j, targets, 1);
      total += all_pairs(f, source, operand, sources, target, targets, slopes);
    }
  }
  const double scale = factor != A(0) ? p.factor * double(factor) / double(p.targets) : 0;
  p.partial[task] = total * scale;
  const PairsTensor& g = p.gradient;
  if (!g.data) return;
  A* gradient = output_tile(g.data, g.dtype, g.walk, 0, start, staged[2]);
  for (int i = 0; i < sources; ++i) gradient[i] = A(slopes[i] * scale);
  if (gradient == staged[2]) write_tile(g.data, g.dtype, g.walk, 0, start, sources, gradient);
}

template <class F>
void run_functor(const PairsProblem& p, int64_t first, int64_t last) {
  static_assert(F::operands <= kMaxPairsOperands, "raise the limit in pairs.h");
  const F f(p.parameters);
  for (int64_t task = first; task < last; ++task) run_task(p, f, task);
}

void run(const PairsProblem& p, int64_t first, int64_t last) {
#if !FASTLOSS_BASELINE
  if (p.in_double) return baseline::pairs_kernels.run(p, first, last);  // scalar code, compiled once
#endif
  visit_pairs_loss(p.loss, [&](auto loss) {
#if FASTLOSS_BASELINE
    if (p.in_double) return run_functor<typename decltype(loss)::template with<double>>(p, first, last);
#endif
    run_functor<typename decltype(loss)::template with<float>>(p, first, last);
  });
}

}  // namespace

const PairsKernels pairs_kernels = {run};

}  // namespace FASTLOSS_ISA

#if FASTLOSS_BASELINE
bool describe_pairs_loss(const char* name, PairsDescription* description) {
  return visit_pairs_loss(name, [&](auto loss) {
    using F = typename decltype(loss)::template with<double>;
    *description = {F::operands, F::parameters};
  });
}
#endif

}  // namespace fastloss
