// Row losses that only the tests have: each uses what no public loss does yet (csrc/losses/contracts/row.h), in the
// smallest form. In torch they are in row_steps.py.
#pragma once
#include "../../csrc/losses/contracts/row.h"

namespace fastloss {

struct OfTests : RowDefaults {
  FASTLOSS_INLINE bool linear() const { return true; }
  FASTLOSS_INLINE bool dense(bool) const { return false; }
  template <class V>
  FASTLOSS_INLINE V mass(V, V) const {
    return V{};
  }
};

// Logits times a number.
template <class Accumulator>
struct Scaled : OfTests {
  using A = Accumulator;
  A scale;

  FASTLOSS_INLINE explicit Scaled(double scale) : scale(A(scale)) {}
  template <class V>
  FASTLOSS_INLINE V logit(V x) const {
    return x * scale;
  }
  template <class V>
  FASTLOSS_INLINE V slope(V) const {
    return V{} + scale;
  }
};

// Several outputs, a sum of its own: log p_y, the entropy, the log-sum-exp. Parameter: what the logits are multiplied
// by.
template <class Accumulator>
struct ThreeOutputs : Scaled<Accumulator> {
  using A = Accumulator;
  static constexpr int parameters = 1, outputs = 3, sums = 1;
  static constexpr bool plain = false;

  FASTLOSS_INLINE ThreeOutputs(const double* parameters, long long) : Scaled<A>(parameters[0]) {}

  template <class V>
  FASTLOSS_INLINE V index_mass(V) const {
    return V{} + A(1);
  }
  template <class V>
  FASTLOSS_INLINE void terms(const RowClass<V>& c, V (&sum)[1]) const {
    sum[0] = (c.p == V{}) ? V{} : c.p * c.from_max;
  }
  template <class V>
  static FASTLOSS_INLINE void rebase(V (&sum)[1], const RowShift<V>& s) {
    sum[0] = s.scale * (sum[0] + s.shift * s.sum);
  }
  template <class V>
  FASTLOSS_INLINE void values(const RowTotals<ThreeOutputs, V>& row, V (&out)[3]) const {
    out[0] = row.target - row.max - row.log_sum;
    out[1] = row.log_sum - row.own[0] * math::exp_nonpositive(-row.log_sum);
    out[2] = row.max + row.log_sum;
  }
  template <class V>
  struct Coefficients {
    V log_p, entropy, log_sum_exp, mean;
  };
  template <class V>
  FASTLOSS_INLINE Coefficients<V> coefficients(const RowTotals<ThreeOutputs, V>& row, const V (&upstream)[3]) const {
    return {upstream[0], upstream[1], upstream[2], row.own[0] * math::exp_nonpositive(-row.log_sum)};
  }
  template <class W, class V>
  FASTLOSS_INLINE W gradient(const RowClass<W>& c, const Coefficients<V>& u) const {
    const W of_entropy = (c.p == W{}) ? W{} : c.p * (c.from_max - u.mean);
    return c.mass * u.log_p + c.p * (u.log_sum_exp - u.log_p) - of_entropy * u.entropy;
  }
};

// A target's logit of its own: cross-entropy of s cos(angle), s cos(angle + m) for the target. Parameters: s, m.
template <class Accumulator>
struct Margin : Scaled<Accumulator> {
  using A = Accumulator;
  static constexpr int parameters = 2;
  static constexpr bool margin = true;

  A inverse_scale, cosine, sine;  // of m

  FASTLOSS_INLINE Margin(const double* parameters, long long)
      : Scaled<A>(parameters[0]),
        inverse_scale(A(1 / parameters[0])),
        cosine(A(cos(parameters[1]))),
        sine(A(sin(parameters[1]))) {}

  FASTLOSS_INLINE A target_logit(A z) const {
    const A c = z * inverse_scale;
    return this->scale * (c * cosine - sqrt(A(1) - c * c) * sine);
  }
  FASTLOSS_INLINE A target_slope(A z) const {
    const A c = z * inverse_scale;
    return cosine + c / sqrt(A(1) - c * c) * sine;
  }
  FASTLOSS_INLINE A index_mass(A weight) const { return weight; }
  FASTLOSS_INLINE RowResult<A> finish(const RowSums<A>& s) const { return {s.mass * s.log_sum - s.linear, s.mass}; }
};

// Two rows: KL(softmax of the second || softmax of the first). Parameter: what both are multiplied by.
template <class Accumulator>
struct TwoRows : Scaled<Accumulator> {
  using A = Accumulator;
  static constexpr int parameters = 1, sums = 1;
  static constexpr bool plain = false, two_rows = true;

  FASTLOSS_INLINE TwoRows(const double* parameters, long long) : Scaled<A>(parameters[0]) {}

  template <class V>
  FASTLOSS_INLINE V index_mass(V) const {
    return V{};
  }
  template <class V>
  FASTLOSS_INLINE void terms(const RowClass<V>& c, V (&sum)[1]) const {
    sum[0] = (c.second_p == V{}) ? V{} : c.second_p * (c.second_from_max - c.from_max);
  }
  template <class V>
  static FASTLOSS_INLINE void rebase(V (&sum)[1], const RowShift<V>& s) {
    sum[0] = s.second_scale * (sum[0] + (s.second_shift - s.shift) * s.second_sum);
  }
  template <class V>
  FASTLOSS_INLINE void values(const RowTotals<TwoRows, V>& row, V (&out)[1]) const {
    out[0] = row.own[0] * math::exp_nonpositive(-row.second_log_sum) + row.log_sum - row.second_log_sum;
  }
  template <class V>
  struct Coefficients {
    V upstream;
  };
  template <class V>
  FASTLOSS_INLINE Coefficients<V> coefficients(const RowTotals<TwoRows, V>&, const V (&upstream)[1]) const {
    return {upstream[0]};
  }
  template <class W, class V>
  FASTLOSS_INLINE W gradient(const RowClass<W>& c, const Coefficients<V>& u) const {
    return (c.p - c.second_p) * u.upstream;
  }
};

#define FASTLOSS_ROW_more(LOSS)     \
  LOSS(three_outputs, ThreeOutputs) \
  LOSS(margin, Margin)              \
  LOSS(two_rows, TwoRows)

}  // namespace fastloss
