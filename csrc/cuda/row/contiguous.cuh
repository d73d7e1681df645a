// Kernels for rows of unit class stride. The logits come in by 16-byte loads, several in flight in every thread, and
// stay in shared memory until the gradient is computed, so that each is read from global memory once; a row that does
// not fit is read twice. The same body serves lanes of a warp, a block and a cluster (team.cuh).
#pragma once
#include "team.cuh"

namespace fastloss {

template <int K>
using Count = std::integral_constant<int, K>;

// `count` elements at `pointer`, cut at 16-byte boundaries: packs in the middle and single elements, the edges, around.
template <class T>
struct Stretch {
  GPU_INLINE Stretch(const T* pointer, int count) {
    constexpr int N = Pack<T>::count;
    const int past = misalignment(pointer) / int(sizeof(T));
    const int to_boundary = (N - past) % N;
    head = to_boundary < count ? to_boundary : count;
    packs = (count - head) / N;
    edges = count - packs * N;
  }
  GPU_INLINE int pack(int k) const { return head + k * Pack<T>::count; }
  GPU_INLINE int edge(int i) const { return i < head ? i : i + packs * Pack<T>::count; }

  int head, packs, edges;
};

// Calls use(first, load(first, Count<K>)) for every pack (K of them) and every edge (K = 1) that is this thread's.
// kInFlight packs are loaded before the first is used: 4 loads of 16 bytes in 1024 threads are 64 KiB in flight on a
// processor, where 3.35 TB/s and 0.7 us of latency over 132 processors ask for 18. The edge is loaded before the packs
// and used after them, so that a misaligned row does not wait for memory once more.
template <int kInFlight, class T, class Team, class Load, class Use>
GPU_INLINE void traverse(const Stretch<T>& stretch, const Team& team, const Load& load, const Use& use) {
  constexpr Count<Pack<T>::count> whole;
  constexpr Count<1> single;
  decltype(load(0, single)) edge;
  if (team.thread < stretch.edges) edge = load(stretch.edge(team.thread), single);
  for (int base = team.thread; base < stretch.packs; base += kInFlight * team.threads) {
    decltype(load(0, whole)) loaded[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      const int k = base + u * team.threads;
      if (k < stretch.packs) loaded[u] = load(stretch.pack(k), whole);
    }
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      const int k = base + u * team.threads;
      if (k < stretch.packs) use(stretch.pack(k), loaded[u]);
    }
  }
  if (team.thread < stretch.edges) use(stretch.edge(team.thread), edge);
  for (int i = team.thread + team.threads; i < stretch.edges; i += team.threads) {  // fewer lanes than edges
    use(stretch.edge(i), load(stretch.edge(i), single));
  }
}

// Packs that a thread has in flight. Dense targets come in two streams; a loss that is not linear waits for its
// arithmetic and not for memory. Elements gathered one by one are not worth their registers.
template <bool kDense, bool kAligned, bool kLinear>
constexpr __host__ __device__ int in_flight() {
  return !kAligned ? 1 : kDense || !kLinear ? 2 : 4;
}

// What K classes contribute: one, or a pack of them.
template <class T, int K>
struct Operands {
  static constexpr int count = K;
  std::conditional_t<K == 1, T, Pack<T>> logits;
  std::conditional_t<K == 1, T, Pack<T>> soft;  // set only if there are soft targets
};

template <class T>
GPU_INLINE void gather(const T* pointer, Pack<T>& pack) {
  T elements[Pack<T>::count];
#pragma unroll
  for (int j = 0; j < Pack<T>::count; ++j) elements[j] = pointer[j];
  memcpy(&pack, elements, sizeof(pack));
}

template <bool kAligned, class T>
GPU_INLINE void read_global(const T* pointer, Pack<T>& pack) {
  if constexpr (kAligned) {
    pack = load_once(pointer);
  } else {
    gather(pointer, pack);
  }
}
template <bool kAligned, class T>
GPU_INLINE void read_global(const T* pointer, T& element) {
  element = *pointer;
}

template <bool kAligned, class T>
GPU_INLINE void read_shared(const T* pointer, Pack<T>& pack) {
  if constexpr (kAligned) {
    pack = load_shared(pointer);
  } else {
    gather(pointer, pack);
  }
}
template <bool kAligned, class T>
GPU_INLINE void read_shared(const T* pointer, T& element) {
  element = *pointer;
}

