// The row losses in steps on the CPU: the statistics of rows or of slices of their classes, their merge, the outputs,
// the gradient. It knows no loss; see csrc/losses/contracts/row.h, and csrc/cpu/row.cpp for the losses that take one
// pass.
//
// A row is computed by itself, in an order that depends on its length and layout alone: the same bits in every batch,
// at every place in it, and for any number of threads. Rows of any functor share the code here, so that short rows have
// no stages of their own as in row.cpp, and take longer.
#include "../problems/row.h"

#include <string.h>

#include <algorithm>
#include <type_traits>

#include "../losses/all.h"
#include "simd/isa.h"
#include "simd/lanes.h"
#include "threads.h"

namespace fastloss {

// A step of one loss and element type: in tasks, of which the thread pool gives each thread some.
struct RowStepKernel {
  int64_t (*tasks)(const RowStepProblem&);
  void (*run)(const RowStepProblem&, int64_t first_task, int64_t last_task);
};
using FindRowStep = int (*)(const RowStepProblem&, RowStepKernel* found);  // a Status
namespace avx512 {
extern const FindRowStep find_row_step;
}
namespace avx2 {
extern const FindRowStep find_row_step;
}
namespace baseline {
extern const FindRowStep find_row_step;
}

namespace FASTLOSS_ISA {
namespace {

#define FASTLOSS_LOOP __attribute__((noinline))  // as in row.cpp

constexpr int64_t kChunk = 2048;  // classes whose logits wait in the first-level cache for their maximum

// The largest logit so far, and what is subtracted from logits: the same, but 0 while all of them are -inf.
template <class A>
struct Reference {
  static constexpr A none = -A(__builtin_huge_val());
  A max = none, shift = 0;

  // The step to the larger `next`, for sums that came to `sum` before it.
  FASTLOSS_INLINE void move(A next, double sum, double& step, double& scale, double& before) {
    step = 0, scale = 1, before = sum;
    if (!(next > max)) return;
    scale = 0;
    if (max > none) {
      step = double(max) - double(next);
      scale = ::exp(step);
    }
    max = shift = next;
  }
};

// One loss on one storage type T. The accumulator A is double for double, else float; V holds S::lanes of them.
template <class Loss, class T>
struct StepTask {
  using A = typename Loss::A;
  using S = Vectors<A>;
  using V = typename S::V;
  using I = typename S::I;
  using Totals = RowTotals<Loss, A>;
  static constexpr A infinity = A(__builtin_huge_val());

  const RowStepProblem& p;
  const Loss loss;
  const int64_t C;
  const A* weight;
  const bool soft;
  A* statistics;

  explicit StepTask(const RowStepProblem& problem)
      : p(problem),
        loss(problem.parameters, problem.classes),
        C(problem.slice_classes),
        weight(static_cast<const A*>(problem.weight)),
        soft(problem.soft_target.data != nullptr),
        statistics(static_cast<A*>(problem.statistics)) {}

  // ---------------------------------------------------------------- rows and their statistics

  FASTLOSS_INLINE bool ignored(int64_t row) const { return p.index_target && p.index_target[row] == p.ignore_index; }
  // Place of the index target among the classes at hand, or -1.
  FASTLOSS_INLINE int64_t target_of(int64_t row) const {
    if (!p.index_target || ignored(row)) return -1;
    const int64_t y = p.index_target[row] - p.first_class;
    return y < 0 || y >= C ? -1 : y;
  }
  static FASTLOSS_INLINE const T* row_of(const RowMatrix& matrix, int64_t row) {
    return matrix.data ? static_cast<const T*>(matrix.data) + row * matrix.outer : nullptr;
  }
  FASTLOSS_INLINE A class_weight(int64_t c) const { return weight ? weight[c] : A(1); }
  // z_y as it enters the softmax: by the vectors' functions, so that it equals z_j of the same class
  FASTLOSS_INLINE A target_logit(const T* x) const {
    const A z = S::lane(loss.logit(S::spread(S::scalar(x))), 0);
    if constexpr (Loss::margin) return loss.target_logit(z);
    return z;
  }

