// Losses of alignment: heads on log-probs of sequences or pairs of them; see contracts/pointwise.h for what a functor
// is.
#pragma once
#include "reward.h"

namespace fastloss {

// ------------------------------------------------------------------------------------------------- pairs of sequences
// A kind of preference loss is a function of the rewards of a pair: of their margin m = chosen - rejected alone, or of
// both.

struct PairOptions {
  double beta, label_smoothing, tau;  // the last of DiscoPOP
};

template <class V>
struct PairLoss {
  V loss, by_chosen, by_rejected;
};
template <class V>
FASTLOSS_INLINE PairLoss<V> of_margin(V loss, V slope) {
  return {loss, slope, -slope};
}

// -keep log s(m) - flip log s(-m): the label is right with probability 1 - smoothing. Without smoothing there is no
// second term, which would make a NaN of an infinite margin.
template <class A>
struct SigmoidKind {
  A keep, flip;
  FASTLOSS_INLINE explicit SigmoidKind(const PairOptions& o)
      : keep(A(1.0 - o.label_smoothing)), flip(A(o.label_smoothing)) {}

  template <class V>
  FASTLOSS_INLINE PairLoss<V> operator()(V chosen, V rejected) const {
    const math::Sigmoid<V> s = math::sigmoids(V(chosen - rejected));
    const V loss = -keep * s.log_value;
    if (flip == A(0)) return of_margin(loss, V(-keep * s.complement));
    return of_margin(V(loss - flip * s.log_complement), V(flip * s.value - keep * s.complement));
  }
};

// the same, corrected so that flipped labels leave its expectation unchanged
template <class A>
struct RobustKind : SigmoidKind<A> {
  FASTLOSS_INLINE explicit RobustKind(const PairOptions& o) : SigmoidKind<A>(o) {
    this->keep = A((1.0 - o.label_smoothing) / (1.0 - 2.0 * o.label_smoothing));
    this->flip = A(-o.label_smoothing / (1.0 - 2.0 * o.label_smoothing));
  }
};

// max(0, 1 - m)
template <class A>
struct HingeKind {
  FASTLOSS_INLINE explicit HingeKind(const PairOptions&) {}

  template <class V>
  FASTLOSS_INLINE PairLoss<V> operator()(V chosen, V rejected) const {
    const V zero{};
    const V gap = A(1) - (chosen - rejected);
    return of_margin(math::maximum(gap, zero), V((gap > zero) ? zero - A(1) : zero));
  }
};

// (m / beta - 1 / (2 beta))^2
template <class A>
struct IpoKind {
  A inverse;
  FASTLOSS_INLINE explicit IpoKind(const PairOptions& o) : inverse(A(1.0 / o.beta)) {}

  template <class V>
  FASTLOSS_INLINE PairLoss<V> operator()(V chosen, V rejected) const {
    const V gap = (chosen - rejected - A(0.5)) * inverse;
    return of_margin(V(gap * gap), V(A(2) * inverse * gap));
  }
};

// KL((s(m), s(-m)) || (1 - smoothing, smoothing))
template <class A>
struct ExoKind {
  A log_keep, log_flip;
  FASTLOSS_INLINE explicit ExoKind(const PairOptions& o)
      : log_keep(A(math::log1p(-o.label_smoothing))), log_flip(A(math::log(o.label_smoothing))) {}

  template <class V>
  FASTLOSS_INLINE PairLoss<V> operator()(V chosen, V rejected) const {
    const V margin = chosen - rejected;
    const math::Sigmoid<V> s = math::sigmoids(margin);
    return of_margin(V(s.value * (s.log_value - log_keep) + s.complement * (s.log_complement - log_flip)),
                     V(s.value * s.complement * (margin - log_keep + log_flip)));
  }
};

// -log s(chosen) - (log s(-chosen) + log s(-rejected)) / 2
template <class A>
struct NcaKind {
  FASTLOSS_INLINE explicit NcaKind(const PairOptions&) {}

  template <class V>
  FASTLOSS_INLINE PairLoss<V> operator()(V chosen, V rejected) const {
    const math::Sigmoid<V> c = math::sigmoids(chosen), r = math::sigmoids(rejected);
    return {V(-c.log_value - A(0.5) * (c.log_complement + r.log_complement)), V(A(0.5) * c.value - c.complement),
            V(A(0.5) * r.value)};
  }
};

// 1 - s(chosen) + s(rejected)
template <class A>
struct ApoZeroKind {
  FASTLOSS_INLINE explicit ApoZeroKind(const PairOptions&) {}

