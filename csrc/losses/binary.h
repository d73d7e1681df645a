// Losses of binary labels: probabilities, logits, margins; see contracts/pointwise.h for what a functor is.
#pragma once
#include "contracts/pointwise.h"

namespace fastloss {

// weight ((t - 1) log(1 - p) - t log(p)) with logarithms of at least -100. Operands: p, t, weight. The derivatives are
// torch's: (p - t) / max(p (1 - p), 1e-12), and, in t, from the logarithms without their bound.
template <class Accumulator>
struct BinaryCrossEntropy : PointwiseLoss<3, 0> {
  using A = Accumulator;
  static constexpr const char* requirement = "all elements of input and target should be between 0 and 1";
  static constexpr bool raises_value_error = false;

  FASTLOSS_INLINE explicit BinaryCrossEntropy(const double*) {}

  template <class V>
  FASTLOSS_INLINE auto valid(const V (&x)[3]) const {
    const V zero{}, one = V{} + A(1);
    return (x[0] >= zero) & (x[0] <= one) & (x[1] >= zero) & (x[1] <= one);
  }
  template <class V>
  FASTLOSS_INLINE Element<V, 3> operator()(const V (&x)[3]) const {
    const V p = x[0], t = x[1], lowest = V{} - A(100);
    const V log_p = math::log(p), log_rest = math::log1p(-p);
    Element<V, 3> e;
    e.loss = x[2] * ((t - A(1)) * math::maximum(log_rest, lowest) - t * math::maximum(log_p, lowest));
    e.derivative[0] =
        x[2] * (p - t) / math::maximum((A(1) - p) * p, V{} + A(1e-12f));  // a float in torch, for doubles too
    e.derivative[1] = x[2] * (log_rest - log_p);
    return e;
  }
};

// weight (-positive t log s(x) - (1 - t) log(1 - s(x))), s the sigmoid. Operands: x, t, weight, positive. As the part
// of it that grows with |x| and the logarithm of the nearer of both probabilities, which cannot cancel for t in [0, 1]:
// torch's (1 - t) x - log s(x) does for x << 0. Nor do two terms of a huge t meet, of which one would be infinite.
template <class Accumulator>
struct BinaryCrossEntropyWithLogits : PointwiseLoss<4, 0> {
  using A = Accumulator;

  FASTLOSS_INLINE explicit BinaryCrossEntropyWithLogits(const double*) {}

  template <class V>
  FASTLOSS_INLINE Element<V, 4> operator()(const V (&x)[4]) const {
    const math::Sigmoid<V> s = math::sigmoids(x[0]);
    const V one = V{} + A(1), weight = x[2], positive = x[3], present = positive * x[1], absent = A(1) - x[1];
    const auto negative = x[0] < V{}, plain = positive == one;
    const V both = plain ? one : present + absent, log_nearer = negative ? s.log_complement : s.log_value;
    Element<V, 4> e;
    e.loss = weight * ((negative ? present : absent) * math::abs(x[0]) - both * log_nearer);
    e.derivative[0] = weight * (absent * s.value - present * s.complement);
    e.derivative[1] = weight * (plain ? -x[0] : s.log_complement - positive * s.log_value);
    return e;
  }
};

// Focal loss on logits: a (1 - p_t)^gamma times the binary cross-entropy, with 1 - p_t = s(x) (1 - t) + (1 - s(x)) t
// and a = alpha t + (1 - alpha) (1 - t), or 1 for a negative alpha.
template <class Accumulator>
struct SigmoidFocal : PointwiseLoss<2, 2> {
  using A = Accumulator;
  A alpha, gamma;

  FASTLOSS_INLINE explicit SigmoidFocal(const double* parameters) : alpha(A(parameters[0])), gamma(A(parameters[1])) {}

