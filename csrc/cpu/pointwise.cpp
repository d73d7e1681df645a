// The CPU skeleton of pointwise losses, for one instruction set (vector.h). It knows no loss.
//
// Elements are walked in the order of memory, in tasks of a fixed size for the threads, and in tiles of a thousand
// elements (tiles.h) that stay in the nearest cache. Sums are vectors of accumulators inside a tile and double beyond.
#include "pointwise.h"

#include <type_traits>

#include "tiles.h"
// after the vector functions, which the functors call
#include "../losses/pointwise.h"

namespace fastloss {
namespace FASTLOSS_ISA {
namespace {

// One tile, as contiguous accumulators.
template <class A>
struct Tile {
  int64_t count;
  const A* operand[kMaxOperands];  // null: the constant
  A constant[kMaxOperands];
  const A* factor;  // f_i, or null: all `uniform_factor`
  const A* weight;  // weight_i, or null: 1
  A uniform_factor;
  bool masked;
  A* loss;                    // null: not wanted
  A* gradient[kMaxOperands];  // null: not wanted
};

template <class F, bool kGradient, bool kMeasure>
bool compute(const F& f, const Tile<typename F::A>& t, double* partial) {
  using A = typename F::A;
  using S = Vectors<A>;
  using V = typename S::V;
  constexpr A infinity = A(__builtin_inf());
  constexpr int kMetrics = kMeasure ? F::metrics : 0;
  const V zero{}, one = zero + A(1);
  V sum{}, weights{}, outside{}, metric[kMetrics ? kMetrics : 1];
  for (int m = 0; m < kMetrics; ++m)
    metric[m] = F::metric_kind(m) == kMinMetric   ? zero + infinity
                : F::metric_kind(m) == kMaxMetric ? zero - infinity
                                                  : zero;
  S::for_each(t.count, [&](int64_t i, int count) __attribute__((always_inline)) {
    V x[F::operands];
#pragma GCC unroll 8
    for (int k = 0; k < F::operands; ++k)
      x[k] = t.operand[k] ? S::get(t.operand[k] + i, count, A(1)) : zero + t.constant[k];
    const auto e = f(x);
    const V factor = t.factor ? S::get(t.factor + i, count, A(0)) : zero + t.uniform_factor;
    const V weight = t.weight ? S::get(t.weight + i, count, A(0)) : one;
    // what is masked out is not there: a product with 0 would keep its NaN
    const auto live = [&](V value, V otherwise) __attribute__((always_inline)) {
      return t.masked ? (weight == zero) ? otherwise : value : value;
    };
    const V loss = live(e.loss * factor, zero);
    sum += S::first(count, loss, zero);
    if (t.loss) S::put(t.loss + i, loss, count);
    if constexpr (F::requirement != nullptr) outside += S::first(count, live(f.valid(x) ? zero : one, zero), zero);
    if constexpr (kGradient) {
#pragma GCC unroll 8
      for (int k = 0; k < F::operands; ++k) {
        if (t.gradient[k]) S::put(t.gradient[k] + i, live(e.derivative[k] * factor, zero), count);
      }
    }
    if constexpr (kMeasure) {
      weights += S::first(count, weight, zero);
#pragma GCC unroll 8
      for (int m = 0; m < kMetrics; ++m) {
        switch (F::metric_kind(m)) {
          case kMeanMetric:
            metric[m] += S::first(count, live(e.metric[m] * weight, zero), zero);
            break;
          case kTermMetric:
            metric[m] += S::first(count, live(e.metric[m] * factor, zero), zero);
            break;
          case kMinMetric:
            metric[m] = math::minimum(metric[m], S::first(count, live(e.metric[m], zero + infinity), zero + infinity));
            break;
          case kMaxMetric:
            metric[m] = math::maximum(metric[m], S::first(count, live(e.metric[m], zero - infinity), zero - infinity));
            break;
        }
      }
    }
  });
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

// A task's tiles: stages what is not contiguous, multiplies the factors, computes, puts the outputs in their places.
template <class F, bool kGradient, bool kMeasure>
bool run_task(const PointwiseProblem& p, const F& f, int64_t start, int64_t end, double* partial) {
  using A = typename F::A;
  alignas(64) A staged[2 * kMaxOperands + 4][kTile];
  const Iteration& it = p.iteration;
  const auto read = [&](const PointwiseTensor& t, int64_t at, int64_t count, int place) -> const A* {
    return t.data ? read_tile(t.data, t.dtype, it, t.walk, at, count, staged[place]) : nullptr;
  };
  if (partial) {
    partial[0] = partial[1] = 0;
    for (int m = 0; m < F::metrics; ++m) {
      const MetricKind kind = F::metric_kind(m);
      partial[2 + m] = kind == kMinMetric ? __builtin_inf() : kind == kMaxMetric ? -__builtin_inf() : 0;
    }
  }
  bool good = true;
  Tile<A> t{};
  t.uniform_factor = A(p.factor);
  t.masked = p.masked && p.weight.data;
  for (int k = 0; k < F::operands; ++k) t.constant[k] = A(p.constant[k]);
  for (int64_t at = start; at < end; at += kTile) {
    const int64_t count = end - at < kTile ? end - at : kTile;
    t.count = count;
    for (int k = 0; k < F::operands; ++k) {
      t.operand[k] = read(p.operand[k], at, count, k);
      if (kGradient && p.gradient[k].data) {
        const PointwiseTensor& g = p.gradient[k];
        t.gradient[k] = output_tile(g.data, g.dtype, it, g.walk, at, staged[kMaxOperands + k]);
      }
    }
    int place = 2 * kMaxOperands;
    t.weight = read(p.weight, at, count, place++);
    if (t.weight || p.scale.data || p.upstream.data) {
      A* factor = staged[place++];
      const A* scale = read(p.scale, at, count, place);
      for (int64_t i = 0; i < count; ++i)
        factor[i] = A(p.factor) * (scale ? scale[i] : A(1)) * (t.weight ? t.weight[i] : A(1));
      const A* upstream = read(p.upstream, at, count, place);
      for (int64_t i = 0; upstream && i < count; ++i) factor[i] *= upstream[i];
      t.factor = factor;
      ++place;
    }
    const PointwiseTensor& loss = p.loss_elements;
    if (loss.data) t.loss = output_tile(loss.data, loss.dtype, it, loss.walk, at, staged[place]);
    good &= compute<F, kGradient, kMeasure>(f, t, partial);
    if (loss.data && t.loss == staged[place]) write_tile(loss.data, loss.dtype, it, loss.walk, at, count, t.loss);
    for (int k = 0; kGradient && k < F::operands; ++k) {
      const PointwiseTensor& g = p.gradient[k];
      if (g.data && t.gradient[k] == staged[kMaxOperands + k])
        write_tile(g.data, g.dtype, it, g.walk, at, count, t.gradient[k]);
    }
  }
  return good;
}

template <class F>
bool run_functor(const PointwiseProblem& p, int64_t first, int64_t last) {
  static_assert(F::operands <= kMaxOperands && F::metrics <= kMaxMetrics, "raise the limits in pointwise.h");
  const F f(p.parameters);
  bool gradient = false;
  for (int k = 0; k < F::operands; ++k) gradient |= p.gradient[k].data != nullptr;
  bool good = true;
  for (int64_t task = first; task < last; ++task) {
    const int64_t start = task * kTaskElements, rest = p.iteration.numel - start;
    const int64_t end = start + (rest < kTaskElements ? rest : kTaskElements);
    double* partial = p.partial ? p.partial + task * kPartial : nullptr;
    if constexpr (F::metrics > 0) {
      if (p.measure) {
        good &= gradient ? run_task<F, true, true>(p, f, start, end, partial)
                         : run_task<F, false, true>(p, f, start, end, partial);
        continue;
      }
    }
    good &= gradient ? run_task<F, true, false>(p, f, start, end, partial)
                     : run_task<F, false, false>(p, f, start, end, partial);
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
      good = run_functor<typename decltype(loss)::template with<double>>(p, first, last);
      return;
    }
#endif
    good = run_functor<typename decltype(loss)::template with<float>>(p, first, last);
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
