// The vector type of the CPU kernels, for one instruction set at a time.
//
// GCC and Clang vector types give arithmetic, comparison and `mask ? a : b` with the same syntax as scalars, so a loss
// functor needs one body. setup.py compiles each kernel file three times: -mavx512*, -mavx2, and with no flag (SSE2 on
// x86, NEON on ARM). Everything here lives in a namespace named after the instruction set and is always inlined, so
// that the linker can never merge code of one set into another (an AVX-512 instruction in the baseline would be fatal).
#pragma once
#include <stdint.h>
#include <string.h>

#include <utility>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "../../losses/math.h"

#if defined(__AVX512F__)
#define FASTLOSS_ISA avx512
#define FASTLOSS_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define FASTLOSS_ISA avx2
#define FASTLOSS_VECTOR_BYTES 32
#else
#define FASTLOSS_ISA baseline
#define FASTLOSS_VECTOR_BYTES 16
#define FASTLOSS_BASELINE 1
#endif

namespace fastloss {
namespace FASTLOSS_ISA {

constexpr int kLanes = FASTLOSS_VECTOR_BYTES / 4;
typedef float Floats __attribute__((vector_size(FASTLOSS_VECTOR_BYTES)));
typedef int32_t Ints __attribute__((vector_size(FASTLOSS_VECTOR_BYTES)));
typedef uint32_t Bits __attribute__((vector_size(FASTLOSS_VECTOR_BYTES)));
typedef uint16_t Halves __attribute__((vector_size(FASTLOSS_VECTOR_BYTES / 2)));

struct Half {  // IEEE binary16, storage only
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class To, class From>
FASTLOSS_INLINE To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

FASTLOSS_INLINE Floats floats(float x) { return Floats{} + x; }

FASTLOSS_INLINE Ints lane_numbers() {
#if FASTLOSS_VECTOR_BYTES == 64
  return Ints{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif FASTLOSS_VECTOR_BYTES == 32
  return Ints{0, 1, 2, 3, 4, 5, 6, 7};
#else
  return Ints{0, 1, 2, 3};
#endif
}

// ---- 16 <-> 32 bits a lane; GCC 12 makes a dozen shuffles of __builtin_convertvector here ----

FASTLOSS_INLINE Bits to_bits(Halves h) {
#if defined(__AVX512F__)
  return (Bits)_mm512_cvtepu16_epi32((__m256i)h);
#elif defined(__AVX2__)
  return (Bits)_mm256_cvtepu16_epi32((__m128i)h);
#else
  return __builtin_convertvector(h, Bits);
#endif
}
FASTLOSS_INLINE Halves to_halves(Bits b) {  // of values below 2^16
#if defined(__AVX512F__)
  return (Halves)_mm512_cvtepi32_epi16((__m512i)b);
#elif defined(__AVX2__)
  return (Halves)_mm_packus_epi32(_mm256_castsi256_si128((__m256i)b), _mm256_extracti128_si256((__m256i)b, 1));
#else
  return __builtin_convertvector(b, Halves);
#endif
}

// ---- storage types -> float ----

FASTLOSS_INLINE Floats widen(Halves h, BFloat16) { return bit_cast<Floats>(to_bits(h) << 16); }

FASTLOSS_INLINE Floats widen(Halves h, Half) {
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtph_ps((__m256i)h);
#elif defined(__F16C__)
  return (Floats)_mm256_cvtph_ps((__m128i)h);
#else
  Bits bits = to_bits(h);
  Bits magnitude = (bits & 0x7fffu) << 13, sign = (bits & 0x8000u) << 16;
  // 2^112 moves the exponent bias from 15 to 127 and makes subnormals right as well
  Floats value = bit_cast<Floats>(magnitude) * 0x1p112f;
  Bits special = bit_cast<Bits>(magnitude >= (0x7c00u << 13));
  return bit_cast<Floats>((bit_cast<Bits>(value) | (special & 0x7f800000u)) | sign);
#endif
}

// ---- float -> storage types, rounding to nearest, ties to even ----

FASTLOSS_INLINE Halves narrow(Floats x, BFloat16) {
  Bits bits = bit_cast<Bits>(x);
  Bits rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return to_halves(((x == x) ? rounded : Bits{} + 0x7fc00000u) >> 16);
}

FASTLOSS_INLINE Halves narrow(Floats x, Half) {
#if defined(__AVX512F__)
  return (Halves)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__F16C__)
  return (Halves)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  Bits bits = bit_cast<Bits>(x), sign = (bits >> 16) & 0x8000u;
  Floats magnitude = bit_cast<Floats>(bits & 0x7fffffffu);
  // below 2^-14 the result is subnormal: adding 0.5 lets the float adder round at 2^-24, the half's last place
  Bits subnormal = bit_cast<Bits>(magnitude + 0.5f) - 0x3f000000u;
  Bits whole = bit_cast<Bits>(magnitude);
  Bits normal = (whole + 0xfffu + ((whole >> 13) & 1u) - (112u << 23)) >> 13;
  Bits overflow = bit_cast<Bits>(whole >= 0x477ff000u);  // 65520: rounds to infinity
  Bits tiny = bit_cast<Bits>(whole < 0x38800000u);       // 2^-14
  Bits nan = bit_cast<Bits>(x != x);
  Bits result = (tiny & subnormal) | (~tiny & normal);
  result = (overflow & 0x7c00u) | (~overflow & result);
  result = (nan & 0x7e00u) | (~nan & result);
  return to_halves(result | sign);
#endif
}

// ---- memory: whole vectors, and the first `count` lanes of one ----

FASTLOSS_INLINE Floats load(const float* p) {
  Floats v;
  memcpy(&v, p, sizeof v);
  return v;
}
FASTLOSS_INLINE void store(float* p, Floats v) { memcpy(p, &v, sizeof v); }

FASTLOSS_INLINE Floats load(const float* p, int count, float fill) {
#if defined(__AVX512F__)
  return (Floats)_mm512_mask_loadu_ps(_mm512_set1_ps(fill), __mmask16((1u << count) - 1u), p);
#elif defined(__AVX2__)
  Ints mask = lane_numbers() < count;
  Floats v = (Floats)_mm256_maskload_ps(p, (__m256i)mask);
  return mask ? v : floats(fill);
#else
  Floats v = floats(fill);
  for (int i = 0; i < count; ++i) v[i] = p[i];
  return v;
#endif
}
FASTLOSS_INLINE void store(float* p, Floats v, int count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1u), (__m512)v);
#elif defined(__AVX2__)
  _mm256_maskstore_ps(p, (__m256i)(lane_numbers() < count), (__m256)v);
#else
  for (int i = 0; i < count; ++i) p[i] = v[i];
#endif
}

template <class T>  // Half or BFloat16
FASTLOSS_INLINE Floats load(const T* p) {
  Halves h;
  memcpy(&h, p, sizeof h);
  return widen(h, T());
}
template <class T>
FASTLOSS_INLINE void store(T* p, Floats v) {
  Halves h = narrow(v, T());
  memcpy(p, &h, sizeof h);
}
template <class T>
FASTLOSS_INLINE Floats load(const T* p, int count, float fill) {
  Halves h{};
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  h = (Halves)_mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1u), p);
#else
  for (int i = 0; i < count; ++i) h[i] = p[i].bits;
