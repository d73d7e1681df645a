// The mathematics of the losses over all pairs of elements within a row, once, for the CPU and for CUDA. A row has
// sources s_0 .. s_{N-1}, which are differentiated, and targets t_0 .. t_{M-1}, which are constants:
//
//   loss of the row = sum_i mean_j f(s_i, t_j, x_i).
//
// A pairs loss is a struct whose fields are its hyper-parameters, and whose call operator maps a source, a target and
// the operands x of the source to the loss of the pair and its derivative by the source. The skeletons
// (csrc/cpu/pairs.cpp, csrc/cuda/pairs.cu) know no loss; they walk over the pairs and add up. A functor keeps to the
// rules of pointwise.h: V is a number or a vector of them.
#pragma once
#include <string.h>

#include "functions.h"

namespace fastloss {

template <class V>
struct Pair {
  V loss;
  V derivative;  // by the source
};

// |tau - [u < 0]| H(u), with u = target - source and Huber's H(u) = u^2 / 2 up to kappa, kappa (|u| - kappa / 2)
// beyond; |u| for kappa = 0. Operand: tau.
template <class Accumulator>
struct QuantileHuber {
  using A = Accumulator;
  static constexpr int operands = 1, parameters = 1;
  A kappa, scale;

  FASTLOSS_INLINE explicit QuantileHuber(const double* parameters, double scale = 1)
      : kappa(A(parameters[0])), scale(A(scale)) {}

  template <class V>
  FASTLOSS_INLINE Pair<V> operator()(V source, V target, const V (&x)[1]) const {
    const V u = target - source;
    const V above = x[0] * scale, below = (A(1) - x[0]) * scale;
    const V pull = (u < V{}) ? below : above;
    if (kappa > A(0)) {
      const V clipped = math::clamp(u, V{} - kappa, V{} + kappa);
      const V slope = pull * clipped;
      return {slope * (u - A(0.5) * clipped), -slope};
    }
    return {pull * math::abs(u), -(pull * math::sign(u))};
  }
};

// The same with H(u) / kappa.
template <class Accumulator>
struct ImplicitQuantile : QuantileHuber<Accumulator> {
  FASTLOSS_INLINE explicit ImplicitQuantile(const double* parameters)
      : QuantileHuber<Accumulator>(parameters, parameters[0] > 0 ? 1 / parameters[0] : 1) {}
};

// Every pairs loss by its name in Python. `visit` is called with a tag; `decltype(tag)::with<A>` is the functor type.
template <template <class> class Functor>
struct PairsLoss {
  template <class A>
  using with = Functor<A>;
};

template <class Visit>
bool visit_pairs_loss(const char* name, Visit visit) {
  if (strcmp(name, "quantile_huber_loss") == 0) return visit(PairsLoss<QuantileHuber>{}), true;
  if (strcmp(name, "iqn_loss") == 0) return visit(PairsLoss<ImplicitQuantile>{}), true;
  return false;
}

}  // namespace fastloss
