// Policy losses of group-relative optimisation and its relatives; see contracts/pointwise.h for what a functor is.
//
// A rule is the loss of a token by the ratio of two policies. Grpo puts around a rule what all have: the weight of the
// sampler, the distance to the reference, the entropy, and what is logged.
#pragma once
#include "../contracts/pointwise.h"

namespace fastloss {

enum PolicyOperand {
  kLogp,
  kOldLogp,
  kAdvantage,
  kRefLogp,
  kEntropy,
  kSamplingWeight,
  kSequence,  // statistic of the sequence: the logarithm of its ratio, or of its weight
  kSelected,  // is the token one of those that the rule treats differently?
  kPolicyOperands
};
enum PolicyParameter {
  kClip,
  kClipHigh,
  kDelta,
  kLogRatioClamp,
  kBeta,
  kKlKind,
  kKlBiasCorrection,
  kEntropyCoefficient,
  kSapoPositive,
  kSapoNegative,
  kVespoExponentPositive,
  kVespoRatePositive,
  kVespoExponentNegative,
  kVespoRateNegative,
  kDroBeta,
  kKlCovCoefficient,
  kPolicyParameters
};

// What a rule sees.
template <class V>
struct PolicyToken {
  V logp, old_logp, advantage, sequence, selected;
  V ratio, slope;  // of the token or of its sequence; its derivative by its logarithm, 0 beyond the clamp
};
// What it says. The shares are 1 where the rule holds the policy back: on a ratio that has fallen, or risen; or at all.
template <class V>
struct PolicyTerm {
  V loss, by_log_ratio{}, by_logp{};
  V low{}, high{}, acts{};
};

// -min(min(r, delta) A, clamp(r, 1 - clip, 1 + clip_high) A). The derivative is that of the branch which is the loss.
template <class A>
struct ClippedRule {
  A low, high, delta;
  FASTLOSS_INLINE explicit ClippedRule(const double* p)
      : low(A(1.0 - p[kClip])), high(A(1.0 + p[kClipHigh])), delta(A(p[kDelta])) {}

  template <class V>
  FASTLOSS_INLINE PolicyTerm<V> operator()(const PolicyToken<V>& t) const {
    const V zero{}, one = zero + A(1);
    const V free = -t.advantage * math::minimum(t.ratio, V(zero + delta));
    const V bound = -t.advantage * math::clamp(t.ratio, V(zero + low), V(zero + high));
    const V slope = -t.advantage * t.slope;
    const auto below = t.ratio < V(zero + low);
    const auto above = t.ratio > V(zero + high);
    const auto beyond = t.ratio > V(zero + delta);
    const auto falls = t.advantage < zero;
    const auto rises = t.advantage > zero;
    const V of_bound = (below | above) ? zero : slope, of_free = beyond ? zero : slope;
    PolicyTerm<V> e;
    e.loss = math::maximum(free, bound);
    e.by_log_ratio = (bound > free) ? of_bound : of_free;
    e.low = (falls & below) ? one : zero;
    e.high = ((rises & above) | (falls & beyond)) ? one : zero;
    e.acts = math::maximum(e.low, e.high);
    return e;
  }
};

// -r A, r the geometric mean of clipped ratios: what is clipped is in the sequence's statistic.
template <class A>
struct GeometricRule {
  A low, high;
  FASTLOSS_INLINE explicit GeometricRule(const double* p) : low(A(-p[kClip])), high(A(p[kClipHigh])) {}

