// Softmax losses of cosines with a margin at the target; see contracts/row.h.
#pragma once
#include "contracts/row.h"

namespace fastloss {

// Cross-entropy of scale * cos(angle_j), and scale * (cos(m1 angle_y + m2) - m3) for the target: m1 is SphereFace's
// margin, m2 ArcFace's (radians), m3 CosFace's. `straight`: the target's gradient is that of scale * cos(angle_y).
// `linear_beyond`: where m1 angle + m2 > pi, the cosine would rise again; cos(angle_y) - m2 sin(m2) - m3 takes its
// place there.
template <class Accumulator>
struct MarginSoftmax : RowDefaults {
  using A = Accumulator;
  static constexpr int parameters = 6;  // scale, m1, m2, m3, straight (0 or 1), linear_beyond (0 or 1)
  static constexpr bool margin = true;

  A scale, inverse_scale, multiplier, angle, cosine, beyond;
  bool straight, linear_beyond;

  FASTLOSS_INLINE MarginSoftmax(const double* parameters, long long)
      : scale(A(parameters[0])),
        inverse_scale(A(1 / parameters[0])),
        multiplier(A(parameters[1])),
        angle(A(parameters[2])),
        cosine(A(parameters[3])),
        beyond(A(math::sin(parameters[2]) * parameters[2] + parameters[3])),
        straight(parameters[4] != 0),
        linear_beyond(parameters[5] != 0) {}

  FASTLOSS_INLINE bool linear() const { return true; }
  FASTLOSS_INLINE bool dense(bool) const { return false; }
  template <class V>
  FASTLOSS_INLINE V logit(V x) const {
    return x * scale;
  }
  template <class V>
  FASTLOSS_INLINE V slope(V) const {
    return V{} + scale;
  }
  template <class V>
  FASTLOSS_INLINE V mass(V, V) const {
    return V{};
  }
  FASTLOSS_INLINE A index_mass(A weight) const { return weight; }

  // A product of rounded unit vectors may leave [-1, 1]; at its ends the slope has no limit, and is 0.
  static constexpr A largest = A(1) - (sizeof(A) == 8 ? A(DBL_EPSILON) : A(FLT_EPSILON));
  FASTLOSS_INLINE A clamped(A z) const {
    const A c = z * inverse_scale;
    return c > largest ? largest : c < -largest ? -largest : c;  // NaN stays
  }
  FASTLOSS_INLINE bool of_cosine() const { return multiplier == A(1) && angle == A(0); }
  FASTLOSS_INLINE A with_margin(A z) const { return multiplier * A(acos(clamped(z))) + angle; }
  FASTLOSS_INLINE bool is_beyond(A with_margin) const { return linear_beyond && with_margin > A(3.14159265358979324); }
  FASTLOSS_INLINE A target_logit(A z) const {
    if (of_cosine()) return z - scale * cosine;
    const A t = with_margin(z);
    return is_beyond(t) ? z - scale * beyond : scale * (math::cos(t) - cosine);
  }
  FASTLOSS_INLINE A target_slope(A z) const {
    const A c = clamped(z), t = with_margin(z);
    if (straight || of_cosine() || is_beyond(t)) return A(1);
    if (c != z * inverse_scale) return c - c;
    return multiplier * math::sin(t) / A(sqrt((A(1) - c) * (A(1) + c)));
  }
  FASTLOSS_INLINE RowResult<A> finish(const RowSums<A>& s) const { return {s.mass * s.log_sum - s.linear, s.mass}; }
};

#define FASTLOSS_ROW_margin(LOSS) LOSS(margin_softmax, MarginSoftmax)

}  // namespace fastloss
