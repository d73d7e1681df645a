// The kernels of the row losses in steps (csrc/losses/contracts/row.h): statistics of rows or of slices of their
// classes, their merge, outputs, gradient. The ways through memory are those of contiguous.cuh and strided.cuh; nothing
// stays in shared memory, because no step needs a logit twice. Any functor is met here, a class at a time and in z_j
// itself, where the kernels of one pass have the units of math.cuh.
#pragma once
#include "contiguous.cuh"
#include "strided.cuh"

namespace fastloss {

template <class Loss, class T>
struct StepJob : RowJob<Loss, T> {  // `classes` are those of the slice; no sum and no state is written
  using A = typename Loss::A;
  Matrix<const T> second = {};
  A* statistics = nullptr;      // (k, rows)
  const A* slices = nullptr;    // (slice_count, k, rows)
  A* outputs = nullptr;         // (outputs, rows)
  const A* upstream = nullptr;  // likewise
  long long slice_count = 0, first_class = 0, all_classes = 0;

  void skip(long long count) {
    RowJob<Loss, T>::skip(count);
    if (this->inner > 1) return;
    skip_rows(second, count);
    skip_rows(statistics, count);
    skip_rows(slices, count);
    skip_rows(outputs, count);
    skip_rows(upstream, count);
  }
};

// As read_target, of a slice of the classes: the index is the place among them, and -1 for a class of another slice.
template <class Loss, class T>
GPU_INLINE RowTarget<typename Loss::A> read_slice_target(const StepJob<Loss, T>& job, long long row, bool reports) {
  if (job.target == nullptr) return {-1, 0, true};
  const long long target = job.target[row];
  if (target == job.ignore_index) return {-1, 0, false};
  if (target < 0 || target >= job.all_classes) {
    if (reports) GPU_TRAP("fastloss: index target is neither a class nor ignore_index");
    return {-1, 0, false};
  }
  const long long place = target - job.first_class;
  if (place < 0 || place >= job.classes) return {-1, 0, true};
  return {int(place), job.weight != nullptr ? job.weight[place] : 1, true};
}

// z_y as it enters the softmax
template <class Loss, class T>
GPU_INLINE typename Loss::A target_logit(const Loss& loss, T x) {
  const typename Loss::A z = loss.logit(widen(x));
  if constexpr (Loss::margin) return loss.target_logit(z);
  return z;
}

// Sums over some of the classes, relative to maxima that begin at the lowest finite number (see Statistics).
template <class Loss>
struct Part {
  using A = typename Loss::A;
  static constexpr int kMax = 0, kSum = 1, kMass = 2, kLinear = 3, kSecondMax = 4, kSecondSum = 5;
  static constexpr int kOwn = Loss::two_rows ? 6 : 4, count = kOwn + Loss::sums;
  A number[count];
};

// Expectations under the softmax of a row, or of some of its classes.
template <class Loss>
struct Expectations {
  static constexpr int count = own_sums<Loss>;
  typename Loss::A number[count];

