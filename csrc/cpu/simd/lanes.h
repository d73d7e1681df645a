// How a skeleton vectorises an accumulator type: float by whole vectors; double, which is there for tests and for
// science rather than for speed, by scalars. The two have the same members.
#pragma once
#include "vector.h"

namespace fastloss {
namespace FASTLOSS_ISA {

template <class A>
struct Vectors;

template <>
struct Vectors<float> {
  using V = Floats;
  using I = Ints;
  static constexpr int lanes = kLanes;

  // The first `count` lanes; the others read `fill`. A count known to be full at compile time costs nothing.
  template <class T>
  static FASTLOSS_INLINE V get(const T* p, int count, float fill) {
    return count == lanes ? load(p) : load(p, count, fill);
  }
  template <class T>
  static FASTLOSS_INLINE void put(T* p, V v, int count) {
    if (count == lanes)
      store(p, v);
    else
      store(p, v, count);
  }
  template <class T>
  static FASTLOSS_INLINE float scalar(const T* p) {
    return load(p, 1, 0.0f)[0];
  }
  // x in all lanes, without the compiler's knowing that they are equal: it would compute with one of them, fuse other
  // multiplications with additions than in the code for vectors, and round otherwise.
  static FASTLOSS_INLINE V spread(float x) {
    alignas(64) float lane[lanes];
    for (float& one : lane) one = x;
    asm("" : : "r"(lane) : "memory");
    return load(lane);
  }
  // body(start, count) for every vector of [0, size): whole ones, then the tail
  template <class Body>
  static FASTLOSS_INLINE void for_each(int64_t size, Body body) {
    int64_t i = 0;
    for (; i + lanes <= size; i += lanes) body(i, lanes);
    if (i < size) body(i, int(size - i));
  }
  static FASTLOSS_INLINE V first(int count, V yes, V no) {
    return count == lanes ? yes : (lane_numbers() < count) ? yes : no;
  }
  static FASTLOSS_INLINE void transpose(V (&rows)[lanes]) { FASTLOSS_ISA::transpose(rows); }
  static FASTLOSS_INLINE V exp(V x) { return exp_below_88(x); }  // x < 88
  // one value by the vector code: libm's would flush the upper halves of the registers and take longer than a row
  static FASTLOSS_INLINE float exp(float x) { return exp_below_88(floats(x))[0]; }
  static FASTLOSS_INLINE V log(V x) { return math::log(x); }
  static FASTLOSS_INLINE float log(double x) { return math::log(floats(float(x)))[0]; }
  static FASTLOSS_INLINE float max(V v) { return largest(v); }
  static FASTLOSS_INLINE double sum(V v) { return total(v); }
  static FASTLOSS_INLINE float lane(V v, int i) { return v[i]; }
  static FASTLOSS_INLINE int32_t lane(I v, int i) { return v[i]; }
  static FASTLOSS_INLINE void set(V& v, int i, float x) { v[i] = x; }
  static FASTLOSS_INLINE void set(I& v, int i, int32_t x) { v[i] = x; }
  // The first `count` of the index targets y, all below 2^31 but for ignored ones; live: -1 for each that is not
  // ignored. The others are 0.
  static FASTLOSS_INLINE void targets(const int64_t* y, int count, int64_t ignored, I& target, I& live) {
    alignas(64) int64_t some[lanes];
    if (count < lanes) {
      for (int i = 0; i < lanes; ++i) some[i] = i < count ? y[i] : ignored;
      y = some;
    }
    I low, high;
    every_second(reinterpret_cast<const int32_t*>(y), low, high);
    live = (low != int32_t(ignored)) | (high != int32_t(ignored >> 32));
    target = low & live;
  }
};

template <>
struct Vectors<double> {
  using V = double;
  using I = int32_t;
  static constexpr int lanes = 1;

  static FASTLOSS_INLINE V get(const double* p, int count, double fill) { return count ? *p : fill; }
  static FASTLOSS_INLINE void put(double* p, V v, int) { *p = v; }
  static FASTLOSS_INLINE double scalar(const double* p) { return *p; }
  static FASTLOSS_INLINE V spread(double x) { return x; }
  template <class Body>
  static FASTLOSS_INLINE void for_each(int64_t size, Body body) {
    for (int64_t i = 0; i < size; ++i) body(i, 1);
  }
  static FASTLOSS_INLINE V first(int, V yes, V) { return yes; }
  static FASTLOSS_INLINE void transpose(V (&)[lanes]) {}
  static FASTLOSS_INLINE V exp(V x) { return ::exp(x); }
  static FASTLOSS_INLINE V log(V x) { return ::log(x); }
  static FASTLOSS_INLINE double max(V v) { return v; }
  static FASTLOSS_INLINE double sum(V v) { return v; }
  static FASTLOSS_INLINE double lane(V v, int) { return v; }
  static FASTLOSS_INLINE int32_t lane(I v, int) { return v; }
  static FASTLOSS_INLINE void set(V& v, int, double x) { v = x; }
  static FASTLOSS_INLINE void set(I& v, int, int32_t x) { v = x; }
  static FASTLOSS_INLINE void targets(const int64_t* y, int, int64_t ignored, I& target, I& live) {
    live = *y == ignored ? 0 : -1;
    target = int32_t(*y) & live;
  }
};

}  // namespace FASTLOSS_ISA
}  // namespace fastloss
