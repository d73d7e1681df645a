// Losses of reinforcement learning that take each sample (or token) alone; see contracts/pointwise.h for what a functor
// is.
//
// Where a value is clipped, the derivative is that of the branch which is the loss: 0 behind an active clip.
#pragma once
#include "value.h"

namespace fastloss {

// The clipped surrogate of one sample, with log_ratio = clamp(logp - old_logp, -log_ratio_clamp, log_ratio_clamp) and
// ratio = exp(log_ratio):
//   max(-advantage * ratio, -advantage * clamp(ratio, 1 - clip, 1 + clip_high)),
// and at most -advantage * dual_clip where the advantage is negative (dual_clip = inf: no bound).
template <class V>
struct Surrogate {
  V loss, derivative;  // by logp
  V log_ratio, ratio;
  V clipped, dual_clipped;  // 1 where the respective bound is the loss, else 0
  V divergence;             // ratio - 1 - log_ratio, the k3 estimate of KL(old || new)
};

template <class A>
struct PolicyClip {
  A low, high, dual, limit;

  FASTLOSS_INLINE explicit PolicyClip(const double* parameters)  // clip, clip_high, dual_clip, log_ratio_clamp
      : low(A(1.0 - parameters[0])), high(A(1.0 + parameters[1])), dual(A(parameters[2])), limit(A(parameters[3])) {}

  template <class V>
  FASTLOSS_INLINE Surrogate<V> operator()(V logp, V old_logp, V advantage) const {
    const V zero{}, one = V{} + A(1);
    const V difference = logp - old_logp;
    Surrogate<V> s;
    s.log_ratio = math::clamp(difference, zero - limit, zero + limit);
    s.ratio = math::exp(s.log_ratio);
    s.divergence = math::expm1_minus(s.log_ratio);
    const V free = -advantage * s.ratio;
    const V bound = -advantage * math::clamp(s.ratio, zero + low, zero + high);
    const V dual_bound = -advantage * dual;  // NaN for 0 * inf, and then not used
    s.loss = math::maximum(free, bound);
    s.derivative = ((free >= bound) & (difference == s.log_ratio)) ? free : zero;
    s.clipped = (bound > free) ? one : zero;
    const auto beyond = (advantage < zero) & (s.loss > dual_bound);
    s.loss = beyond ? dual_bound : s.loss;
    s.derivative = beyond ? zero : s.derivative;
    s.dual_clipped = beyond ? one : zero;
    return s;
  }
};

template <class Accumulator>
struct PpoClip : PointwiseLoss<3, 4, 7> {  // logp, old_logp, advantages
  using A = Accumulator;
  PolicyClip<A> surrogate;

  FASTLOSS_INLINE explicit PpoClip(const double* parameters) : surrogate(parameters) {}

  enum { kClipFraction, kDualClipFraction, kApproxKl, kApproxKlK1, kRatioMean, kRatioMin, kRatioMax };
  static constexpr MetricKind metric_kind(int index) {
    return index == kRatioMin ? kMinMetric : index == kRatioMax ? kMaxMetric : kMeanMetric;
  }

  template <class V>
  FASTLOSS_INLINE Element<V, 3, 7> operator()(const V (&x)[3]) const {
    const Surrogate<V> s = surrogate(x[0], x[1], x[2]);
    Element<V, 3, 7> e;
    e.loss = s.loss;
    e.derivative[0] = s.derivative;
    e.metric[kClipFraction] = s.clipped;
    e.metric[kDualClipFraction] = s.dual_clipped;
    e.metric[kApproxKl] = s.divergence;
    e.metric[kApproxKlK1] = -s.log_ratio;
    e.metric[kRatioMean] = s.ratio;
    e.metric[kRatioMin] = s.ratio;
    e.metric[kRatioMax] = s.ratio;
    return e;
  }
};

// policy + value_coefficient * value - entropy_coefficient * entropy
template <class Accumulator>
struct Ppo : PointwiseLoss<7, 7, 8> {  // logp, old_logp, advantages, values, returns, entropy, old_values
  using A = Accumulator;
  PolicyClip<A> surrogate;
  A value_clip, value_coefficient, entropy_coefficient;

  FASTLOSS_INLINE explicit Ppo(const double* parameters)
      : surrogate(parameters),
        value_clip(A(parameters[4])),
        value_coefficient(A(parameters[5])),
        entropy_coefficient(A(parameters[6])) {}

  enum { kPolicyLoss, kValueLoss, kEntropy, kClipFraction, kValueClipFraction, kApproxKl, kRatioMin, kRatioMax };
  static constexpr MetricKind metric_kind(int index) {
    if (index == kRatioMin) return kMinMetric;
    if (index == kRatioMax) return kMaxMetric;
    return index <= kEntropy ? kPartMetric : kMeanMetric;
  }

  template <class V>
  FASTLOSS_INLINE Element<V, 7, 8> operator()(const V (&x)[7]) const {
    const Surrogate<V> s = surrogate(x[0], x[1], x[2]);
    const ValueError<V> v = value_error(x[3], x[6], x[4], value_clip);
    const V entropy = x[5];
    Element<V, 7, 8> e;
    e.loss = s.loss + value_coefficient * v.loss - entropy_coefficient * entropy;
    e.derivative[0] = s.derivative;
    e.derivative[3] = value_coefficient * v.derivative;
    e.derivative[5] = V{} - entropy_coefficient;
    e.metric[kPolicyLoss] = s.loss;
    e.metric[kValueLoss] = v.loss;
    e.metric[kEntropy] = entropy;
    e.metric[kClipFraction] = s.clipped;
    e.metric[kValueClipFraction] = v.clipped;
    e.metric[kApproxKl] = s.divergence;
    e.metric[kRatioMin] = s.ratio;
    e.metric[kRatioMax] = s.ratio;
    return e;
  }
};

#define FASTLOSS_POINTWISE_policy(LOSS) \
  LOSS(ppo_clip_loss, PpoClip)          \
  LOSS(ppo_loss, Ppo)

}  // namespace fastloss