  template <class V>
  FASTLOSS_INLINE PolicyTerm<V> operator()(const PolicyToken<V>& t) const {
    const V zero{}, one = zero + A(1);
    const V log_ratio = t.logp - t.old_logp;
    PolicyTerm<V> e;
    e.loss = -t.advantage * t.ratio;
    e.by_log_ratio = -t.advantage * t.slope;
    e.low = ((t.advantage < zero) & (log_ratio < V(zero + low))) ? one : zero;
    e.high = ((t.advantage > zero) & (log_ratio > V(zero + high))) ? one : zero;
    e.acts = e.low + e.high;
    return e;
  }
};

// coefficient * logp, with a constant coefficient
template <class V>
FASTLOSS_INLINE PolicyTerm<V> of_likelihood(V coefficient, V logp) {
  PolicyTerm<V> e;
  e.loss = coefficient * logp;
  e.by_logp = coefficient;
  return e;
}

// -clamp(r, low, high) A logp
template <class A>
struct WeightedRule {
  A low, high;
  FASTLOSS_INLINE WeightedRule(double low, double high) : low(A(low)), high(A(high)) {}

  template <class V>
  FASTLOSS_INLINE PolicyTerm<V> operator()(const PolicyToken<V>& t) const {
    const V zero{}, one = zero + A(1);
    const V ratio = math::clamp(t.ratio, V(zero + low), V(zero + high));
    PolicyTerm<V> e = of_likelihood(V(-ratio * t.advantage), t.logp);
    e.low = (t.ratio < V(zero + low)) ? one : zero;
    e.high = (t.ratio > V(zero + high)) ? one : zero;
    e.acts = e.low + e.high;
    return e;
  }
};
template <class A>
struct CispoRule : WeightedRule<A> {
  FASTLOSS_INLINE explicit CispoRule(const double* p) : WeightedRule<A>(1.0 - p[kClip], 1.0 + p[kClipHigh]) {}
};
template <class A>
struct CispoAbsoluteRule : WeightedRule<A> {  // a ratio is not negative: nothing is too small
  FASTLOSS_INLINE explicit CispoAbsoluteRule(const double* p) : WeightedRule<A>(-1.0, p[kClipHigh]) {}
};

// -(4 / t) s(t (r - 1)) A
template <class A>
struct SapoRule {
  A positive, negative;
  FASTLOSS_INLINE explicit SapoRule(const double* p) : positive(A(p[kSapoPositive])), negative(A(p[kSapoNegative])) {}

  template <class V>
  FASTLOSS_INLINE PolicyTerm<V> operator()(const PolicyToken<V>& t) const {
    const V zero{};
    const V temperature = (t.advantage > zero) ? zero + positive : zero + negative;
    const V moved = temperature * (t.ratio - A(1));
    const V gate = math::sigmoid(moved), scaled = A(-4) * t.advantage * gate;
    PolicyTerm<V> e;
    e.loss = scaled / temperature;
    e.by_log_ratio = scaled * math::sigmoid(V(-moved)) * t.slope;
    return e;
  }
};

// -v^k exp(lambda (1 - v)) A logp, with the weight v of the sequence
template <class A>
struct VespoRule {
  A exponent[2], rate[2];
  FASTLOSS_INLINE explicit VespoRule(const double* p)
      : exponent{A(p[kVespoExponentPositive]), A(p[kVespoExponentNegative])},
        rate{A(p[kVespoRatePositive]), A(p[kVespoRateNegative])} {}

  template <class V>
  FASTLOSS_INLINE PolicyTerm<V> operator()(const PolicyToken<V>& t) const {
    const V zero{};
    const V log_weight = math::clamp(t.sequence, V(zero + A(kLeastLogWeight)), V(zero + A(kLargestLogWeight)));
    const auto not_worse = t.advantage >= zero;
    const V k = not_worse ? zero + exponent[0] : zero + exponent[1];
    const V lambda = not_worse ? zero + rate[0] : zero + rate[1];
    const V weight = math::exp(V(k * log_weight - lambda * math::expm1(log_weight)));
    return of_likelihood(V(-weight * t.advantage), t.logp);
  }

