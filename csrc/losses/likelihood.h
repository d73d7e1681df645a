// Negative log-likelihoods and the Kullback-Leibler divergence, element by element; see contracts/pointwise.h for what
// a functor is. Special values are torch's, NaN gradients included: its formulas are kept term by term where the order
// decides.
#pragma once
#include "contracts/pointwise.h"

namespace fastloss {

// (log v + (input - target)^2 / v) / 2, v = max(variance, eps), plus log(2 pi) / 2 if full. Operands: input, target,
// variance. The bound lets the gradient through, as torch's clamp without grad mode does.
template <class Accumulator>
struct GaussianNLL : PointwiseLoss<3, 2> {
  using A = Accumulator;
  static constexpr const char* requirement = "var has negative entry/entries";
  A constant, eps;

  FASTLOSS_INLINE explicit GaussianNLL(const double* parameters)
      : constant(A(parameters[0] != 0 ? 0.918938533204672742 : 0.0)), eps(A(parameters[1])) {}

  template <class V>
  FASTLOSS_INLINE auto valid(const V (&x)[3]) const {
    return (x[2] >= V{}) | (x[2] != x[2]);
  }
  template <class V>
  FASTLOSS_INLINE Element<V, 3> operator()(const V (&x)[3]) const {
    const V r = x[0] - x[1], v = math::maximum(x[2], V{} + eps), scaled = r / v;
    Element<V, 3> e;
    e.loss = A(0.5) * (math::log(v) + r * scaled) + constant;
    e.derivative[0] = scaled;
    e.derivative[1] = -scaled;
    e.derivative[2] = A(0.5) * (A(1) / v - scaled * scaled);
    return e;
  }
};

// log b + |input - target| / b, b = max(scale, eps), plus log 2 if full. Operands: input, target, scale.
template <class Accumulator>
struct LaplaceNLL : PointwiseLoss<3, 2> {
  using A = Accumulator;
  static constexpr const char* requirement = "scale has negative entry/entries";
  A constant, eps;

  FASTLOSS_INLINE explicit LaplaceNLL(const double* parameters)
      : constant(A(parameters[0] != 0 ? 0.693147180559945309 : 0.0)), eps(A(parameters[1])) {}

  template <class V>
  FASTLOSS_INLINE auto valid(const V (&x)[3]) const {
    return (x[2] >= V{}) | (x[2] != x[2]);
  }
  template <class V>
  FASTLOSS_INLINE Element<V, 3> operator()(const V (&x)[3]) const {
    const V r = x[0] - x[1], b = math::maximum(x[2], V{} + eps), deviations = math::abs(r) / b;
    Element<V, 3> e;
    e.loss = math::log(b) + deviations + constant;
    e.derivative[0] = math::sign(r) / b;
    e.derivative[1] = -e.derivative[0];
    e.derivative[2] = (A(1) - deviations) / b;
    return e;
  }
};

// exp(x) - t x for x the logarithm of the rate, or x - t log(x + eps) for the rate itself; plus, if full and t > 1,
// Stirling's t log t - t + log(2 pi t) / 2.
template <class Accumulator>
struct PoissonNLL : PointwiseLoss<2, 3> {
  using A = Accumulator;
  bool log_input, full;
  A eps;

  FASTLOSS_INLINE explicit PoissonNLL(const double* parameters)
      : log_input(parameters[0] != 0), full(parameters[1] != 0), eps(A(parameters[2])) {}

  template <class V>
  FASTLOSS_INLINE Element<V, 2> operator()(const V (&x)[2]) const {
    const V t = x[1];
    Element<V, 2> e;
    if (log_input) {
      const V rate = math::exp(x[0]);
      e.loss = rate - t * x[0];
      e.derivative[0] = rate - t;
      e.derivative[1] = -x[0];
    } else {
      const V rate = x[0] + eps, log_rate = math::log(rate);
      e.loss = x[0] - t * log_rate;
      e.derivative[0] = A(1) - t / rate;
      e.derivative[1] = -log_rate;
    }
    if (full) {
      const V zero{}, log_t = math::log(t);
      const auto small = t <= zero + A(1);
      const V stirling = t * log_t - t + A(0.5) * log_t + A(0.918938533204672742);
      e.loss = e.loss + (small ? zero : stirling);
      // torch's: NaN for t <= 0 and an infinite t, but 0 for the least t > 0, whose reciprocal is infinite
      e.derivative[1] += small ? zero * log_t + zero / t : log_t + A(0.5) / t + (t / t - A(1));
    }
    return e;
  }
};

// t (log t - x), 0 for t = 0, or exp(t) (t - x) where the target is a logarithm as well. Operands: x, t.
template <class Accumulator>
struct KLDivergence : PointwiseLoss<2, 1> {
  using A = Accumulator;
  bool log_target;

  FASTLOSS_INLINE explicit KLDivergence(const double* parameters) : log_target(parameters[0] != 0) {}

  template <class V>
  FASTLOSS_INLINE Element<V, 2> operator()(const V (&x)[2]) const {
    const V t = x[1];
    Element<V, 2> e;
    if (log_target) {
      const V probability = math::exp(t);
      e.loss = probability * (t - x[0]);
      e.derivative[0] = -probability;
      e.derivative[1] = e.loss + probability;
    } else {
      const V log_t = math::log(t);
      e.loss = ((t == V{}) ? V{} : t * log_t) - t * x[0];
      e.derivative[0] = -t;
      e.derivative[1] = log_t + t / t - x[0];
    }
    return e;
  }
};

#define FASTLOSS_POINTWISE_likelihood(LOSS) \
  LOSS(gaussian_nll_loss, GaussianNLL)      \
  LOSS(laplace_nll_loss, LaplaceNLL)        \
  LOSS(poisson_nll_loss, PoissonNLL)        \
  LOSS(kl_div, KLDivergence)

}  // namespace fastloss