  FASTLOSS_INLINE Totals nothing() const {
    Totals totals{};
    totals.max = totals.log_sum = -infinity;
    if constexpr (Loss::two_rows) totals.second_max = totals.second_log_sum = -infinity;
    return totals;
  }
  FASTLOSS_INLINE Totals load(int64_t row) const {
    Totals totals{};
    totals.each([&](int k, A& field) __attribute__((always_inline)) { field = statistics[k * p.rows + row]; });
    if (!p.index_target) totals.weight = A(1);
    return totals;
  }
  FASTLOSS_INLINE void store(int64_t row, Totals totals) const {
    totals.each([&](int k, A& field) __attribute__((always_inline)) { statistics[k * p.rows + row] = field; });
  }
  FASTLOSS_INLINE RowFormula<Loss, A> formula(int64_t row, const Totals& totals) const {
    A upstream[Loss::outputs];
    for (int k = 0; k < Loss::outputs; ++k) upstream[k] = static_cast<const A*>(p.upstream)[k * p.rows + row];
    return RowFormula<Loss, A>(loss, p.index_target != nullptr, totals, upstream);
  }

  // ---------------------------------------------------------------- contiguous rows of C classes

  FASTLOSS_INLINE V dense_mass(const T* t, int64_t c, int count) const {
    const V w = weight ? S::get(weight + c, count, A(0)) : V{} + A(1);
    const V target = t ? S::get(t + c, count, A(0)) : V{};
    return S::first(count, loss.mass(w, target), V{});
  }

  // The logits c .. c + size - 1 as they enter the softmax; the largest.
  FASTLOSS_INLINE A logits(const T* x, int64_t start, int64_t size, int64_t y, A z_y, A* z) const {
    V most = V{} - infinity;
    S::for_each(size, [&](int64_t c, int count) __attribute__((always_inline)) {
      V logit = S::first(count, loss.logit(S::get(x + start + c, count, A(0))), V{} - infinity);
      if constexpr (Loss::margin) logit = at(start + c, y, V{} + z_y, logit);
      most = (logit > most) ? logit : most;
      S::put(z + c, logit, count);
    });
    return S::max(most);
  }
  // `yes` in the lane of class y of those that begin at c
  static FASTLOSS_INLINE V at(int64_t c, int64_t y, V yes, V no) {
    if (y < c || y >= c + S::lanes) return no;
    S::set(no, int(y - c), S::lane(yes, 0));
    return no;
  }

