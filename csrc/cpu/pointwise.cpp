// The CPU skeleton of pointwise losses, for one instruction set (vector.h). It knows no loss.
//
// Elements are walked in the order of memory, in tasks of a fixed size for the threads, and in tiles of a thousand
// elements (tiles.h) that stay in the nearest cache. Sums are vectors of accumulators inside a tile and double beyond.
//
// At the end of the file, once for all instruction sets: the tasks of a call, and its sums.
#include "../problems/pointwise.h"

#include <string.h>

#include <atomic>
#include <limits>
#include <type_traits>

#include "../losses/all.h"
#include "simd/isa.h"
#include "threads.h"
#include "tiles.h"

namespace fastloss {

// A call, and the walk over its tensors.
struct PointwiseWork {
  const PointwiseProblem& p;
  Iteration iteration;
  int walk[kMaxTensors] = {};  // the place of each tensor of the call in the iteration
  double* partial;             // of every task, kPartial doubles each: loss, weight, metrics; or null: none wanted
};

constexpr int kPartial = 2 + kMaxMetrics;

// A task is a fixed number of elements, so that sums do not depend on the number of threads.
constexpr int64_t kTaskElements = 32768;

// Elements [first task, last task) of a loss; false if an element is outside the functor's domain.
using RunPointwise = bool (*)(const PointwiseWork&, int64_t first_task, int64_t last_task);
struct PointwiseKernel {
  RunPointwise run;  // null if there is no such loss
  PointwiseDescription description;
};
using FindPointwise = PointwiseKernel (*)(const char* loss, bool in_double);
namespace avx512 {
extern const FindPointwise find_pointwise;
}
namespace avx2 {
extern const FindPointwise find_pointwise;
}
namespace baseline {
extern const FindPointwise find_pointwise;
}

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
          case kPartMetric:
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
      const bool extreme = F::metric_kind(m) == kMinMetric || F::metric_kind(m) == kMaxMetric;
      if (extreme && S::sum((metric[m] == metric[m]) ? zero : one) != 0)  // S::max leaves NaN out
        total = __builtin_nan("");
      else if (F::metric_kind(m) == kMinMetric)
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
bool run_task(const PointwiseWork& work, const Functor<A>& f, bool gradient, int64_t start, int64_t end,
              double* partial) {
  constexpr int lanes = Vectors<A>::lanes;
  static_assert(kTile % lanes == 0, "a staged tile has room for whole vectors");
  alignas(64) A staged[2 * kMaxOperands + 5][kTile];
  const PointwiseProblem& p = work.p;
  const Iteration& it = work.iteration;
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
    const auto read = [&](int number, A fill, int place) -> const A* {
      const PointwiseTensor& tensor = tensor_of(p, number);
      if (!tensor.data) return nullptr;
      const A* tile = read_tile(tensor.data, tensor.dtype, it, work.walk[number], at, count, staged[place]);
      if (t.count == count) return tile;
      if (tile != staged[place]) memcpy(staged[place], tile, sizeof(A) * count);
      for (int64_t i = count; i < t.count; ++i) staged[place][i] = fill;
      return staged[place];
    };
    const auto output = [&](int number, int place) -> A* {
      const PointwiseTensor& tensor = tensor_of(p, number);
      if (!tensor.data) return nullptr;
      if (t.count != count) return staged[place];
      return output_tile(tensor.data, tensor.dtype, it, work.walk[number], at, staged[place]);
    };
    const auto write = [&](int number, const A* tile, int place) {
      const PointwiseTensor& tensor = tensor_of(p, number);
      if (tile == staged[place]) write_tile(tensor.data, tensor.dtype, it, work.walk[number], at, count, tile);
    };
    for (int k = 0; k < f.operands; ++k) {
      t.operand[k] = read(k, A(1), k);
      t.gradient[k] = output(kFirstGradient + k, kMaxOperands + k);
    }
    int place = 2 * kMaxOperands;
    t.weight = read(kWeightTensor, A(0), place++);
    t.live = p.masked ? t.weight : nullptr;
    if (t.count != count && !t.live) {
      A* live = staged[place++];
      for (int64_t i = 0; i < t.count; ++i) live[i] = A(i < count);
      t.live = live;
    }
    if (t.weight || p.scale.data || p.upstream.data) {
      A* factor = staged[place++];
      const A* scale = read(kScaleTensor, A(1), place);
      for (int64_t i = 0; i < t.count; ++i)
        factor[i] = A(p.factor) * (scale ? scale[i] : A(1)) * (t.weight ? t.weight[i] : A(1));
      const A* upstream = read(kUpstreamTensor, A(1), place);
      for (int64_t i = 0; upstream && i < t.count; ++i) factor[i] *= upstream[i];
      t.factor = factor;
      ++place;
    }
    t.loss = output(kLossTensor, place);
    good &= f.compute[gradient][p.measure != 0](p.parameters, t, partial);
    write(kLossTensor, t.loss, place);
    for (int k = 0; k < f.operands; ++k) write(kFirstGradient + k, t.gradient[k], kMaxOperands + k);
  }
  return good;
}

