// A call of the row skeleton, as its ways of going through rows share it.
#pragma once
#include "../losses/contracts/row.h"
#include "simd/lanes.h"

namespace fastloss {
namespace FASTLOSS_ISA {

// A hot loop is a function of its own: inlined into its caller, GCC keeps the caller's values in registers and reloads
// the constants of the loop in every iteration.
#define FASTLOSS_LOOP __attribute__((noinline))

// One loss on one storage type T (double, float, Half, BFloat16). The accumulator A is double for double, else float;
// V holds S::lanes of them.
template <class Loss, class T>
struct RowTask {
  using A = typename Loss::A;
  using S = Vectors<A>;
  using V = typename S::V;
  using I = typename S::I;
  static constexpr A infinity = A(__builtin_huge_val());

  const RowProblem& p;
  const Loss loss;
  const int64_t C;
  const A factor;          // of the gradient
  const bool state_known;  // is this a backward pass?
  const A* weight;
  const bool soft;
  A *loss_rows, *max_rows, *log_sum_rows;

  RowTask(const RowProblem& problem, double factor)
      : p(problem),
        loss(problem.parameters, problem.classes),
        C(problem.classes),
        factor(A(factor)),
        state_known(problem.loss_gradient != nullptr),
        weight(static_cast<const A*>(problem.weight)),
        soft(problem.soft_target.data != nullptr),
        loss_rows(static_cast<A*>(problem.row_loss)),
        max_rows(static_cast<A*>(problem.state)),
        log_sum_rows(problem.state ? max_rows + problem.rows : nullptr) {}

  FASTLOSS_INLINE A gradient_factor(int64_t row) const {
    return p.loss_gradient ? factor * static_cast<const A*>(p.loss_gradient)[row] : factor;
  }
  FASTLOSS_INLINE bool ignored(int64_t row) const { return !soft && p.index_target[row] == p.ignore_index; }
  FASTLOSS_INLINE const T* logits_of(int64_t row) const {
    return static_cast<const T*>(p.logits.data) + row * p.logits.outer;
  }
  FASTLOSS_INLINE const T* soft_target_of(int64_t row) const {
    return soft ? static_cast<const T*>(p.soft_target.data) + row * p.soft_target.outer : nullptr;
  }
  FASTLOSS_INLINE T* gradient_of(int64_t row) const {
    return p.gradient.data ? static_cast<T*>(p.gradient.data) + row * p.gradient.outer : nullptr;
  }
  FASTLOSS_INLINE void store_ignored(int64_t row, T* contiguous_gradient) const {
    if (loss_rows) loss_rows[row] = A(0);
    if (max_rows && !state_known) max_rows[row] = log_sum_rows[row] = A(0);
    if (contiguous_gradient) memset(contiguous_gradient, 0, size_t(C) * sizeof(T));
  }

  FASTLOSS_INLINE A class_weight(int64_t c) const { return weight ? weight[c] : A(1); }
};

}  // namespace FASTLOSS_ISA
}  // namespace fastloss
