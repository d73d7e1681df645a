// Numbers of a row of logits and the class that an index names, all from one reading; see contracts/row.h.
#pragma once
#include "contracts/row.h"

namespace fastloss {

// Of z = softcap * tanh(scale * x / softcap) / temperature, p = softmax(z) and the class y:
//   log p_y, entropy -sum p log p, log sum exp z, mean of z, log sum p^2, whether z_y is the largest, its rank (how
//   many are larger), max z, log sum exp(z - max z), whose derivative is taken as if the maximum were a constant.
// kSums says which sums over the classes are kept: none (log p_y, log sum exp z, the largest), that of the entropy,
// all. What is not kept is 0 in the outputs. The log-prob has the same bits whatever is kept beside it.
template <class Accumulator, int kSums>
struct SelectiveLogSoftmax : RowDefaults {
  using A = Accumulator;
  static constexpr int parameters = 3;  // temperature, softcap (0: none), scale of the logits
  static constexpr int outputs = 9, sums = kSums;
  static constexpr bool plain = false;
  enum : int { kLogProb, kEntropy, kLogSumExp, kMean, kLogSquares, kLargest, kRank, kMax, kLogSum };
  enum : int { kOfEntropy, kOfLogits, kOfSquares, kOfRank };  // sums

  A softcap, scale_to_tanh, factor, z_to_tanh, inverse_classes;  // factor: of what tanh returns, or of x

  FASTLOSS_INLINE SelectiveLogSoftmax(const double* parameters, long long classes)
      : softcap(A(parameters[1])),
        scale_to_tanh(A(parameters[1] > 0 ? parameters[2] / parameters[1] : 0.0)),
        factor(A((parameters[1] > 0 ? parameters[1] : parameters[2]) / parameters[0])),
        z_to_tanh(A(parameters[1] > 0 ? parameters[0] / parameters[1] : 0.0)),
        inverse_classes(A(1.0 / double(classes))) {}

  FASTLOSS_INLINE bool linear() const { return !(softcap > A(0)); }
  FASTLOSS_INLINE bool dense(bool) const { return false; }
  template <class V>
  FASTLOSS_INLINE V logit(V x) const {
    if (!linear()) x = math::tanh(x * scale_to_tanh);
    return x * factor;
  }
  template <class V>
  FASTLOSS_INLINE V slope(V z) const {
    const V one = V{} + A(1);
    if (linear()) return one * factor;
    const V capped = z * z_to_tanh;
    return (one - capped * capped) * (factor * scale_to_tanh);
  }
  template <class V>
  FASTLOSS_INLINE V mass(V, V) const {
    return V{};
  }
  template <class V>
  FASTLOSS_INLINE V index_mass(V) const {
    return V{} + A(1);
  }

  template <class V>
  FASTLOSS_INLINE void terms(const RowClass<V>& c, V (&sum)[own_sums<SelectiveLogSoftmax>]) const {
    sum[kOfEntropy] = (c.p == V{}) ? V{} : c.p * c.from_max;
    if constexpr (kSums > 1) {
      sum[kOfLogits] = c.z;
      sum[kOfSquares] = c.p * c.p;
      sum[kOfRank] = (c.z > c.z_y) ? V{} + A(1) : V{};
    }
  }
  template <class V>
  static FASTLOSS_INLINE void rebase(V (&sum)[own_sums<SelectiveLogSoftmax>], const RowShift<V>& s) {
    sum[kOfEntropy] = s.scale * (sum[kOfEntropy] + s.shift * s.sum);
    if constexpr (kSums > 1) sum[kOfSquares] *= s.scale * s.scale;
  }

  // sum_j p_j (z_j - max)
  template <class V>
  static FASTLOSS_INLINE V mean_from_max(const RowTotals<SelectiveLogSoftmax, V>& row) {
    return row.own[kOfEntropy] * math::exp_nonpositive(-row.log_sum);
  }
  template <class V>
  FASTLOSS_INLINE void values(const RowTotals<SelectiveLogSoftmax, V>& row, V (&out)[outputs]) const {
    out[kLogProb] = (row.target - row.max) - row.log_sum;
    out[kLogSumExp] = row.max + row.log_sum;
    out[kMax] = row.max;
    out[kLogSum] = row.log_sum;
    out[kLargest] = (row.target >= row.max) ? V{} + A(1) : V{};
    out[kEntropy] = out[kMean] = out[kLogSquares] = out[kRank] = V{};
    if constexpr (kSums > 0) out[kEntropy] = row.log_sum - mean_from_max(row);
    if constexpr (kSums > 1) {
      out[kMean] = row.own[kOfLogits] * inverse_classes;
      out[kLogSquares] = math::log(row.own[kOfSquares]) - A(2) * row.log_sum;
      out[kRank] = row.own[kOfRank];
    }
  }

  template <class V>
  struct Coefficients {
    V log_prob, softmax, entropy, mean_from_max, constant;
  };
  template <class V>
  FASTLOSS_INLINE Coefficients<V> coefficients(const RowTotals<SelectiveLogSoftmax, V>& row,
                                               const V (&upstream)[outputs]) const {
    Coefficients<V> u{};
    u.log_prob = upstream[kLogProb];
    u.softmax = (upstream[kLogSumExp] + upstream[kLogSum]) - upstream[kLogProb];
    if constexpr (kSums > 0) {
      u.entropy = upstream[kEntropy];
      u.mean_from_max = mean_from_max(row);
    }
    if constexpr (kSums > 1) u.constant = upstream[kMean] * inverse_classes;
    return u;
  }
  template <class W, class V>
  FASTLOSS_INLINE W gradient(const RowClass<W>& c, const Coefficients<V>& u) const {
    W sum = c.mass * u.log_prob + c.p * u.softmax;
    if constexpr (kSums > 0) sum -= ((c.p == W{}) ? W{} : c.p * (c.from_max - u.mean_from_max)) * u.entropy;
    if constexpr (kSums > 1) sum += u.constant;
    return sum;
  }
};

template <class A>
using LogProb = SelectiveLogSoftmax<A, 0>;
template <class A>
using LogProbAndEntropy = SelectiveLogSoftmax<A, 1>;
template <class A>
using AllOfLogSoftmax = SelectiveLogSoftmax<A, 4>;

#define FASTLOSS_ROW_log_prob(LOSS)                \
  LOSS(log_softmax_of_index, LogProb)              \
  LOSS(log_softmax_and_entropy, LogProbAndEntropy) \
  LOSS(log_softmax_and_more, AllOfLogSoftmax)

}  // namespace fastloss