  GPU_INLINE Expectations& operator+=(const Expectations& other) {
#pragma unroll
    for (int i = 0; i < count; ++i) number[i] += other.number[i];
    return *this;
  }
};

template <class Loss>
GPU_INLINE Part<Loss> no_part() {
  using P = Part<Loss>;
  P part = {};
  part.number[P::kMax] = lowest<typename Loss::A>();
  if constexpr (Loss::two_rows) part.number[P::kSecondMax] = lowest<typename Loss::A>();
  return part;
}

template <bool kDense, class Loss, class A>
GPU_INLINE void rebase(Part<Loss>& part, A max, A second_max) {
  using P = Part<Loss>;
  A(&n)[P::count] = part.number;
  RowShift<A> step = {};
  step.shift = maximum(n[P::kMax] - max, lowest<A>());
  step.scale = math::exp(step.shift);
  step.sum = n[P::kSum];
  if constexpr (Loss::two_rows) {
    step.second_shift = maximum(n[P::kSecondMax] - second_max, lowest<A>());
    step.second_scale = math::exp(step.second_shift);
    step.second_sum = n[P::kSecondSum];
    n[P::kSecondMax] = second_max;
    n[P::kSecondSum] *= step.second_scale;
  }
  if constexpr (Loss::sums > 0) {
    A own[Loss::sums];
#pragma unroll
    for (int i = 0; i < Loss::sums; ++i) own[i] = n[P::kOwn + i];
    Loss::rebase(own, step);
#pragma unroll
    for (int i = 0; i < Loss::sums; ++i) n[P::kOwn + i] = own[i];
  }
  if constexpr (kDense) n[P::kLinear] += n[P::kMass] * step.shift;
  n[P::kMax] = max;
  n[P::kSum] *= step.scale;
}

template <bool kDense, class Loss>
GPU_INLINE Part<Loss> add_parts(Part<Loss> a, Part<Loss> b) {
  using P = Part<Loss>;
  const auto max = maximum(a.number[P::kMax], b.number[P::kMax]);
  auto second = max;
  if constexpr (Loss::two_rows) second = maximum(a.number[P::kSecondMax], b.number[P::kSecondMax]);
  rebase<kDense>(a, max, second);
  rebase<kDense>(b, max, second);
#pragma unroll
  for (int i = 0; i < P::count; ++i) {
    if (i != P::kMax && !(Loss::two_rows && i == P::kSecondMax)) a.number[i] += b.number[i];
  }
  return a;
}

// Adds the classes of z and, where there are two rows, second. z_y: of the index target.
template <bool kDense, class Loss, int K, class A>
GPU_INLINE void add_to_part(const Loss& loss, Part<Loss>& part, const A (&z)[K], const A (&second)[K], const A (&q)[K],
                            A z_y) {
  using P = Part<Loss>;
  A max = part.number[P::kMax], second_max = Loss::two_rows ? part.number[Loss::two_rows ? P::kSecondMax : 0] : max;
#pragma unroll
  for (int j = 0; j < K; ++j) {
    max = maximum(max, z[j]);
    if constexpr (Loss::two_rows) second_max = maximum(second_max, second[j]);
  }
  rebase<kDense>(part, max, second_max);
#pragma unroll
  for (int j = 0; j < K; ++j) {
    RowClass<A> c = {};
    c.z = z[j];
    c.z_y = z_y;
    c.from_max = z[j] - max;
    c.p = math::exp(c.from_max);
    part.number[P::kSum] += c.p;
    if constexpr (Loss::two_rows) {
      c.second_from_max = second[j] - second_max;
      c.second_p = math::exp(c.second_from_max);
      part.number[P::kSecondSum] += c.second_p;
    }
    if constexpr (kDense) {
      c.mass = q[j];
      part.number[P::kMass] += q[j];
      part.number[P::kLinear] += q[j] * c.from_max;
    }
    if constexpr (Loss::sums > 0) {
      A term[Loss::sums];
      loss.terms(c, term);
#pragma unroll
      for (int i = 0; i < Loss::sums; ++i) part.number[P::kOwn + i] += term[i];
    }
  }
}

template <class Loss, class A>
GPU_INLINE void store_totals(RowTotals<Loss, A> totals, A* statistics, long long rows, long long row) {
  totals.each([&](int k, A& field) { statistics[k * rows + row] = field; });
}

template <class Loss, class A>
GPU_INLINE RowTotals<Loss, A> load_totals(const A* statistics, long long rows, long long row, bool has_index) {
  RowTotals<Loss, A> totals = {};
  totals.each([&](int k, A& field) { field = statistics[k * rows + row]; });
  if (!has_index) totals.weight = 1;
  return totals;
}

// What the expectations need of a whole row's part: its softmax, and that of the second row.
template <class Loss>
struct Softmaxes {
  using A = typename Loss::A;
  const Loss& loss;
  A max, log_sum, second_max, second_log_sum;

  GPU_INLINE Softmaxes(const Loss& loss, const Part<Loss>& part) : loss(loss) {
    using P = Part<Loss>;
    max = part.number[P::kMax];
    log_sum = math::log(part.number[P::kSum]);
    second_max = Loss::two_rows ? part.number[Loss::two_rows ? P::kSecondMax : 0] : A(0);
    second_log_sum = Loss::two_rows ? math::log(part.number[Loss::two_rows ? P::kSecondSum : 0]) : A(0);
  }

