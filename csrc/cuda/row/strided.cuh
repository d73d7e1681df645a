// Kernels for (N, C, D) logits whose classes are a stride apart. Neighbouring threads take neighbouring d, so that
// every load of a warp is one stretch of memory; the warps of a block share the classes of 32 rows. The second pass
// reads the logits again: for the short class axes of this layout (segmentation) they are still in the cache.
#pragma once
#include "math.cuh"

namespace fastloss {

constexpr int kColumns = 32;    // rows of a block: threadIdx.x
constexpr int kMaxParts = 8;    // shares of the classes: threadIdx.y
constexpr int kClassGroup = 8;  // loads in flight in a thread

// The statistics of a row from those of its parts, added in the same order by every thread.
template <bool kDense, class Units, class A>
GPU_INLINE Statistics<A> join_parts(const Units& units, const Statistics<A>& own) {
  SHARED(of_part, Statistics<A>[kMaxParts][kColumns]);
  of_part[threadIdx.y][threadIdx.x] = own;
  __syncthreads();
  Statistics<A> s = of_part[0][threadIdx.x];
  for (unsigned part = 1; part < blockDim.y; ++part) {
    Statistics<A> other = of_part[part][threadIdx.x];
    const A max = maximum(s.max, other.max);
    rebase<kDense>(units, s, max);
    rebase<kDense>(units, other, max);
    s.sum += other.sum;
    s.mass += other.mass;
    s.linear += other.linear;
  }
  return s;
}

// One row of a matrix: class c at row[c * step].
template <class T>
struct Column {
  GPU_INLINE Column(const Matrix<T>& matrix, long long n, long long d)
      : row(matrix.data != nullptr ? matrix.data + n * matrix.outer + d : nullptr), step(matrix.step) {}
  GPU_INLINE T& operator[](int c) const { return row[c * step]; }

