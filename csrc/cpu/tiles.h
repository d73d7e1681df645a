// Tiles of the pointwise kernels: a thousand elements of a tensor of any layout and dtype, as contiguous accumulators
// in the nearest cache. A contiguous tensor of accumulators is its own tile, nothing is copied.
#pragma once
#include "../dtypes.h"
#include "../layout.h"
#include "simd/lanes.h"

namespace fastloss {
namespace FASTLOSS_ISA {

constexpr int kTile = 1024;

template <class A>
constexpr DType accumulator_dtype() {
  return sizeof(A) == 8 ? DType::float64 : DType::float32;
}

// Calls body(offset in the tensor, stride, place in the tile, count) for the runs of equal stride that make up the
// elements [start, start + count) of the walk.
template <class Body>
void for_each_run(const Iteration& it, int tensor, int64_t start, int64_t count, Body body) {
  const int last = it.dimensions - 1;
  if (last < 0) return body(int64_t(0), int64_t(0), int64_t(0), count);
  int64_t at[kMaxDimensions], rest = start, offset = 0;
  for (int d = last; d >= 0; --d) {
    at[d] = rest % it.size[d];
    rest /= it.size[d];
    offset += at[d] * it.stride[tensor][d];
  }
  const int64_t stride = it.stride[tensor][last];
  for (int64_t place = 0;;) {
    const int64_t left = it.size[last] - at[last], run = left < count - place ? left : count - place;
    body(offset, stride, place, run);
    place += run;
    if (place == count) return;
    offset -= at[last] * stride;  // to the start of this run's dimension, then one step of the next slower one
    at[last] = 0;
    for (int d = last - 1; d >= 0; --d) {
      offset += it.stride[tensor][d];
      if (++at[d] < it.size[d]) break;
      offset -= it.size[d] * it.stride[tensor][d];
      at[d] = 0;
    }
  }
}

template <class T>
FASTLOSS_INLINE float to_float(T x) {
  return float(x);
}
FASTLOSS_INLINE float to_float(Half x) { return Vectors<float>::scalar(&x); }
FASTLOSS_INLINE float to_float(BFloat16 x) { return Vectors<float>::scalar(&x); }
template <class A, class T>
FASTLOSS_INLINE A to_accumulator(T x) {
  if constexpr (std::is_arithmetic_v<T>)
    return A(x);
  else
    return A(to_float(x));
}

template <class A, class T>
void read_runs(const T* data, const Iteration& it, int tensor, int64_t start, int64_t count, A* tile) {
  for_each_run(it, tensor, start, count, [&](int64_t offset, int64_t stride, int64_t place, int64_t run) {
    const T* from = data + offset;
    A* to = tile + place;
    if (stride == 0) {
      const A value = to_accumulator<A>(*from);
      for (int64_t i = 0; i < run; ++i) to[i] = value;
    } else if (stride == 1 && std::is_same_v<A, float> && (std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>)) {
      if constexpr (std::is_same_v<A, float> && !std::is_arithmetic_v<T>)
        Vectors<float>::for_each(run, [&](int64_t i, int lanes) __attribute__((always_inline)) {
          Vectors<float>::put(to + i, Vectors<float>::get(from + i, lanes, 0.0f), lanes);
        });
    } else if (stride == 1) {
      for (int64_t i = 0; i < run; ++i) to[i] = to_accumulator<A>(from[i]);
    } else {
      for (int64_t i = 0; i < run; ++i) to[i] = to_accumulator<A>(from[i * stride]);
    }
  });
}

// The elements [start, start + count) as accumulators: where they are, or copied into `tile`.
template <class A>
const A* read_tile(const void* data, DType dtype, const Iteration& it, int tensor, int64_t start, int64_t count,
                   A* tile) {
  if (dtype == accumulator_dtype<A>() && it.contiguous(tensor)) return static_cast<const A*>(data) + start;
  const auto read = [&](auto zero) {
    read_runs(static_cast<const decltype(zero)*>(data), it, tensor, start, count, tile);
  };
  switch (dtype) {
    case DType::float32:
      read(float());
      break;
    case DType::float64:
      read(double());
      break;
    case DType::float16:
      read(Half());
      break;
    case DType::bfloat16:
      read(BFloat16());
      break;
    case DType::boolean:
    case DType::uint8:
      read(uint8_t());
      break;
    case DType::int32:
      read(int32_t());
      break;
    case DType::int64:
      read(int64_t());
      break;
  }
  return tile;
}

template <class A, class T>
void write_runs(T* data, const Iteration& it, int tensor, int64_t start, int64_t count, const A* tile) {
  for_each_run(it, tensor, start, count, [&](int64_t offset, int64_t stride, int64_t place, int64_t run) {
    T* to = data + offset;
    const A* from = tile + place;
    if constexpr (std::is_arithmetic_v<T>) {
      for (int64_t i = 0; i < run; ++i) to[i * stride] = T(from[i]);
    } else if (stride == 1) {
      for (int64_t i = 0; i < run; i += kLanes) {
        const int lanes = int(run - i < kLanes ? run - i : kLanes);
        Floats v{};
        for (int k = 0; k < lanes; ++k) v[k] = float(from[i + k]);
        if constexpr (std::is_same_v<A, float>) v = Vectors<float>::get(from + i, lanes, 0.0f);
        Vectors<float>::put(to + i, v, lanes);
      }
    } else {
      for (int64_t i = 0; i < run; ++i) store(to + i * stride, floats(float(from[i])), 1);
    }
  });
}

// Where a kernel puts the accumulators of [start, start + count): the tensor itself, or `tile`, and then write_tile.
template <class A>
A* output_tile(void* data, DType dtype, const Iteration& it, int tensor, int64_t start, A* tile) {
  return dtype == accumulator_dtype<A>() && it.contiguous(tensor) ? static_cast<A*>(data) + start : tile;
}
template <class A>
void write_tile(void* data, DType dtype, const Iteration& it, int tensor, int64_t start, int64_t count, const A* tile) {
  const auto write = [&](auto zero) { write_runs(static_cast<decltype(zero)*>(data), it, tensor, start, count, tile); };
  switch (dtype) {
    case DType::float32:
      return write(float());
    case DType::float64:
      return write(double());
    case DType::float16:
      return write(Half());
    case DType::bfloat16:
      return write(BFloat16());
    default:  // gradients and losses are floating-point
      return;
  }
}

}  // namespace FASTLOSS_ISA
}  // namespace fastloss