  // Adds a class of the logit x and, where there are two rows, second.
  GPU_INLINE void add(A x, A second, Expectations<Loss>& sums) const {
    RowClass<A> c = {};
    c.z = loss.logit(x);
    c.from_max = c.z - max;
    const A log_p = c.from_max - log_sum;
    c.p = math::exp(log_p);
    A second_log_p = 0;
    if constexpr (Loss::two_rows) {
      c.second_from_max = loss.logit(second) - second_max;
      second_log_p = c.second_from_max - second_log_sum;
      c.second_p = math::exp(second_log_p);
    }
    A term[own_sums<Loss>];
    loss.expect(c, log_p, second_log_p, term);
#pragma unroll
    for (int i = 0; i < Loss::expectations; ++i) sums.number[i] += term[i];
  }
};

// Of a row that is not counted: those of no classes.
template <class Loss, class T>
GPU_INLINE void store_part(const StepJob<Loss, T>& job, long long row, const Part<Loss>& part,
                           const RowTarget<typename Loss::A>& target, typename Loss::A z_y,
                           const Expectations<Loss>& expectations = {}) {
  using A = typename Loss::A;
  using P = Part<Loss>;
  const A none = -A(INFINITY);
  RowTotals<Loss, A> totals = {};
  const bool any = target.counted && part.number[P::kSum] != 0;  // of NaN, too
  totals.max = any ? part.number[P::kMax] : none;
  totals.log_sum = any ? math::log(part.number[P::kSum]) : none;
  if constexpr (Loss::two_rows) {
    const bool any_second = target.counted && part.number[P::kSecondSum] != 0;
    totals.second_max = any_second ? part.number[P::kSecondMax] : none;
    totals.second_log_sum = any_second ? math::log(part.number[P::kSecondSum]) : none;
  }
  if (target.counted) {
    totals.mass = part.number[P::kMass];
    totals.linear = part.number[P::kLinear];
    if (target.index >= 0) {
      totals.target = z_y;
      totals.weight = target.weight;
    }
    if constexpr (Loss::sums > 0) {
#pragma unroll
      for (int i = 0; i < Loss::sums; ++i) totals.own[i] = part.number[P::kOwn + i];
    }
    if constexpr (Loss::expectations > 0) {
#pragma unroll
      for (int i = 0; i < Loss::expectations; ++i) totals.own[Loss::sums + i] = expectations.number[i];
    }
  }
  store_totals(totals, job.statistics, job.all_rows, row);
}

// A row's gradient: what is the same for all of its classes.
template <class Loss, class T>
struct StepGradient {
  using A = typename Loss::A;
  const Loss& loss;
  RowFormula<Loss, A> by_z;
  A max, inverse_sum, second_max, second_inverse, target;  // target: z_y
  int index;

  GPU_INLINE static RowFormula<Loss, A> formula(const StepJob<Loss, T>& job, long long row,
                                                const RowTotals<Loss, A>& totals) {
    A upstream[Loss::outputs];
#pragma unroll
    for (int k = 0; k < Loss::outputs; ++k) upstream[k] = job.upstream[k * job.all_rows + row];
    return RowFormula<Loss, A>(job.loss, job.target != nullptr, totals, upstream);
  }
  GPU_INLINE StepGradient(const StepJob<Loss, T>& job, long long row, int index, const RowTotals<Loss, A>& totals)
      : loss(job.loss),
        by_z(formula(job, row, totals)),
        max(totals.max),
        inverse_sum(math::exp(-totals.log_sum)),
        second_max(totals.second_max),
        second_inverse(Loss::two_rows ? math::exp(-totals.second_log_sum) : A(0)),
        target(totals.target),
        index(index) {}

