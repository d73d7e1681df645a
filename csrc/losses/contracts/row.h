// The mathematics of the losses over one row of logits (softmax over the classes), once, for the CPU and for CUDA: the
// contract.
//
// A row loss is a struct whose fields are its hyper-parameters. The skeletons (csrc/cpu/row.cpp, csrc/cuda/row/row.cu)
// know no loss; they walk over a row x_0 .. x_{C-1} and call, with A the accumulator (float, or double for double
// logits) and V either A or a vector of A:
//
//   V logit(V x)                 z_j, the logit that enters the softmax
//   V slope(V z)                 dz_j/dx_j, as a function of z_j
//   bool linear()                is the slope the same for every z, and z_j = slope * x_j, slope > 0?
//   bool dense(bool soft)        does the target distribution have a part that is spread over all the classes?
//   V mass(V weight, V target)   q_j, that part; called only if dense(...)
//   V index_mass(V weight)       what an index target y adds to q_y
//   RowResult<V> finish(sums)    loss of the row and the coefficient of the softmax
//
// and from them, for every row loss,
//
//   dloss/dx_j = slope(z_j) * (softmax_coefficient * softmax(z)_j - q_j).
//
// Where `static constexpr bool modulated` is true, the loss is sum_j q_j f(log p_j) with a function other than
// f(log p) = -log p, which the functor has as
//
//   V class_loss(V log_p)        f(log p)
//   V class_slope(V log_p)       -f'(log p), which multiplies q_j in the gradient
//
// and is not `dense`: only the class of an index target has a mass.
//
// `weight` is the class weight (1 where there is none), `target` the probability of a soft target (0 for an index
// target).
//
// That is all of a loss that is computed in one pass. The operators row_statistics, row_merge, row_outputs and
// row_gradient (csrc/cpu/row_statistics.cpp, csrc/cuda/row/statistics.cu) take the same functors apart, into values
// that a caller can hold, and let them say more, by members that hide those of RowDefaults:
//
//   bool margin                  the index target's logit is target_logit(z_y) in place of z_y = logit(x_y):
//     A target_logit(A z)
//     A target_slope(A z)        d target_logit / d z_y
//   bool two_rows                there is a second row of logits, a teacher's, say. It goes through logit(), too, has
//   no
//                                gradient and is no target: the functor meets it as second_from_max, second_p
//   int sums                     sums of the functor's own over the classes:
//     void terms(const RowClass<V>&, V (&)[sums])            what a class adds to each; a sum that depends on z_y is
//                                                            of whole rows only
//     static void rebase(V (&)[sums], const RowShift<V>&)    takes them to another maximum
//   int expectations             sums over the classes of what takes the softmax itself, made by a second reading of
//                                the row; of whole rows only
//     void expect(const RowClass<V>&, V log_p, V second_log_p, V (&)[expectations])    what a class adds to each
//   bool plain = false           no finish(): the row gives `outputs` numbers, each with an upstream gradient of its
//   own
//     int outputs
//     void values(const RowTotals<..>&, A (&)[outputs])
//     struct Coefficients<V>; Coefficients<V> coefficients(const RowTotals<.., V>&, const V (&upstream)[outputs])
//     W gradient(const RowClass<W>&, const Coefficients<V>&)  d(sum_k upstream_k output_k) / dz_j, V either A or W
//
// A functor that uses none of them compiles to what it was without them.
#pragma once
#include <float.h>
#include <math.h>

#include "../../problems/row.h"
#include "../math.h"

