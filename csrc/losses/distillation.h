// Divergences between the softmax of a row of a student's logits and that of a teacher's; see contracts/row.h.
#pragma once
#include "contracts/row.h"

namespace fastloss {

// Both rows over a temperature. The student is the row that is differentiated; the teacher is the second.
template <class Accumulator>
struct TwoSoftmaxes : RowDefaults {
  using A = Accumulator;
  static constexpr int parameters = 1, sums = 1;
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

#define FASTLOSS_ROW_distillation(LOSS) \
  LOSS(forward_kl, ForwardKL)           \
  LOSS(reverse_kl, ReverseKL)

}  // namespace fastloss
