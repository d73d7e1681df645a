// Functions that several losses are made of, from the elementary ones of vmath.h, for the same types. Included after
// the vector overloads of those (csrc/cpu/vector.h), where there are any.
#pragma once

#include "../vmath.h"

namespace fastloss {
namespace math {

// log(1 + exp(x)), without overflow, and accurate where it is nearly 0
template <class V>
FASTLOSS_INLINE V softplus(V x) {
  return maximum(x, V{}) + log1p_unit(exp(-abs(x)));
}
template <class V>
FASTLOSS_INLINE V log_sigmoid(V x) {
  return -softplus(-x);
}

// A sigmoid and its relatives from one exponential and one logarithm.
template <class V>
struct Sigmoid {
  V value;           // s(x) = 1 / (1 + exp(-x))
  V complement;      // 1 - s(x), as accurate
  V log_value;       // log s(x) = -softplus(-x)
  V log_complement;  // log(1 - s(x)) = -softplus(x)
};
template <class V>
FASTLOSS_INLINE Sigmoid<V> sigmoids(V x) {
  const V decay = exp(-abs(x));
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
  const V decay = exp(-abs(x));
  return ((x < V{}) ? decay : V{} + 1.0f) / (decay + 1.0f);
}

// log(1 - exp(x)) for x <= 0: each half where it keeps its digits (Maechler 2012)
template <class V>
FASTLOSS_INLINE V log1mexp(V x) {
  return (x > V{} - 0.693147180559945309f) ? log(-expm1(x)) : log1p(-exp(x));
}

// x log(y), 0 where x is 0 whatever y is, except NaN
template <class V>
FASTLOSS_INLINE V xlogy(V x, V y) {
  return ((x == V{}) & (y == y)) ? V{} : x * log(y);
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
