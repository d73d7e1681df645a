// Elementary functions for loss functors, and what several losses are made of from them, written once for every type
// that a functor is instantiated with:
//   float, double        scalars, on the CPU and on a GPU
//   vector of float      a GCC/Clang vector type
// A functor calls fastloss::math::f(x) and never <cmath>, so that one body serves all of them.
#pragma once

#include <type_traits>

#ifdef __CUDACC__
#define FASTLOSS_INLINE __host__ __device__ __forceinline__
#else
#include <math.h>
#define FASTLOSS_INLINE inline __attribute__((always_inline))
#endif

namespace fastloss {
namespace math {

// The elementary functions of a type; of vectors in csrc/cpu/simd/vector.h. Members of a class, and not overloads: a
// functor finds those of a type, too, that is declared after it.
template <class V>
struct Elementary;

template <>
struct Elementary<float> {
  static FASTLOSS_INLINE float exp(float x) { return expf(x); }
  static FASTLOSS_INLINE float exp_nonpositive(float x) { return expf(x); }
  static FASTLOSS_INLINE float expm1(float x) { return expm1f(x); }
  static FASTLOSS_INLINE float log(float x) { return logf(x); }
  static FASTLOSS_INLINE float log1p(float x) { return log1pf(x); }
  static FASTLOSS_INLINE float log1p_unit(float x) { return log1pf(x); }
  static FASTLOSS_INLINE float log1p_unit(float x, float& inverse) { return inverse = 1.0f / (x + 1.0f), log1pf(x); }
  static FASTLOSS_INLINE float tanh(float x) { return tanhf(x); }
  static FASTLOSS_INLINE float tanh(float x, float& decay) { return decay = expf(-2.0f * fabsf(x)), tanhf(x); }
};

template <>
struct Elementary<double> {
  static FASTLOSS_INLINE double exp(double x) { return ::exp(x); }
  static FASTLOSS_INLINE double exp_nonpositive(double x) { return ::exp(x); }
  static FASTLOSS_INLINE double expm1(double x) { return ::expm1(x); }
  static FASTLOSS_INLINE double log(double x) { return ::log(x); }
  static FASTLOSS_INLINE double log1p(double x) { return ::log1p(x); }
  static FASTLOSS_INLINE double log1p_unit(double x) { return ::log1p(x); }
  static FASTLOSS_INLINE double log1p_unit(double x, double& inverse) { return inverse = 1.0 / (x + 1.0), ::log1p(x); }
  static FASTLOSS_INLINE double tanh(double x) { return ::tanh(x); }
  static FASTLOSS_INLINE double tanh(double x, double& decay) { return decay = ::exp(-2.0 * ::fabs(x)), ::tanh(x); }
};

template <class V>
FASTLOSS_INLINE V exp(V x) {
  return Elementary<V>::exp(x);
}
template <class V>
FASTLOSS_INLINE V exp_nonpositive(V x) {  // for x <= 0
  return Elementary<V>::exp_nonpositive(x);
}
template <class V>
FASTLOSS_INLINE V expm1(V x) {
  return Elementary<V>::expm1(x);
}
template <class V>
FASTLOSS_INLINE V log(V x) {
  return Elementary<V>::log(x);
}
template <class V>
FASTLOSS_INLINE V log1p(V x) {
  return Elementary<V>::log1p(x);
}
template <class V>
FASTLOSS_INLINE V log1p_unit(V x) {  // for x in [-1/2, 1]
  return Elementary<V>::log1p_unit(x);
}
// log(1 + x) likewise, and 1 / (1 + x), from one division
template <class V>
FASTLOSS_INLINE V log1p_unit(V x, V& inverse) {
  return Elementary<V>::log1p_unit(x, inverse);
}
template <class V>
FASTLOSS_INLINE V tanh(V x) {
  return Elementary<V>::tanh(x);
}
// tanh(x), and exp(-2 |x|), which a vector has on its way there
template <class V>
FASTLOSS_INLINE V tanh(V x, V& decay) {
  return Elementary<V>::tanh(x, decay);
}

// Of any of the types; NaN in, NaN out.
template <class V>
FASTLOSS_INLINE V abs(V x) {
  return (x < V{}) ? -x : x;
}
// exp(x) - 1 - x, whose parts cancel near 0: there the rest of the series, to a unit of the last place.
template <class V>
FASTLOSS_INLINE V expm1_minus(V x) {
  constexpr int last = std::is_same<V, double>::value ? 16 : 9;  // of the powers of x
  const V one = V{} + 1.0f;
  V rest = one;
  for (int k = last; k > 2; --k) rest = one + x * rest * (one / float(k));
  return (abs(x) < one * 0.5f) ? x * x * 0.5f * rest : V(expm1(x) - x);
}
template <class V>
FASTLOSS_INLINE V maximum(V a, V b) {
  return (a > b) | (a != a) ? a : b;
}
template <class V>
FASTLOSS_INLINE V minimum(V a, V b) {
  return (a < b) | (a != a) ? a : b;
}
template <class V>
FASTLOSS_INLINE V clamp(V x, V low, V high) {
  x = (x < low) ? low : x;
  return (x > high) ? high : x;
}
// -1, 0 or 1; 0 for NaN
template <class V>
FASTLOSS_INLINE V sign(V x) {
  const V zero{};
  return (x > zero) ? zero + 1.0f : (x < zero) ? zero - 1.0f : zero;
}

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
  const V zero{}, decay = exp_nonpositive(-abs(x));
  V larger;
  const V log_larger = -log1p_unit(decay, larger), smaller = decay * larger;
  const auto negative = x < zero;
  Sigmoid<V> s;
  s.value = negative ? smaller : larger;
  s.complement = negative ? larger : smaller;
  s.log_value = log_larger + (negative ? x : zero);
  s.log_complement = log_larger - (negative ? zero : x);
  return s;
}
template <class V>
FASTLOSS_INLINE V sigmoid(V x) {
  const V decay = exp_nonpositive(-abs(x));
  return ((x < V{}) ? decay : V{} + 1.0f) / (decay + 1.0f);
}

// Of an angle of a few turns, a scalar. CUDA's cos and sin have a path for huge angles too, which costs every thread 32
// to 40 bytes of stack; cospi and sinpi have none.
#ifdef __CUDA_ARCH__
FASTLOSS_INLINE float cos(float x) { return ::cospif(x * 0.318309886f); }
FASTLOSS_INLINE float sin(float x) { return ::sinpif(x * 0.318309886f); }
FASTLOSS_INLINE double cos(double x) { return ::cospi(x * 0.31830988618379067); }
FASTLOSS_INLINE double sin(double x) { return ::sinpi(x * 0.31830988618379067); }
#else
FASTLOSS_INLINE float cos(float x) { return ::cosf(x); }
FASTLOSS_INLINE float sin(float x) { return ::sinf(x); }
FASTLOSS_INLINE double cos(double x) { return ::cos(x); }
FASTLOSS_INLINE double sin(double x) { return ::sin(x); }
#endif

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
