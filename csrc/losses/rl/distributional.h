// Losses of distributions of returns, over all pairs of a source and a target; see contracts/outer.h for what a functor
// is.
#pragma once
#include "../contracts/outer.h"

namespace fastloss {

// |tau - [u < 0]| H(u), with u = target - source and Huber's H(u) = u^2 / 2 up to kappa, kappa (|u| - kappa / 2)
// beyond; |u| for kappa = 0. Operand: tau.
template <class Accumulator>
struct QuantileHuber {
  using A = Accumulator;
  static constexpr int operands = 1, parameters = 1;
  A kappa, scale;

  FASTLOSS_INLINE explicit QuantileHuber(const double* parameters, double scale = 1)
      : kappa(A(parameters[0])), scale(A(scale)) {}

  template <class V>
  FASTLOSS_INLINE Pair<V> operator()(V source, V target, const V (&x)[1]) const {
    const V u = target - source;
    const V above = x[0] * scale, below = (A(1) - x[0]) * scale;
    const V pull = (u < V{}) ? below : above;
    if (kappa > A(0)) {
      const V clipped = math::clamp(u, V{} - kappa, V{} + kappa);
      const V slope = pull * clipped;
      return {slope * (u - A(0.5) * clipped), -slope};
    }
    return {pull * math::abs(u), -(pull * math::sign(u))};
  }
};

// The same with H(u) / kappa.
template <class Accumulator>
struct ImplicitQuantile : QuantileHuber<Accumulator> {
  FASTLOSS_INLINE explicit ImplicitQuantile(const double* parameters)
      : QuantileHuber<Accumulator>(parameters, parameters[0] > 0 ? 1 / parameters[0] : 1) {}
};

// clang-format off
#define FASTLOSS_OUTER_distributional(LOSS)  \
  LOSS(quantile_huber_loss, QuantileHuber)   \
  LOSS(iqn_loss, ImplicitQuantile)
// clang-format on

}  // namespace fastloss