template <class T>
GPU_INLINE void keep_shared(T* pointer, const Pack<T>& pack) {
  store_shared(pointer, pack);
}
template <class T>
GPU_INLINE void keep_shared(T* pointer, T element) {
  *pointer = element;
}

template <class T>
GPU_INLINE void widen(T element, Accumulator<T> (&x)[1]) {
  x[0] = widen(element);
}

template <class T>
GPU_INLINE void write_global(T* pointer, const Accumulator<T> (&x)[Pack<T>::count]) {
  store_global(pointer, narrow_pack<T>(x));
}
template <class T>
GPU_INLINE void write_global(T* pointer, const Accumulator<T> (&x)[1]) {
  *pointer = narrow<T>(x[0]);
}

// The classes begin .. begin + count - 1 of a row: those of this thread's block.
template <class Loss, class T>
struct Slice {
  using A = typename Loss::A;
  template <class Team>
  GPU_INLINE Slice(const RowJob<Loss, T>& job, const Team& team) : begin(0), count(job.classes) {
    if (team.ranks > 1) {
      begin = team.rank * job.slice < job.classes ? team.rank * job.slice : job.classes;
      count = job.classes - begin < job.slice ? job.classes - begin : job.slice;
    }
    logits = job.logits.data + team.row * job.logits.outer + begin;
    soft = job.soft_target.data != nullptr ? job.soft_target.data + team.row * job.soft_target.outer + begin : nullptr;
    gradient = job.gradient.data != nullptr ? job.gradient.data + team.row * job.gradient.outer + begin : nullptr;
    weight = job.weight != nullptr ? job.weight + begin : nullptr;
  }

  int begin, count;
  const T* logits;
  const T* soft;
  T* gradient;
  const A* weight;
};

// q_j of the dense part of the target, for K classes from `first`.
template <class Loss, class T, int K>
GPU_INLINE void dense_masses(const Loss& loss, const Slice<Loss, T>& slice, int first, const Operands<T, K>& operands,
                             typename Loss::A (&q)[K]) {
  using A = typename Loss::A;
  A weight[K], soft[K] = {};
  if (slice.soft != nullptr) widen(operands.soft, soft);
  if (slice.weight == nullptr) {
#pragma unroll
    for (int j = 0; j < K; ++j) weight[j] = 1;
  } else if (K % Pack<A>::count == 0 && misalignment(slice.weight + first) == 0) {
#pragma unroll
    for (int j = 0; j < K; j += Pack<A>::count) {
      A some[Pack<A>::count];
      widen(load_cached(slice.weight + first + j), some);
#pragma unroll
      for (int i = 0; i < Pack<A>::count; ++i) weight[j + i] = some[i];
    }
  } else {
#pragma unroll
    for (int j = 0; j < K; ++j) weight[j] = slice.weight[first + j];
  }
#pragma unroll
  for (int j = 0; j < K; ++j) q[j] = loss.mass(weight[j], soft[j]);
}

// Where the slice waits for the second pass; null if it does not. kept + i and logits + i are equally misaligned, so
// that packs are packs in both.
template <class T>
struct Kept {
  T* logits;
  T* soft;
};

template <class Loss, class T, class Team>
GPU_INLINE Kept<T> shared_memory_of(const RowJob<Loss, T>& job, const Team& team, const Slice<Loss, T>& slice) {
  constexpr unsigned N = Pack<T>::count;
  const unsigned teams = unsigned(blockDim.x) / unsigned(team.threads), room = unsigned(job.slice) + N;
  const unsigned begin = unsigned(team.slot) * room + unsigned(misalignment(slice.logits)) / unsigned(sizeof(T));
  SharedMemory memory;
  Kept<T> kept = {nullptr, nullptr};
  if (job.keep) kept.logits = memory.template take<T>(teams * room) + begin;
  if (job.keep_soft) kept.soft = memory.template take<T>(teams * room) + begin;
  return kept;
}