namespace fastloss {

struct RowDefaults {
  static constexpr bool modulated = false, margin = false, two_rows = false, plain = true;
  static constexpr int outputs = 1, sums = 0, expectations = 0;
};

// Can the loss and its gradient come out of one pass (csrc/cpu/row.cpp, csrc/cuda/row/row.cu)?
template <class Loss>
constexpr bool in_one_pass = Loss::plain && !Loss::margin && !Loss::two_rows && Loss::sums + Loss::expectations == 0;

// Sums are taken relative to the largest logit, so that a common offset of the logits (1e4, say) costs no accuracy:
// z_j - max is exact or nearly so, while lse itself is rounded at the size of the offset.
template <class A>
struct RowSums {
  A max;      // max_j z_j
  A log_sum;  // log(sum_j exp(z_j - max)), >= 0
  A mass;     // sum_j q_j, the index target's share included; modulated: sum_j q_j class_slope(log p_j)
  A linear;   // sum_j q_j (z_j - max), the index target's share included; modulated: -sum_j q_j class_loss(log p_j)
  A weight;   // class weight of the index target, 1 for soft targets: what the row adds to the mean's denominator
};

template <class A>
struct RowResult {
  A loss;
  A softmax_coefficient;
};

// Adds the share of an index target y, from_max = z_y - max_j z_j, to the sums, whose other fields are complete.
// Returns its mass in the gradient.
template <class Loss, class A>
FASTLOSS_INLINE A add_index_target(const Loss& loss, A from_max, RowSums<A>& sums) {
  A mass = loss.index_mass(sums.weight);
  if constexpr (Loss::modulated) {
    const A log_p = from_max - sums.log_sum;
    sums.linear -= mass * loss.class_loss(log_p);
    mass *= loss.class_slope(log_p);
  } else {
    sums.linear += mass * from_max;  // a weight of 0 and a logit of -inf: NaN, as in torch
  }
  sums.mass += mass;
  return mass;
}

// ---- statistics, outputs, gradient

// A row's statistics as a caller holds them, (k, rows): these, the two of a second row where there is one, and the
// functor's own sums and expectations. Of no classes at all, and of a row that is not counted: -inf, -inf, and 0 for
// the rest.
enum RowStatistic : int {
  kRowMax,     // max_j z_j; -inf if every logit is
  kRowLogSum,  // log(sum_j exp(z_j - max)); likewise
  kRowTarget,  // z_y of the index target, where y is one of these classes, else 0
  kRowWeight,  // its class weight, likewise
  kRowMass,    // sum_j q_j of the target distribution that is spread over the classes
  kRowLinear,  // sum_j q_j (z_j - max) of it
  kRowOwn,     // from here on
};

template <class Loss>
constexpr int own_count = Loss::sums + Loss::expectations;

template <class Loss>
constexpr int row_statistics = kRowOwn + (Loss::two_rows ? 2 : 0) + own_count<Loss>;

template <class Loss>
constexpr int own_sums = own_count<Loss> > 0 ? own_count<Loss> : 1;  // an array of none is not C++

// Can the target distribution be spread over the classes? Only of what is a plain loss.
template <class Loss>
constexpr bool may_be_dense = Loss::plain && !Loss::modulated;

// The statistics of a row, of A or of a vector of it: V. `mass` and `linear` without the index target's share.
template <class Loss, class V>
struct RowTotals : RowSums<V> {
  V target;
  V second_max, second_log_sum;
  V own[own_sums<Loss>];  // the sums, then the expectations

  template <class Use>  // use(statistic's number, field)
  FASTLOSS_INLINE void each(const Use& use) {
    use(kRowMax, this->max);
    use(kRowLogSum, this->log_sum);
    use(kRowTarget, target);
    use(kRowWeight, this->weight);
    use(kRowMass, this->mass);
    use(kRowLinear, this->linear);
    int next = kRowOwn;
    if constexpr (Loss::two_rows) {
      use(next++, second_max);
      use(next++, second_log_sum);
    }
    if constexpr (own_count<Loss> > 0) {
      for (int i = 0; i < own_count<Loss>; ++i) use(next++, own[i]);
    }
  }
};

// One class, as a functor's terms() and gradient() meet it. In terms(), p is exp(z - max), not divided by its sum yet.
template <class V>
struct RowClass {
  V z;                          // of a margin, the target's is target_logit's
  V z_y;                        // in terms(): of the index target; 0 where it is no class of this slice
  V from_max, p;                // z - max, and exp of it over the sum
  V mass;                       // q_j, the index target's share included in gradient()
  V second_from_max, second_p;  // of the second row
};

// What moves the sums of some classes to a larger maximum: the old one minus the new, which is finite and at most 0,
// its exponential, and the sum over these classes of exp(z - old maximum); 0 all three where that was -inf.
template <class V>
struct RowShift {
  V shift, scale, sum;
  V second_shift, second_scale, second_sum;
};

// Adds the share of the index target of a whole row to its statistics; returns its mass. `present` is false for soft
// targets, and where there is no target at all.
template <class Loss, class V>
FASTLOSS_INLINE V index_share(const Loss& loss, bool present, RowTotals<Loss, V>& totals) {
  if (!present) return V{};
  if constexpr (Loss::plain) {
    return add_index_target(loss, totals.target - totals.max, totals);
  } else {
    return loss.index_mass(totals.weight);
  }
}

template <class Loss, class A>
FASTLOSS_INLINE void row_values(const Loss& loss, bool present, RowTotals<Loss, A> totals, A (&out)[Loss::outputs]) {
  index_share(loss, present, totals);
  if constexpr (Loss::plain) {
    out[0] = loss.finish(totals).loss;
  } else {
    loss.values(totals, out);
  }
}

// The gradient of a row by z_j, from its statistics and the upstream gradients of its outputs; V is A, or a vector of
// the rows' numbers, a lane each.
template <class Loss, class V, bool kPlain = Loss::plain>
struct RowFormula;

template <class Loss, class V>
struct RowFormula<Loss, V, true> {
  V index_mass, softmax, scale;

  RowFormula() = default;
  FASTLOSS_INLINE RowFormula(const Loss& loss, bool present, RowTotals<Loss, V> totals, const V (&upstream)[1])
      : index_mass(index_share(loss, present, totals)),
        softmax(loss.finish(totals).softmax_coefficient * upstream[0]),
        scale(upstream[0]) {}
  template <class W>
  FASTLOSS_INLINE W operator()(const Loss&, const RowClass<W>& c) const {
    return c.p * softmax - c.mass * scale;
  }
};

template <class Loss, class V>
struct RowFormula<Loss, V, false> {
  V index_mass;
  typename Loss::template Coefficients<V> coefficients;