  static constexpr double kLeastLogWeight = -18.420680743952367;  // log(1e-8)
  static constexpr double kLargestLogWeight = 20.0;
};

// -min(r, delta) A logp inside a trust region, else 0
template <class A>
struct TrustRegion {
  A low, high, delta;
  FASTLOSS_INLINE explicit TrustRegion(const double* p)
      : low(A(p[kClip])), high(A(p[kClipHigh])), delta(A(p[kDelta])) {}

  template <class V, class Mask>
  FASTLOSS_INLINE PolicyTerm<V> within(const PolicyToken<V>& t, Mask inside) const {
    const V zero{}, one = zero + A(1);
    const V acts = inside ? zero : one;
    const V weight = math::minimum(t.ratio, V(zero + delta)) * (one - acts);  // NaN stays NaN
    PolicyTerm<V> e = of_likelihood(V(-weight * t.advantage), t.logp);
    e.acts = acts;
    e.high = (t.advantage > zero) ? e.acts : zero;
    e.low = e.acts - e.high;
    return e;
  }
};
template <class A>
struct TotalVariationRule : TrustRegion<A> {
  using TrustRegion<A>::TrustRegion;

  template <class V>
  FASTLOSS_INLINE PolicyTerm<V> operator()(const PolicyToken<V>& t) const {
    const V zero{};
    const V moved = math::exp(t.logp) - math::exp(t.old_logp);
    // one comparison for both signs: by how much it has moved to where the advantage pulls, and may
    const V towards = (t.advantage > zero) ? moved : -moved;
    const V limit = (t.advantage > zero) ? zero + this->high : zero + this->low;
    return this->within(t, towards <= limit);
  }
};
template <class A>
struct DivergenceRule : TrustRegion<A> {  // of two outcomes, the token or any other
  using TrustRegion<A>::TrustRegion;

  template <class V>
  FASTLOSS_INLINE PolicyTerm<V> operator()(const PolicyToken<V>& t) const {
    const V zero{}, tiny = zero + A(1e-30);  // where nothing is left its logarithm is not needed
    const V probability = math::exp(t.logp), old = math::exp(t.old_logp);
    const V rest = math::maximum(V(-math::expm1(t.logp)), zero);
    const V old_rest = math::maximum(V(-math::expm1(t.old_logp)), zero);
    const V divergence =
        old * (t.old_logp - t.logp) + old_rest * (math::log(V(old_rest + tiny)) - math::log(V(rest + tiny)));
    const V moved = probability - old;
    const V towards = (t.advantage > zero) ? moved : -moved;
    const V limit = (t.advantage > zero) ? zero + this->high : zero + this->low;
    return this->within(t, (divergence <= limit) | (towards <= zero));
  }
};

// -A logp
template <class A>
struct LikelihoodRule {
  FASTLOSS_INLINE explicit LikelihoodRule(const double*) {}

  template <class V>
  FASTLOSS_INLINE PolicyTerm<V> operator()(const PolicyToken<V>& t) const {
    return of_likelihood(V(-t.advantage), t.logp);
  }
};

// -A logp + beta / 2 (logp - old_logp)^2
template <class A>
struct SquaredRule {
  A beta;
  FASTLOSS_INLINE explicit SquaredRule(const double* p) : beta(A(p[kDroBeta])) {}

  template <class V>
  FASTLOSS_INLINE PolicyTerm<V> operator()(const PolicyToken<V>& t) const {
    const V log_ratio = t.logp - t.old_logp;
    PolicyTerm<V> e;
    e.loss = A(0.5) * beta * log_ratio * log_ratio - t.advantage * t.logp;
    e.by_logp = beta * log_ratio - t.advantage;
    return e;
  }
};

// The clipped surrogate, 0 where selected.
template <class A>
struct WithoutSelectedRule : ClippedRule<A> {
  using ClippedRule<A>::ClippedRule;

