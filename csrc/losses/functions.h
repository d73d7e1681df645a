// Functions that several losses are made of, from the elementary ones of vmath.h, for the same types. Included after
// the vector overloads of those (csrc/cpu/vector.h), where there are any.
#pragma once

#include "../vmath.h"

namespace fastloss {
namespace math {

// A sigmoid and its relatives from one exponential and one logarithm.
template <class V>
struct Sigmoid {
  V value;           // s(x) = 1 / (1 + exp(-x))
  V complement;      // 1 - s(x), as accurate
  V log_value;       // log s(x)
  V log_complement;  // log(1 - s(x))
};
template <class V>
FASTLOSS_INLINE Sigmoid<V> sigmoids(V x) {
  const V decay = exp_nonpositive(-abs(x));
  const V larger = 1.0f / (decay + 1.0f), smaller = decay * larger;
  const V log_larger = -log1p_unit(decay);
  const auto negative = x < V{};
  Sigmoid<V> s;
  s.value = negative ? smaller : larger;
  s.complement = negative ? larger : smaller;
  s.log_value = log_larger + minimum(x, V{});
  s.log_complement = log_larger - maximum(x, V{});
  return s;
}
template <class V>
FASTLOSS_INLINE V sigmoid(V x) {
  const V decay = exp_nonpositive(-abs(x));
  return ((x < V{}) ? decay : V{} + 1.0f) / (decay + 1.0f);
}

// base^exponent for base >= 0; exponent is one number of the functor's accumulator
template <class V, class A>
FASTLOSS_INLINE V power(V base, A exponent) {
  if (exponent == A(0)) return V{} + A(1);
  if (exponent == A(1)) return base;
  if (exponent == A(2)) return base * base;
  return (base == V{}) ? V{} : exp(exponent * log(base));  // exponent > 0
}

}  // namespace math
}  // namespace fastloss
