// How a thread of the pointwise kernel reads and writes its share of a tensor, whatever the tensor's dtype and layout.
//
// Where all tensors allow it, a share is 8 neighbours that come in packs, 16 bytes at a time (8 for bytes); everything
// else goes element by element, the threads of a warp side by side. Dtypes are looked up at run time, once for a share:
// that is a branch which all threads take alike, 10 instructions where the memory leaves time for about 140 (8 halves,
// see gpu.h), and it spares us the product of all dtypes times all losses.
#pragma once
#include "../iteration.h"
#include "api.h"
#include "gpu.h"

namespace fastloss {

constexpr int kPointwiseThreads = 256;

// The two ways of a kernel, each with the elements that a thread takes at a time. Eight fill a pack of halves, and two
// of float. One kernel for both would need the registers of the worse at every place: it spilled 34 of them.
struct InPacks {
  using A = float;
  static constexpr int share = 8;
  static constexpr bool packed = true;
};
template <class Accumulator>
struct ByElement {
  using A = Accumulator;
  static constexpr int share = sizeof(A) == 8 ? 1 : 4;  // doubles are for gradient checks
  static constexpr bool packed = false;
};

// The elements first, first + step ... below end of the walk's linear order. In packs, step is 1 and none is missing.
struct Share {
  uint32_t first, step, end;

  GPU_INLINE uint32_t index(int j) const { return first + uint32_t(j) * step; }
  GPU_INLINE bool has(int j) const { return index(j) < end; }
};

// n / divisor for n < 2^31 without a division (Granlund and Montgomery, 1994).
struct Divisor {
  uint32_t value, factor, shift;

