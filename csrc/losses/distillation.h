// Divergences between the softmax of a row of a student's logits and that of a teacher's; see contracts/row.h.
#pragma once
#include "contracts/row.h"

namespace fastloss {

// Both rows over a temperature. The student is the row that is differentiated; the teacher is the second.
template <class Accumulator>
struct TwoSoftmaxes : RowDefaults {
  using A = Accumulator;
  static constexpr int parameters = 1;
  static constexpr bool plain = false, two_rows = true;

  A inverse_temperature;

  FASTLOSS_INLINE TwoSoftmaxes(const double* parameters, long long) : inverse_temperature(A(1.0 / parameters[0])) {}

  FASTLOSS_INLINE bool linear() const { return true; }
  FASTLOSS_INLINE bool dense(bool) const { return false; }
  template <class V>
  FASTLOSS_INLINE V logit(V x) const {
    return x * inverse_temperature;
  }
  template <class V>
  FASTLOSS_INLINE V slope(V) const {
    return V{} + inverse_temperature;
  }
  template <class V>
  FASTLOSS_INLINE V mass(V, V) const {
    return V{};
  }
  template <class V>
  FASTLOSS_INLINE V index_mass(V) const {
    return V{};
  }
  template <class V>
  struct Coefficients {
    V upstream, mean;
  };
};

// KL(teacher || student) = sum t (log t - log s)
template <class Accumulator>
struct ForwardKL : TwoSoftmaxes<Accumulator> {
  using A = Accumulator;
  static constexpr int sums = 1;
  using TwoSoftmaxes<A>::TwoSoftmaxes;

  template <class V>
  FASTLOSS_INLINE void terms(const RowClass<V>& c, V (&sum)[1]) const {
    sum[0] = (c.second_p == V{}) ? V{} : c.second_p * (c.second_from_max - c.from_max);
  }
  template <class V>
  static FASTLOSS_INLINE void rebase(V (&sum)[1], const RowShift<V>& s) {
    sum[0] = s.second_scale * (sum[0] + (s.second_shift - s.shift) * s.second_sum);
  }
  template <class V>
  FASTLOSS_INLINE void values(const RowTotals<ForwardKL, V>& row, V (&out)[1]) const {
    out[0] = row.own[0] * math::exp_nonpositive(-row.second_log_sum) + (row.log_sum - row.second_log_sum);
  }
  template <class V>
  using Coefficients = typename TwoSoftmaxes<A>::template Coefficients<V>;
  template <class V>
  FASTLOSS_INLINE Coefficients<V> coefficients(const RowTotals<ForwardKL, V>&, const V (&upstream)[1]) const {
    return {upstream[0], V{}};
  }
  template <class W, class V>
  FASTLOSS_INLINE W gradient(const RowClass<W>& c, const Coefficients<V>& u) const {
    return (c.p - c.second_p) * u.upstream;
  }
};

// KL(student || teacher) = sum s (log s - log t)
template <class Accumulator>
struct ReverseKL : TwoSoftmaxes<Accumulator> {
  using A = Accumulator;
  static constexpr int sums = 1;
  using TwoSoftmaxes<A>::TwoSoftmaxes;

  template <class V>
  FASTLOSS_INLINE void terms(const RowClass<V>& c, V (&sum)[1]) const {
    sum[0] = (c.p == V{}) ? V{} : c.p * (c.from_max - c.second_from_max);
  }
  template <class V>
  static FASTLOSS_INLINE void rebase(V (&sum)[1], const RowShift<V>& s) {
    sum[0] = s.scale * (sum[0] + (s.shift - s.second_shift) * s.sum);
  }
  // sum_j s_j ((z_j - max) - (t_j - max t))
  template <class V>
  static FASTLOSS_INLINE V mean(const RowTotals<ReverseKL, V>& row) {
    return row.own[0] * math::exp_nonpositive(-row.log_sum);
  }
  template <class V>
  FASTLOSS_INLINE void values(const RowTotals<ReverseKL, V>& row, V (&out)[1]) const {
    out[0] = mean(row) + (row.second_log_sum - row.log_sum);
  }
  template <class V>
  using Coefficients = typename TwoSoftmaxes<A>::template Coefficients<V>;
  template <class V>
  FASTLOSS_INLINE Coefficients<V> coefficients(const RowTotals<ReverseKL, V>& row, const V (&upstream)[1]) const {
    return {upstream[0], mean(row)};
  }
  template <class W, class V>
  FASTLOSS_INLINE W gradient(const RowClass<W>& c, const Coefficients<V>& u) const {
    return (c.p == W{}) ? W{} : c.p * (c.from_max - c.second_from_max - u.mean) * u.upstream;
  }
};

// A divergence D(s, t) = sum_j f(s_j, t_j) of another kind. With g_j = df/ds_j, dD/dz_j = s_j (g_j - sum_k s_k g_k), so
// that the sums of f and of s g are all there is to keep of a row. Share has f and g of a class, from s, log s, t, log
// t; s and t may be 0.
template <class Accumulator, template <class> class Share>
struct OfBothSoftmaxes : TwoSoftmaxes<Accumulator> {
  using A = Accumulator;
  static constexpr int parameters = 1 + Share<A>::parameters, expectations = 2;

  Share<A> share;

  FASTLOSS_INLINE OfBothSoftmaxes(const double* parameters, long long classes)
      : TwoSoftmaxes<A>(parameters, classes), share(parameters + 1) {}

