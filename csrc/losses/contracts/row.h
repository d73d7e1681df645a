// The mathematics of the losses over one row of logits (softmax over the classes), once, for the CPU and for CUDA: the
// contract.
//
// A row loss is a struct whose fields are its hyper-parameters. The skeletons (csrc/cpu/row.cpp, csrc/cuda/row/row.cu)
// know no loss; they walk over a row x_0 .. x_{C-1} and call, with A the accumulator (float, or double for double
// logits) and V either A or a vector of A:
//
//   V logit(V x)                 z_j, the logit that enters the softmax
//   V slope(V z)                 dz_j/dx_j, as a function of z_j
//   bool linear()                is the slope the same for every z, and z_j = slope * x_j, slope > 0?
//   bool dense(bool soft)        does the target distribution have a part that is spread over all the classes?
//   V mass(V weight, V target)   q_j, that part; called only if dense(...)
//   A index_mass(A weight)       what an index target y adds to q_y
//   RowResult<A> finish(sums)    loss of the row and the coefficient of the softmax
//
// and from them, for every row loss,
//
//   dloss/dx_j = slope(z_j) * (softmax_coefficient * softmax(z)_j - q_j).
//
// Where `static constexpr bool modulated` is true, the loss is sum_j q_j f(log p_j) with a function other than
// f(log p) = -log p, which the functor has as
//
//   A class_loss(A log_p)        f(log p)
//   A class_slope(A log_p)       -f'(log p), which multiplies q_j in the gradient
//
// and is not `dense`: only the class of an index target has a mass.
//
// `weight` is the class weight (1 where there is none), `target` the probability of a soft target (0 for an index
// target).
#pragma once
#include "../../problems/row.h"
#include "../math.h"

namespace fastloss {

// Sums are taken relative to the largest logit, so that a common offset of the logits (1e4, say) costs no accuracy:
// z_j - max is exact or nearly so, while lse itself is rounded at the size of the offset.
template <class A>
struct RowSums {
  A max;      // max_j z_j
  A log_sum;  // log(sum_j exp(z_j - max)), >= 0
  A mass;     // sum_j q_j, the index target's share included; modulated: sum_j q_j class_slope(log p_j)
  A linear;   // sum_j q_j (z_j - max), the index target's share included; modulated: -sum_j q_j class_loss(log p_j)
  A weight;   // class weight of the index target, 1 for soft targets: what the row adds to the mean's denominator
};

template <class A>
struct RowResult {
  A loss;
  A softmax_coefficient;
};

// Adds the share of an index target y, from_max = z_y - max_j z_j, to the sums, whose other fields are complete.
// Returns its mass in the gradient.
template <class Loss, class A>
FASTLOSS_INLINE A add_index_target(const Loss& loss, A from_max, RowSums<A>& sums) {
  A mass = loss.index_mass(sums.weight);
  if constexpr (Loss::modulated) {
    const A log_p = from_max - sums.log_sum;
    sums.linear -= mass * loss.class_loss(log_p);
    mass *= loss.class_slope(log_p);
  } else {
    sums.linear += mass * from_max;  // a weight of 0 and a logit of -inf: NaN, as in torch
  }
  sums.mass += mass;
  return mass;
}

template <class Functor>
constexpr RowDescription describe_row() {
  return {Functor::parameters, Functor::modulated};
}

}  // namespace fastloss