#endif
  return (lane_numbers() < count) ? widen(h, T()) : floats(fill);
}
template <class T>
FASTLOSS_INLINE void store(T* p, Floats v, int count) {
  Halves h = narrow(v, T());
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  _mm256_mask_storeu_epi16(p, __mmask16((1u << count) - 1u), (__m256i)h);
#else
  for (int i = 0; i < count; ++i) p[i].bits = h[i];
#endif
}

// ---- across the lanes, by halves: always in the same order ----

template <class Join>
FASTLOSS_INLINE float across(Floats v, Join join) {
  alignas(64) float lane[kLanes];
  memcpy(lane, &v, sizeof lane);
#pragma GCC unroll 4
  for (int half = kLanes / 2; half; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) lane[i] = join(lane[i], lane[i + half]);
  }
  return lane[0];
}
FASTLOSS_INLINE float largest(Floats v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#else
  return across(v, [](float a, float b) { return a > b ? a : b; });
#endif
}
FASTLOSS_INLINE double total(Floats v) {
#if defined(__AVX512F__)
  return double(_mm512_reduce_add_ps((__m512)v));
#else
  return double(across(v, [](float a, float b) { return a + b; }));
#endif
}

// ---- lanes x lanes: row i, lane j becomes row j, lane i ----

template <int Width, bool High>
constexpr int swapped_lane(int lane) {  // of the first vector, then of the second
  const bool second = lane & Width;
  return High ? (second ? kLanes + lane : lane + Width) : (second ? kLanes + lane - Width : lane);
}
template <int Width, bool High, int... Lane>
FASTLOSS_INLINE Floats swap_blocks(Floats a, Floats b, std::integer_sequence<int, Lane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, swapped_lane<Width, High>(Lane)...);
#else
  return __builtin_shuffle(a, b, Ints{swapped_lane<Width, High>(Lane)...});
