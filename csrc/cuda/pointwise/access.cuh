// How a thread of the pointwise kernel reads and writes its share of a tensor, whatever the tensor's dtype and layout.
//
// Where all tensors allow it, a share is two groups of 4 neighbours that come in packs, up to 16 bytes at a time;
// everything else goes element by element, the threads of a warp side by side. Dtypes are looked up at run time, once
// for a share: that is a branch which all threads take alike, 10 instructions where the memory leaves time for about
// 140 (an H100 has 18 for each half that it reads), and it spares us the product of all dtypes times all losses.
#pragma once
#include "../../problems/pointwise.h"
#include "../gpu.h"

namespace fastloss {

constexpr int kPointwiseThreads = 256;

// The two ways of a kernel, each with the elements that a thread takes at a time. Eight fill a pack of halves, and two
// of float. One kernel for both would need the registers of the worse at every place: it spilled 34 of them.
struct InPacks {
  using A = float;
  static constexpr int share = 8, group = 4;
  static constexpr bool packed = true;
};
template <class Accumulator>
struct ByElement {
  using A = Accumulator;
  static constexpr int share = sizeof(A) == 8 ? 1 : 4;  // doubles are for gradient checks
  static constexpr bool packed = false;
};

// The elements first, first + step ... below end of the walk's linear order. In packs, the groups that begin there, and
// none is missing.
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
  DType dtype;
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

// Of a share in packs: its two groups are one pack of 8, or, where a tensor has elements of 4 bytes, as far apart as a
// warp's groups are long. Each of its accesses is one stretch of memory then, where packs of 4 floats side by side in a
// thread would leave out every other 16 bytes, and ask for every sector of 32 twice.
constexpr uint32_t kGroupsApart = 32 * InPacks::group;

GPU_INLINE Share packed_share(uint32_t chunk, uint32_t end, bool in_groups) {
  const uint32_t lane = threadIdx.x & 31u, of_warp = chunk + (threadIdx.x - lane) * InPacks::share;
  if (in_groups && of_warp + 2 * kGroupsApart <= end) return {of_warp + lane * InPacks::group, kGroupsApart, end};
  return {of_warp + lane * InPacks::share, InPacks::group, end};
}

// The addresses of the share's elements, or groups; of element 0 for those that do not exist.
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

// Storage of one element in a register, as it is in memory; 8-byte elements of a float kernel (int64 targets, double
// upstream gradients) are rounded to float at once.
template <class A>
using Word = std::conditional_t<sizeof(A) == 8, uint64_t, uint32_t>;

template <class A>
GPU_INLINE Word<A> load_8_bytes(const char* address, DType dtype) {
  if constexpr (sizeof(A) == 8) {
    return *reinterpret_cast<const uint64_t*>(address);
  } else {
    return bit_cast<uint32_t>(dtype == DType::int64 ? float(*reinterpret_cast<const long long*>(address))
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

// Of a share in packs: are a group's elements of this tensor neighbours in memory, and not all the same?
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
    char* address[2];
    element_addresses(walk, view, share, address);
    if (!in_packs(view)) {
      Word<A> value[2];
      load_words<A>(view, address, [](int) { return true; }, value);
#pragma unroll
      for (int j = 0; j < Mode::share; ++j) word[j] = value[j / Mode::group];
      return;
    }
    const bool together = share.step == Mode::group;
    if (view.size_log2 == 0) {
      word[0] = *reinterpret_cast<const uint32_t*>(address[0]);
      word[1] = *reinterpret_cast<const uint32_t*>(address[1]);
    } else if (view.size_log2 == 1 && !together) {
#pragma unroll
      for (int g = 0; g < 2; ++g) {
        const uint2 halves = *reinterpret_cast<const uint2*>(address[g]);
        word[2 * g] = halves.x;
        word[2 * g + 1] = halves.y;
      }
    } else {
      const Pack<uint32_t> low = load_once(reinterpret_cast<const uint32_t*>(address[0]));
#pragma unroll
      for (int i = 0; i < 4; ++i) word[i] = low.word[i];
      if (view.size_log2 == 1) return;
      const Pack<uint32_t> high = load_once(reinterpret_cast<const uint32_t*>(address[1]));
#pragma unroll
      for (int i = 0; i < 4; ++i) word[4 + i] = high.word[i];
    }
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
    case DType::float16:
#pragma unroll
      for (int j = 0; j < E; ++j) x[j] = A(widen(half_of(word[j])));
      break;
    case DType::bfloat16:
#pragma unroll
      for (int j = 0; j < E; ++j) x[j] = A(bit_cast<float>(uint32_t(word[j]) << 16));
      break;
    case DType::boolean:
    case DType::uint8:
    case DType::int32:
#pragma unroll
      for (int j = 0; j < E; ++j) x[j] = A(int32_t(word[j]));
      break;
    default:  // float32, and what load_8_bytes has made
#pragma unroll
      for (int j = 0; j < E; ++j) {
        if constexpr (sizeof(A) == 4) {
          x[j] = bit_cast<float>(word[j]);
        } else if (view.dtype == DType::float32) {
          x[j] = bit_cast<float>(uint32_t(word[j]));
        } else {
          x[j] = view.dtype == DType::int64 ? A((long long)(word[j])) : bit_cast<double>(word[j]);
        }
      }
  }
}

GPU_INLINE void store_floats(char* address, const float* x) {
  const float some[4] = {x[0], x[1], x[2], x[3]};
  store_global(reinterpret_cast<float*>(address), narrow_pack<float>(some));
}

// The two groups as one pack, or each for itself.
template <class T>
GPU_INLINE void store_halves(char* const (&address)[2], bool together, const float (&x)[8]) {
  const Pack<T> pack = narrow_pack<T>(x);
  if (together) {
    store_global(reinterpret_cast<T*>(address[0]), pack);
  } else {
    *reinterpret_cast<uint2*>(address[0]) = make_uint2(pack.word[0], pack.word[1]);
    *reinterpret_cast<uint2*>(address[1]) = make_uint2(pack.word[2], pack.word[3]);
  }
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
    char* address[2];
    element_addresses(walk, view, share, address);
    const bool together = share.step == Mode::group;
    if (view.dtype == DType::float32) {
      store_floats(address[0], x);
      store_floats(address[1], x + 4);
    } else if (view.dtype == DType::float16) {
      store_halves<__half>(address, together, x);
    } else {
      store_halves<__nv_bfloat16>(address, together, x);
    }
  } else {
    char* address[Mode::share];
    element_addresses(walk, view, share, address);
    switch (view.dtype) {
      case DType::float32:
        store_elements<float>(address, share, x);
        break;
      case DType::float64:
        store_elements<double>(address, share, x);
        break;
      case DType::float16:
        store_elements<__half>(address, share, x);
        break;
      default:
        store_elements<__nv_bfloat16>(address, share, x);
    }
  }
}

}  // namespace fastloss