template <class F>
bool run(const PointwiseWork& work, int64_t first, int64_t last) {
  const PointwiseProblem& p = work.p;
  constexpr auto f = functor<F>();
  bool gradient = false;
  for (int k = 0; k < f.operands; ++k) gradient |= p.gradient[k].data != nullptr;
  bool good = true;
  for (int64_t task = first; task < last; ++task) {
    const int64_t start = task * kTaskElements, rest = work.iteration.numel - start;
    const int64_t end = start + (rest < kTaskElements ? rest : kTaskElements);
    good &= run_task(work, f, gradient, start, end, work.partial ? work.partial + task * kPartial : nullptr);
  }
  return good;
}

PointwiseKernel find(const char* loss, bool in_double) {
#if !FASTLOSS_BASELINE
  if (in_double) return baseline::find_pointwise(loss, true);  // scalar code, compiled once
#endif
  PointwiseKernel found = {};
  visit_pointwise_loss(loss, [&](auto tag) {
    using InFloat = typename decltype(tag)::template with<float>;
    found = {run<InFloat>, describe_pointwise<InFloat>()};
#if FASTLOSS_BASELINE
    if (in_double) found.run = run<typename decltype(tag)::template with<double>>;
#endif
  });
  return found;
}

}  // namespace

const FindPointwise find_pointwise = find;

}  // namespace FASTLOSS_ISA

#if FASTLOSS_BASELINE
namespace {

PointwiseWork work_of(const PointwiseProblem& p) {
  PointwiseWork work = {p, {}, {}, p.reduced_loss || p.measure ? p.scratch : nullptr};
  int64_t stride[kMaxTensors][kMaxDimensions];
  int tensors = 0;
  for (int t = 0; t < kMaxTensors; ++t) {
    const PointwiseTensor& tensor = tensor_of(p, t);
    if (!tensor.data) continue;
    memcpy(stride[tensors], tensor.stride, sizeof stride[0]);
    work.walk[t] = tensors++;
  }
  work.iteration = iteration(p.dimensions, p.size, tensors, stride);
  return work;
}

int64_t tasks_of(const PointwiseProblem& p) {
  int64_t numel = 1;
  for (int d = 0; d < p.dimensions; ++d) numel *= p.size[d];
  return (numel + kTaskElements - 1) / kTaskElements;
}

void put(const PointwiseProblem& p, void* results, int at, double value) {
  if (p.in_double)
    static_cast<double*>(results)[at] = value;
  else
    static_cast<float*>(results)[at] = float(value);
}

// The sum of the losses and the metrics, from the partial results in the order of the tasks.
void join(const PointwiseProblem& p, const PointwiseDescription& description, int64_t tasks) {
  const int metrics = p.measure ? description.metrics : 0;
  double total[kPartial] = {};
  for (int m = 0; m < metrics; ++m) {
    const double infinity = std::numeric_limits<double>::infinity();
    const MetricKind kind = description.kind[m];
    total[2 + m] = kind == kMinMetric ? infinity : kind == kMaxMetric ? -infinity : 0;
  }
  for (int64_t task = 0; task < tasks; ++task) {
    const double* from = p.scratch + task * kPartial;
    total[0] += from[0];
    total[1] += from[1];
    for (int m = 0; m < metrics; ++m) {
      double& sum = total[2 + m];
      const double value = from[2 + m];
      const MetricKind kind = description.kind[m];
      if (kind == kMinMetric)
        sum = value < sum || value != value ? value : sum;
      else if (kind == kMaxMetric)
        sum = value > sum || value != value ? value : sum;
      else
        sum += value;
    }
  }
  if (p.reduced_loss) put(p, p.reduced_loss, 0, total[0]);
  for (int m = 0; m < metrics; ++m) {
    const bool mean = description.kind[m] == kMeanMetric;
    put(p, p.metrics, m, !mean ? total[2 + m] : total[1] == 0 ? 0 : total[2 + m] / total[1]);
  }
}

}  // namespace
#endif

}  // namespace fastloss

#if FASTLOSS_BASELINE
int fastloss_pointwise_describe(const char* loss, fastloss::PointwiseDescription* description) {
  return fastloss::visit_pointwise_loss(loss, [&](auto tag) {
    *description = fastloss::describe_pointwise<typename decltype(tag)::template with<float>>();
  });
}

long long fastloss_pointwise_scratch(const fastloss::PointwiseProblem* problem) {
  return fastloss::tasks_of(*problem) * fastloss::kPartial;
}

int fastloss_pointwise(const fastloss::PointwiseProblem* problem, fastloss::Device* device) {
  using namespace fastloss;
  const PointwiseProblem& p = *problem;
  static const FindPointwise find = FASTLOSS_FOR_THIS_CPU(find_pointwise);
  const PointwiseKernel kernel = find(p.loss, p.in_double);
  if (!kernel.run) return kUnknownLoss;
  if (p.parameter_count != kernel.description.parameters) return kWrongParameters;
  if (p.operand_count != kernel.description.operands) return kWrongOperands;
  const PointwiseWork work = work_of(p);
  const int64_t tasks = tasks_of(p);
  std::atomic<bool> good{true};
  for_tasks(*device, tasks, 1, [&](int64_t first, int64_t last) {
    if (!kernel.run(work, first, last)) good = false;
  });
  if (!good) return kOutsideDomain;
  if (work.partial) join(p, kernel.description, tasks);
  return 0;
}
#endif
