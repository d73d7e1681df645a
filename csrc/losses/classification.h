// Losses of classes, over one row of logits; see contracts/row.h for what a functor is.
#pragma once
#include "contracts/row.h"

namespace fastloss {

// Softmax cross-entropy with label smoothing, class weights, soft targets, z-loss, soft-capping and temperature:
//   z = softcap * tanh(x / softcap) / temperature
//   q = (1 - smoothing) * (w_y [j = y], or w_j t_j for soft targets) + smoothing / C * w_j
//   loss = (sum_j q_j) lse(z) - sum_j q_j z_j + z_loss * w_y * lse(z)^2
template <class Accumulator>
struct CrossEntropy : RowDefaults {
  using A = Accumulator;
  static constexpr int parameters = 4;  // smoothing, z_loss, softcap (0: none), temperature

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
  template <class V>
  FASTLOSS_INLINE V index_mass(V weight) const {
    return keep * weight;
  }
  template <class V>
  FASTLOSS_INLINE RowResult<V> finish(const RowSums<V>& s) const {
    V lse = s.max + s.log_sum;
    V regularizer = z_loss * s.weight * lse;
    return {s.mass * s.log_sum - s.linear + regularizer * lse, s.mass + A(2) * regularizer};
  }
};

// Focal loss on the softmax of an index target: w_y (1 - p_y)^gamma (-log p_y).
template <class Accumulator>
struct SoftmaxFocal : RowDefaults {
  using A = Accumulator;
  static constexpr int parameters = 1;
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
  template <class V>
  FASTLOSS_INLINE V index_mass(V weight) const {
    return weight;
  }
  // 1 - p by expm1: for a confident row the difference would cancel.
  template <class V>
  FASTLOSS_INLINE V class_loss(V log_p) const {
    return -math::power(-math::expm1(log_p), gamma) * log_p;
  }
  template <class V>
  FASTLOSS_INLINE V class_slope(V log_p) const {
    const V p = math::exp(log_p), miss = -math::expm1(log_p);
    // The slope is miss^gamma - gamma miss^(gamma - 1) p log p. At p = 1, log p / miss is -1, which leaves no pole for
    // gamma < 1 and 0 in all; at p = 0, p log p is 0.
    const V pull = (p > A(0)) & (miss > A(0)) ? p * log_p / miss : V{};
    return math::power(miss, gamma) * (A(1) - gamma * pull);
  }
  template <class V>
  FASTLOSS_INLINE RowResult<V> finish(const RowSums<V>& s) const {
    return {V{} - s.linear, s.mass};
  }
};

#define FASTLOSS_ROW_classification(LOSS) \
  LOSS(cross_entropy, CrossEntropy)       \
  LOSS(softmax_focal_loss, SoftmaxFocal)

}  // namespace fastloss