  template <bool Dense>
  FASTLOSS_LOOP void row_statistics_of(int64_t row) const {
    Totals totals = nothing();
    if (ignored(row)) return store(row, totals);
    const Loss f = loss;  // a local copy stays in registers
    const T *x = row_of(p.logits, row), *t = row_of(p.soft_target, row), *other = row_of(p.second, row);
    const int64_t y = target_of(row);
    if (y >= 0) {
      totals.target = target_logit(x + y);
      totals.weight = class_weight(y);
    }
    alignas(64) A z[kChunk], z_second[Loss::two_rows ? kChunk : S::lanes];
    Reference<A> first, second;
    double sum = 0, second_sum = 0, mass = 0, linear = 0, own[own_sums<Loss>] = {};
    for (int64_t start = 0; start < C; start += kChunk) {
      const int64_t size = C - start < kChunk ? C - start : kChunk;
      RowShift<double> step{};
      first.move(logits(x, start, size, y, totals.target, z), sum, step.shift, step.scale, step.sum);
      if constexpr (Loss::two_rows)
        second.move(logits(other, start, size, -1, A(0), z_second), second_sum, step.second_shift, step.second_scale,
                    step.second_sum);
      if constexpr (Loss::sums > 0) Loss::rebase(own, step);
      linear += mass * step.shift;
      sum *= step.scale;
      second_sum *= step.second_scale;
      V chunk_sum{}, chunk_second{}, chunk_mass{}, chunk_linear{}, chunk_own[own_sums<Loss>] = {};
      S::for_each(size, [&](int64_t c, int count) __attribute__((always_inline)) {
        RowClass<V> k{};
        k.z = S::get(z + c, count, -infinity);
        k.z_y = V{} + totals.target;
        k.from_max = k.z - first.shift;
        k.p = S::exp(k.from_max);
        chunk_sum += k.p;
        if constexpr (Loss::two_rows) {
          k.second_from_max = S::get(z_second + c, count, -infinity) - second.shift;
          k.second_p = S::exp(k.second_from_max);
          chunk_second += k.second_p;
        }
        if (Dense) {
          k.mass = dense_mass(t, start + c, count);
          chunk_mass += k.mass;
          chunk_linear += k.mass * S::first(count, k.from_max, V{});
        }
        if constexpr (Loss::sums > 0) {
          V term[Loss::sums];
          f.terms(k, term);
          for (int i = 0; i < Loss::sums; ++i) chunk_own[i] += S::first(count, term[i], V{});
        }
      });
      sum += S::sum(chunk_sum);
      if constexpr (Loss::two_rows) second_sum += S::sum(chunk_second);
      if (Dense) {
        mass += S::sum(chunk_mass);
        linear += S::sum(chunk_linear);
      }
      if constexpr (Loss::sums > 0)
        for (int i = 0; i < Loss::sums; ++i) own[i] += S::sum(chunk_own[i]);
    }
    totals.max = first.max;
    totals.log_sum = S::log(sum);
    totals.mass = A(mass);
    totals.linear = A(linear);
    if constexpr (Loss::two_rows) {
      totals.second_max = second.max;
      totals.second_log_sum = S::log(second_sum);
    }
    if constexpr (Loss::sums > 0)
      for (int i = 0; i < Loss::sums; ++i) totals.own[i] = A(own[i]);
    if constexpr (Loss::expectations > 0) expectations_of_row(f, x, other, totals);
    store(row, totals);
  }

  // The logits of both rows are in the second-level cache, where the statistics' reading has left them.
  FASTLOSS_INLINE void expectations_of_row(const Loss& f, const T* x, const T* other, Totals& totals) const {
    const A inverse_sum = S::exp(-totals.log_sum);
    const A second_inverse = Loss::two_rows ? S::exp(-totals.second_log_sum) : A(0);
    double all[own_sums<Loss>] = {};
    for (int64_t start = 0; start < C; start += kChunk) {
      const int64_t size = C - start < kChunk ? C - start : kChunk;
      V chunk[own_sums<Loss>] = {};
      S::for_each(size, [&](int64_t c, int count) __attribute__((always_inline)) {
        RowClass<V> k{};
        k.z = f.logit(S::get(x + start + c, count, A(0)));
        k.from_max = k.z - totals.max;
        k.p = S::exp(k.from_max) * inverse_sum;
        if constexpr (Loss::two_rows) {
          k.second_from_max = f.logit(S::get(other + start + c, count, A(0))) - totals.second_max;
          k.second_p = S::exp(k.second_from_max) * second_inverse;
        }
        V term[own_sums<Loss>];
        f.expect(k, k.from_max - totals.log_sum, k.second_from_max - totals.second_log_sum, term);
        for (int i = 0; i < Loss::expectations; ++i) chunk[i] += S::first(count, term[i], V{});
      });
      for (int i = 0; i < Loss::expectations; ++i) all[i] += S::sum(chunk[i]);
    }
    for (int i = 0; i < Loss::expectations; ++i) totals.own[Loss::sums + i] = A(all[i]);
  }

