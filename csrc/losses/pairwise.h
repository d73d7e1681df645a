// The mathematics of the losses over all pairs of a source and a target value, once, for the CPU and for CUDA.
//
// A pair loss is a struct whose fields are its hyper-parameters; its call operator maps a source value, a target value
// and the level of the source to the loss of the pair and its derivative by the source. V is a number or a vector of
// numbers (see pointwise.h for what a functor keeps to). The skeletons (csrc/cpu/pairwise.cpp, csrc/cuda/pairwise.cu)
// know no loss: they walk over the pairs, sum over the sources and average over the targets.
#pragma once
#include <string.h>

#include "functions.h"

namespace fastloss {

template <class V>
struct Pair {
  V loss, derivative;
};

// With u = target - source and the Huber loss H: |level - [u < 0]| H(u) / kappa; |level - [u < 0]| |u| for kappa = 0.
template <class Accumulator>
struct QuantileHuber {
  using A = Accumulator;
  static constexpr int parameters = 1;
  A kappa, inverse_kappa;

  FASTLOSS_INLINE explicit QuantileHuber(const double* parameters)
      : kappa(A(parameters[0])), inverse_kappa(parameters[0] > 0 ? A(1 / parameters[0]) : A(0)) {}

  template <class V>
  FASTLOSS_INLINE Pair<V> operator()(V source, V target, V level) const {
    const V u = target - source;
    const V weight = (u < V{}) ? A(1) - level : level;
    if (!(kappa > A(0))) return {weight * math::abs(u), -weight * math::sign(u)};
    const V clipped = math::clamp(u, V{} - kappa, V{} + kappa);
    const V slope = weight * inverse_kappa * clipped;
    return {slope * (u - A(0.5) * clipped), -slope};
  }
};

template <template <class> class Functor>
struct PairTag {
  template <class A>
  using with = Functor<A>;
};

// Calls visit with the tag of the loss of this name in Python.
template <class Visit>
bool visit_pair_loss(const char* name, Visit visit) {
  if (strcmp(name, "quantile_huber") == 0) return visit(PairTag<QuantileHuber>{}), true;
  return false;
}

}  // namespace fastloss
