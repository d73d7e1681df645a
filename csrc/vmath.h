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
FASTLOSS_INLINE float log(float x) { return logf(x); }
FASTLOSS_INLINE double log(double x) { return ::log(x); }
FASTLOSS_INLINE float tanh(float x) { return tanhf(x); }
FASTLOSS_INLINE double tanh(double x) { return ::tanh(x); }

}  // namespace math
}  // namespace fastloss