  template <bool Dense>
  FASTLOSS_LOOP void row_gradient_of(int64_t row) const {
    T* out = static_cast<T*>(p.gradient.data) + row * p.gradient.outer;
    if (ignored(row)) return (void)memset(out, 0, size_t(C) * sizeof(T));
    const Loss f = loss;
    const T *x = row_of(p.logits, row), *t = row_of(p.soft_target, row), *other = row_of(p.second, row);
    const Totals totals = load(row);
    const RowFormula<Loss, A> by_z = formula(row, totals);
    const A inverse_sum = S::exp(-totals.log_sum);
    const A second_inverse = Loss::two_rows ? S::exp(-totals.second_log_sum) : A(0);
    const auto of_class = [&](V z, int64_t c, int count) __attribute__((always_inline)) {
      RowClass<V> k{};
      k.z = z;
      k.from_max = z - totals.max;
      k.p = S::exp(k.from_max) * inverse_sum;
      if (Dense) k.mass = dense_mass(t, c, count);
      if constexpr (Loss::two_rows) {
        k.second_from_max = f.logit(S::get(other + c, count, A(0))) - totals.second_max;
        k.second_p = S::exp(k.second_from_max) * second_inverse;
      }
      return k;
    };
    S::for_each(C, [&](int64_t c, int count) __attribute__((always_inline)) {
      const V z = f.logit(S::get(x + c, count, A(0)));
      S::put(out + c, f.slope(z) * by_z(f, of_class(z, c, count)), count);
    });
    const int64_t y = target_of(row);
    if (y < 0) return;
    const V z = f.logit(S::get(x + y, 1, A(0)));  // without a margin
    RowClass<V> k = of_class(V{} + totals.target, y, 1);
    k.mass += by_z.index_mass;
    V slope = f.slope(z);
    if constexpr (Loss::margin) slope *= f.target_slope(S::lane(z, 0));
    S::put(out + y, slope * by_z(f, k), 1);
  }

  // ---------------------------------------------------------------- columns: (outer, C, inner), inner contiguous
  // A task is a vector of neighbouring rows, a lane each; the classes are walked in order.

  int64_t column_tasks() const { return (p.inner + S::lanes - 1) / S::lanes; }

  struct Column {
    int64_t n, d, row;  // of the first lane
    int count;
    I target, live;  // of each lane
    V z_y, slope_y;  // where there are sums or expectations of its own, or a margin: the target's logit; its slope
  };
  FASTLOSS_INLINE Column column(int64_t task) const {
    Column k{};
    k.n = task / column_tasks();
    k.d = task % column_tasks() * S::lanes;
    k.row = k.n * p.inner + k.d;
    k.count = int(std::min<int64_t>(S::lanes, p.inner - k.d));
    for (int i = 0; i < S::lanes; ++i) {
      const int64_t y = i < k.count ? target_of(k.row + i) : -1;
      S::set(k.target, i, int32_t(y));
      S::set(k.live, i, i < k.count && !ignored(k.row + i) ? -1 : 0);
      if constexpr (Loss::margin || own_count<Loss> > 0)
        if (y >= 0) S::set(k.z_y, i, target_logit(place(p.logits, k, y) + i));
      if constexpr (Loss::margin)
        if (y >= 0) S::set(k.slope_y, i, loss.target_slope(loss.logit(S::scalar(place(p.logits, k, y) + i))));
    }
    return k;
  }
  FASTLOSS_INLINE T* place(const RowMatrix& matrix, const Column& k, int64_t c) const {
    return static_cast<T*>(matrix.data) + k.n * matrix.outer + c * matrix.step + k.d;
  }
  FASTLOSS_INLINE V column_logit(const RowMatrix& matrix, const Column& k, int64_t c) const {
    return loss.logit(S::get(place(matrix, k, c), k.count, A(0)));
  }
  FASTLOSS_INLINE V column_mass(const Column& k, int64_t c) const {
    const V target = soft ? S::get(place(p.soft_target, k, c), k.count, A(0)) : V{};
    return loss.mass(V{} + class_weight(c), target);
  }
  FASTLOSS_INLINE V with_margin(const Column& k, int64_t c, V z) const {
    if constexpr (Loss::margin) z = (k.target == int32_t(c)) ? k.z_y : z;
    return z;
  }