  FASTLOSS_INLINE RowFormula(const Loss& loss, bool present, RowTotals<Loss, V> totals,
                             const V (&upstream)[Loss::outputs])
      : index_mass(index_share(loss, present, totals)), coefficients(loss.coefficients(totals, upstream)) {}
  template <class W>
  FASTLOSS_INLINE W operator()(const Loss& loss, const RowClass<W>& c) const {
    return loss.gradient(c, coefficients);
  }
};

// The maximum and the log-sum of a row from those of slices of its classes, of as many rows as V has lanes;
// of(i, statistic) is a statistic of slice i.
template <class A, class V>
struct SliceExponents {
  V max;      // of all slices
  V log_sum;  // relative to it

  // The log-sums are added relative to the largest of them below `max`: a common offset of the logits costs nothing,
  // and one slice alone keeps its bits.
  template <class Of>
  FASTLOSS_INLINE SliceExponents(int64_t slices, const Of& of, int max_statistic, int log_sum_statistic) : max(none()) {
    for (int64_t i = 0; i < slices; ++i) max = larger(of(i, max_statistic), max);
    V top = none(), total{};
    for (int64_t i = 0; i < slices; ++i) top = larger(shift(of(i, max_statistic)) + of(i, log_sum_statistic), top);
    top = (top == none()) ? V{} : top;
    for (int64_t i = 0; i < slices; ++i)
      total += math::exp_nonpositive(shift(of(i, max_statistic)) + of(i, log_sum_statistic) - top);
    log_sum = top + math::log(total);
  }
  // From a slice's maximum to the whole row's: finite, so that 0 times it is 0; 0 for a slice that has none.
  FASTLOSS_INLINE V shift(V of_slice) const {
    const V lowest = V{} - (sizeof(A) == 8 ? A(DBL_MAX) : A(FLT_MAX)), step = of_slice - max;
    return (of_slice == none()) ? V{} : (step < lowest) ? lowest : step;
  }
  FASTLOSS_INLINE V scale(V of_slice) const {
    return (of_slice == none()) ? V{} : math::exp_nonpositive(shift(of_slice));
  }

 private:
  static FASTLOSS_INLINE V none() { return V{} - A(INFINITY); }
  static FASTLOSS_INLINE V larger(V x, V than) { return (x > than) ? x : than; }
};

// The statistics of a row from those of slices of its classes, added in the order in which they are given. That the
// slices have no class in common is the caller's affair.
template <class Loss, class V, class Of>
FASTLOSS_INLINE RowTotals<Loss, V> merge_slices(int64_t slices, const Of& of) {
  using A = typename Loss::A;
  const SliceExponents<A, V> row(slices, of, kRowMax, kRowLogSum);
  RowTotals<Loss, V> totals{};
  totals.max = row.max;
  totals.log_sum = row.log_sum;
  for (int64_t i = 0; i < slices; ++i) {
    const V mass = of(i, kRowMass);
    totals.target += of(i, kRowTarget);
    totals.weight += of(i, kRowWeight);
    totals.mass += mass;
    totals.linear += of(i, kRowLinear) + mass * row.shift(of(i, kRowMax));
  }
  int first = kRowOwn;
  SliceExponents<A, V> second = row;
  if constexpr (Loss::two_rows) {
    second = SliceExponents<A, V>(slices, of, first, first + 1);
    totals.second_max = second.max;
    totals.second_log_sum = second.log_sum;
    first += 2;
  }
  if constexpr (Loss::sums > 0) {
    for (int64_t i = 0; i < slices; ++i) {
      V own[Loss::sums];
      for (int k = 0; k < Loss::sums; ++k) own[k] = of(i, first + k);
      RowShift<V> step{};
      step.shift = row.shift(of(i, kRowMax));
      step.scale = row.scale(of(i, kRowMax));
      step.sum = math::exp(of(i, kRowLogSum));
      if constexpr (Loss::two_rows) {
        step.second_shift = second.shift(of(i, kRowOwn));
        step.second_scale = second.scale(of(i, kRowOwn));
        step.second_sum = math::exp(of(i, kRowOwn + 1));
      }
      Loss::rebase(own, step);
      for (int k = 0; k < Loss::sums; ++k) totals.own[k] += own[k];
    }
  }
  if constexpr (Loss::expectations > 0) {  // of the one slice that is the whole row
    for (int64_t i = 0; i < slices; ++i)
      for (int k = Loss::sums; k < own_count<Loss>; ++k) totals.own[k] += of(i, first + k);
  }
  return totals;
}

template <class Functor>
constexpr RowDescription describe_row() {
  return {Functor::parameters, Functor::modulated, Functor::outputs, row_statistics<Functor>, Functor::two_rows};
}

}  // namespace fastloss
