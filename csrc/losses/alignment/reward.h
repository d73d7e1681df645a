// Rewards, and distances to a reference policy; see contracts/pointwise.h for what a functor is.
#pragma once
#include "../contracts/pointwise.h"

namespace fastloss {

// ------------------------------------------------------------------------------------- distance to a reference policy
// d = logp - ref_logp. The derivative is that of the formula. (logp, ref_logp); parameter: the bound of |d| for k3.

template <class Accumulator>
struct KlK1 : PointwiseLoss<2, 1> {  // d
  using A = Accumulator;
  FASTLOSS_INLINE explicit KlK1(const double*) {}

  template <class V>
  FASTLOSS_INLINE Element<V, 2> operator()(const V (&x)[2]) const {
    Element<V, 2> e;
    e.loss = x[0] - x[1];
    e.derivative[0] = V{} + A(1);
    return e;
  }
};

template <class Accumulator>
struct KlK2 : PointwiseLoss<2, 1> {  // d^2 / 2
  using A = Accumulator;
  FASTLOSS_INLINE explicit KlK2(const double*) {}

  template <class V>
  FASTLOSS_INLINE Element<V, 2> operator()(const V (&x)[2]) const {
    const V difference = x[0] - x[1];
    Element<V, 2> e;
    e.loss = A(0.5) * difference * difference;
    e.derivative[0] = difference;
    return e;
  }
};

template <class Accumulator>
struct KlK3 : PointwiseLoss<2, 1> {  // exp(-d) - 1 + d, with d clamped
  using A = Accumulator;
  A limit;
  FASTLOSS_INLINE explicit KlK3(const double* parameters) : limit(A(parameters[0])) {}

  template <class V>
  FASTLOSS_INLINE Element<V, 2> operator()(const V (&x)[2]) const {
    const V zero{};
    const V difference = x[1] - x[0];
    const V clamped = math::clamp(difference, zero - limit, zero + limit);
    Element<V, 2> e;
    e.loss = math::expm1_minus(clamped);
    e.derivative[0] = (clamped == difference) ? -math::expm1(clamped) : zero;
    return e;
  }
};

template <class Accumulator>
struct KlAbs : PointwiseLoss<2, 1> {  // |d|
  using A = Accumulator;
  FASTLOSS_INLINE explicit KlAbs(const double*) {}

  template <class V>
  FASTLOSS_INLINE Element<V, 2> operator()(const V (&x)[2]) const {
    const V difference = x[0] - x[1];
    Element<V, 2> e;
    e.loss = math::abs(difference);
    e.derivative[0] = math::sign(difference);
    return e;
  }
};

// ------------------------------------------------------------------------------------------------------ reward models

// What is logged of a pair: the rewards, their difference, and whether the chosen one is larger. Further metrics of a
// loss come after these.
enum RewardMetric { kChosenReward, kRejectedReward, kRewardMargin, kAccuracy, kRewardMetrics };

template <class E, class V>
FASTLOSS_INLINE void log_rewards(E& e, V chosen, V rejected) {
  const V margin = chosen - rejected;
  e.metric[kChosenReward] = chosen;
  e.metric[kRejectedReward] = rejected;
  e.metric[kRewardMargin] = margin;
  e.metric[kAccuracy] = (margin > V{}) ? V{} + 1.0f : V{};
}

// Bradley-Terry: -log s(chosen - rejected - margin) + center_coefficient (chosen + rejected)^2
template <class Accumulator>
struct RewardModel : PointwiseLoss<3, 1, 6> {
  using A = Accumulator;
  A center_coefficient;

  FASTLOSS_INLINE explicit RewardModel(const double* parameters) : center_coefficient(A(parameters[0])) {}

  enum { kRankingLoss = kRewardMetrics, kCenterLoss };
  static constexpr MetricKind metric_kind(int index) { return index < kRewardMetrics ? kMeanMetric : kPartMetric; }

  template <class V>
  FASTLOSS_INLINE Element<V, 3, 6> operator()(const V (&x)[3]) const {
    const math::Sigmoid<V> s = math::sigmoids(V(x[0] - x[1] - x[2]));
    const V sum = x[0] + x[1];
    const V center = center_coefficient * sum * sum, by_sum = A(2) * center_coefficient * sum;
    Element<V, 3, 6> e;
    e.loss = center - s.log_value;
    e.derivative[0] = by_sum - s.complement;
    e.derivative[1] = by_sum + s.complement;
    log_rewards(e, x[0], x[1]);
    e.metric[kRankingLoss] = -s.log_value;
    e.metric[kCenterLoss] = center;
    return e;
  }
};

#define FASTLOSS_POINTWISE_reward(LOSS) \
  LOSS(kl_penalty_k1, KlK1)             \
  LOSS(kl_penalty_k2, KlK2)             \
  LOSS(kl_penalty_k3, KlK3)             \
  LOSS(kl_penalty_abs, KlAbs)           \
  LOSS(reward_model_loss, RewardModel)

}  // namespace fastloss