  template <bool Dense>
  FASTLOSS_LOOP void column_statistics(int64_t task) const {
    const Column k = column(task);
    V max = V{} - infinity, second_max = V{} - infinity;
    for (int64_t c = 0; c < C; ++c) {
      const V z = with_margin(k, c, column_logit(p.logits, k, c));
      max = (z > max) ? z : max;
      if constexpr (Loss::two_rows) {
        const V z_second = column_logit(p.second, k, c);
        second_max = (z_second > second_max) ? z_second : second_max;
      }
    }
    const V none = V{} - infinity;
    const V shift = (max == none) ? V{} : max, second_shift = (second_max == none) ? V{} : second_max;
    V sum{}, second_sum{}, mass{}, linear{}, z_y = Loss::expectations > 0 ? k.z_y : V{}, own[own_sums<Loss>] = {};
    for (int64_t c = 0; c < C; ++c) {
      RowClass<V> j{};
      j.z = with_margin(k, c, column_logit(p.logits, k, c));
      j.z_y = k.z_y;
      j.from_max = j.z - shift;
      j.p = S::exp(j.from_max);
      sum += j.p;
      // Not of what compares two softmaxes: j.z would not be fused into j.from_max then, as the second row's logit is,
      // and equal rows would not have equal sums.
      if constexpr (Loss::expectations == 0) z_y = (k.target == int32_t(c)) ? j.z : z_y;
      if constexpr (Loss::two_rows) {
        j.second_from_max = column_logit(p.second, k, c) - second_shift;
        j.second_p = S::exp(j.second_from_max);
        second_sum += j.second_p;
      }
      if (Dense) {
        j.mass = column_mass(k, c);
        mass += j.mass;
        linear += j.mass * j.from_max;
      }
      if constexpr (Loss::sums > 0) {
        V term[Loss::sums];
        loss.terms(j, term);
        for (int i = 0; i < Loss::sums; ++i) own[i] += term[i];
      }
    }
    if constexpr (Loss::expectations > 0)
      expectations_of_column(k, shift, second_shift, S::log(sum), S::log(second_sum), own);
    for (int i = 0; i < k.count; ++i) {
      Totals totals = nothing();
      if (S::lane(k.live, i)) {
        const int32_t y = S::lane(k.target, i);
        totals.max = S::lane(max, i);
        totals.log_sum = S::log(double(S::lane(sum, i)));
        totals.target = S::lane(z_y, i);
        totals.weight = y >= 0 ? class_weight(y) : A(0);
        totals.mass = S::lane(mass, i);
        totals.linear = S::lane(linear, i);
        if constexpr (Loss::two_rows) {
          totals.second_max = S::lane(second_max, i);
          totals.second_log_sum = S::log(double(S::lane(second_sum, i)));
        }
        if constexpr (own_count<Loss> > 0)
          for (int s = 0; s < own_count<Loss>; ++s) totals.own[s] = S::lane(own[s], i);
      }
      store(k.row + i, totals);
    }
  }

  FASTLOSS_INLINE void expectations_of_column(const Column& k, V max, V second_max, V log_sum, V second_log_sum,
                                              V (&own)[own_sums<Loss>]) const {
    for (int64_t c = 0; c < C; ++c) {
      RowClass<V> j{};
      j.z = column_logit(p.logits, k, c);
      j.from_max = j.z - max;
      const V log_p = j.from_max - log_sum;
      j.p = S::exp(log_p);
      V second_log_p{};
      if constexpr (Loss::two_rows) {
        j.second_from_max = column_logit(p.second, k, c) - second_max;
        second_log_p = j.second_from_max - second_log_sum;
        j.second_p = S::exp(second_log_p);
      }
      V term[own_sums<Loss>];
      loss.expect(j, log_p, second_log_p, term);
      for (int i = 0; i < Loss::expectations; ++i) own[Loss::sums + i] += term[i];
    }
  }

