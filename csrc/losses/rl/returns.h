// Returns and advantages, by recurrences over time; see contracts/scan.h for what a functor is. Operands in the order
// of the bodies' arguments: r rewards, v values, w the values of the next states, then gamma and lambda, each of a
// step. g is gamma where the step has not terminated, else 0.
#pragma once
#include "../contracts/scan.h"

namespace fastloss {

template <class Accumulator>
struct LinearScan : Scan<Accumulator, 2, 0, 1> {  // inputs, coefficients
  FASTLOSS_INLINE explicit LinearScan(const double*) {}

  template <class V>
  FASTLOSS_INLINE Recurrence<V> step(const V (&x)[2], V, V) const {
    return {x[1], x[0]};
  }
  template <class V>
  FASTLOSS_INLINE void finish(const V (&)[2], V, V, V y, V, V (&out)[1]) const {
    out[0] = y;
  }
};

// G = r + g (G' or, where nothing follows, w)
template <class Accumulator>
struct DiscountedReturns : Scan<Accumulator, 3, 0, 1> {  // rewards, next_values, gamma
  FASTLOSS_INLINE explicit DiscountedReturns(const double*) {}

  template <class V>
  FASTLOSS_INLINE Recurrence<V> step(const V (&x)[3], V alive, V follows) const {
    const V end = carried(V(alive * x[2]), x[1]);
    return {x[2] * follows, x[0] + ((follows == V{}) ? end : V{})};
  }
  template <class V>
  FASTLOSS_INLINE void finish(const V (&)[3], V, V, V y, V, V (&out)[1]) const {
    out[0] = y;
  }
};

// G = r + g ((1 - l) w + l G'), and w alone where nothing follows
template <class Accumulator>
struct LambdaReturns : Scan<Accumulator, 4, 0, 1> {  // rewards, next_values, gamma, lambda_
  using A = Accumulator;
  FASTLOSS_INLINE explicit LambdaReturns(const double*) {}

  template <class V>
  FASTLOSS_INLINE Recurrence<V> step(const V (&x)[4], V alive, V follows) const {
    const V trace = x[3] * follows;
    return {x[2] * trace, x[0] + carried(V(alive * x[2] * (A(1) - trace)), x[1])};
  }
  template <class V>
  FASTLOSS_INLINE void finish(const V (&)[4], V, V, V y, V, V (&out)[1]) const {
    out[0] = y;
  }
};

// r + g w
template <class V>
FASTLOSS_INLINE V one_step(V reward, V discount, V next_value) {
  return reward + carried(discount, next_value);
}

// A = r + g w - v + g l A'; also A + v
template <class Accumulator>
struct Gae : Scan<Accumulator, 5, 0, 2> {  // rewards, values, next_values, gamma, lambda_
  FASTLOSS_INLINE explicit Gae(const double*) {}

  template <class V>
  FASTLOSS_INLINE Recurrence<V> step(const V (&x)[5], V alive, V follows) const {
    return {x[3] * x[4] * follows, one_step(x[0], V(alive * x[3]), x[2]) - x[1]};
  }
  template <class V>
  FASTLOSS_INLINE void finish(const V (&x)[5], V, V, V y, V, V (&out)[2]) const {
    out[0] = y;
    out[1] = y + x[1];
  }
};

// The corrections of n-step targets by a trace c of each step: e = c (r + g w - v + g e'), and the target of a step is
// r + g (w + e').
template <class V>
FASTLOSS_INLINE Recurrence<V> correction(V trace, V target, V value, V discount, V follows) {
  return {trace * discount * follows, carried(trace, V(target - value))};
}
template <class V>
FASTLOSS_INLINE V corrected(V reward, V discount, V next_value, V next) {
  return reward + carried(discount, V(next_value + next));
}

// e = min(rho, rho_bar) (r + g w - v) + l min(rho, c_bar) g e'; v + e, and min(rho, pg_rho_bar) (r + g (w + l e') - v)
template <class Accumulator>
struct VTrace : Scan<Accumulator, 6, 3, 2> {  // rewards, values, next_values, ratios, gamma, lambda_
  using A = Accumulator;
  A rho_bar, c_bar, pg_rho_bar;

  FASTLOSS_INLINE explicit VTrace(const double* p) : rho_bar(A(p[0])), c_bar(A(p[1])), pg_rho_bar(A(p[2])) {}

