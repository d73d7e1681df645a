// The CPU skeleton of pointwise losses, for one instruction set (vector.h). It knows no loss.
//
// Elements are walked in the order of memory, in tasks of a fixed size for the threads, and in tiles of a thousand
// elements (tiles.h) that stay in the nearest cache. Sums are vectors of accumulators inside a tile and double beyond.
#include "pointwise.h"

#include <string.h>

#include <type_traits>

#include "tiles.h"
// after the vector functions, which the functors call
#include "../losses/pointwise.h"

namespace fastloss {
namespace FASTLOSS_ISA {
namespace {

// One tile, as contiguous accumulators, and whole vectors of them: the kernels have no code for a last, shorter one.
template <class A>
struct Tile {
  int64_t count;
  const A* operand[kMaxOperands];  // null: the constant
  A constant[kMaxOperands];
  const A* factor;  // f_i, or null: all `uniform_factor`
  const A* weight;  // weight_i, or null: 1
  const A* live;    // 0: there is no such element; or null: all are there
  A uniform_factor;
  A* loss;                    // null: not wanted
  A* gradient[kMaxOperands];  // null: not wanted
};

template <class F, bool kGradient, bool kMeasure>
bool compute(const double* parameters, const Tile<typename F::A>& tile, double* partial) {
  using A = typename F::A;
  using S = Vectors<A>;
  using V = typename S::V;
  const F f(parameters);
  const Tile<A> t = tile;  // a local copy stays in registers: what is stored might be the caller's
  constexpr A infinity = A(__builtin_inf());
  constexpr int kMetrics = kMeasure ? F::metrics : 0;
  const V zero{}, one = zero + A(1);
  V sum{}, weights{}, outside{}, metric[kMetrics ? kMetrics : 1];
  for (int m = 0; m < kMetrics; ++m)
    metric[m] = F::metric_kind(m) == kMinMetric   ? zero + infinity
                : F::metric_kind(m) == kMaxMetric ? zero - infinity
                                                  : zero;
  for (int64_t i = 0; i < t.count; i += S::lanes) {
    const auto get = [&](const A* p) __attribute__((always_inline)) { return S::get(p + i, S::lanes, A(0)); };
    V x[F::operands];
#pragma GCC unroll 8
    for (int k = 0; k < F::operands; ++k) x[k] = t.operand[k] ? get(t.operand[k]) : zero + t.constant[k];
    const auto e = f(x);
    const V factor = t.factor ? get(t.factor) : zero + t.uniform_factor;
    const V there = t.live ? get(t.live) : one;
    // what is not there adds nothing: a product with 0 would keep its NaN
    const auto live = [&](V value, V otherwise) __attribute__((always_inline)) {
      return t.live ? (there == zero) ? otherwise : value : value;
    };
    const V loss = live(e.loss * factor, zero);
    sum += loss;
    if (t.loss) S::put(t.loss + i, loss, S::lanes);
    if constexpr (F::requirement != nullptr) outside += live(f.valid(x) ? zero : one, zero);
    if constexpr (kGradient) {
#pragma GCC unroll 8
      for (int k = 0; k < F::operands; ++k) {
        if (t.gradient[k]) S::put(t.gradient[k] + i, live(e.derivative[k] * factor, zero), S::lanes);
      }
    }
    if constexpr (kMeasure) {
      const V weight = t.weight ? get(t.weight) : one;
      weights += live(weight, zero);
#pragma GCC unroll 8
      for (int m = 0; m < kMetrics; ++m) {
        switch (F::metric_kind(m)) {
          case kMeanMetric:
            metric[m] += live(e.metric[m] * weight, zero);
            break;
          case kTermMetric:
            metric[m] += live(e.metric[m] * factor, zero);
            break;
          case kMinMetric:
            metric[m] = math::minimum(metric[m], live(e.metric[m], zero + infinity));
            break;
          case kMaxMetric:
            metric[m] = math::maximum(metric[m], live(e.metric[m], zero - infinity));
            break;
        }
      }
    }
  }
  if (partial) {
    partial[0] += S::sum(sum);
    partial[1] += S::sum(weights);
    for (int m = 0; m < kMetrics; ++m) {
      double& total = partial[2 + m];
      if (F::metric_kind(m) == kMinMetric)
        total = math::minimum(total, -double(S::max(-metric[m])));
      else if (F::metric_kind(m) == kMaxMetric)
        total = math::maximum(total, double(S::max(metric[m])));
      else
        total += S::sum(metric[m]);
    }
  }
  return F::requirement == nullptr || S::sum(outside) == 0;
}

// What the tasks know of a loss. They are compiled once for all losses: in each loss's own copy they made half of the
// compiler's work.
template <class A>
struct Functor {
  int operands, metrics;
  MetricKind (*metric_kind)(int);
  // by whether gradients, and whether metrics are wanted
  bool (*compute[2][2])(const double* parameters, const Tile<A>&, double* partial);
};

template <class F>
constexpr Functor<typename F::A> functor() {
  static_assert(F::operands <= kMaxOperands && F::metrics <= kMaxMetrics, "raise the limits in pointwise.h");
  constexpr bool measures = F::metrics > 0;
  return {
      F::operands,
      F::metrics,
      F::metric_kind,
      {{compute<F, false, false>, compute<F, false, measures>}, {compute<F, true, false>, compute<F, true, measures>}}};
}

// A task's tiles: stages what is not contiguous or does not end with a whole vector, multiplies the factors, computes,
// puts the outputs in their places.
template <class A>
bool run_task(const PointwiseProblem& p, const Functor<A>& f, bool gradient, int64_t start, int64_t end,
              double* partial) {
  constexpr int lanes = Vectors<A>::lanes;
  static_assert(kTile % lanes == 0, "a staged tile has room for whole vectors");
  alignas(64) A staged[2 * kMaxOperands + 5][kTile];
  const Iteration& it = p.iteration;
  if (partial) {
    partial[0] = partial[1] = 0;
    for (int m = 0; m < f.metrics; ++m) {
      const MetricKind kind = f.metric_kind(m);
      partial[2 + m] = kind == kMinMetric ? __builtin_inf() : kind == kMaxMetric ? -__builtin_inf() : 0;
    }
  }
  bool good = true;
  Tile<A> t{};
  t.uniform_factor = A(p.factor);
  for (int k = 0; k < f.operands; ++k) t.constant[k] = A(p.constant[k]);
  for (int64_t at = start; at < end; at += kTile) {
    const int64_t count = end - at < kTile ? end - at : kTile;
    t.count = (count + lanes - 1) / lanes * lanes;
    const auto read = [&](const PointwiseTensor& tensor, A fill, int place) -> const A* {
      if (!tensor.data) return nullptr;
      const A* tile = read_tile(tensor.data, tensor.dtype, it, tensor.walk, at, count, staged[place]);
      if (t.count == count) return tile;
      if (tile != staged[place]) memcpy(staged[place], tile, sizeof(A) * count);
      for (int64_t i = count; i < t.count; ++i) staged[place][i] = fill;
      return staged[place];
    };
    const auto output = [&](const PointwiseTensor& tensor, int place) -> A* {
      if (!tensor.data) return nullptr;
      if (t.count != count) return staged[place];
      return output_tile(tensor.data, tensor.dtype, it, tensor.walk, at, staged[place]);
    };
    const auto write = [&](const PointwiseTensor& tensor, const A* tile, int place) {
      if (tile == staged[place]) write_tile(tensor.data, tensor.dtype, it, tensor.walk, at, count, tile);
    };
    for (int k = 0; k < f.operands; ++k) {
      t.operand[k] = read(p.operand[k], A(1), k);
      t.gradient[k] = output(p.gradient[k], kMaxOperands + k);
    }
    int place = 2 * kMaxOperands;
    t.weight = read(p.weight, A(0), place++);
    t.live = p.masked ? t.weight : nullptr;
    if (t.count != count && !t.live) {
      A* live = staged[place++];
      for (int64_t i = 0; i < t.count; ++i) live[i] = A(i < count);
      t.live = live;
    }
    if (t.weight || p.scale.data || p.upstream.data) {
      A* factor = staged[place++];
      const A* scale = read(p.scale, A(1), place);
      for (int64_t i = 0; i < t.count; ++i)
        factor[i] = A(p.factor) * (scale ? scale[i] : A(1)) * (t.weight ? t.weight[i] : A(1));
      const A* upstream = read(p.upstream, A(1), place);
      for (int64_t i = 0; upstream && i < t.count; ++i) factor[i] *= upstream[i];
      t.factor = factor;
      ++place;
    }
    t.loss = output(p.loss_elements, place);
    good &= f.compute[gradient][p.measure](p.parameters, t, partial);
    write(p.loss_elements, t.loss, place);
    for (int k = 0; k < f.operands; ++k) write(p.gradient[k], t.gradient[k], kMaxOperands + k);
  }
  return good;
}

template <class A>
bool run_tasks(const PointwiseProblem& p, const Functor<A>& f, int64_t first, int64_t last) {
  bool gradient = false;
  for (int k = 0; k < f.operands; ++k) gradient |= p.gradient[k].data != nullptr;
  bool good = true;
  for (int64_t task = first; task < last; ++task) {
    const int64_t start = task * kTaskElements, rest = p.iteration.numel - start;
    const int64_t end = start + (rest < kTaskElements ? rest : kTaskElements);
    good &= run_task(p, f, gradient, start, end, p.partial ? p.partial + task * kPartial : nullptr);
  }
  return good;
}

bool run(const PointwiseProblem& p, int64_t first, int64_t last) {
#if !FASTLOSS_BASELINE
  if (p.in_double) return baseline::pointwise_kernels.run(p, first, last);  // scalar code, compiled once
#endif
  bool good = true;
  visit_pointwise_loss(p.loss, [&](auto loss) {
#if FASTLOSS_BASELINE
    if (p.in_double) {
      good = run_tasks(p, functor<typename decltype(loss)::template with<double>>(), first, last);
      return;
    }
#endif
    good = run_tasks(p, functor<typename decltype(loss)::template with<float>>(), first, last);
  });
  return good;
}

}  // namespace

const PointwiseKernels pointwise_kernels = {run};

}  // namespace FASTLOSS_ISA

#if FASTLOSS_BASELINE
bool describe_pointwise_loss(const char* name, PointwiseDescription* description) {
  return visit_pointwise_loss(name, [&](auto loss) {
    using F = typename decltype(loss)::template with<double>;
    *description = {F::operands, F::parameters, F::metrics, {}, F::requirement, F::raises_value_error};
    for (int m = 0; m < F::metrics; ++m) description->metric_kind[m] = F::metric_kind(m);
  });
}
#endif

}  // namespace fastloss