  FASTLOSS_INLINE RowFormula<Loss, V> formulas(const Column& k, const RowTotals<Loss, V>& totals) const {
    if constexpr (Loss::plain) {  // finish() is of numbers
      RowFormula<Loss, V> all{};
      for (int i = 0; i < k.count; ++i) {
        const RowFormula<Loss, A> one = formula(k.row + i, load(k.row + i));
        S::set(all.index_mass, i, one.index_mass);
        S::set(all.softmax, i, one.softmax);
        S::set(all.scale, i, one.scale);
      }
      return all;
    } else {
      V upstream[Loss::outputs];
      for (int i = 0; i < Loss::outputs; ++i)
        upstream[i] = S::get(static_cast<const A*>(p.upstream) + i * p.rows + k.row, k.count, A(0));
      return RowFormula<Loss, V>(loss, p.index_target != nullptr, totals, upstream);
    }
  }

  template <bool Dense>
  FASTLOSS_LOOP void column_gradient(int64_t task) const {
    const Column k = column(task);
    RowTotals<Loss, V> totals{};
    totals.each([&](int i, V& field)
                    __attribute__((always_inline)) { field = S::get(statistics + i * p.rows + k.row, k.count, A(0)); });
    const RowFormula<Loss, V> by_z = formulas(k, totals);
    const V inverse_sum = S::exp(-totals.log_sum);
    const V second_inverse = Loss::two_rows ? S::exp(-totals.second_log_sum) : V{};
    for (int64_t c = 0; c < C; ++c) {
      const V z = column_logit(p.logits, k, c);
      RowClass<V> j{};
      j.z = with_margin(k, c, z);
      j.from_max = j.z - totals.max;
      j.p = S::exp(j.from_max) * inverse_sum;
      j.mass = (k.target == int32_t(c)) ? by_z.index_mass : V{};
      if (Dense) j.mass += column_mass(k, c);
      if constexpr (Loss::two_rows) {
        j.second_from_max = column_logit(p.second, k, c) - totals.second_max;
        j.second_p = S::exp(j.second_from_max) * second_inverse;
      }
      V slope = loss.slope(z);
      if constexpr (Loss::margin) slope = (k.target == int32_t(c)) ? slope * k.slope_y : slope;
      const V d = slope * by_z(loss, j);
      S::put(place(p.gradient, k, c), k.live ? d : V{}, k.count);
    }
  }

  // ---------------------------------------------------------------- of rows, whatever their layout

  FASTLOSS_LOOP void outputs_of(int64_t row) const {
    A values[Loss::outputs] = {};
    if (!ignored(row)) row_values(loss, p.index_target != nullptr, load(row), values);
    for (int k = 0; k < Loss::outputs; ++k) static_cast<A*>(p.outputs)[k * p.rows + row] = values[k];
  }

  FASTLOSS_LOOP void merge_of(int64_t first) const {
    const int count = int(std::min<int64_t>(S::lanes, p.rows - first));
    const A* slices = static_cast<const A*>(p.slices) + first;
    const auto of = [&](int64_t i, int k) __attribute__((always_inline)) {
      return S::get(slices + (i * row_statistics<Loss> + k) * p.rows, count, A(0));
    };
    RowTotals<Loss, V> totals = merge_slices<Loss, V>(p.slice_count, of);
    totals.each([&](int k, V& field)
                    __attribute__((always_inline)) { S::put(statistics + k * p.rows + first, field, count); });
  }

  // ---------------------------------------------------------------- tasks

