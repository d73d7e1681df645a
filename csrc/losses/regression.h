// Regression losses, with r = input - target; see contracts/pointwise.h for what a functor is. Derivatives at ties and
// at NaN are those of torch's own backward.
#pragma once
#include "contracts/pointwise.h"

namespace fastloss {

template <class Accumulator>
struct SquaredError : PointwiseLoss<2, 0> {  // r^2
  using A = Accumulator;

  FASTLOSS_INLINE explicit SquaredError(const double*) {}

  template <class V>
  FASTLOSS_INLINE Element<V, 2> operator()(const V (&x)[2]) const {
    const V r = x[0] - x[1];
    Element<V, 2> e;
    e.loss = r * r;
    e.derivative[0] = r + r;
    e.derivative[1] = -e.derivative[0];
    return e;
  }
};

template <class Accumulator>
struct AbsoluteError : PointwiseLoss<2, 0> {  // |r|
  using A = Accumulator;

  FASTLOSS_INLINE explicit AbsoluteError(const double*) {}

  template <class V>
  FASTLOSS_INLINE Element<V, 2> operator()(const V (&x)[2]) const {
    const V r = x[0] - x[1];
    Element<V, 2> e;
    e.loss = math::abs(r);
    e.derivative[0] = math::sign(r);
    e.derivative[1] = -e.derivative[0];
    return e;
  }
};

// r^2 / 2 up to delta, delta (|r| - delta / 2) beyond.
template <class Accumulator>
struct Huber : PointwiseLoss<2, 1> {
  using A = Accumulator;
  A delta;

  FASTLOSS_INLINE explicit Huber(const double* parameters) : delta(A(parameters[0])) {}

  template <class V>
  FASTLOSS_INLINE Element<V, 2> operator()(const V (&x)[2]) const {
    const V r = x[0] - x[1];
    const V clipped = math::clamp(r, V{} - delta, V{} + delta);
    Element<V, 2> e;
    e.loss = clipped * (r - A(0.5) * clipped);
    e.derivative[0] = clipped;
    e.derivative[1] = -clipped;
    return e;
  }
};

// r^2 / (2 beta) up to beta, |r| - beta / 2 beyond; |r| for beta = 0.
template <class Accumulator>
struct SmoothL1 : PointwiseLoss<2, 1> {
  using A = Accumulator;
  A beta, inverse_beta;

  FASTLOSS_INLINE explicit SmoothL1(const double* parameters)
      : beta(A(parameters[0])), inverse_beta(parameters[0] > 0 ? A(1 / parameters[0]) : A(0)) {}

  template <class V>
  FASTLOSS_INLINE Element<V, 2> operator()(const V (&x)[2]) const {
    const V r = x[0] - x[1];
    Element<V, 2> e;
    if (beta > A(0)) {
      const V clipped = math::clamp(r, V{} - beta, V{} + beta);
      e.derivative[0] = clipped * inverse_beta;
      e.loss = e.derivative[0] * (r - A(0.5) * clipped);
    } else {
      e.loss = math::abs(r);
      e.derivative[0] = math::sign(r);
    }
    e.derivative[1] = -e.derivative[0];
    return e;
  }
};

// With the error d = target - input: tau d above the input, (tau - 1) d below it. Operands: input, target, tau.
template <class Accumulator>
struct Quantile : PointwiseLoss<3, 0> {
  using A = Accumulator;
  static constexpr const char* requirement = "tau must be between 0 and 1";

  FASTLOSS_INLINE explicit Quantile(const double*) {}

  template <class V>
  FASTLOSS_INLINE auto valid(const V (&x)[3]) const {
    return (x[2] >= V{}) & (x[2] <= V{} + A(1));
  }
  template <class V>
  FASTLOSS_INLINE Element<V, 3> operator()(const V (&x)[3]) const {
    const V zero{}, d = x[1] - x[0], above = x[2], below = A(1) - x[2];
    Element<V, 3> e;
    e.loss = above * math::maximum(d, zero) + below * math::maximum(-d, zero);
    e.derivative[1] = ((d <= zero) ? zero : above) - ((d >= zero) ? zero : below);
    e.derivative[0] = -e.derivative[1];
    return e;
  }
};

// With the error d = target - input: tau d^2 above the input, (1 - tau) d^2 below it. Operands: input, target, tau.
template <class Accumulator>
struct Expectile : PointwiseLoss<3, 0> {
  using A = Accumulator;
  static constexpr const char* requirement = "tau must be between 0 and 1";

  FASTLOSS_INLINE explicit Expectile(const double*) {}

  template <class V>
  FASTLOSS_INLINE auto valid(const V (&x)[3]) const {
    return (x[2] >= V{}) & (x[2] <= V{} + A(1));
  }
  template <class V>
  FASTLOSS_INLINE Element<V, 3> operator()(const V (&x)[3]) const {
    const V d = x[1] - x[0];
    const V pull = ((d < V{}) ? A(1) - x[2] : x[2]) * d;
    Element<V, 3> e;
    e.loss = pull * d;
    e.derivative[1] = pull + pull;
    e.derivative[0] = -e.derivative[1];
    return e;
  }
};

// log(cosh(r)), as -log(1 - tanh(r)^2) / 2 where that keeps the digits of a small r, and as
// |r| + log(1 + exp(-2 |r|)) - log(2), which does not overflow, elsewhere: one exponential and one logarithm for both
// and for the derivative. tanh(0.875)^2 is just below 1/2, the end of log1p_unit.
template <class Accumulator>
struct LogCosh : PointwiseLoss<2, 0> {
  using A = Accumulator;

  FASTLOSS_INLINE explicit LogCosh(const double*) {}

  template <class V>
  FASTLOSS_INLINE Element<V, 2> operator()(const V (&x)[2]) const {
    V decay;
    const V r = x[0] - x[1], size = math::abs(r), slope = math::tanh(r, decay);
    const auto small = size < V{} + A(0.875);
    const V logarithm = math::log1p_unit(small ? -slope * slope : decay);
    Element<V, 2> e;
    e.loss = small ? A(-0.5) * logarithm : (size - A(0.693147180559945309)) + logarithm;
    e.derivative[0] = slope;
    e.derivative[1] = -slope;
    return e;
  }
};

#define FASTLOSS_POINTWISE_regression(LOSS) \
  LOSS(mse_loss, SquaredError)              \
  LOSS(l1_loss, AbsoluteError)              \
  LOSS(huber_loss, Huber)                   \
  LOSS(smooth_l1_loss, SmoothL1)            \
  LOSS(quantile_loss, Quantile)             \
  LOSS(expectile_loss, Expectile)           \
  LOSS(log_cosh_loss, LogCosh)

}  // namespace fastloss