  // Of class j with the logit x, a second logit and a dense mass.
  GPU_INLINE A operator()(int j, A x, A second, A q) const {
    const A z = loss.logit(x);
    A slope = loss.slope(z);
    RowClass<A> c = {};
    c.z = z;
    c.mass = q;
    if (j == index) {
      c.mass += by_z.index_mass;
      if constexpr (Loss::margin) {
        c.z = target;
        slope *= loss.target_slope(z);
      }
    }
    c.from_max = c.z - max;
    c.p = math::exp(c.from_max) * inverse_sum;
    if constexpr (Loss::two_rows) {
      c.second_from_max = loss.logit(second) - second_max;
      c.second_p = math::exp(c.second_from_max) * second_inverse;
    }
    return slope * by_z(loss, c);
  }
};

// ---- rows of unit class stride

template <class Loss, class T>
struct StepSlice : Slice<Loss, T> {
  template <class Team>
  GPU_INLINE StepSlice(const StepJob<Loss, T>& job, const Team& team)
      : Slice<Loss, T>(job, team),
        second(job.second.data != nullptr ? job.second.data + team.row * job.second.outer : nullptr) {}
  const T* second;

  template <int K>
  GPU_INLINE void read_second(int first, typename Loss::A (&x)[K]) const {
    if constexpr (Loss::two_rows) {
#pragma unroll
      for (int j = 0; j < K; ++j) x[j] = widen(second[first + j]);
    }
  }
};

template <class Loss, class T, class Team, bool kDense>
__global__ void __launch_bounds__(kMaxThreads<Team, kDense>, kResidentBlocks<Team, T, kDense>)
    step_statistics_kernel(const StepJob<Loss, T> job) {
  using A = typename Loss::A;
  const Team team(job);
  if (team.row >= job.rows) return;
  const StepSlice<Loss, T> slice(job, team);
  const RowTarget<A> target = read_slice_target(job, team.row, team.reports());
  Part<Loss> part = no_part<Loss>();
  if (!target.counted) {
    if (team.reports()) store_part(job, team.row, part, target, A(0));
    return;
  }
  const A z_y = target.index >= 0 ? target_logit(job.loss, slice.logits[target.index]) : A(0);
  either(!kDense || slice.soft == nullptr || misalignment(slice.soft) == misalignment(slice.logits), [&](auto aligned) {
    constexpr bool kAligned = decltype(aligned)::value;
    auto load = [&](int first, auto count) {
      Operands<T, decltype(count)::value> x;
      read_global<true>(slice.logits + first, x.logits);
      if (kDense && slice.soft != nullptr) read_global<kAligned>(slice.soft + first, x.soft);
      return x;
    };
    auto use = [&](int first, const auto& x) {
      constexpr int K = std::decay_t<decltype(x)>::count;
      A z[K], second[K], q[K];
      widen(x.logits, z);
      slice.read_second(first, second);
      if constexpr (kDense) dense_masses(job.loss, slice, first, x, q);
#pragma unroll
      for (int j = 0; j < K; ++j) {
        z[j] = job.loss.logit(z[j]);
        if constexpr (Loss::two_rows) second[j] = job.loss.logit(second[j]);
        if constexpr (Loss::margin) z[j] = first + j == target.index ? z_y : z[j];
      }
      add_to_part<kDense>(job.loss, part, z, second, q, z_y);
    };
    traverse<in_flight<kDense, kAligned, false>()>(Stretch<T>(slice.logits, slice.count), team, load, use);
  });
  part = team.fold(part, [](const Part<Loss>& a, const Part<Loss>& b) { return add_parts<kDense>(a, b); });
  Expectations<Loss> expectations = {};
  if constexpr (Loss::expectations > 0) {  // the same classes once more, now that their softmax is known
    part = team.all(part);
    const Softmaxes<Loss> softmaxes(job.loss, part);
    auto load = [&](int first, auto count) {
      Operands<T, decltype(count)::value> x;
      read_global<true>(slice.logits + first, x.logits);
      return x;
    };
    auto use = [&](int first, const auto& x) {
      constexpr int K = std::decay_t<decltype(x)>::count;
      A values[K], second[K] = {};
      widen(x.logits, values);
      slice.read_second(first, second);
#pragma unroll
      for (int j = 0; j < K; ++j) softmaxes.add(values[j], second[j], expectations);
    };
    traverse<in_flight<false, true, false>()>(Stretch<T>(slice.logits, slice.count), team, load, use);
    expectations = team.fold(expectations, [](Expectations<Loss> a, const Expectations<Loss>& b) { return a += b; });
  }
  if (team.reports()) store_part(job, team.row, part, target, z_y, expectations);
}

template <class Loss, class T, class Team, bool kDense>
__global__ void __launch_bounds__(kMaxThreads<Team, kDense>, kResidentBlocks<Team, T, kDense>)
    step_gradient_kernel(const StepJob<Loss, T> job) {
  using A = typename Loss::A;
  const Team team(job);
  if (team.row >= job.rows) return;
  const StepSlice<Loss, T> slice(job, team);
  const RowTarget<A> target = read_slice_target(job, team.row, team.reports());
  if (!target.counted) {
    write_zeros(team, static_cast<const Slice<Loss, T>&>(slice));
    return;
  }
  const StepGradient<Loss, T> gradient(
      job, team.row, target.index,
      load_totals<Loss>(static_cast<const A*>(job.statistics), job.all_rows, team.row, job.target != nullptr));
  const int past = misalignment(slice.gradient);
  const bool equally =
      misalignment(slice.logits) == past && (slice.soft == nullptr || misalignment(slice.soft) == past);
  either(equally, [&](auto aligned) {
    constexpr bool kAligned = decltype(aligned)::value;
    auto load = [&](int first, auto count) {
      Operands<T, decltype(count)::value> x;
      read_global<kAligned>(slice.logits + first, x.logits);
      if (kDense && slice.soft != nullptr) read_global<kAligned>(slice.soft + first, x.soft);
      return x;
    };
    auto use = [&](int first, const auto& x) {
      constexpr int K = std::decay_t<decltype(x)>::count;
      A values[K], second[K] = {}, q[K] = {};
      widen(x.logits, values);
      slice.read_second(first, second);
      if constexpr (kDense) dense_masses(job.loss, slice, first, x, q);
#pragma unroll
      for (int j = 0; j < K; ++j) values[j] = gradient(first + j, values[j], second[j], q[j]);
      write_global(slice.gradient + first, values);
    };
    traverse<in_flight<kDense, kAligned, false>()>(Stretch<T>(slice.gradient, slice.count), team, load, use);
  });
}

// ---- classes a stride apart

template <class Loss, class T, bool kDense>
__global__ void __launch_bounds__(kColumns* kMaxParts, sizeof(T) == 8 ? 1 : 3)
    step_strided_statistics_kernel(const StepJob<Loss, T> job) {
  using A = typename Loss::A;
  const long long row = job.first_row + (long long)blockIdx.x * kColumns + threadIdx.x;
  const bool exists = row < job.rows, reports = threadIdx.y == 0;
  const long long n = exists ? row / job.inner : 0, d = exists ? row % job.inner : 0;
  const Column<const T> logits(job.logits, n, d), soft(job.soft_target, n, d), second(job.second, n, d);
  const RowTarget<A> target = exists ? read_slice_target(job, row, reports) : RowTarget<A>{-1, 0, false};
  const A z_y = target.index >= 0 ? target_logit(job.loss, logits[target.index]) : A(0);
  Part<Loss> part = no_part<Loss>();
  auto add = [&](int first, const auto& x, const auto& t) {
    constexpr int K = std::extent<std::remove_reference_t<decltype(x)>>::value;
    A z[K], z_second[K], q[K];
#pragma unroll
    for (int j = 0; j < K; ++j) {
      z[j] = job.loss.logit(A(widen(x[j])));
      if constexpr (Loss::two_rows) z_second[j] = job.loss.logit(A(widen(second[first + j * int(blockDim.y)])));
      if constexpr (Loss::margin) z[j] = first + j * int(blockDim.y) == target.index ? z_y : z[j];
    }
    if constexpr (kDense) strided_masses(job, first, t, q);
    add_to_part<kDense>(job.loss, part, z, z_second, q, z_y);
  };
  traverse_column<T>(target.counted ? job.classes : 0, logits, soft, add, add);
  SHARED(of_part, Part<Loss>[kMaxParts][kColumns]);
  of_part[threadIdx.y][threadIdx.x] = part;
  __syncthreads();  // threads without a row come here, too
  Expectations<Loss> expectations = {};
  if constexpr (Loss::expectations > 0) {  // as above; every thread of a row adds its parts for itself
    part = of_part[0][threadIdx.x];
    for (unsigned other = 1; other < blockDim.y; ++other) part = add_parts<kDense>(part, of_part[other][threadIdx.x]);
    const Softmaxes<Loss> softmaxes(job.loss, part);
    auto expect = [&](int first, const auto& x, const auto&) {
      constexpr int K = std::extent<std::remove_reference_t<decltype(x)>>::value;
#pragma unroll
      for (int j = 0; j < K; ++j) {
        A of_second = 0;
        if constexpr (Loss::two_rows) of_second = A(widen(second[first + j * int(blockDim.y)]));
        softmaxes.add(A(widen(x[j])), of_second, expectations);
      }
    };
    traverse_column<T>(target.counted ? job.classes : 0, logits, soft, expect, expect);
    SHARED(of_expectations, Expectations<Loss>[kMaxParts][kColumns]);
    of_expectations[threadIdx.y][threadIdx.x] = expectations;
    __syncthreads();
    if (!exists || !reports) return;
    for (unsigned other = 1; other < blockDim.y; ++other) expectations += of_expectations[other][threadIdx.x];
  } else {
    if (!exists || !reports) return;
    for (unsigned other = 1; other < blockDim.y; ++other) part = add_parts<kDense>(part, of_part[other][threadIdx.x]);
  }
  store_part(job, row, part, target, z_y, expectations);
}

template <class Loss, class T, bool kDense>
__global__ void __launch_bounds__(kColumns* kMaxParts, sizeof(T) == 8 ? 1 : 3)
    step_strided_gradient_kernel(const StepJob<Loss, T> job) {
  using A = typename Loss::A;
  const long long row = job.first_row + (long long)blockIdx.x * kColumns + threadIdx.x;
  if (row >= job.rows) return;
  const long long n = row / job.inner, d = row % job.inner;
  const Column<const T> logits(job.logits, n, d), soft(job.soft_target, n, d), second(job.second, n, d);
  const Column<T> out(job.gradient, n, d);
  const RowTarget<A> target = read_slice_target(job, row, threadIdx.y == 0);
  if (!target.counted) {
    for (int c = int(threadIdx.y); c < job.classes; c += int(blockDim.y)) out[c] = narrow<T>(A(0));
    return;
  }
  const StepGradient<Loss, T> gradient(
      job, row, target.index,
      load_totals<Loss>(static_cast<const A*>(job.statistics), job.all_rows, row, job.target != nullptr));
  auto write = [&](int first, const auto& x, const auto& t) {
    constexpr int K = std::extent<std::remove_reference_t<decltype(x)>>::value;
    A q[K] = {};
    if constexpr (kDense) strided_masses(job, first, t, q);
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int c = first + j * int(blockDim.y);
      A of_second = 0;
      if constexpr (Loss::two_rows) of_second = A(widen(second[c]));
      out[c] = narrow<T>(gradient(c, A(widen(x[j])), of_second, q[j]));
    }
  };
  traverse_column<T>(job.classes, logits, soft, write, write);
}