  bool by_rows() const { return classes_adjoin({p.logits, p.second, p.soft_target, p.gradient}, p.inner); }
  int64_t tasks() const {
    if (p.rows == 0) return 0;
    switch (p.step) {
      case RowStep::merge:
        return (p.rows + S::lanes - 1) / S::lanes;
      case RowStep::outputs:
        return p.rows;
      default:
        return by_rows() ? p.rows : p.rows / p.inner * column_tasks();
    }
  }

  template <bool Dense>
  void run(int64_t task) const {
    switch (p.step) {
      case RowStep::statistics:
        return by_rows() ? row_statistics_of<Dense>(task) : column_statistics<Dense>(task);
      case RowStep::merge:
        return merge_of(task * S::lanes);
      case RowStep::outputs:
        return outputs_of(task);
      case RowStep::gradient:
        return by_rows() ? row_gradient_of<Dense>(task) : column_gradient<Dense>(task);
    }
  }
  void run(int64_t begin, int64_t end) const {
    const bool dense = may_be_dense<Loss> && loss.dense(soft);
    for (int64_t task = begin; task < end; ++task) dense ? run<may_be_dense<Loss>>(task) : run<false>(task);
  }
};

template <class Loss, class T>
RowStepKernel kernel() {
  return {[](const RowStepProblem& p) { return StepTask<Loss, T>(p).tasks(); },
          [](const RowStepProblem& p, int64_t first, int64_t last) { StepTask<Loss, T>(p).run(first, last); }};
}

int find(const RowStepProblem& p, RowStepKernel* found) {
  int status = kUnknownLoss;
  visit_row_loss(p.loss, [&](auto loss) {
    using InFloat = typename decltype(loss)::template with<float>;
    status = 0;
    if (p.step != RowStep::merge && p.parameter_count != InFloat::parameters) status = kWrongParameters;
    switch (p.dtype) {
      case DType::float64:
        *found = kernel<typename decltype(loss)::template with<double>, double>();
        break;
      case DType::float32:
        *found = kernel<InFloat, float>();
        break;
      case DType::float16:
        *found = kernel<InFloat, Half>();
        break;
      case DType::bfloat16:
        *found = kernel<InFloat, BFloat16>();
        break;
      default:
        status = kUnknownDType;
    }
  });
  return status;
}

}  // namespace

const FindRowStep find_row_step = find;

}  // namespace FASTLOSS_ISA

#if FASTLOSS_BASELINE
namespace {

// False where an index target is neither a class nor ignore_index.
bool targets_are_classes(const RowStepProblem& p, int64_t* out_of_range) {
  for (int64_t row = 0; p.index_target && row < p.rows; ++row) {
    const int64_t y = p.index_target[row];
    if ((y >= 0 && y < p.classes) || y == p.ignore_index) continue;
    *out_of_range = y;
    return false;
  }
  return true;
}

}  // namespace
#endif

}  // namespace fastloss

#if FASTLOSS_BASELINE
int fastloss_row_step(const fastloss::RowStepProblem* problem, fastloss::Device* device) {
  using namespace fastloss;
  const RowStepProblem& p = *problem;
  static const FindRowStep find = FASTLOSS_FOR_THIS_CPU(find_row_step);
  RowStepKernel kernel;
  if (const int status = find(p, &kernel)) return status;
  if (!targets_are_classes(p, &device->target_out_of_range)) return kTargetOutOfRange;
  const int64_t tasks = kernel.tasks(p);
  const int64_t per_task =
      std::max<int64_t>(1, p.rows * (p.slice_classes + p.slice_count) / std::max<int64_t>(1, tasks));
  const int64_t grain = std::max<int64_t>(1, 32768 / per_task);  // as in row.cpp
  for_tasks(*device, tasks, grain, [&](int64_t first, int64_t last) { kernel.run(p, first, last); });
  return 0;
}

int fastloss_row_describe(const char* loss, fastloss::RowDescription* description) {
  return fastloss::visit_row_loss(
      loss, [&](auto tag) { *description = fastloss::describe_row<typename decltype(tag)::template with<float>>(); });
}
#endif