template <class T, bool kDense, bool kSoftAligned, bool kLinear, class Loss, class Team>
GPU_INLINE Statistics<typename Loss::A> slice_statistics(const RowJob<Loss, T>& job, const Team& team,
                                                         const Slice<Loss, T>& slice, const Kept<T>& kept) {
  using A = typename Loss::A;
  Statistics<A> s = no_statistics<A>();
  auto load = [&](int first, auto count) {
    Operands<T, decltype(count)::value> x;
    read_global<true>(slice.logits + first, x.logits);
    if (kDense && slice.soft != nullptr) read_global<kSoftAligned>(slice.soft + first, x.soft);
    return x;
  };
  auto use = [&](int first, const auto& x) {
    constexpr int K = std::decay_t<decltype(x)>::count;
    if (kept.logits != nullptr) keep_shared(kept.logits + first, x.logits);
    if (kDense && kept.soft != nullptr) keep_shared(kept.soft + first, x.soft);
    A y[K], q[K];
    widen(x.logits, y);
    to_units<kLinear>(job.loss, y);
    if constexpr (kDense) dense_masses(job.loss, slice, first, x, q);
    add_classes<kDense>(job.units, s, y, q);
  };
  traverse<in_flight<kDense, kSoftAligned, kLinear>()>(Stretch<T>(slice.logits, slice.count), team, load, use);
  return s;
}

// sum_j q_j, which the state of a forward pass does not hold.
template <class T, class Loss, class Team>
GPU_INLINE Statistics<typename Loss::A> slice_mass(const RowJob<Loss, T>& job, const Team& team,
                                                   const Slice<Loss, T>& slice) {
  using A = typename Loss::A;
  Statistics<A> s = no_statistics<A>();
  auto load = [&](int first, auto count) {
    Operands<T, decltype(count)::value> x;
    if (slice.soft != nullptr) read_global<true>(slice.soft + first, x.soft);
    return x;
  };
  auto use = [&](int first, const auto& x) {
    constexpr int K = std::decay_t<decltype(x)>::count;
    A q[K];
    dense_masses(job.loss, slice, first, x, q);
#pragma unroll
    for (int j = 0; j < K; ++j) s.mass += q[j];
  };
  traverse<4>(Stretch<T>(slice.soft, slice.count), team, load, use);
  return s;
}

// The second pass follows the gradient's packs, which are packs of the logits too if both rows (and the soft target's)
// are equally misaligned: kAligned. They are not if the logits are the first classes of a padded vocabulary.
template <class T, bool kDense, bool kAligned, bool kLinear, class Loss, class Team>
GPU_INLINE void write_gradient(const Team& team, const Slice<Loss, T>& slice, const Kept<T>& kept,
                               const RowGradient<Loss, T, kDense>& gradient) {
  using A = typename Loss::A;
  auto load = [&](int first, auto count) {
    Operands<T, decltype(count)::value> x;
    if (kept.logits != nullptr) {
      read_shared<kAligned>(kept.logits + first, x.logits);
    } else {
      read_global<kAligned>(slice.logits + first, x.logits);
    }
    if (kDense && kept.soft != nullptr) {
      read_shared<kAligned>(kept.soft + first, x.soft);
    } else if (kDense && slice.soft != nullptr) {
      read_global<kAligned>(slice.soft + first, x.soft);
    }
    return x;
  };
  auto use = [&](int first, const auto& x) {
    constexpr int K = std::decay_t<decltype(x)>::count;
    A values[K], q[K];
    widen(x.logits, values);
    if constexpr (kDense) dense_masses(gradient.loss, slice, first, x, q);
    gradient.template apply<kLinear>(first, values, q);
    write_global(slice.gradient + first, values);
  };
  traverse<in_flight<kDense, kAligned, kLinear>()>(Stretch<T>(slice.gradient, slice.count), team, load, use);
}

template <class T, bool kDense, class Loss, class Team>
GPU_INLINE void write_gradient(const Team& team, const Slice<Loss, T>& slice, const Kept<T>& kept,
                               const RowGradient<Loss, T, kDense>& gradient) {
  const int past = misalignment(slice.gradient);
  const T* const soft = kept.soft != nullptr ? kept.soft : slice.soft;
  const bool aligned = misalignment(slice.logits) == past && (soft == nullptr || misalignment(soft) == past);
  either(aligned, [&](auto is_aligned) {
    either(gradient.loss.linear(), [&](auto is_linear) {
      write_gradient<T, kDense, decltype(is_aligned)::value, decltype(is_linear)::value>(team, slice, kept, gradient);
    });
  });
}

// A row that is not counted: exact zeros, whatever the logits are.
template <class T, class Loss, class Team>
GPU_INLINE void write_zeros(const Team& team, const Slice<Loss, T>& slice) {
  using A = typename Loss::A;
  auto load = [](int, auto count) { return count; };
  auto use = [&](int first, const auto& count) {
    const A zeros[std::decay_t<decltype(count)>::value] = {};
    write_global(slice.gradient + first, zeros);
  };
  traverse<1>(Stretch<T>(slice.gradient, slice.count), team, load, use);
}