  template <class V>
  FASTLOSS_INLINE PolicyTerm<V> operator()(const PolicyToken<V>& t) const {
    const V zero{}, one = zero + A(1);
    PolicyTerm<V> e = ClippedRule<A>::operator()(t);
    const auto selected = t.selected != zero;
    e.loss = selected ? zero : e.loss;
    e.by_log_ratio = selected ? zero : e.by_log_ratio;
    e.acts = selected ? one : e.acts;
    return e;
  }
};

// -r A, and coefficient |logp - old_logp| more where selected
template <class A>
struct HeldRule {
  A coefficient;
  FASTLOSS_INLINE explicit HeldRule(const double* p) : coefficient(A(p[kKlCovCoefficient])) {}

  template <class V>
  FASTLOSS_INLINE PolicyTerm<V> operator()(const PolicyToken<V>& t) const {
    const V zero{};
    const V log_ratio = t.logp - t.old_logp;
    PolicyTerm<V> e;
    const auto selected = t.selected != zero;
    e.acts = selected ? zero + A(1) : zero;
    e.loss = (selected ? coefficient * math::abs(log_ratio) : zero) - t.advantage * t.ratio;  // 0 * inf otherwise
    e.by_log_ratio = -t.advantage * t.slope;
    e.by_logp = selected ? coefficient * math::sign(log_ratio) : zero;
    return e;
  }
};

// An estimate of the divergence from the reference and its slope, of d = logp - ref_logp. The second four kinds take
// the slope of k2.
template <class A>
struct KlEstimate {
  int kind;
  A limit;
  FASTLOSS_INLINE KlEstimate(double kind, double limit) : kind(int(kind)), limit(A(limit)) {}

  template <class V>
  FASTLOSS_INLINE V operator()(V d, V& slope) const {
    const V zero{};
    V value = d;
    slope = zero + A(1);
    if (kind % 4 == 1) {
      value = A(0.5) * d * d;
      slope = d;
    } else if (kind % 4 == 2) {
      const V clamped = math::clamp(V(-d), V(zero - limit), V(zero + limit));
      value = math::expm1_minus(clamped);
      slope = (clamped == -d) ? -math::expm1(clamped) : zero;
    } else if (kind % 4 == 3) {
      value = math::abs(d);
      slope = math::sign(d);
    }
    if (kind >= 4) slope = d;
    return value;
  }
};

template <class Accumulator, template <class> class Rule, bool kRatioOfSequence = false>
struct Grpo : PointwiseLoss<kPolicyOperands, kPolicyParameters, 11> {
  using A = Accumulator;
  Rule<A> rule;
  KlEstimate<A> estimate;
  A limit, beta, entropy_coefficient;
  bool corrected;

  FASTLOSS_INLINE explicit Grpo(const double* p)
      : rule(p),
        estimate(p[kKlKind], p[kLogRatioClamp]),
        limit(A(p[kLogRatioClamp])),
        beta(A(p[kBeta])),
        entropy_coefficient(A(p[kEntropyCoefficient])),
        corrected(p[kKlBiasCorrection] != 0.0) {}

  enum {
    kPolicyLoss,
    kKl,
    kEntropyMean,
    kClipFraction,
    kClipFractionLow,
    kClipFractionHigh,
    kApproxKl,
    kApproxKlK1,
    kRatioMean,
    kRatioMin,
    kRatioMax
  };
  static constexpr MetricKind metric_kind(int index) {
    if (index == kRatioMin) return kMinMetric;
    if (index == kRatioMax) return kMaxMetric;
    return index == kPolicyLoss ? kPartMetric : kMeanMetric;
  }