  template <class V>
  FASTLOSS_INLINE PairLoss<V> operator()(V chosen, V rejected) const {
    const V c = math::sigmoid(V(-chosen)), r = math::sigmoid(rejected);
    return {V(c + r), V(-c * math::sigmoid(chosen)), V(r * math::sigmoid(V(-rejected)))};
  }
};

// s(chosen) + 1 - s(m)
template <class A>
struct ApoDownKind {
  FASTLOSS_INLINE explicit ApoDownKind(const PairOptions&) {}

  template <class V>
  FASTLOSS_INLINE PairLoss<V> operator()(V chosen, V rejected) const {
    const V margin = chosen - rejected;
    const V c = math::sigmoid(chosen), m = math::sigmoid(V(-margin));
    const V slope = m * math::sigmoid(margin);
    return {V(c + m), V(c * math::sigmoid(V(-chosen)) - slope), slope};
  }
};

// ((chosen - 1/2)^2 + (rejected + 1/2)^2) / beta^2
template <class A>
struct SppoKind {
  A inverse;
  FASTLOSS_INLINE explicit SppoKind(const PairOptions& o) : inverse(A(1.0 / o.beta)) {}

  template <class V>
  FASTLOSS_INLINE PairLoss<V> operator()(V chosen, V rejected) const {
    const V c = (chosen - A(0.5)) * inverse, r = (rejected + A(0.5)) * inverse;
    return {V(c * c + r * r), V(A(2) * inverse * c), V(A(2) * inverse * r)};
  }
};

// -log s(chosen) - log s(-rejected)
template <class A>
struct BcoKind {
  FASTLOSS_INLINE explicit BcoKind(const PairOptions&) {}

  template <class V>
  FASTLOSS_INLINE PairLoss<V> operator()(V chosen, V rejected) const {
    const math::Sigmoid<V> c = math::sigmoids(chosen), r = math::sigmoids(rejected);
    return {V(-c.log_value - r.log_complement), V(-c.complement), r.value};
  }
};

// -log s(m) (1 - g) + exp(-m) g, with g = s(m / tau)
template <class A>
struct DiscoPopKind {
  A inverse;
  FASTLOSS_INLINE explicit DiscoPopKind(const PairOptions& o) : inverse(A(1.0 / o.tau)) {}

  template <class V>
  FASTLOSS_INLINE PairLoss<V> operator()(V chosen, V rejected) const {
    const V margin = chosen - rejected;
    const math::Sigmoid<V> s = math::sigmoids(margin), g = math::sigmoids(V(margin * inverse));
    const V tail = math::exp(V(g.log_value - margin));  // exp(-m) alone overflows where its weight is 0
    const V steep = inverse * g.complement;
    return of_margin(V(tail - s.log_value * g.complement),
                     V(tail * (steep - A(1)) - s.complement * g.complement + s.log_value * g.value * steep));
  }
};

// reward = beta (logp - reference logp). Policy's chosen and rejected, reference's chosen and rejected.
template <class Accumulator, template <class> class Kind>
struct Dpo : PointwiseLoss<4, 3, 4> {  // beta, label_smoothing, discopop_tau
  using A = Accumulator;
  A beta;
  Kind<A> kind;

  FASTLOSS_INLINE explicit Dpo(const double* parameters)
      : beta(A(parameters[0])), kind(PairOptions{parameters[0], parameters[1], parameters[2]}) {}

  template <class V>
  FASTLOSS_INLINE Element<V, 4, 4> operator()(const V (&x)[4]) const {
    const V chosen = beta * (x[0] - x[2]), rejected = beta * (x[1] - x[3]);
    const PairLoss<V> pair = kind(chosen, rejected);
    Element<V, 4, 4> e;
    e.loss = pair.loss;
    e.derivative[0] = beta * pair.by_chosen;
    e.derivative[1] = beta * pair.by_rejected;
    log_rewards(e, chosen, rejected);
    return e;
  }
};

// The likelihood of the chosen sequence alone.
template <class Accumulator>
struct DpoSft : PointwiseLoss<4, 3, 4> {
  using A = Accumulator;
  A beta;

  FASTLOSS_INLINE explicit DpoSft(const double* parameters) : beta(A(parameters[0])) {}