#endif
}
template <int... Lane>
FASTLOSS_INLINE void every_second(const int32_t* p, Ints& even, Ints& odd, std::integer_sequence<int, Lane...>) {
  Ints a, b;
  memcpy(&a, p, sizeof a);
  memcpy(&b, p + kLanes, sizeof b);
#if defined(__clang__)
  even = __builtin_shufflevector(a, b, (2 * Lane)...);
  odd = __builtin_shufflevector(a, b, (2 * Lane + 1)...);
#else
  even = __builtin_shuffle(a, b, Ints{(2 * Lane)...});
  odd = __builtin_shuffle(a, b, Ints{(2 * Lane + 1)...});
#endif
}
// Numbers 0, 2, 4 .. and 1, 3, 5 .. of two vectors' length.
FASTLOSS_INLINE void every_second(const int32_t* p, Ints& even, Ints& odd) {
  every_second(p, even, odd, std::make_integer_sequence<int, kLanes>{});
}

// Blocks of Width x Width that lie beside the diagonal change places, then those of half the size within each.
template <int Width = kLanes / 2>
FASTLOSS_INLINE void transpose(Floats (&rows)[kLanes]) {
  constexpr std::make_integer_sequence<int, kLanes> lanes{};
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & Width) continue;
    const Floats a = rows[i], b = rows[i + Width];
    rows[i] = swap_blocks<Width, false>(a, b, lanes);
    rows[i + Width] = swap_blocks<Width, true>(a, b, lanes);
  }
  if constexpr (Width > 1) transpose<Width / 2>(rows);
}

// ---- elementary functions ----

FASTLOSS_INLINE Floats round_to_int(Floats x) {  // |x| < 2^22
#if defined(__AVX512F__)
  return (Floats)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const float magic = 12582912.0f;  // 1.5 * 2^23
  return (x + magic) - magic;
#endif
}

constexpr float log2e = 1.44269504088896341f;

// x log2(e) - n. It must not see the rounding of x log2(e), which is as large as |x| 6e-8: a fused multiply-add, by its
// name, because the compiler would rather use the product twice.
FASTLOSS_INLINE Floats exp_remainder(Floats x, Floats n) {
#if defined(__AVX512F__)
  return (Floats)_mm512_fmsub_ps((__m512)x, _mm512_set1_ps(log2e), (__m512)n);
#elif defined(__AVX2__)
  return (Floats)_mm256_fmsub_ps((__m256)x, _mm256_set1_ps(log2e), (__m256)n);
#else
  return (x - n * 0.693359375f - n * -2.12194440e-4f) * log2e;
#endif
}

// f, where x log2(e) = n + f with n integral and |f| <= 1/2
FASTLOSS_INLINE Floats exp_reduce(Floats x, Floats& n) {
  n = round_to_int(x * log2e);
  return exp_remainder(x, n);
}

// 2^f for |f| <= 1/2: a polynomial of degree 5 (relative error 9.2e-8, fitted to be equal at its extremes).
FASTLOSS_INLINE Floats exp_fraction(Floats f) {
  Floats p = f * 1.326472614891827e-3f + 9.671512991189957e-3f;
  p = p * f + 5.550733581185341e-2f;
  p = p * f + 2.4022242426872253e-1f;
  p = p * f + 6.931470036506653e-1f;
  return p * f + 1.0f;
}

