// The mathematics of the losses over all pairs of elements within a row, once, for the CPU and for CUDA. A row has
// sources s_0 .. s_{N-1}, which are differentiated, and targets t_0 .. t_{M-1}, which are constants:
//
//   loss of the row = sum_i mean_j f(s_i, t_j, x_i).
//
// An outer loss is a struct whose fields are its hyper-parameters, and whose call operator maps a source, a target and
// the operands x of the source to the loss of the pair and its derivative by the source. The skeletons
// (csrc/cpu/outer.cpp, csrc/cuda/outer.cu) know no loss; they walk over the pairs and add up. A functor keeps to the
// rules of pointwise.h: V is a number or a vector of them.
#pragma once
#include "../../problems/outer.h"
#include "../math.h"

namespace fastloss {

template <class V>
struct Pair {
  V loss;
  V derivative;  // by the source
};

template <class Functor>
constexpr OuterDescription describe_outer() {
  static_assert(Functor::operands <= kMaxOuterOperands, "raise the limit in problems/outer.h");
  return {Functor::operands, Functor::parameters};
}

}  // namespace fastloss