  template <class V>
  FASTLOSS_INLINE void expect(const RowClass<V>& c, V log_p, V second_log_p, V (&sum)[2]) const {
    V slope;
    sum[0] = share(c.p, log_p, c.second_p, second_log_p, slope);
    sum[1] = (c.p == V{}) ? V{} : c.p * slope;
  }
  template <class V>
  FASTLOSS_INLINE void values(const RowTotals<OfBothSoftmaxes, V>& row, V (&out)[1]) const {
    out[0] = row.own[0];
  }
  template <class V>
  struct Coefficients {
    V upstream, mean, log_sum, second_log_sum;
  };
  template <class V>
  FASTLOSS_INLINE Coefficients<V> coefficients(const RowTotals<OfBothSoftmaxes, V>& row, const V (&upstream)[1]) const {
    return {upstream[0], row.own[1], row.log_sum, row.second_log_sum};
  }
  template <class W, class V>
  FASTLOSS_INLINE W gradient(const RowClass<W>& c, const Coefficients<V>& u) const {
    W slope;
    share(c.p, c.from_max - u.log_sum, c.second_p, c.second_from_max - u.second_log_sum, slope);
    return (c.p == W{}) ? W{} : c.p * (slope - u.mean) * u.upstream;
  }
};

// The mixture m = b t + (1 - b) s beside the softmaxes.
template <class Accumulator>
struct Mixture {
  using A = Accumulator;
  static constexpr int parameters = 1;

  A of_second, of_first;  // b, 1 - b

  FASTLOSS_INLINE explicit Mixture(const double* parameters)
      : of_second(A(parameters[0])), of_first(A(1.0 - parameters[0])) {}

  template <class V>
  struct Ratios {
    V log_over_s, log_over_t;  // log(m / s), log(m / t)
    V of_t;                    // t / m
  };
  // All relative to the larger of s and t, so that none is 0 / 0 where both underflow.
  template <class V>
  FASTLOSS_INLINE Ratios<V> ratios(V log_s, V log_t) const {
    const V step = log_t - log_s, smaller_over_larger = math::exp_nonpositive(-math::abs(step));
    const auto t_is_larger = step >= V{};
    const V larger = t_is_larger ? V{} + of_second : V{} + of_first;
    const V smaller = t_is_larger ? V{} + of_first : V{} + of_second;
    const V over_larger = larger + smaller * smaller_over_larger, log_over_larger = math::log(over_larger);
    return {t_is_larger ? log_over_larger + step : log_over_larger,
            t_is_larger ? log_over_larger : log_over_larger - step,
            (t_is_larger ? V{} + A(1) : smaller_over_larger) / over_larger};
  }
};

// b KL(t || m) + (1 - b) KL(s || m)
template <class Accumulator>
struct JensenShannon : Mixture<Accumulator> {
  using Mixture<Accumulator>::Mixture;
  template <class V>
  FASTLOSS_INLINE V operator()(V s, V log_s, V t, V log_t, V& slope) const {
    const auto m = this->ratios(log_s, log_t);
    slope = -this->of_first * m.log_over_s;
    const V of_s = (s == V{}) ? V{} : s * slope, of_t = (t == V{}) ? V{} : t * m.log_over_t;
    return of_s - this->of_second * of_t;
  }
};

// KL(t || m)
template <class Accumulator>
struct SkewedForward : Mixture<Accumulator> {
  using Mixture<Accumulator>::Mixture;
  template <class V>
  FASTLOSS_INLINE V operator()(V, V log_s, V t, V log_t, V& slope) const {
    const auto m = this->ratios(log_s, log_t);
    slope = -this->of_first * m.of_t;
    return (t == V{}) ? V{} : -t * m.log_over_t;
  }
};

// KL(s || m)
template <class Accumulator>
struct SkewedReverse : Mixture<Accumulator> {
  using Mixture<Accumulator>::Mixture;
  template <class V>
  FASTLOSS_INLINE V operator()(V s, V log_s, V, V log_t, V& slope) const {
    const auto m = this->ratios(log_s, log_t);
    slope = this->of_second * m.of_t - m.log_over_s;
    return (s == V{}) ? V{} : -s * m.log_over_s;
  }
};

// sum |t - s| / 2. By comparisons, because a compiler may fuse the product that s is into s - t, which is then not 0
// where s and t are equal.
template <class Accumulator>
struct TotalVariation {
  static constexpr int parameters = 0;
  FASTLOSS_INLINE explicit TotalVariation(const double*) {}
  template <class V>
  FASTLOSS_INLINE V operator()(V s, V, V t, V, V& slope) const {
    const V half = V{} + Accumulator(0.5);
    slope = (s > t) ? half : (s < t) ? -half : V{};
    return slope * (s - t);
  }
};

template <class A>
using Jsd = OfBothSoftmaxes<A, JensenShannon>;
template <class A>
using SkewedForwardKL = OfBothSoftmaxes<A, SkewedForward>;
template <class A>
using SkewedReverseKL = OfBothSoftmaxes<A, SkewedReverse>;
template <class A>
using Tvd = OfBothSoftmaxes<A, TotalVariation>;

#define FASTLOSS_ROW_distillation(LOSS)    \
  LOSS(forward_kl, ForwardKL)              \
  LOSS(reverse_kl, ReverseKL)              \
  LOSS(jsd, Jsd)                           \
  LOSS(skewed_forward_kl, SkewedForwardKL) \
  LOSS(skewed_reverse_kl, SkewedReverseKL) \
  LOSS(tvd, Tvd)

}  // namespace fastloss
