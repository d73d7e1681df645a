// Elementary functions for loss functors, written once for every type a functor is instantiated with:
//   float, double        scalars, on the CPU and on a GPU
//   vector of float      a GCC/Clang vector type (csrc/cpu/vector.h adds the overloads before a functor is used)
// A functor calls fastloss::math::f(x) and never <cmath>, so that one body serves all of them.
#pragma once

#ifdef __CUDACC__
#define FASTLOSS_INLINE __host__ __device__ __forceinline__
#else
#include <math.h>
#define FASTLOSS_INLINE inline __attribute__((always_inline))
#endif

namespace fastloss {
namespace math {

FASTLOSS_INLINE float exp(float x) { return expf(x); }
FASTLOSS_INLINE double exp(double x) { return ::exp(x); }
FASTLOSS_INLINE float exp_nonpositive(float x) { return expf(x); }  // for x <= 0
FASTLOSS_INLINE double exp_nonpositive(double x) { return ::exp(x); }
FASTLOSS_INLINE float expm1(float x) { return expm1f(x); }
FASTLOSS_INLINE double expm1(double x) { return ::expm1(x); }
FASTLOSS_INLINE float log(float x) { return logf(x); }
FASTLOSS_INLINE double log(double x) { return ::log(x); }
FASTLOSS_INLINE float log1p(float x) { return log1pf(x); }
FASTLOSS_INLINE double log1p(double x) { return ::log1p(x); }
FASTLOSS_INLINE float log1p_unit(float x) { return log1pf(x); }  // for x in [-1/2, 1]
FASTLOSS_INLINE double log1p_unit(double x) { return ::log1p(x); }
FASTLOSS_INLINE float tanh(float x) { return tanhf(x); }
FASTLOSS_INLINE double tanh(double x) { return ::tanh(x); }
// tanh(x), and exp(-2 |x|), which a vector has on its way there
FASTLOSS_INLINE float tanh(float x, float& decay) { return decay = expf(-2.0f * fabsf(x)), tanhf(x); }
FASTLOSS_INLINE double tanh(double x, double& decay) { return decay = ::exp(-2.0 * ::fabs(x)), ::tanh(x); }

// Of any of the types; NaN in, NaN out.
template <class V>
FASTLOSS_INLINE V abs(V x) {
  return (x < V{}) ? -x : x;
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

}  // namespace math
}  // namespace fastloss
