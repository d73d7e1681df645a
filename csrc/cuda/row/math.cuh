// What all row kernels share: the job they are given, online softmax statistics, and the two formulas of a row loss.
#pragma once
#include "../../losses/contracts/row.h"
#include "../gpu.h"

namespace fastloss {

template <class T>
struct Matrix {  // element (n, c, d) at data[n * outer + c * step + d]
  T* data;
  long long outer;
  long long step;
};

template <class T>
void skip_rows(Matrix<T>& matrix, long long count) {
  if (matrix.data != nullptr) matrix.data += count * matrix.outer;
}
template <class T>
void skip_rows(T*& of_rows, long long count) {
  if (of_rows != nullptr) of_rows += count;
}

// The sums over a row are made of numbers y_j with z_j = unit * y_j: of the logits x_j as they are read where the loss
// is linear, of z_j with the unit 1 where it is not. The unit is a factor of the exponent, which has one anyway: on
// sm_90 cross-entropy costs a half 8 instructions in each pass and a float 18; an H200 that moves 4.2 TB/s has time for
// 28 and 56 in all.
template <class Loss, class T>
struct Units {
  using A = typename Loss::A;
  A unit, exponent;

  explicit Units(const Loss& loss)
      : unit(loss.linear() ? loss.slope(A(0)) : A(1)), exponent(sizeof(T) == 2 ? unit * log2_e : unit) {}

  // exp(unit * y - less) <= 1, as good as the storage type deserves: expf takes eight instructions.
  GPU_INLINE A exponential(A y, A less = 0) const {
    if constexpr (sizeof(T) == 2) {
      return fast_exp2(y * exponent - less * log2_e);
    } else {
      return math::exp(y * exponent - less);
    }
  }

 private:
  static constexpr A log2_e = A(1.4426950408889634);
};

// x_j -> y_j
template <bool kLinear, class Loss, int kCount, class A>
GPU_INLINE void to_units(const Loss& loss, A (&x)[kCount]) {
  if constexpr (!kLinear) {
#pragma unroll
    for (int j = 0; j < kCount; ++j) x[j] = loss.logit(x[j]);
  }
}

// The parameters of a row kernel. Absent tensors are null.
template <class Loss, class T>
struct RowJob {
  using A = typename Loss::A;
  Loss loss;
  Units<Loss, T> units;
  Matrix<const T> logits = {};
  Matrix<const T> soft_target = {};
  Matrix<T> gradient = {};
  const long long* target = nullptr;  // (rows,)
  const A* weight = nullptr;          // (C,)
  const A* loss_gradient = nullptr;   // (rows,)
  const double* scale = nullptr;      // (): factor of the gradient, 1 if null
  A* row_loss = nullptr;              // (rows,)
  A* state = nullptr;                 // (2, rows)
  long long rows = 0;                 // of this launch
  long long all_rows = 0;             // of the call: how far apart the lines of (2, rows) are
  long long first_row = 0;  // of this launch, where rows are not a stride apart (inner > 1); else the pointers say it
  long long inner = 1;      // D: row r is n = r / inner, d = r % inner
  long long ignore_index = 0;
  int classes = 0;
  // For kernels on rows of unit class stride (see LaunchShape in row.cu):
  int lanes = 0;           // threads of a warp that share a row
  int slice = 0;           // classes that a block of a cluster works on, a multiple of the pack
  bool keep = false;       // the logits of the slice stay in shared memory between the two passes
  bool keep_soft = false;  // so do the soft targets

