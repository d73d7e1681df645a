// The mathematics of the losses over one row of logits (softmax over the classes), once, for the CPU and for CUDA.
//
// A row loss is a struct whose fields are its hyper-parameters. The skeletons (csrc/cpu/row.cpp, csrc/cuda/row.cu) know
// no loss; they walk over a row x_0 .. x_{C-1} and call, with A the accumulator (float, or double for double logits)
// and V either A or a vector of A:
//
//   V logit(V x)                 z_j, the logit that enters the softmax
//   V slope(V z)                 dz_j/dx_j, as a function of z_j
//   bool linear()                is the slope the same for every z, and z_j = slope * x_j, slope > 0?
//   bool dense(bool soft)        does the target distribution have a part that is spread over all the classes?
//   V mass(V weight, V target)   q_j, that part; called only if dense(...)
//   A index_mass(A weight)       what an index target y adds to q_y
//   RowResult<A> finish(sums)    loss of the row and the coefficient of the softmax
//
// and from them, for every row loss,
//
//   dloss/dx_j = slope(z_j) * (softmax_coefficient * softmax(z)_j - q_j).
//
// Where `static constexpr bool modulated` is true, the loss is sum_j q_j f(log p_j) with a function other than
// f(log p) = -log p, which the functor has as
//
//   A class_loss(A log_p)        f(log p)
//   A class_slope(A log_p)       -f'(log p), which multiplies q_j in the gradient
//
// and is not `dense`: only the class of an index target has a mass.
//
// `weight` is the class weight (1 where there is none), `target` the probability of a soft target (0 for an index
// target).
#pragma once
#include <string.h>

#include "functions.h"

namespace fastloss {

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

// Softmax cross-entropy with label smoothing, class weights, soft targets, z-loss, soft-capping and temperature:
//   z = softcap * tanh(x / softcap) / temperature
//   q = (1 - smoothing) * (w_y [j = y], or w_j t_j for soft targets) + smoothing / C * w_j
//   loss = (sum_j q_j) lse(z) - sum_j q_j z_j + z_loss * w_y * lse(z)^2
template <class Accumulator>
struct CrossEntropy {
  using A = Accumulator;
  static constexpr int parameter_count = 4;  // smoothing, z_loss, softcap (0: none), temperature
  static constexpr bool modulated = false;

  A keep, uniform;  // 1 - smoothing, smoothing / C
  A z_loss, softcap, inverse_softcap, temperature, inverse_temperature;

  FASTLOSS_INLINE CrossEntropy(const double* parameters, long long classes)
      : keep(A(1.0 - parameters[0])),
        uniform(A(parameters[0] / double(classes))),
        z_loss(A(parameters[1])),
        softcap(A(parameters[2])),
        inverse_softcap(A(parameters[2] > 0 ? 1.0 / parameters[2] : 0.0)),
        temperature(A(parameters[3])),
        inverse_temperature(A(1.0 / parameters[3])) {}

  FASTLOSS_INLINE bool dense(bool soft_target) const { return soft_target || uniform > A(0); }

  FASTLOSS_INLINE bool linear() const { return !(softcap > A(0)); }
  template <class V>
  FASTLOSS_INLINE V logit(V x) const {
    if (!linear()) x = softcap * math::tanh(x * inverse_softcap);
    return x * inverse_temperature;
  }
  template <class V>
  FASTLOSS_INLINE V slope(V z) const {
    V one = V{} + A(1);
    if (linear()) return one * inverse_temperature;
    V capped = z * (temperature * inverse_softcap);
    return (one - capped * capped) * inverse_temperature;
  }
  template <class V>
  FASTLOSS_INLINE V mass(V weight, V target) const {
    return weight * (keep * target + uniform);
  }
  FASTLOSS_INLINE A index_mass(A weight) const { return keep * weight; }
  FASTLOSS_INLINE RowResult<A> finish(const RowSums<A>& s) const {
    A lse = s.max + s.log_sum;
    A regularizer = z_loss * s.weight * lse;
    return {s.mass * s.log_sum - s.linear + regularizer * lse, s.mass + A(2) * regularizer};
  }
};

// Focal loss on the softmax of an index target: w_y (1 - p_y)^gamma (-log p_y).
template <class Accumulator>
struct SoftmaxFocal {
  using A = Accumulator;
  static constexpr int parameter_count = 1;
  static constexpr bool modulated = true;

  A gamma;

  FASTLOSS_INLINE SoftmaxFocal(const double* parameters, long long) : gamma(A(parameters[0])) {}

  FASTLOSS_INLINE bool dense(bool) const { return false; }
  FASTLOSS_INLINE bool linear() const { return true; }
  template <class V>
  FASTLOSS_INLINE V logit(V x) const {
    return x;
  }
  template <class V>
  FASTLOSS_INLINE V slope(V) const {
    return V{} + A(1);
  }
  template <class V>
  FASTLOSS_INLINE V mass(V, V) const {
    return V{};
  }
  FASTLOSS_INLINE A index_mass(A weight) const { return weight; }
  // 1 - p by expm1: for a confident row the difference would cancel.
  FASTLOSS_INLINE A class_loss(A log_p) const { return -math::power(-math::expm1(log_p), gamma) * log_p; }
  FASTLOSS_INLINE A class_slope(A log_p) const {
    const A p = math::exp(log_p), miss = -math::expm1(log_p);
    // The slope is miss^gamma - gamma miss^(gamma - 1) p log p. At p = 1, log p / miss is -1, which leaves no pole for
    // gamma < 1 and 0 in all; at p = 0, p log p is 0.
    const A pull = (p > A(0)) & (miss > A(0)) ? p * log_p / miss : A(0);
    return math::power(miss, gamma) * (A(1) - gamma * pull);
  }
  FASTLOSS_INLINE RowResult<A> finish(const RowSums<A>& s) const { return {A(0) - s.linear, s.mass}; }
};

// Every row loss by its name in Python. `visit` is called with a tag; `decltype(tag)::with<A>` is the functor type.
template <template <class> class Functor>
struct RowLoss {
  template <class A>
  using with = Functor<A>;
};

template <class Visit>
bool visit_row_loss(const char* name, Visit visit) {
  if (strcmp(name, "cross_entropy") == 0) return visit(RowLoss<CrossEntropy>{}), true;
  if (strcmp(name, "softmax_focal_loss") == 0) return visit(RowLoss<SoftmaxFocal>{}), true;
  return false;
}

}  // namespace fastloss
