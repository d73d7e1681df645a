// The mathematics of what runs over time, once, for the CPU and for CUDA: the contract. In the order of the scan, which
// for returns is from the last step to the first,
//
//   y = b + a y',    y' of the step before in that order, which is the next in time
//
// and a scan is a struct whose fields are its hyper-parameters, with two members:
//
//   Recurrence<V> step(const V (&x)[operands], V alive, V follows) const;       a and b
//   void finish(const V (&x)[operands], V alive, V follows, V y, V next, V (&out)[outputs]) const;
//
// x are the operands at the step; `alive` is 0 where the episode has terminated with it, else 1; `follows` is 1 where
// the trajectory goes on behind it, and 0 where it has terminated or was truncated, or ends with the batch; `next` is
// y' where it follows, else 0. The skeletons (csrc/cpu/scan.cpp, csrc/cuda/scan.cu) know no functor. An `a` of exactly
// 0 cuts: what is behind it is not looked at, infinite or NaN. A step that the mask takes out hands y' on, and its
// outputs are 0. A functor keeps to the rules of pointwise.h: V is a number or a vector of them.
#pragma once
#include "../../problems/scan.h"
#include "../math.h"

namespace fastloss {

template <class V>
struct Recurrence {
  V a, b;
};

template <class Accumulator, int kOperands, int kParameters, int kOutputs>
struct Scan {
  using A = Accumulator;
  static constexpr int operands = kOperands, parameters = kParameters, outputs = kOutputs;
};

// a * next, and 0 where a is 0
template <class V>
FASTLOSS_INLINE V carried(V a, V next) {
  return (a == V{}) ? V{} : a * next;
}

template <class Functor>
constexpr ScanDescription describe_scan() {
  static_assert(Functor::operands <= kMaxScanOperands && Functor::outputs <= kMaxScanOutputs,
                "raise the limits in problems/scan.h");
  return {Functor::operands, Functor::parameters, Functor::outputs};
}

}  // namespace fastloss