  GPU_INLINE uint32_t quotient(uint32_t n) const { return (uint32_t(uint64_t(n) * factor >> 32) + n) >> shift; }
};

inline Divisor divisor_of(uint32_t value) {
  uint32_t shift = 0;
  while ((uint64_t(1) << shift) < value) ++shift;
  return {value, uint32_t(((uint64_t(1) << 32) * ((uint64_t(1) << shift) - value)) / value + 1), shift};
}

// The walk of one launch: fewer than 2^31 elements.
struct Walk {
  int dimensions;
  uint32_t numel;
  Divisor size[kMaxDimensions];
};

enum Layout : int {
  kAbsent,
  kSingle,   // one element for all
  kDense,    // element i of the walk is at i
  kStrided,  // by the strides along the walk's dimensions
};

struct View {
  char* data;
  int dtype;
  int size_log2;  // of an element, in bytes
  Layout layout;
  bool constant_inside;  // stride 0 along the fastest dimension
  long long stride[kMaxDimensions];
};

// Where `count` elements of the walk are in a strided tensor. The loop over the dimensions is not unrolled: that would
// be 8 x tensors copies of it.
template <int count>
GPU_INLINE void strided_offsets(const Walk& walk, const View& view, uint32_t (&index)[count],
                                long long (&offset)[count]) {
#pragma unroll
  for (int j = 0; j < count; ++j) offset[j] = 0;
#pragma unroll 1
  for (int d = walk.dimensions - 1; d > 0; --d) {
    const Divisor size = walk.size[d];
    const long long stride = view.stride[d];
#pragma unroll
    for (int j = 0; j < count; ++j) {
      const uint32_t quotient = size.quotient(index[j]);
      offset[j] += (long long)(index[j] - quotient * size.value) * stride;
      index[j] = quotient;
    }
  }
#pragma unroll
  for (int j = 0; j < count; ++j) offset[j] += (long long)index[j] * view.stride[0];
}

// The addresses of the share's elements; of element 0 for those that do not exist.
template <int count>
GPU_INLINE void element_addresses(const Walk& walk, const View& view, const Share& share, char* (&address)[count]) {
  uint32_t index[count];
  long long offset[count];
#pragma unroll
  for (int j = 0; j < count; ++j) {
    index[j] = share.has(j) ? share.index(j) : 0;
    offset[j] = view.layout == kDense ? index[j] : 0;
  }
  if (view.layout == kStrided) strided_offsets(walk, view, index, offset);
#pragma unroll
  for (int j = 0; j < count; ++j) address[j] = view.data + (offset[j] << view.size_log2);
}

GPU_INLINE char* first_address(const Walk& walk, const View& view, const Share& share) {
  char* address[1];
  element_addresses(walk, view, share, address);
  return address[0];
}

// Storage of one element in a register, as it is in memory; 8-byte elements of a float kernel (int64 targets, double
// upstream gradients) are rounded to float at once.
template <class A>
using Word = std::conditional_t<sizeof(A) == 8, uint64_t, uint32_t>;

template <class A>
GPU_INLINE Word<A> load_8_bytes(const char* address, int dtype) {
  if constexpr (sizeof(A) == 8) {
    return *reinterpret_cast<const uint64_t*>(address);
  } else {
    return bit_cast<uint32_t>(dtype == FASTLOSS_INT64 ? float(*reinterpret_cast<const long long*>(address))
                                                      : float(*reinterpret_cast<const double*>(address)));
  }
}

// One element for each address whose element exists. The switch is outside of the loop: a warp branches once.
template <class A, int count, class Exists>
GPU_INLINE void load_words(const View& view, char* const (&address)[count], const Exists& exists,
                           Word<A> (&word)[count]) {
#pragma unroll
  for (int j = 0; j < count; ++j) word[j] = 0;
  switch (view.size_log2) {
    case 0:
#pragma unroll
      for (int j = 0; j < count; ++j) {
        if (exists(j)) word[j] = *reinterpret_cast<const uint8_t*>(address[j]);
      }
      break;
    case 1:
#pragma unroll
      for (int j = 0; j < count; ++j) {
        if (exists(j)) word[j] = *reinterpret_cast<const uint16_t*>(address[j]);
      }
      break;
    case 2:
#pragma unroll
      for (int j = 0; j < count; ++j) {
        if (exists(j)) word[j] = *reinterpret_cast<const uint32_t*>(address[j]);
      }
      break;
    default:
#pragma unroll
      for (int j = 0; j < count; ++j) {
        if (exists(j)) word[j] = load_8_bytes<A>(address[j], view.dtype);
      }
  }
}

// Of a share in packs: are this tensor's elements neighbours in memory, 8 of 1, 2 or 4 bytes, and not all the same?
GPU_INLINE bool in_packs(const View& view) { return view.layout != kSingle && !view.constant_inside; }

// Only the loads, so that those of all operands are in flight before the first is waited for.
template <class Mode>
GPU_INLINE void load_share(const Walk& walk, const View& view, const Share& share,
                           Word<typename Mode::A> (&word)[Mode::share]) {
  using A = typename Mode::A;
  if (view.layout == kAbsent) return;
  if constexpr (!Mode::packed) {
    char* address[Mode::share];
    element_addresses(walk, view, share, address);
    load_words<A>(view, address, [&](int j) { return share.has(j); }, word);
  } else {
    char* const address[1] = {first_address(walk, view, share)};
    if (!in_packs(view)) {
      Word<A> value[1];
      load_words<A>(view, address, [](int) { return true; }, value);
#pragma unroll
      for (int j = 0; j < Mode::share; ++j) word[j] = value[0];
      return;
    }
    if (view.size_log2 == 0) {
      const uint2 bytes = *reinterpret_cast<const uint2*>(address[0]);
      word[0] = bytes.x;
      word[1] = bytes.y;
      return;
    }
    const Pack<uint32_t> low = load_once(reinterpret_cast<const uint32_t*>(address[0]));
#pragma unroll
    for (int i = 0; i < 4; ++i) word[i] = low.word[i];
    if (view.size_log2 == 1) return;
    const Pack<uint32_t> high = load_once(reinterpret_cast<const uint32_t*>(address[0] + 16));
#pragma unroll
    for (int i = 0; i < 4; ++i) word[4 + i] = high.word[i];
  }
}

GPU_INLINE __half half_of(uint64_t word) { return bit_cast<__half>(uint16_t(word)); }
GPU_INLINE __nv_bfloat16 bfloat16_of(uint64_t word) { return bit_cast<__nv_bfloat16>(uint16_t(word)); }

// The numbers in the words of load_share.
template <class Mode>
GPU_INLINE void convert_share(const View& view, const Word<typename Mode::A> (&stored)[Mode::share],
                              typename Mode::A (&x)[Mode::share]) {
  using A = typename Mode::A;
  constexpr int E = Mode::share;
  Word<A> word[E];
#pragma unroll
  for (int j = 0; j < E; ++j) word[j] = stored[j];
  if constexpr (Mode::packed) {
    if (in_packs(view) && view.size_log2 == 0) {
#pragma unroll
      for (int j = 0; j < E; ++j) word[j] = stored[j / 4] >> (8 * (j % 4)) & 0xffu;
    }
    if (in_packs(view) && view.size_log2 == 1) {
#pragma unroll
      for (int j = 0; j < E; ++j) word[j] = stored[j / 2] >> (16 * (j % 2)) & 0xffffu;
    }
  }
  switch (view.dtype) {
    case FASTLOSS_FLOAT16:
#pragma unroll
      for (int j = 0; j < E; ++j) x[j] = A(widen(half_of(word[j])));
      break;
    case FASTLOSS_BFLOAT16:
#pragma unroll
      for (int j = 0; j < E; ++j) x[j] = A(bit_cast<float>(uint32_t(word[j]) << 16));
      break;
    case FASTLOSS_BOOL:
    case FASTLOSS_UINT8:
    case FASTLOSS_INT32:
#pragma unroll
      for (int j = 0; j < E; ++j) x[j] = A(int32_t(word[j]));
      break;
    default:  // float32, and what load_8_bytes has made
#pragma unroll
      for (int j = 0; j < E; ++j) {
        if constexpr (sizeof(A) == 4) {
          x[j] = bit_cast<float>(word[j]);
        } else if (view.dtype == FASTLOSS_FLOAT32) {
          x[j] = bit_cast<float>(uint32_t(word[j]));
        } else {
          x[j] = view.dtype == FASTLOSS_INT64 ? A((long long)(word[j])) : bit_cast<double>(word[j]);
        }
      }
  }
}

template <class T>
GPU_INLINE void store_pack(char* address, const float* x) {
  float some[Pack<T>::count];
#pragma unroll
  for (int j = 0; j < Pack<T>::count; ++j) some[j] = x[j];
  store_global(reinterpret_cast<T*>(address), narrow_pack<T>(some));
}

template <class T, class A, int count>
GPU_INLINE void store_elements(char* const (&address)[count], const Share& share, const A (&x)[count]) {
#pragma unroll
  for (int j = 0; j < count; ++j) {
    if (share.has(j)) *reinterpret_cast<T*>(address[j]) = narrow<T>(Accumulator<T>(x[j]));
  }
}

// Rounds to the tensor's dtype, one of the four of floating point.
template <class Mode>
GPU_INLINE void store_share(const Walk& walk, const View& view, const Share& share,
                            const typename Mode::A (&x)[Mode::share]) {
  if constexpr (Mode::packed) {
    char* const address = first_address(walk, view, share);
    if (view.dtype == FASTLOSS_FLOAT32) {
      store_pack<float>(address, x);
      store_pack<float>(address + 16, x + 4);
    } else if (view.dtype == FASTLOSS_FLOAT16) {
      store_pack<__half>(address, x);
    } else {
      store_pack<__nv_bfloat16>(address, x);
    }
  } else {
    char* address[Mode::share];
    element_addresses(walk, view, share, address);
    switch (view.dtype) {
      case FASTLOSS_FLOAT32:
        store_elements<float>(address, share, x);
        break;
      case FASTLOSS_FLOAT64:
        store_elements<double>(address, share, x);
        break;
      case FASTLOSS_FLOAT16:
        store_elements<__half>(address, share, x);
        break;
      default:
        store_elements<__nv_bfloat16>(address, share, x);
    }
  }
}

}  // namespace fastloss