  template <class V>
  FASTLOSS_INLINE Element<V, 4, 4> operator()(const V (&x)[4]) const {
    Element<V, 4, 4> e;
    e.loss = -x[0];
    e.derivative[0] = V{} - A(1);
    log_rewards(e, V(beta * (x[0] - x[2])), V(beta * (x[1] - x[3])));
    return e;
  }
};
// clang-format off
template <class A> using DpoSigmoid = Dpo<A, SigmoidKind>;
template <class A> using DpoRobust = Dpo<A, RobustKind>;
template <class A> using DpoHinge = Dpo<A, HingeKind>;
template <class A> using DpoIpo = Dpo<A, IpoKind>;
template <class A> using DpoExo = Dpo<A, ExoKind>;
template <class A> using DpoNca = Dpo<A, NcaKind>;
template <class A> using DpoApoZero = Dpo<A, ApoZeroKind>;
template <class A> using DpoApoDown = Dpo<A, ApoDownKind>;
template <class A> using DpoSppo = Dpo<A, SppoKind>;
template <class A> using DpoBco = Dpo<A, BcoKind>;
template <class A> using DpoDiscoPop = Dpo<A, DiscoPopKind>;
// clang-format on

// reward = beta * mean logp; the chosen one is to be larger by gamma.
template <class Accumulator, template <class> class Kind>
struct SimPo : PointwiseLoss<2, 3, 4> {  // beta, gamma, label_smoothing
  using A = Accumulator;
  A beta, gamma;
  Kind<A> kind;

  FASTLOSS_INLINE explicit SimPo(const double* parameters)
      : beta(A(parameters[0])), gamma(A(parameters[1])), kind(PairOptions{parameters[0], parameters[2], 0.0}) {}

  template <class V>
  FASTLOSS_INLINE Element<V, 2, 4> operator()(const V (&x)[2]) const {
    const V chosen = beta * x[0], rejected = beta * x[1];
    const PairLoss<V> pair = kind(V(beta * (x[0] - x[1])), V(V{} + gamma));
    Element<V, 2, 4> e;
    e.loss = pair.loss;
    e.derivative[0] = beta * pair.by_chosen;
    e.derivative[1] = beta * pair.by_rejected;
    log_rewards(e, chosen, rejected);
    return e;
  }
};
// clang-format off
template <class A> using SimPoSigmoid = SimPo<A, SigmoidKind>;
template <class A> using SimPoHinge = SimPo<A, HingeKind>;
// clang-format on

// The margin is beta (chosen - rejected), of log-probs; then the likelihood of the chosen one, unless alpha is 0.
template <class Accumulator, template <class> class Kind>
struct Cpo : PointwiseLoss<2, 3, 6> {  // beta, label_smoothing, alpha
  using A = Accumulator;
  A beta, alpha;
  Kind<A> kind;

  FASTLOSS_INLINE explicit Cpo(const double* parameters)
      : beta(A(parameters[0])), alpha(A(parameters[2])), kind(PairOptions{parameters[0], parameters[1], 0.0}) {}

  enum { kPreferenceLoss = kRewardMetrics, kNllLoss };
  static constexpr MetricKind metric_kind(int index) { return index < kRewardMetrics ? kMeanMetric : kPartMetric; }

  template <class V>
  FASTLOSS_INLINE Element<V, 2, 6> operator()(const V (&x)[2]) const {
    const PairLoss<V> pair = kind(V(beta * (x[0] - x[1])), V{});
    Element<V, 2, 6> e;
    e.loss = pair.loss;
    e.derivative[0] = beta * pair.by_chosen;
    e.derivative[1] = beta * pair.by_rejected;
    if (alpha != A(0)) {
      e.loss -= alpha * x[0];
      e.derivative[0] -= alpha;
    }
    log_rewards(e, V(beta * x[0]), V(beta * x[1]));
    e.metric[kPreferenceLoss] = pair.loss;
    e.metric[kNllLoss] = -x[0];
    return e;
  }
};
// clang-format off
template <class A> using CpoSigmoid = Cpo<A, SigmoidKind>;
template <class A> using CpoHinge = Cpo<A, HingeKind>;
template <class A> using CpoIpo = Cpo<A, IpoKind>;
// clang-format on

// -beta log s(log odds of chosen - log odds of rejected) - sft_coefficient * chosen, of mean log-probs, where
// log odds(y) = y - log(1 - exp(y)).
template <class Accumulator>
struct OrPo : PointwiseLoss<2, 2, 7> {  // beta, sft_coefficient
  using A = Accumulator;
  A beta, sft_coefficient;

  FASTLOSS_INLINE explicit OrPo(const double* parameters) : beta(A(parameters[0])), sft_coefficient(A(parameters[1])) {}

  enum { kLogOdds = kRewardMetrics, kOddsLoss, kSftLoss };
  static constexpr MetricKind metric_kind(int index) { return index < kOddsLoss ? kMeanMetric : kPartMetric; }