// exp(x) for x < 88, -inf and NaN included; 0 where 2^n is no normal float. In all at most 2.5 ulp, plus |x| 1.4e-8 for
// log2(e) in float. Eleven instructions on AVX2: most losses of classes take no other time.
FASTLOSS_INLINE Floats exp_below_88(Floats x) {
#if defined(__AVX512F__)
  x = (x < -104.0f) ? floats(-104.0f) : x;  // exp(-104) rounds to 0; without this, -inf would give inf - inf
  Floats n, f = exp_reduce(x, n);
  return (Floats)_mm512_scalef_ps((__m512)exp_fraction(f), (__m512)n);
#else
#if defined(__AVX2__)
  // n = -127. One instruction, which hands on NaN; GCC makes two of the condition below.
  x = (Floats)_mm256_max_ps((__m256)floats(-88.0f), (__m256)x);
#else
  x = (x < -88.0f) ? floats(-88.0f) : x;
#endif
  const float magic = 12582912.0f + 127.0f;  // 1.5 * 2^23: the sum's last bits are n + 127, the exponent of 2^n
  const Floats sum = x * log2e + magic;
  const Floats power = bit_cast<Floats>(bit_cast<Bits>(sum) << 23);
  return exp_fraction(exp_remainder(x, sum - magic)) * power;
#endif
}

}  // namespace FASTLOSS_ISA

namespace math {

template <>
struct Elementary<FASTLOSS_ISA::Floats> {
  using Floats = FASTLOSS_ISA::Floats;