  template <class V>
  FASTLOSS_INLINE Element<V, 2> operator()(const V (&x)[2]) const {
    const math::Sigmoid<V> s = math::sigmoids(x[0]);
    const V t = x[1], absent = A(1) - t, one = V{} + A(1);
    const V entropy = -(t * s.log_value + absent * s.log_complement);
    const V miss = s.value * absent + s.complement * t;  // 1 - p_t
    V modulation, slope;                                 // miss^gamma, and its derivative in miss
    if (gamma == A(2)) {
      modulation = miss * miss;
      slope = miss + miss;
    } else if (gamma == A(1)) {
      modulation = miss;
      slope = one;
    } else if (gamma == A(0)) {
      modulation = one;
      slope = V{};
    } else {
      modulation = math::power(miss, gamma);
      slope =
          (miss == V{}) ? V{} : gamma * (modulation / miss);  // for gamma < 1: 0, not the pole, where miss underflows
    }
    const V a = (alpha < A(0)) ? one : alpha * t + (A(1) - alpha) * absent;
    const V rise = s.value * s.complement * (absent - t);  // of miss with x
    V by_input = modulation * (s.value * absent - s.complement * t), by_target = -modulation * x[0];
    if (gamma != A(0)) {  // an infinite logit would make a NaN of the slope 0
      by_input += slope * rise * entropy;
      by_target += slope * (s.complement - s.value) * entropy;
    }
    Element<V, 2> e;
    e.loss = a * modulation * entropy;
    e.derivative[0] = a * by_input;
    e.derivative[1] = a * by_target;
    if (alpha >= A(0)) e.derivative[1] += (A(2) * alpha - A(1)) * modulation * entropy;  // a changes with t
    return e;
  }
};

// log(1 + exp(-t x)). Torch's own overflows to inf, with a NaN gradient, from -t x > 88; this one does not.
template <class Accumulator>
struct SoftMargin : PointwiseLoss<2, 0> {
  using A = Accumulator;

  FASTLOSS_INLINE explicit SoftMargin(const double*) {}

  template <class V>
  FASTLOSS_INLINE Element<V, 2> operator()(const V (&x)[2]) const {
    const math::Sigmoid<V> s = math::sigmoids(x[0] * x[1]);
    Element<V, 2> e;
    e.loss = -s.log_value;
    e.derivative[0] = -x[1] * s.complement;
    return e;
  }
};

// x where t = 1, max(0, margin - x) where t = -1; their sum for any other t, as in torch.
template <class Accumulator>
struct HingeEmbedding : PointwiseLoss<2, 1> {
  using A = Accumulator;
  A margin;

  FASTLOSS_INLINE explicit HingeEmbedding(const double* parameters) : margin(A(parameters[0])) {}

  template <class V>
  FASTLOSS_INLINE Element<V, 2> operator()(const V (&x)[2]) const {
    const V zero{}, one = V{} + A(1), gap = margin - x[0];
    const auto alike = x[1] == one, apart = x[1] == -one;
    Element<V, 2> e;
    e.loss = (alike ? zero : math::maximum(gap, zero)) + (apart ? zero : x[0]);
    e.derivative[0] = (apart ? zero : one) - (alike ? zero : (gap >= zero) ? one : zero);
    return e;
  }
};

// max(0, margin - t (x1 - x2)). Operands: x1, x2, t. Torch's clamp lets the gradient through at the kink.
template <class Accumulator>
struct MarginRanking : PointwiseLoss<3, 1> {
  using A = Accumulator;
  A margin;

  FASTLOSS_INLINE explicit MarginRanking(const double* parameters) : margin(A(parameters[0])) {}

  template <class V>
  FASTLOSS_INLINE Element<V, 3> operator()(const V (&x)[3]) const {
    const V zero{}, difference = x[0] - x[1], gap = margin - x[2] * difference;
    const V active = (gap >= zero) ? zero + A(1) : zero;
    Element<V, 3> e;
    e.loss = math::maximum(gap, zero);
    e.derivative[1] = active * x[2];
    e.derivative[0] = -e.derivative[1];
    e.derivative[2] = -active * difference;
    return e;
  }
};

// max(0, margin - t x), or its square.
template <class Accumulator>
struct Hinge : PointwiseLoss<2, 2> {
  using A = Accumulator;
  A margin;
  bool squared;

  FASTLOSS_INLINE explicit Hinge(const double* parameters) : margin(A(parameters[0])), squared(parameters[1] != 0) {}

  template <class V>
  FASTLOSS_INLINE Element<V, 2> operator()(const V (&x)[2]) const {
    const V zero{}, gap = margin - x[1] * x[0], violation = math::maximum(gap, zero);
    const V pull = (gap <= zero) ? zero : -x[1];
    Element<V, 2> e;
    e.loss = squared ? violation * violation : violation;
    e.derivative[0] = squared ? (violation + violation) * pull : pull;
    return e;
  }
};

#define FASTLOSS_POINTWISE_binary(LOSS)                                \
  LOSS(binary_cross_entropy, BinaryCrossEntropy)                       \
  LOSS(binary_cross_entropy_with_logits, BinaryCrossEntropyWithLogits) \
  LOSS(sigmoid_focal_loss, SigmoidFocal)                               \
  LOSS(soft_margin_loss, SoftMargin)                                   \
  LOSS(hinge_embedding_loss, HingeEmbedding)                           \
  LOSS(margin_ranking_loss, MarginRanking)                             \
  LOSS(hinge_loss, Hinge)

}  // namespace fastloss