  template <class V>
  FASTLOSS_INLINE Element<V, 2, 7> operator()(const V (&x)[2]) const {
    const V zero{};
    V logp[2], complement[2];
    for (int side = 0; side < 2; ++side) {
      // A log-prob of 0 has infinite odds; the bound, and the derivative 0 beyond it, keep the difference finite.
      logp[side] = math::minimum(x[side], V(zero - A(kOddsBound)));
      // log(1 - exp(y)) by one formula: where expm1 rounds to -1, y is below -16, and what is lost is an ulp of it.
      complement[side] = -math::expm1(logp[side]);
    }
    // One division and one logarithm for both sides. A complement is at least 1e-7, so that their product is normal.
    const V reciprocal = A(1) / (complement[0] * complement[1]);
    V slope[2] = {complement[1] * reciprocal, complement[0] * reciprocal};
    const V log_odds = logp[0] - logp[1] + math::log(V(complement[1] * slope[0]));
    for (int side = 0; side < 2; ++side) slope[side] = (x[side] > logp[side]) ? zero : slope[side];
    const math::Sigmoid<V> s = math::sigmoids(log_odds);
    Element<V, 2, 7> e;
    e.loss = -beta * s.log_value - sft_coefficient * x[0];
    e.derivative[0] = -beta * s.complement * slope[0] - sft_coefficient;
    e.derivative[1] = beta * s.complement * slope[1];
    log_rewards(e, V(beta * x[0]), V(beta * x[1]));
    e.metric[kLogOdds] = log_odds;
    e.metric[kOddsLoss] = -beta * s.log_value;
    e.metric[kSftLoss] = -x[0];
    return e;
  }

  static constexpr double kOddsBound = 1e-7;
};

// -------------------------------------------------------------------------------------------------- unpaired sequences
// reward = beta (logp - reference logp). Policy, reference, desirable (0 or not), kl.

template <class Accumulator, bool kAgainstKl>
struct Kto : PointwiseLoss<4, 3, 3> {  // beta, desirable_weight, undesirable_weight
  using A = Accumulator;
  A beta, desirable_weight, undesirable_weight;

  FASTLOSS_INLINE explicit Kto(const double* parameters)
      : beta(A(parameters[0])), desirable_weight(A(parameters[1])), undesirable_weight(A(parameters[2])) {}

  enum { kDesirableReward, kUndesirableReward, kDesirableFraction };

  template <class V>
  FASTLOSS_INLINE Element<V, 4, 3> operator()(const V (&x)[4]) const {
    const V zero{}, one = V{} + A(1);
    const V log_ratio = x[0] - x[1];
    const V reward = beta * log_ratio;
    const V value = kAgainstKl ? beta * (log_ratio - math::maximum(x[3], zero)) : reward;
    const auto desirable = x[2] != zero;
    const V weight = desirable ? zero + desirable_weight : zero - undesirable_weight;  // signed
    const V toward = math::sigmoid(V(desirable ? -value : value));                     // what is to become 0
    const V away = math::sigmoid(V(desirable ? value : -value));
    Element<V, 4, 3> e;
    e.loss = math::abs(weight) * toward;
    e.derivative[0] = -beta * weight * toward * away;
    e.metric[kDesirableReward] = desirable ? reward : zero;
    e.metric[kUndesirableReward] = desirable ? zero : reward;
    e.metric[kDesirableFraction] = desirable ? one : zero;
    return e;
  }
};
// clang-format off
template <class A> using KtoKl = Kto<A, true>;
template <class A> using KtoApoZero = Kto<A, false>;

#define FASTLOSS_POINTWISE_preference(LOSS)          \
  LOSS(dpo_loss_sigmoid, DpoSigmoid)              \
  LOSS(dpo_loss_robust, DpoRobust)                \
  LOSS(dpo_loss_hinge, DpoHinge)                  \
  LOSS(dpo_loss_ipo, DpoIpo)                      \
  LOSS(dpo_loss_exo_pair, DpoExo)                 \
  LOSS(dpo_loss_nca_pair, DpoNca)                 \
  LOSS(dpo_loss_apo_zero, DpoApoZero)             \
  LOSS(dpo_loss_apo_down, DpoApoDown)             \
  LOSS(dpo_loss_sppo_hard, DpoSppo)               \
  LOSS(dpo_loss_bco_pair, DpoBco)                 \
  LOSS(dpo_loss_discopop, DpoDiscoPop)            \
  LOSS(dpo_loss_sft, DpoSft)                      \
  LOSS(simpo_loss_sigmoid, SimPoSigmoid)          \
  LOSS(simpo_loss_hinge, SimPoHinge)              \
  LOSS(cpo_loss_sigmoid, CpoSigmoid)              \
  LOSS(cpo_loss_hinge, CpoHinge)                  \
  LOSS(cpo_loss_ipo, CpoIpo)                      \
  LOSS(orpo_loss, OrPo)                           \
  LOSS(kto_loss_kto, KtoKl)                       \
  LOSS(kto_loss_apo_zero_unpaired, KtoApoZero)
// clang-format on

}  // namespace fastloss
