// Losses of value functions that take each sample (or token) alone; see contracts/pointwise.h for what a functor is.
#pragma once
#include "../contracts/pointwise.h"

namespace fastloss {

// max((value - target)^2, (clamp(value, old - clip, old + clip) - target)^2) / 2
template <class V>
struct ValueError {
  V loss, derivative;  // by the value
  V clipped;           // 1 where the clamped value is the worse one
};
template <class V, class A>
FASTLOSS_INLINE ValueError<V> value_error(V value, V old_value, V target, A clip) {
  const V zero{};
  const V error = value - target;
  // not math::clamp, which takes a NaN for no bound
  const V bounded = math::minimum(V(math::maximum(value, V(old_value - clip))), V(old_value + clip)) - target;
  const V free = error * error, bound = bounded * bounded;
  const auto clipped = bound > free;
  return {A(0.5) * math::maximum(free, bound), clipped ? zero : error, clipped ? zero + A(1) : zero};
}

template <class Accumulator>
struct ValueClip : PointwiseLoss<3, 1, 1> {  // values, old_values, returns
  using A = Accumulator;
  A clip;

  FASTLOSS_INLINE explicit ValueClip(const double* parameters) : clip(A(parameters[0])) {}

  enum { kClipFraction };

  template <class V>
  FASTLOSS_INLINE Element<V, 3, 1> operator()(const V (&x)[3]) const {
    const ValueError<V> v = value_error(x[0], x[1], x[2], clip);
    Element<V, 3, 1> e;
    e.loss = v.loss;
    e.derivative[0] = v.derivative;
    e.metric[kClipFraction] = v.clipped;
    return e;
  }
};

#define FASTLOSS_POINTWISE_value(LOSS) LOSS(value_clip_loss, ValueClip)

}  // namespace fastloss