  // On the host: leaves `count` rows to an earlier launch. By the pointers, so that a block's row is its number: one
  // that was added to it in the kernel cost 8 registers, of which sm_80 spilled one.
  void skip(long long count) {
    if (inner > 1) {
      first_row += count;
      return;
    }
    skip_rows(logits, count);
    skip_rows(soft_target, count);
    skip_rows(gradient, count);
    skip_rows(target, count);
    skip_rows(loss_gradient, count);
    skip_rows(row_loss, count);
    skip_rows(state, count);
    rows -= count;
  }
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

// y_j of one class.
template <class Loss, class T>
GPU_INLINE Accumulator<T> class_of(const Loss& loss, T x) {
  const Accumulator<T> logit = widen(x);
  return loss.linear() ? logit : loss.logit(logit);
}

// use(std::bool_constant<condition>): code of its own for each. With a branch for every element, around the hyperbolic
// tangent of a cap on the logits, the loop of the first pass was 25 KB long, most of it jumped over; it is 4 KB now.
template <class Use>
GPU_INLINE void either(bool condition, const Use& use) {
  if (condition) {
    use(std::true_type());
  } else {
    use(std::false_type());
  }
}

// Online softmax over some classes of a row. Sums are taken relative to `max`, which begins at the lowest finite number
// and not at -inf, so that -inf - max is -inf and not NaN: logits of -inf add exactly 0 to `sum`.
template <class A>
struct Statistics {
  A max;     // max_j y_j; ignores NaN, which `sum` keeps
  A sum;     // sum_j exp(z_j - max_j z_j)
  A mass;    // sum_j q_j of a dense target distribution
  A linear;  // sum_j q_j (y_j - max) of it
};

template <class A>
GPU_INLINE Statistics<A> no_statistics() {
  return {lowest<A>(), 0, 0, 0};
}

// Moves the sums to the larger reference `max`. The shift of the linear part is kept finite: 0 * -inf would be NaN.
template <bool kDense, class Units, class A>
GPU_INLINE void rebase(const Units& units, Statistics<A>& s, A max) {
  s.sum *= units.exponential(s.max - max);
  if constexpr (kDense) s.linear += s.mass * maximum(s.max - max, lowest<A>());
  s.max = max;
}

// Adds kCount classes: kCount + 1 exponentials, where one class at a time would take twice as many as classes.
template <bool kDense, class Units, int kCount, class A>
GPU_INLINE void add_classes(const Units& units, Statistics<A>& s, const A (&y)[kCount], const A (&q)[kCount]) {
  A max = s.max;
#pragma unroll
  for (int j = 0; j < kCount; ++j) max = maximum(max, y[j]);
  rebase<kDense>(units, s, max);
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    const A below = y[j] - max;
    s.sum += units.exponential(below);
    if constexpr (kDense) {
      s.mass += q[j];
      s.linear += q[j] * below;
    }
  }
}

// Joins the statistics of the `lanes` (a power of two) neighbouring threads of a warp named by `mask`. A butterfly:
// every lane gets the same bits, because a + b == b + a.
template <bool kDense, class Units, class A>
GPU_INLINE Statistics<A> join_lanes(const Units& units, Statistics<A> s, int lanes, unsigned mask) {
  A max = s.max;
  for (int step = lanes / 2; step > 0; step /= 2) max = maximum(max, __shfl_xor_sync(mask, max, step));
  rebase<kDense>(units, s, max);
  for (int step = lanes / 2; step > 0; step /= 2) {
    s.sum += __shfl_xor_sync(mask, s.sum, step);
    if constexpr (kDense) {
      s.mass += __shfl_xor_sync(mask, s.mass, step);
      s.linear += __shfl_xor_sync(mask, s.linear, step);
    }
  }
  return s;
}

// max_j y_j of a whole row. A sum of 0 means that every logit is -inf; loss and gradient become NaN, as in torch.
template <class A>
GPU_INLINE A row_max(const Statistics<A>& s) {
  return s.sum == 0 ? -A(INFINITY) : s.max;
}

// The whole row's sums in the form of the functor, without the share of an index target.
template <class Units, class A>
GPU_INLINE RowSums<A> row_sums(const Units& units, const Statistics<A>& s, const RowTarget<A>& target) {
  return {units.unit * row_max(s), math::log(s.sum), s.mass, units.unit * s.linear, target.weight};
}

// The gradient of a row: dloss/dx_j * scale = slope(z_j) * (softmax * p_j - scale * q_j). The slope of a linear loss is
// the unit, which the coefficients have taken in.
template <class Loss, class T, bool kDense>
struct RowGradient {
  using A = typename Loss::A;
  Loss loss;
  Units<Loss, T> units;
  A max;  // of y_j
  A log_sum;
  A softmax;     // coefficient of the softmax * scale * unit
  A dense;       // of the dense target distribution: scale * unit
  A index_mass;  // of y, * scale * unit
  int index;     // y relative to the classes at hand

  // Turns logits x of the classes first .. first + kCount - 1, with dense masses q, into gradients.
  template <bool kLinear, int kCount>
  GPU_INLINE void apply(int first, A (&x)[kCount], const A (&q)[kCount]) const {
    A value[kCount];
    to_units<kLinear>(loss, x);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      value[j] = softmax * units.exponential(x[j] - max, log_sum);
      if constexpr (kDense) value[j] -= dense * q[j];
    }
    // One comparison for all the classes. `index` may be -1 or belong to another block.
    if (unsigned(index - first) < unsigned(kCount)) {
#pragma unroll
      for (int j = 0; j < kCount; ++j) value[j] -= first + j == index ? index_mass : A(0);
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) x[j] = kLinear ? value[j] : loss.slope(x[j]) * value[j];
  }
};

// `max` is that of y_j.
template <class T, bool kDense, class Loss, class A>
GPU_INLINE RowGradient<Loss, T, kDense> row_gradient(const RowJob<Loss, T>& job, A max, const RowSums<A>& sums,
                                                     const RowTarget<A>& target, A index_mass, A scale) {
  const A dense = scale * job.units.unit, softmax = job.loss.finish(sums).softmax_coefficient * dense;
  return {job.loss, job.units, max, sums.log_sum, softmax, dense, index_mass * dense, target.index};
}

}  // namespace fastloss