template <class Loss, class T, class Team, bool kDense>
GPU_INLINE void row_forward(const RowJob<Loss, T>& job) {
  using A = typename Loss::A;
  const Team team(job);
  if (team.row >= job.rows) return;
  Slice<Loss, T> slice(job, team);
  const RowTarget<A> target = read_target(job, team.row, team.reports());
  if (!target.counted) {
    if (slice.gradient != nullptr) write_zeros(team, slice);
    if (team.reports()) {
      job.row_loss[team.row] = 0;
      if (job.state != nullptr) job.state[team.row] = job.state[job.all_rows + team.row] = 0;
    }
    return;
  }
  // Read now: a gradient in place may have overwritten it when the sums are known.
  const A target_y = target.index >= 0 ? class_of(job.loss, slice.logits[target.index - slice.begin]) : A(0);
  const Kept<T> kept = shared_memory_of(job, team, slice);
  // Only soft targets have an alignment of their own.
  const bool aligned = !kDense || slice.soft == nullptr || misalignment(slice.soft) == misalignment(slice.logits);
  Statistics<A> s;
  either(aligned, [&](auto is_aligned) {
    either(job.loss.linear(), [&](auto is_linear) {
      s = slice_statistics<T, kDense, decltype(is_aligned)::value, decltype(is_linear)::value>(job, team, slice, kept);
    });
  });
  s = team.template join<kDense>(job.units, s);
  const A max = row_max(s);
  RowSums<A> sums = row_sums(job.units, s, target);
  const A index_mass = target.index >= 0 ? add_index_target(job.loss, job.units.unit * (target_y - max), sums) : A(0);
  if (team.reports()) {
    job.row_loss[team.row] = job.loss.finish(sums).loss;
    if (job.state != nullptr) {
      job.state[team.row] = max;
      job.state[job.all_rows + team.row] = sums.log_sum;
    }
  }
  if (slice.gradient != nullptr) {
    const A scale = job.scale != nullptr ? A(*job.scale) : A(1);
    RowGradient<Loss, T, kDense> gradient = row_gradient<T, kDense>(job, max, sums, target, index_mass, scale);
    gradient.index -= slice.begin;
    write_gradient<T, kDense>(team, slice, kept, gradient);
  }
  team.leave();
}

template <class Loss, class T, class Team, bool kDense>
__global__ void __launch_bounds__(kMaxThreads<Team, kDense>, kResidentBlocks<Team, T, kDense>)
    row_forward_kernel(const RowJob<Loss, T> job) {
  row_forward<Loss, T, Team, kDense>(job);
}

// A kernel of its own, because ClusterTeam does not exist below Hopper.
template <class Loss, class T, bool kDense>
__global__ void __launch_bounds__(kMaxThreads<ClusterTeam, kDense>, kResidentBlocks<ClusterTeam, T, kDense>)
    row_forward_cluster_kernel(const RowJob<Loss, T> job) {
#if GPU_ARCH >= 900
  row_forward<Loss, T, ClusterTeam, kDense>(job);
#endif
}

template <class Loss, class T, class Team, bool kDense>
__global__ void __launch_bounds__(kMaxThreads<Team, kDense>, kResidentBlocks<Team, T, kDense>)
    row_backward_kernel(const RowJob<Loss, T> job) {
  using A = typename Loss::A;
  const Team team(job);
  if (team.row >= job.rows) return;
  const Slice<Loss, T> slice(job, team);
  const RowTarget<A> target = read_target(job, team.row, team.reports());
  if (!target.counted) {
    write_zeros(team, slice);
    return;
  }
  const A max = job.state[team.row];
  RowSums<A> sums = {job.units.unit * max, job.state[job.all_rows + team.row], 0, 0, target.weight};
  if constexpr (kDense) sums.mass = team.template join<true>(job.units, slice_mass<T>(job, team, slice)).mass;
  A index_mass = 0;
  if (target.index >= 0) {
    const A target_y = Loss::modulated ? class_of(job.loss, slice.logits[target.index - slice.begin]) : A(0);
    index_mass = add_index_target(job.loss, job.units.unit * (target_y - max), sums);
  }
  const A scale = job.loss_gradient[team.row];
  const auto gradient = row_gradient<T, kDense>(job, max, sums, target, index_mass, scale);
  write_gradient<T, kDense>(team, slice, Kept<T>{nullptr, nullptr}, gradient);
  team.leave();
}

}  // namespace fastloss