  template <class V>
  FASTLOSS_INLINE Element<V, kPolicyOperands, 11> operator()(const V (&x)[kPolicyOperands]) const {
    const V zero{};
    const V difference = kRatioOfSequence ? x[kSequence] : x[kLogp] - x[kOldLogp];
    const V log_ratio = math::clamp(difference, V(zero - limit), V(zero + limit));
    const V ratio = math::exp(log_ratio), slope = (difference == log_ratio) ? ratio : zero;
    const PolicyTerm<V> policy =
        rule(PolicyToken<V>{x[kLogp], x[kOldLogp], x[kAdvantage], x[kSequence], x[kSelected], ratio, slope});
    const V weight = x[kSamplingWeight];
    Element<V, kPolicyOperands, 11> e;
    e.loss = weight * policy.loss;
    e.metric[kPolicyLoss] = e.loss;
    V by_log_ratio = weight * policy.by_log_ratio;
    V by_logp = weight * policy.by_logp;
    if (beta != A(0)) {
      V kl_slope;
      V kl = estimate(V(x[kLogp] - x[kRefLogp]), kl_slope);
      if (corrected) {
        by_log_ratio += beta * kl * slope;
        kl_slope = kl_slope * ratio;
        kl = kl * ratio;
      }
      by_logp += beta * kl_slope;
      e.loss += beta * kl;
      e.metric[kKl] = kl;
    }
    e.loss -= entropy_coefficient * x[kEntropy];
    e.derivative[kEntropy] = zero - entropy_coefficient;
    e.derivative[kLogp] = kRatioOfSequence ? by_logp : by_logp + by_log_ratio;
    if (kRatioOfSequence) e.derivative[kSequence] = by_log_ratio;
    e.metric[kEntropyMean] = x[kEntropy];
    e.metric[kClipFraction] = policy.acts;
    e.metric[kClipFractionLow] = policy.low;
    e.metric[kClipFractionHigh] = policy.high;
    e.metric[kApproxKl] = math::expm1_minus(log_ratio);
    e.metric[kApproxKlK1] = -log_ratio;
    e.metric[kRatioMean] = ratio;
    e.metric[kRatioMin] = ratio;
    e.metric[kRatioMax] = ratio;
    return e;
  }
};
// clang-format off
template <class A> using GrpoClipped = Grpo<A, ClippedRule>;
template <class A> using GspoClipped = Grpo<A, ClippedRule, true>;
template <class A> using GrpoGeometric = Grpo<A, GeometricRule, true>;
template <class A> using GrpoCispo = Grpo<A, CispoRule>;
template <class A> using GrpoCispoAbsolute = Grpo<A, CispoAbsoluteRule>;
template <class A> using GrpoSapo = Grpo<A, SapoRule>;
template <class A> using GrpoVespo = Grpo<A, VespoRule>;
template <class A> using GrpoTotalVariation = Grpo<A, TotalVariationRule>;
template <class A> using GrpoDivergence = Grpo<A, DivergenceRule>;
template <class A> using GrpoLikelihood = Grpo<A, LikelihoodRule>;
template <class A> using GrpoSquared = Grpo<A, SquaredRule>;
template <class A> using GrpoWithoutSelected = Grpo<A, WithoutSelectedRule>;
template <class A> using GrpoHeld = Grpo<A, HeldRule>;

#define FASTLOSS_POINTWISE_grpo(LOSS)               \
  LOSS(grpo_loss_grpo, GrpoClipped)                 \
  LOSS(grpo_loss_gspo, GspoClipped)                 \
  LOSS(grpo_loss_gmpo, GrpoGeometric)               \
  LOSS(grpo_loss_cispo, GrpoCispo)                  \
  LOSS(grpo_loss_cispo_absolute, GrpoCispoAbsolute) \
  LOSS(grpo_loss_sapo, GrpoSapo)                    \
  LOSS(grpo_loss_vespo, GrpoVespo)                  \
  LOSS(grpo_loss_dppo_tv, GrpoTotalVariation)       \
  LOSS(grpo_loss_dppo_kl, GrpoDivergence)           \
  LOSS(grpo_loss_gpg, GrpoLikelihood)               \
  LOSS(grpo_loss_dro, GrpoSquared)                  \
  LOSS(grpo_loss_clip_cov, GrpoWithoutSelected)     \
  LOSS(grpo_loss_kl_cov, GrpoHeld)
// clang-format on

}  // namespace fastloss
