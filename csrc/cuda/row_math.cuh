// What all row kernels share: the job they are given, online softmax statistics, and the two formulas of a row loss.
#pragma once
#include "../losses/row.h"
#include "gpu.h"

namespace fastloss {

template <class T>
struct Matrix {  // element (n, c, d) at data[n * outer + c * step + d]
  T* data;
  long long outer;
  long long step;
};

// The parameters of a row kernel. Absent tensors are null.
template <class Loss, class T>
struct RowJob {
  using A = typename Loss::A;
  Loss loss;
  Matrix<const T> logits;
  Matrix<const T> soft_target;
  Matrix<T> gradient;
  const long long* target;  // (rows,)
  const A* weight;          // (C,)
  const A* loss_gradient;   // (rows,)
  const double* scale;      // (): factor of the gradient, 1 if null
  A* row_loss;              // (rows,)
  A* state;                 // (2, rows)
  long long rows;
  long long inner;  // D: row r is n = r / inner, d = r % inner
  long long ignore_index;
  int classes;
  // For kernels on rows of unit class stride (see Plan in row.cu):
  int lanes;       // threads of a warp that share a row
  int slice;       // classes that a block of a cluster works on, a multiple of the pack
  bool keep;       // the logits of the slice stay in shared memory between the two passes
  bool keep_soft;  // so do the soft targets
};

// What an index target says of its row. A soft target gives {-1, 1, true}.
template <class A>
struct RowTarget {
  int index;  // y, or -1
  A weight;   // class weight of y
  bool counted;
};

// `reports` is true in one thread of those that share the row. The others go on with a row that is not counted, and the
// trap ends them.
template <class Loss, class T>
GPU_INLINE RowTarget<typename Loss::A> read_target(const RowJob<Loss, T>& job, long long row, bool reports) {
  if (job.target == nullptr) return {-1, 1, true};
  const long long target = job.target[row];
  if (target == job.ignore_index) return {-1, 0, false};
  if (target < 0 || target >= job.classes) {
    if (reports) GPU_TRAP("fastloss: index target is neither a class nor ignore_index");
    return {-1, 0, false};
  }
  return {int(target), job.weight != nullptr ? job.weight[target] : 1, true};
}

// Online softmax over some classes of a row. Sums are taken relative to `max`, which begins at the lowest finite number
// and not at -inf, so that -inf - max is -inf and not NaN: logits of -inf add exactly 0 to `sum`.
template <class A>
struct Statistics {
  A max;     // max_j z_j; ignores NaN, which `sum` keeps
  A sum;     // sum_j exp(z_j - max)
  A mass;    // sum_j q_j of a dense target distribution
  A linear;  // sum_j q_j (z_j - max) of it
};

template <class A>
GPU_INLINE Statistics<A> no_statistics() {
  return {lowest<A>(), 0, 0, 0};
}

// Moves the sums to the larger reference `max`. The shift of the linear part is kept finite: 0 * -inf would be NaN.
template <class T, bool kDense, class A>
GPU_INLINE void rebase(Statistics<A>& s, A max) {
  s.sum *= exponential<T>(s.max - max);
  if constexpr (kDense) s.linear += s.mass * maximum(s.max - max, lowest<A>());
  s.max = max;
}

// Adds kCount classes: kCount + 1 exponentials, where one class at a time would take twice as many as classes.
template <class T, bool kDense, int kCount, class A>
GPU_INLINE void add_classes(Statistics<A>& s, const A (&z)[kCount], const A (&q)[kCount]) {
  A max = s.max;
#pragma unroll
  for (int j = 0; j < kCount; ++j) max = maximum(max, z[j]);
  rebase<T, kDense>(s, max);
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    const A below = z[j] - max;
    s.sum += exponential<T>(below);
    if constexpr (kDense) {
      s.mass += q[j];
      s.linear += q[j] * below;
    }
  }
}

// Joins the statistics of the `lanes` (a power of two) neighbouring threads of a warp named by `mask`. A butterfly:
// every lane gets the same bits, because a + b == b + a.
template <class T, bool kDense, class A>
GPU_INLINE Statistics<A> join_lanes(Statistics<A> s, int lanes, unsigned mask) {
  A max = s.max;
  for (int step = lanes / 2; step > 0; step /= 2) max = maximum(max, __shfl_xor_sync(mask, max, step));
  rebase<T, kDense>(s, max);
  for (int step = lanes / 2; step > 0; step /= 2) {
    s.sum += __shfl_xor_sync(mask, s.sum, step);
    if constexpr (kDense) {
      s.mass += __shfl_xor_sync(mask, s.mass, step);
      s.linear += __shfl_xor_sync(mask, s.linear, step);
    }
  }
  return s;
}

// The whole row's sums in the form of the functor, without the share of an index target.
template <class A>
GPU_INLINE RowSums<A> row_sums(const Statistics<A>& s, const RowTarget<A>& target) {
  // A sum of 0 means that every logit is -inf, so -inf is the maximum; loss and gradient become NaN, as in torch.
  return {s.sum == 0 ? -A(INFINITY) : s.max, math::log(s.sum), s.mass, s.linear, target.weight};
}

// The gradient of a row: dloss/dx_j * scale = slope(z_j) * (softmax * p_j - scale * q_j).
template <class Loss, class T, bool kDense>
struct RowGradient {
  using A = typename Loss::A;
  Loss loss;
  A max, log_sum;
  A softmax;  // coefficient of the softmax * scale
  A scale;
  A index_mass;  // of y, * scale
  int index;     // y relative to the classes at hand

  // Turns logits x of the classes first .. first + kCount - 1, with dense masses q, into gradients.
  template <int kCount>
  GPU_INLINE void apply(int first, A (&x)[kCount], const A (&q)[kCount]) const {
    // One comparison for all the classes. `index` may be -1 or belong to another block.
    const bool has_target = unsigned(index - first) < unsigned(kCount);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const A z = loss.logit(x[j]);
      A value = softmax * exponential<T>((z - max) - log_sum);
      if constexpr (kDense) value -= scale * q[j];
      if (has_target && first + j == index) value -= index_mass;
      x[j] = loss.slope(z) * value;
    }
  }
};

template <class T, bool kDense, class Loss, class A>
GPU_INLINE RowGradient<Loss, T, kDense> row_gradient(const Loss& loss, const RowSums<A>& sums,
                                                     const RowTarget<A>& target, A index_mass, A scale) {
  const A softmax = loss.finish(sums).softmax_coefficient * scale;
  return {loss, sums.max, sums.log_sum, softmax, scale, index_mass * scale, target.index};
}

}  // namespace fastloss