  T* row;
  long long step;
};

// Calls use(c, logit, soft target) for the classes of this thread's part; `use_group(c, logits, softs)` for groups of
// them, c + j * blockDim.y being the class of element j.
template <class T, class UseGroup, class Use>
GPU_INLINE void traverse_column(int classes, const Column<const T>& logits, const Column<const T>& soft,
                                const UseGroup& use_group, const Use& use) {
  const int parts = int(blockDim.y);
  for (int c = int(threadIdx.y); c < classes; c += kClassGroup * parts) {
    T x[kClassGroup], t[kClassGroup];
#pragma unroll
    for (int j = 0; j < kClassGroup; ++j) {
      if (c + j * parts < classes) {
        x[j] = logits[c + j * parts];
        if (soft.row != nullptr) t[j] = soft[c + j * parts];
      }
    }
    if (c + (kClassGroup - 1) * parts < classes) {
      use_group(c, x, t);
    } else {
#pragma unroll
      for (int j = 0; j < kClassGroup; ++j) {
        const T x_of_one[1] = {x[j]}, t_of_one[1] = {t[j]};
        if (c + j * parts < classes) use(c + j * parts, x_of_one, t_of_one);
      }
    }
  }
}

template <class Loss, class T, int K>
GPU_INLINE void strided_masses(const RowJob<Loss, T>& job, int first, const T (&soft)[K], typename Loss::A (&q)[K]) {
  using A = typename Loss::A;
#pragma unroll
  for (int j = 0; j < K; ++j) {
    const A weight = job.weight != nullptr ? job.weight[first + j * int(blockDim.y)] : A(1);
    q[j] = job.loss.mass(weight, job.soft_target.data != nullptr ? A(widen(soft[j])) : A(0));
  }
}

template <class Loss, class T, bool kDense, bool kBackward>
__global__ void __launch_bounds__(kColumns* kMaxParts, sizeof(T) == 8 ? 1 : 3)
    row_strided_kernel(const RowJob<Loss, T> job) {
  using A = typename Loss::A;
  const long long row = job.first_row + (long long)blockIdx.x * kColumns + threadIdx.x;
  const bool exists = row < job.rows, reports = threadIdx.y == 0;
  const long long n = exists ? row / job.inner : 0, d = exists ? row % job.inner : 0;
  const Column<const T> logits(job.logits, n, d), soft(job.soft_target, n, d);
  const Column<T> gradient(job.gradient, n, d);
  const RowTarget<A> target = exists ? read_target(job, row, reports) : RowTarget<A>{-1, 0, false};
  const int counted_classes = target.counted ? job.classes : 0;  // threads without a row go to the barrier too

  const Units<Loss, T>& units = job.units;
  const bool linear = job.loss.linear();
  RowSums<A> sums;
  A max = 0, index_mass = 0;
  A target_y = 0;  // read now: a gradient in place may have overwritten it when the sums are known
  if (target.index >= 0 && (!kBackward || Loss::modulated)) target_y = class_of(job.loss, logits[target.index]);
  if constexpr (!kBackward) {
    Statistics<A> s = no_statistics<A>();
    either(linear, [&](auto is_linear) {
      auto add = [&](int first, const auto& x, const auto& t) {
        constexpr int K = std::extent<std::remove_reference_t<decltype(x)>>::value;
        A y[K], q[K];
#pragma unroll
        for (int j = 0; j < K; ++j) y[j] = A(widen(x[j]));
        to_units<decltype(is_linear)::value>(job.loss, y);
        if constexpr (kDense) strided_masses(job, first, t, q);
        add_classes<kDense>(units, s, y, q);
      };
      traverse_column<T>(counted_classes, logits, soft, add, add);
    });
    s = join_parts<kDense>(units, s);
    max = row_max(s);
    sums = row_sums(units, s, target);
    if (target.index >= 0) index_mass = add_index_target(job.loss, units.unit * (target_y - max), sums);
    if (exists && reports) {
      job.row_loss[row] = target.counted ? job.loss.finish(sums).loss : A(0);
      if (job.state != nullptr) {
        job.state[row] = target.counted ? max : A(0);
        job.state[job.all_rows + row] = target.counted ? sums.log_sum : A(0);
      }
    }
  } else {
    sums = {A(0), A(0), A(0), A(0), target.weight};
    if constexpr (kDense) {
      Statistics<A> s = no_statistics<A>();
      for (int c = int(threadIdx.y); c < counted_classes; c += int(blockDim.y)) {
        const T t[1] = {soft.row != nullptr ? soft[c] : T(0.f)};
        A q[1];
        strided_masses(job, c, t, q);
        s.mass += q[0];
      }
      sums.mass = join_parts<true>(units, s).mass;
    }
    if (target.counted) {
      max = job.state[row];
      sums.max = units.unit * max;
      sums.log_sum = job.state[job.all_rows + row];
    }
    if (target.index >= 0) index_mass = add_index_target(job.loss, units.unit * (target_y - max), sums);
  }

  if (!exists || gradient.row == nullptr) return;
  if (!target.counted) {
    for (int c = int(threadIdx.y); c < job.classes; c += int(blockDim.y)) gradient[c] = narrow<T>(A(0));
    return;
  }
  A scale = 1;
  if constexpr (kBackward) {
    scale = job.loss_gradient[row];
  } else if (job.scale != nullptr) {
    scale = A(*job.scale);
  }
  const auto formula = row_gradient<T, kDense>(job, max, sums, target, index_mass, scale);
  either(linear, [&](auto is_linear) {
    auto write = [&](int first, const auto& x, const auto& t) {
      constexpr int K = std::extent<std::remove_reference_t<decltype(x)>>::value;
      A q[K];
      if constexpr (kDense) strided_masses(job, first, t, q);
#pragma unroll
      for (int j = 0; j < K; ++j) {
        const int c = first + j * int(blockDim.y);
        A value[1] = {A(widen(x[j]))};
        const A mass[1] = {kDense ? q[j] : A(0)};
        formula.template apply<decltype(is_linear)::value>(c, value, mass);
        gradient[c] = narrow<T>(value[0]);
      }
    };
    traverse_column<T>(job.classes, logits, soft, write, write);
  });
}

}  // namespace fastloss