// ---- a thread a row

constexpr int kRowThreads = 128;

template <class Loss, class T>
__global__ void __launch_bounds__(kRowThreads) step_merge_kernel(const StepJob<Loss, T> job) {
  using A = typename Loss::A;
  const long long row = job.first_row + (long long)blockIdx.x * kRowThreads + threadIdx.x;
  if (row >= job.rows) return;
  const auto of = [&](long long i, int k) { return job.slices[(i * row_statistics<Loss> + k) * job.all_rows + row]; };
  store_totals(merge_slices<Loss, A>(job.slice_count, of), job.statistics, job.all_rows, row);
}

template <class Loss, class T>
__global__ void __launch_bounds__(kRowThreads) step_outputs_kernel(const StepJob<Loss, T> job) {
  using A = typename Loss::A;
  const long long row = job.first_row + (long long)blockIdx.x * kRowThreads + threadIdx.x;
  if (row >= job.rows) return;
  A values[Loss::outputs] = {};
  if (job.target == nullptr || job.target[row] != job.ignore_index) {
    const bool has_index = job.target != nullptr;
    const A* const statistics = job.statistics;
    row_values(job.loss, has_index, load_totals<Loss>(statistics, job.all_rows, row, has_index), values);
  }
#pragma unroll
  for (int k = 0; k < Loss::outputs; ++k) job.outputs[k * job.all_rows + row] = values[k];
}

}  // namespace fastloss