  template <class V>
  FASTLOSS_INLINE Recurrence<V> step(const V (&x)[6], V alive, V follows) const {
    const V rho = math::minimum(x[3], V{} + rho_bar), c = x[5] * math::minimum(x[3], V{} + c_bar);
    return {c * x[4] * follows, rho * (one_step(x[0], V(alive * x[4]), x[2]) - x[1])};
  }
  template <class V>
  FASTLOSS_INLINE void finish(const V (&x)[6], V alive, V, V y, V next, V (&out)[2]) const {
    out[0] = x[1] + y;
    out[1] =
        math::minimum(x[3], V{} + pg_rho_bar) * (corrected(x[0], V(alive * x[4]), x[2], V(carried(x[5], next))) - x[1]);
  }
};

template <class Accumulator>
struct Retrace : Scan<Accumulator, 6, 1, 1> {  // rewards, values, next_values, ratios, gamma, lambda_; c_bar
  using A = Accumulator;
  A c_bar;

  FASTLOSS_INLINE explicit Retrace(const double* parameters) : c_bar(A(parameters[0])) {}

  template <class V>
  FASTLOSS_INLINE Recurrence<V> step(const V (&x)[6], V alive, V follows) const {
    const V discount = alive * x[4];
    return correction(V(x[5] * math::minimum(x[3], V{} + c_bar)), one_step(x[0], discount, x[2]), x[1], discount,
                      follows);
  }
  template <class V>
  FASTLOSS_INLINE void finish(const V (&x)[6], V alive, V, V, V next, V (&out)[1]) const {
    out[0] = corrected(x[0], V(alive * x[4]), x[2], next);
  }
};

template <class Accumulator>
struct TreeBackup : Scan<Accumulator, 6, 0, 1> {  // rewards, values, next_values, probabilities, gamma, lambda_
  FASTLOSS_INLINE explicit TreeBackup(const double*) {}

  template <class V>
  FASTLOSS_INLINE Recurrence<V> step(const V (&x)[6], V alive, V follows) const {
    const V discount = alive * x[4];
    return correction(V(x[5] * x[3]), one_step(x[0], discount, x[2]), x[1], discount, follows);
  }
  template <class V>
  FASTLOSS_INLINE void finish(const V (&x)[6], V alive, V, V, V next, V (&out)[1]) const {
    out[0] = corrected(x[0], V(alive * x[4]), x[2], next);
  }
};

template <class Accumulator>
struct QLambda : Scan<Accumulator, 5, 0, 1> {  // rewards, values, next_values, gamma, lambda_
  FASTLOSS_INLINE explicit QLambda(const double*) {}

  template <class V>
  FASTLOSS_INLINE Recurrence<V> step(const V (&x)[5], V alive, V follows) const {
    const V discount = alive * x[3];
    return correction(x[4], one_step(x[0], discount, x[2]), x[1], discount, follows);
  }
  template <class V>
  FASTLOSS_INLINE void finish(const V (&x)[5], V alive, V, V, V next, V (&out)[1]) const {
    out[0] = corrected(x[0], V(alive * x[3]), x[2], next);
  }
};

// The trace goes on through steps that were at least as good as their value.
template <class Accumulator>
struct Upgo : Scan<Accumulator, 4, 0, 1> {  // rewards, values, next_values, gamma
  using A = Accumulator;
  FASTLOSS_INLINE explicit Upgo(const double*) {}

  template <class V>
  FASTLOSS_INLINE Recurrence<V> step(const V (&x)[4], V alive, V follows) const {
    const V discount = alive * x[3], target = one_step(x[0], discount, x[2]);
    const V trace = (target >= x[1]) ? V{} + A(1) : V{};
    return correction(trace, target, x[1], discount, follows);
  }
  template <class V>
  FASTLOSS_INLINE void finish(const V (&x)[4], V alive, V, V, V next, V (&out)[1]) const {
    out[0] = corrected(x[0], V(alive * x[3]), x[2], next);
  }
};

// clang-format off
#define FASTLOSS_SCAN_returns(LOSS)           \
  LOSS(linear_scan, LinearScan)               \
  LOSS(discounted_returns, DiscountedReturns) \
  LOSS(lambda_returns, LambdaReturns)         \
  LOSS(gae, Gae)                              \
  LOSS(vtrace, VTrace)                        \
  LOSS(retrace, Retrace)                      \
  LOSS(tree_backup, TreeBackup)               \
  LOSS(q_lambda, QLambda)                     \
  LOSS(upgo, Upgo)
// clang-format on

}  // namespace fastloss
