// The mathematics of the losses that take each element alone, once, for the CPU and for CUDA: the contract. The
// functors are in the folder above, a family in each file.
//
// A pointwise loss is a struct whose fields are its hyper-parameters, and whose call operator maps the operands at one
// element to the loss there, its derivatives, and, for some, metrics of the element. The skeletons
// (csrc/cpu/pointwise.cpp, csrc/cuda/pointwise) know no loss. They broadcast and convert the operands, and weight,
// mask, reduce and store.
//
//   template <class Accumulator>
//   struct Huber : PointwiseLoss<2, 1> {                       // operands, hyper-parameters
//     using A = Accumulator;                                    // float, or double if an operand is double
//     A delta;
//     FASTLOSS_INLINE explicit Huber(const double* parameters) : delta(A(parameters[0])) {}
//     template <class V>                                        // A, or a vector of A
//     FASTLOSS_INLINE Element<V, 2> operator()(const V (&x)[2]) const;
//   };
//
// What a functor keeps to, so that one body serves all of these types:
//   * math::f(x) of losses/math.h, never <cmath>; literals as A(0.5); V{} is 0 and V{} + A(1) is 1;
//   * `condition ? a : b` with a and b of type V, masks joined by & and |; branch with `if` on hyper-parameters only;
//   * every derivative of an operand that is differentiated is set; the others stay as they are, and are never read;
//   * an operand that the caller left out is the constant that Python passes for it.
#pragma once
#include "../../problems/pointwise.h"
#include "../math.h"

namespace fastloss {

template <class V, int kOperands, int kMetrics = 0>
struct Element {
  V loss{};
  V derivative[kOperands] = {};
  V metric[kMetrics ? kMetrics : 1] = {};
};

template <int kOperands, int kParameters, int kMetrics = 0>
struct PointwiseLoss {
  static constexpr int operands = kOperands;
  static constexpr int parameters = kParameters;
  static constexpr int metrics = kMetrics;
  // A functor with metrics has: static constexpr MetricKind metric_kind(int index).
  static constexpr MetricKind metric_kind(int) { return kMeanMetric; }
  // A functor with a domain hides these two: valid(x) is a mask of the elements inside it, and the CPU raises, the GPU
  // traps with the message for an element outside.
  static constexpr const char* requirement = nullptr;
  static constexpr bool raises_value_error = true;  // is it Python's ValueError, or a RuntimeError as torch raises?
};

template <class Functor>
constexpr PointwiseDescription describe_pointwise() {
  static_assert(Functor::operands <= kMaxOperands && Functor::metrics <= kMaxMetrics, "raise the limits in problems/");
  PointwiseDescription description = {};
  description.operands = Functor::operands;
  description.parameters = Functor::parameters;
  description.metrics = Functor::metrics;
  for (int m = 0; m < Functor::metrics; ++m) description.kind[m] = Functor::metric_kind(m);
  description.requirement = Functor::requirement;
  description.raises_value_error = Functor::raises_value_error;
  return description;
}

}  // namespace fastloss