  // log(x): x = m 2^e with m in [sqrt(1/2), sqrt(2)), Cephes' logf polynomial for log(m). Below 1e-7 relative error.
  static FASTLOSS_INLINE Floats log(Floats x) {
    using namespace FASTLOSS_ISA;
    Floats scaled = (x < 1.17549435e-38f) ? x * 0x1p23f : x;  // subnormals
    Bits bits = bit_cast<Bits>(scaled);
    Bits reduced = bits - 0x3f3504f3u;  // sqrt(1/2)
    Floats e = __builtin_convertvector(bit_cast<Ints>(reduced) >> 23, Floats);
    e = (x < 1.17549435e-38f) ? e - 23.0f : e;
    Floats m = bit_cast<Floats>((reduced & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
    Floats p = m * 7.0376836292e-2f - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    Floats square = m * m;
    Floats low = p * m * square + e * -2.12194440e-4f - 0.5f * square;
    Floats result = e * 0.693359375f + (m + low);
    result = (x == 0.0f) ? floats(-__builtin_inff()) : result;
    result = (x < 0.0f) ? floats(__builtin_nanf("")) : result;
    return (x < __builtin_inff()) ? result : x;  // +inf and NaN
  }

  // Odd, and accurate near 0: below 0.625 an odd polynomial (Cephes' tanhf), else (1 - exp(-2|x|)) / (1 + exp(-2|x|)).
  static FASTLOSS_INLINE Floats tanh(Floats x, Floats& decay) {
    using namespace FASTLOSS_ISA;
    Floats size = (x < 0.0f) ? -x : x;
    decay = FASTLOSS_ISA::exp_below_88(-2.0f * size);
    Floats far = (1.0f - decay) / (1.0f + decay);
    far = (x < 0.0f) ? -far : far;
    Floats square = x * x;
    Floats p = square * -5.70498872745e-3f + 2.06390887954e-2f;
    p = p * square - 5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square - 3.33332819422e-1f;
    Floats near = p * square * x + x;
    return (size < 0.625f) ? near : far;
  }
  static FASTLOSS_INLINE Floats tanh(Floats x) {
    Floats decay;
    return tanh(x, decay);
  }

  static FASTLOSS_INLINE Floats exp_nonpositive(Floats x) { return FASTLOSS_ISA::exp_below_88(x); }

  // exp(x): 2^n in two factors, so that neither leaves the range of a float before their product does. 2.5 ulp, plus
  // |x| 1.4e-8 as above. Where exp overflows, the second factor is infinite itself: a fused multiply-add of the
  // caller's, as in exp(x) - y, would not round a product of finite factors to infinity.
  static FASTLOSS_INLINE Floats exp(Floats x) {
    using namespace FASTLOSS_ISA;
    x = (x > 89.0f) ? floats(177.0f) : x;  // n = 255, in halves of 127 and 128
    x = (x < -104.0f) ? floats(-104.0f) : x;
    Floats n, p = exp_fraction(exp_reduce(x, n));
#if defined(__AVX512F__)
    return (Floats)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    Ints whole = __builtin_convertvector(n, Ints), half = whole >> 1;
    Floats first = bit_cast<Floats>((half + 127) << 23), second = bit_cast<Floats>((whole - half + 127) << 23);
    return p * first * second;
#endif
  }

  // log(1 + x) for x in [-1/2, 1]: 2 atanh(s) with s = x / (2 + x), |s| <= 1/3, an odd polynomial (relative error 4e-9,
  // fitted).
  static FASTLOSS_INLINE Floats log1p_unit(Floats x) { return twice_atanh(x / (x + 2.0f)); }
  // And 1 / (1 + x): a division takes as long as ten multiplications.
  static FASTLOSS_INLINE Floats log1p_unit(Floats x, Floats& inverse) {
    const Floats more = x + 1.0f, most = x + 2.0f, shared = 1.0f / (more * most);
    inverse = most * shared;
    return twice_atanh(x * more * shared);
  }
  static FASTLOSS_INLINE Floats twice_atanh(Floats s) {
    Floats t = s * s;
    Floats p = t * 1.4089166994e-1f + 1.3980301479e-1f;
    p = p * t + 2.0012455134e-1f;
    p = p * t + 3.3333157341e-1f;
    return 2.0f * (s * (p * t) + s);
  }

  // log(1 + x): what rounding 1 + x took away is given back to first order (Kahan).
  static FASTLOSS_INLINE Floats log1p(Floats x) {
    using namespace FASTLOSS_ISA;
    Floats sum = x + 1.0f;
    Floats lost = (x - (sum - 1.0f)) / sum;
    return log(sum) + ((lost == lost) ? lost : Floats{});  // 0 / 0 at x = -1, inf - inf at inf
  }

  // exp(x) - 1 = 2^n (2^f - 1) + (2^n - 1): for n = 0, which is |x| < 0.34, the first product alone, and the polynomial
  // of (2^f - 1) / f (relative error 2.1e-8) keeps its relative accuracy; for other n little cancels
  // (at 0.35, 2.96 ulp on SSE2 and 2.68 on AVX2).
  static FASTLOSS_INLINE Floats expm1(Floats x) {
    using namespace FASTLOSS_ISA;
    x = (x > 89.0f) ? floats(89.0f) : x;    // inf from here on
    x = (x < -40.0f) ? floats(-40.0f) : x;  // -1
    Floats n, f = exp_reduce(x, n);
    Floats p = f * 1.5403512225020677e-4f + 1.3390735257416964e-3f;
    p = p * f + 9.618237614631653e-3f;
    p = p * f + 5.550357326865196e-2f;
    p = p * f + 2.4022649228572845e-1f;
    p = p * f + 6.931471824645996e-1f;
    p = p * f;
#if defined(__AVX512F__)
    Floats power = (Floats)_mm512_scalef_ps(_mm512_set1_ps(1.0f), (__m512)n);
    Floats far = (Floats)_mm512_scalef_ps((__m512)(p + 1.0f), (__m512)n);
#else
    Ints whole = __builtin_convertvector(n, Ints), half = whole >> 1;
    Floats first = bit_cast<Floats>((half + 127) << 23), second = bit_cast<Floats>((whole - half + 127) << 23);
    Floats power = first * second, far = (p + 1.0f) * first * second;
#endif
    // 2^n alone overflows before the sum does, and from 2^25 on the 1 is lost in the rounding.
    return (x > 18.0f) ? far : p * power + (power - 1.0f);
  }
};

}  // namespace math
}  // namespace fastloss
