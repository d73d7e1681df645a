// The CPU skeleton of what runs over time, for one instruction set (vector.h). It knows no functor; see
// csrc/losses/contracts/scan.h.
//
// A lane is a sequence, and its steps come in their order, so a sequence has the same bits in every batch, in every
// layout and for every number of threads. Where neighbours in memory are sequences, a hundred of them go side by side,
// because a step of few is no stream: a line of them is read, and y is kept, in the nearest cache. Where neighbours are
// steps, a line of them is read for each of a vector of sequences, and transposed. What is of the accumulator's type
// and lies right is read and written where it is.
//
// At the end of the file, once for all instruction sets: the tasks of a call.
#include "../problems/scan.h"

#include <algorithm>

#include "../losses/all.h"
#include "simd/isa.h"
#include "threads.h"
#include "tiles.h"

namespace fastloss {

// Sequences of a task: neighbours in memory, and others.
constexpr int kColumns = 128, kTaskRows = 16;

// Are neighbours of the first tensor sequences, and not steps? A few of them beside others are no line.
inline bool in_columns(const ScanProblem& p) {
  const ScanTensor& t = p.output[0];
  return (p.inner >= 8 || (p.inner > 1 && p.outer == 1)) && t.inner <= t.step;
}

inline int64_t tasks_of(const ScanProblem& p) {
  if (in_columns(p)) return p.outer * ((p.inner + kColumns - 1) / kColumns);
  return (p.outer * p.inner + kTaskRows - 1) / kTaskRows;
}

using RunScan = void (*)(const ScanProblem&, int64_t first_task, int64_t last_task);
using FindScan = int (*)(const ScanProblem&, RunScan* found);  // a Status
namespace avx512 {
extern const FindScan find_scan;
}
namespace avx2 {
extern const FindScan find_scan;
}
namespace baseline {
extern const FindScan find_scan;
}

namespace FASTLOSS_ISA {
namespace {

// Steps in the order of the scan, with a line of sequences each.
template <class T>
struct Lines {
  T* data;  // null: the same number everywhere
  int64_t pitch;
};

// What is known of a step, as digits of a number: one line of them is less to convert and to transpose than three.
enum Flag { kAlive = 1, kFollows = 2, kThere = 4 };

template <class A>
struct Block {
  int64_t steps;
  int sequences;
  bool first, more;  // does nothing come before, and something behind?
  Lines<const A> operand[kMaxScanOperands];
  A constant[kMaxScanOperands];
  Lines<const A> flags;  // sums of Flag; null: all of them, but that nothing follows in the first step
  Lines<A> output[kMaxScanOutputs];
  A* y;  // of each sequence
};

template <class F, bool kFlags>
FASTLOSS_INLINE void run_vector(const F& f, const Block<typename F::A>& b, int64_t s, int i, int lanes,
                                typename Vectors<typename F::A>::V& y) {
  using A = typename F::A;
  using S = Vectors<A>;
  using V = typename S::V;
  const V zero{}, one = V{} + A(1);
  V x[F::operands], out[F::outputs];
#pragma GCC unroll 8
  for (int k = 0; k < F::operands; ++k) {
    const Lines<const A>& lines = b.operand[k];
    x[k] = lines.data ? S::get(lines.data + s * lines.pitch + i, lanes, A(0)) : zero + b.constant[k];
  }
  V alive = one, follows = b.first && s == 0 ? zero : one, there = one;
  if constexpr (kFlags) {
    V digits = S::get(b.flags.data + s * b.flags.pitch + i, lanes, A(0));
    there = (digits >= A(kThere)) ? one : zero;
    digits = digits - A(kThere) * there;
    follows = (digits >= A(kFollows)) ? one : zero;
    alive = digits - A(kFollows) * follows;
#pragma GCC unroll 8
    for (int k = 0; k < F::operands; ++k) x[k] = (there == zero) ? zero : x[k];
  }
  const V next = kFlags ? ((follows == zero) ? zero : y) : y;  // y is 0 before the first step
  const Recurrence<V> r = f.step(x, alive, follows);
  const V found = r.b + carried(r.a, next);
  f.finish(x, alive, follows, found, next, out);
  y = kFlags ? ((there == zero) ? y : found) : found;
#pragma GCC unroll 2
  for (int k = 0; k < F::outputs; ++k) {
    const V value = kFlags ? ((there == zero) ? zero : out[k]) : out[k];
    S::put(b.output[k].data + s * b.output[k].pitch + i, value, lanes);
  }
}

template <class F, bool kFlags>
__attribute__((noinline)) void run_block(const F& functor, const Block<typename F::A>& block) {
  using S = Vectors<typename F::A>;
  const F f = functor;  // local copies stay in registers
  const Block<typename F::A> b = block;
  if (b.sequences <= S::lanes) {
    typename S::V y = S::get(b.y, S::lanes, 0);
    if (b.sequences == S::lanes)
      for (int64_t s = 0; s < b.steps; ++s) run_vector<F, kFlags>(f, b, s, 0, S::lanes, y);
    else
      for (int64_t s = 0; s < b.steps; ++s) run_vector<F, kFlags>(f, b, s, 0, b.sequences, y);
    S::put(b.y, y, S::lanes);
    return;
  }
  // The lines of the next step are no stream to the processor: they are a row of the batch away.
  const int64_t ahead = b.steps - (b.more ? 0 : 1);
  for (int64_t s = 0; s < b.steps; ++s) {
    const int64_t next = s < ahead ? 1 : 0;
    S::for_each(b.sequences, [&](int64_t i, int lanes) __attribute__((always_inline)) {
      for (int k = 0; k < F::operands; ++k)
        if (b.operand[k].data) __builtin_prefetch(b.operand[k].data + (s + next) * b.operand[k].pitch + i, 0, 2);
      for (int k = 0; k < F::outputs; ++k)
        __builtin_prefetch(b.output[k].data + (s + next) * b.output[k].pitch + i, 0, 2);
      typename S::V y = S::get(b.y + i, S::lanes, 0);
      run_vector<F, kFlags>(f, b, s, int(i), lanes, y);
      S::put(b.y + i, y, S::lanes);
    });
  }
}

// ---- lines of a tensor ----

template <int... Lane>
FASTLOSS_INLINE Floats reversed(Floats v, std::integer_sequence<int, Lane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(v, v, (kLanes - 1 - Lane)...);
#else
  return __builtin_shuffle(v, Ints{(kLanes - 1 - Lane)...});
#endif
}

// to[i] = from[-i] or to[-i] = from[i], by the step of each
template <class To, class From>
FASTLOSS_INLINE void backwards(const From* from, int from_step, To* to, int to_step, int count) {
  int i = 0;
  if constexpr (std::is_same_v<From, float> && std::is_same_v<To, float>) {
    for (; i + kLanes <= count; i += kLanes) {
      const int low = from_step < 0 ? -i - (kLanes - 1) : i, place = to_step < 0 ? -i - (kLanes - 1) : i;
      store(to + place, reversed(load(from + low), std::make_integer_sequence<int, kLanes>{}));
    }
  }
  for (; i < count; ++i) to[i * to_step] = To(from[i * from_step]);
}

template <class A, class T>
void read_numbers(const T* from, int64_t stride, int count, A* to) {
  if constexpr (!std::is_arithmetic_v<T> && std::is_same_v<A, float>) {
    if (stride == 1 || stride == -1) {
      const T* low = stride == 1 ? from : from - (count - 1);
      Vectors<float>::for_each(count, [&](int64_t i, int lanes) __attribute__((always_inline)) {
        Vectors<float>::put(to + i, Vectors<float>::get(low + i, lanes, 0.0f), lanes);
      });
      if (stride == -1) std::reverse(to, to + count);
      return;
    }
  }
  if (stride == 1) {
    for (int i = 0; i < count; ++i) to[i] = to_accumulator<A>(from[i]);
  } else if (stride == -1) {
    if constexpr (std::is_arithmetic_v<T>) backwards(from, -1, to, 1, count);
    if constexpr (!std::is_arithmetic_v<T>)
      for (int i = 0; i < count; ++i) to[i] = to_accumulator<A>(from[-i]);
  } else {
    for (int i = 0; i < count; ++i) to[i] = to_accumulator<A>(from[i * stride]);
  }
}

template <class A>
void read_line(const ScanTensor& t, int64_t at, int64_t stride, int count, A* to) {
  const auto read = [&](auto zero) {
    read_numbers(static_cast<const decltype(zero)*>(t.data) + at, stride, count, to);
  };
  switch (t.dtype) {
    case DType::float32:
      return read(float());
    case DType::float64:
      return read(double());
    case DType::float16:
      return read(Half());
    case DType::bfloat16:
      return read(BFloat16());
    default:
      return;
  }
}

template <class A, class T>
void write_numbers(T* to, int64_t stride, int count, A* from) {
  if constexpr (std::is_arithmetic_v<T>) {
    if (stride == 1) {
      for (int i = 0; i < count; ++i) to[i] = T(from[i]);
    } else if (stride == -1) {
      backwards(from, 1, to, -1, count);
    } else {
      for (int i = 0; i < count; ++i) to[i * stride] = T(from[i]);
    }
  } else {
    if (stride == -1) {
      std::reverse(from, from + count);
      to -= count - 1;
    }
    if (std::is_same_v<A, float> && (stride == 1 || stride == -1)) {
      if constexpr (std::is_same_v<A, float>)
        Vectors<float>::for_each(count, [&](int64_t i, int lanes) __attribute__((always_inline)) {
          Vectors<float>::put(to + i, Vectors<float>::get(from + i, lanes, 0.0f), lanes);
        });
      return;
    }
    if (stride == -1) stride = 1;
    for (int i = 0; i < count; ++i) store(to + i * stride, floats(float(from[i])), 1);
  }
}

// `from` may be left in another order.
template <class A>
void write_line(const ScanTensor& t, int64_t at, int64_t stride, int count, A* from) {
  const auto write = [&](auto zero) { write_numbers(static_cast<decltype(zero)*>(t.data) + at, stride, count, from); };
  switch (t.dtype) {
    case DType::float32:
      return write(float());
    case DType::float64:
      return write(double());
    case DType::float16:
      return write(Half());
    case DType::bfloat16:
      return write(BFloat16());
    default:
      return;
  }
}

// The `more` steps behind `count`, where they are neighbours: pieces of so many sequences are no streams to the
// processor.
template <class A>
FASTLOSS_INLINE void prefetch(const ScanTensor& t, int64_t at, int64_t stride, int count, int more) {
  if (t.dtype != (sizeof(A) == 8 ? DType::float64 : DType::float32) || (stride != 1 && stride != -1)) return;
  const A* next = static_cast<const A*>(t.data) + at + stride * count;
  for (int i = 0; i < more; i += int(64 / sizeof(A))) __builtin_prefetch(next + stride * i);
}

// to[i] |= flag where the element, which is 0 or 1, is 1
void add_flags(const ScanTensor& t, int64_t at, int64_t stride, int count, uint8_t flag, uint8_t* to) {
  const uint8_t* from = static_cast<const uint8_t*>(t.data) + at;
  if (stride == 1) {
    for (int i = 0; i < count; ++i) to[i] |= uint8_t(from[i] * flag);
  } else if (stride == -1) {
    const uint8_t* low = from - (count - 1);
    for (int i = 0; i < count; ++i) to[i] |= uint8_t(low[count - 1 - i] * flag);
  } else {
    for (int i = 0; i < count; ++i) to[i] |= uint8_t(from[i * stride] * flag);
  }
}

// ---- the sequences ----

// The part of a tensor's offset that is the sequence's, at the first step of its scan, and the stride from step to
// step.
struct Sequence {
  int64_t outer, inner, start, length;

  int64_t at(const ScanProblem& p, const ScanTensor& t) const {
    const int64_t begin = p.starts ? start * t.step : outer * t.outer;
    return begin + inner * t.inner + (p.reverse ? (length - 1) * t.step : 0);
  }
};

inline int64_t step_of(const ScanProblem& p, const ScanTensor& t) { return p.reverse ? -t.step : t.step; }

Sequence sequence_of(const ScanProblem& p, int64_t outer, int64_t inner) {
  if (!p.starts) return {outer, inner, 0, p.steps};
  return {outer, inner, p.starts[outer], p.starts[outer + 1] - p.starts[outer]};
}

inline bool has_flags(const ScanProblem& p) { return p.terminated.data || p.truncated.data || p.there.data; }

// What the walks know of a functor. They are compiled once for all.
template <class A>
struct Functor {
  const void* self;
  int operands, outputs;
  void (*run)(const void* self, const Block<A>&);
};

template <class A>
constexpr DType type_of() {
  return sizeof(A) == 8 ? DType::float64 : DType::float32;
}

template <class A>
Block<A> block_of(const ScanProblem& p, const Functor<A>& f, A* y) {
  Block<A> b = {};
  for (int k = 0; k < f.operands; ++k) b.constant[k] = A(p.constant[k]);
  b.y = y;
  return b;
}

// Whether steps of a line have ended (bits 1 and 2), and are there (4).
template <class Place>
void read_ends(const ScanProblem& p, Place place, int64_t (*stride)(const ScanProblem&, const ScanTensor&), int count,
               uint8_t* ends) {
  memset(ends, p.there.data ? 0 : kThere, size_t(count));
  if (p.terminated.data) add_flags(p.terminated, place(p.terminated), stride(p, p.terminated), count, 1, ends);
  if (p.truncated.data) add_flags(p.truncated, place(p.truncated), stride(p, p.truncated), count, 2, ends);
  if (p.there.data) add_flags(p.there, place(p.there), stride(p, p.there), count, kThere, ends);
}

// Of what read_ends found, where `seen` of the sequence is 1 if a step is there before.
inline uint8_t flags_of(uint8_t ends, uint8_t seen) {
  const uint8_t alive = uint8_t(~ends & 1), goes_on = uint8_t(alive & ~(ends >> 1) & seen);
  return uint8_t(alive * kAlive + goes_on * kFollows + (ends & kThere));
}

// Sequences that are neighbours in memory.
template <class A>
void run_columns(const ScanProblem& p, const Functor<A>& f, int64_t task) {
  using S = Vectors<A>;
  constexpr int kStaged = 1024;  // numbers of a tensor: some steps of the sequences
  alignas(64) A staged[kMaxScanOperands + kMaxScanOutputs + 1][kStaged];
  alignas(64) A y[kColumns] = {};
  uint8_t seen[kColumns] = {}, ends[kColumns];
  const int64_t tasks = (p.inner + kColumns - 1) / kColumns, inner = task % tasks * kColumns;
  const int count = int(std::min<int64_t>(kColumns, p.inner - inner));
  const Sequence q = sequence_of(p, task / tasks, inner);
  const bool flags = has_flags(p);
  const auto direct = [](const ScanTensor& t) { return t.dtype == type_of<A>() && t.inner == 1; };
  bool all_direct = !flags;
  for (int k = 0; k < f.operands; ++k) all_direct &= !p.operand[k].data || direct(p.operand[k]);
  for (int k = 0; k < f.outputs; ++k) all_direct &= direct(p.output[k]);
  Block<A> b = block_of(p, f, y);
  b.sequences = count;
  constexpr int64_t kMostSteps = 64;  // whose prefetches are not too early
  const int64_t pitch = (count + S::lanes - 1) / S::lanes * S::lanes;
  const int64_t chunk = all_direct ? q.length : std::min(kMostSteps, kStaged / pitch);
  for (int64_t start = 0; start < q.length; start += chunk) {
    b.steps = std::min(chunk, q.length - start);
    b.first = start == 0;
    b.more = start + b.steps < q.length;
    const auto place = [&](const ScanTensor& t, int64_t s) { return q.at(p, t) + (start + s) * step_of(p, t); };
    for (int k = 0; k < f.operands; ++k) {
      const ScanTensor& t = p.operand[k];
      if (!t.data) continue;
      if (direct(t)) {
        b.operand[k] = {static_cast<const A*>(t.data) + place(t, 0), step_of(p, t)};
        continue;
      }
      for (int64_t s = 0; s < b.steps; ++s) read_line(t, place(t, s), t.inner, count, staged[k] + s * pitch);
      b.operand[k] = {staged[k], pitch};
    }
    constexpr int kFlags = kMaxScanOperands, kOutput = kFlags + 1;
    if (flags) {
      for (int64_t s = 0; s < b.steps; ++s) {
        read_ends(
            p, [&](const ScanTensor& t) { return place(t, s); },
            [](const ScanProblem&, const ScanTensor& t) { return t.inner; }, count, ends);
        A* to = staged[kFlags] + s * pitch;
        for (int i = 0; i < count; ++i) to[i] = A(flags_of(ends[i], seen[i]));
        for (int i = 0; i < count; ++i) seen[i] |= uint8_t(ends[i] >> 2);
      }
      b.flags = {staged[kFlags], pitch};
    }
    for (int k = 0; k < f.outputs; ++k) {
      const ScanTensor& t = p.output[k];
      b.output[k] = direct(t) ? Lines<A>{static_cast<A*>(t.data) + place(t, 0), step_of(p, t)}
                              : Lines<A>{staged[kOutput + k], pitch};
    }
    f.run(f.self, b);
    for (int k = 0; k < f.outputs; ++k) {
      const ScanTensor& t = p.output[k];
      for (int64_t s = 0; s < b.steps && !direct(t); ++s)
        write_line(t, place(t, s), t.inner, count, staged[kOutput + k] + s * pitch);
    }
  }
}

// Pieces of kSteps neighbours, one of each lane, to lines of lanes in the order of the scan, and back.
template <class A, int kSteps, bool kForward>
__attribute__((noinline)) void gather(A* const (&low)[Vectors<A>::lanes], A* lines) {
  using S = Vectors<A>;
  constexpr int lanes = S::lanes;
  for (int s = 0; s < kSteps; s += lanes) {
    typename S::V v[lanes];
#pragma GCC unroll 16
    for (int lane = 0; lane < lanes; ++lane)
      v[lane] = S::get(low[lane] + (kForward ? s : kSteps - lanes - s), lanes, A(0));
    S::transpose(v);
#pragma GCC unroll 16
    for (int k = 0; k < lanes; ++k) S::put(lines + (s + k) * lanes, v[kForward ? k : lanes - 1 - k], lanes);
  }
}
template <class A, int kSteps, bool kForward>
__attribute__((noinline)) void scatter(const A* lines, A* const (&low)[Vectors<A>::lanes]) {
  using S = Vectors<A>;
  constexpr int lanes = S::lanes;
  for (int s = 0; s < kSteps; s += lanes) {
    typename S::V v[lanes];
#pragma GCC unroll 16
    for (int k = 0; k < lanes; ++k) v[kForward ? k : lanes - 1 - k] = S::get(lines + (s + k) * lanes, lanes, A(0));
    S::transpose(v);
#pragma GCC unroll 16
    for (int lane = 0; lane < lanes; ++lane) S::put(low[lane] + (kForward ? s : kSteps - lanes - s), v[lane], lanes);
  }
}

// A vector of sequences whose steps are neighbours in memory, or which are neighbours in no way.
template <class A>
void run_rows(const ScanProblem& p, const Functor<A>& f, int64_t first, int sequences) {
  using S = Vectors<A>;
  constexpr int kSteps = 256, lanes = S::lanes;
  static_assert(kSteps % lanes == 0, "whole vectors of steps");
  alignas(64) A rows[lanes][kSteps];
  alignas(64) A tile[kMaxScanOperands + kMaxScanOutputs + 1][kSteps * lanes];
  alignas(64) A y[lanes] = {};
  uint8_t ends[kSteps], seen[lanes] = {};
  Sequence of_lane[lanes];
  int64_t longest = 0;
  for (int lane = 0; lane < sequences; ++lane) {
    of_lane[lane] = sequence_of(p, (first + lane) / p.inner, (first + lane) % p.inner);
    longest = std::max(longest, of_lane[lane].length);
  }
  Block<A> b = block_of(p, f, y);
  b.sequences = lanes;
  for (int64_t start = 0; start < longest; start += kSteps) {
    b.steps = std::min<int64_t>(kSteps, longest - start);
    b.first = start == 0;
    const int64_t whole = (b.steps + lanes - 1) / lanes * lanes;
    const auto left = [&](int lane, int64_t later = 0) {
      if (lane >= sequences) return 0;
      return int(std::max<int64_t>(0, std::min<int64_t>(kSteps, of_lane[lane].length - start - later)));
    };
    const auto place = [&](int lane, const ScanTensor& t) { return of_lane[lane].at(p, t) + start * step_of(p, t); };
    const auto fill = [&](A* row, int from) {
      for (int64_t s = from; s < whole; ++s) row[s] = A(0);
    };
    const auto transposed = [&](const A(&from)[lanes][kSteps], A* to) -> Lines<const A> {
      for (int64_t s = 0; s < whole; s += lanes) {
        typename S::V v[lanes];
        for (int lane = 0; lane < lanes; ++lane) v[lane] = S::get(from[lane] + s, lanes, A(0));
        S::transpose(v);
        for (int k = 0; k < lanes; ++k) S::put(to + (s + k) * lanes, v[k], lanes);
      }
      return {to, lanes};
    };
    // Whole pieces of every lane, of neighbours of the accumulator's type, are transposed where they are.
    const auto in_place = [&](const ScanTensor& t) {
      bool whole_pieces = lanes > 1 && sequences == lanes && t.dtype == type_of<A>() && (t.step == 1 || t.step == -1);
      for (int lane = 0; lane < sequences && whole_pieces; ++lane) whole_pieces = left(lane) == kSteps;
      return whole_pieces;
    };
    const auto ahead = [&](const ScanTensor& t) {
      for (int lane = 0; lane < sequences; ++lane)
        prefetch<A>(t, place(lane, t), step_of(p, t), kSteps, left(lane, kSteps));
    };
    const auto pieces = [&](const ScanTensor& t, A*(&low)[lanes]) {  // where the memory of each lane's steps begins
      for (int lane = 0; lane < lanes; ++lane)
        low[lane] = static_cast<A*>(t.data) + place(lane, t) - (step_of(p, t) > 0 ? 0 : kSteps - 1);
      return step_of(p, t) > 0;
    };
    for (int k = 0; k < f.operands; ++k) {
      const ScanTensor& t = p.operand[k];
      if (!t.data) continue;
      if (in_place(t)) {
        A* low[lanes];
        if (pieces(t, low))
          gather<A, kSteps, true>(low, tile[k]);
        else
          gather<A, kSteps, false>(low, tile[k]);
        b.operand[k] = {tile[k], lanes};
        ahead(t);
        continue;
      }
      for (int lane = 0; lane < lanes; ++lane) {
        const int count = left(lane);
        if (count) read_line(t, place(lane, t), step_of(p, t), count, rows[lane]);
        fill(rows[lane], count);
      }
      b.operand[k] = transposed(rows, tile[k]);
    }
    constexpr int kFlags = kMaxScanOperands, kOutput = kFlags + 1;
    if (has_flags(p)) {
      for (int lane = 0; lane < lanes; ++lane) {
        const int count = left(lane);
        if (count) read_ends(p, [&](const ScanTensor& t) { return place(lane, t); }, step_of, count, ends);
        int s = 0;
        for (; s < count && !seen[lane]; ++s) {
          rows[lane][s] = A(flags_of(ends[s], 0));
          seen[lane] = ends[s] >> 2;
        }
        for (; s < count; ++s) rows[lane][s] = A(flags_of(ends[s], 1));
        fill(rows[lane], count);
      }
      b.flags = transposed(rows, tile[kFlags]);
    }
    for (int k = 0; k < f.outputs; ++k) b.output[k] = {tile[kOutput + k], lanes};
    f.run(f.self, b);
    for (int k = 0; k < f.outputs; ++k) {
      const ScanTensor& t = p.output[k];
      if (in_place(t)) {
        A* low[lanes];
        if (pieces(t, low))
          scatter<A, kSteps, true>(tile[kOutput + k], low);
        else
          scatter<A, kSteps, false>(tile[kOutput + k], low);
        ahead(t);
        continue;
      }
      for (int64_t s = 0; s < whole; s += lanes) {
        typename S::V v[lanes];
        for (int j = 0; j < lanes; ++j) v[j] = S::get(tile[kOutput + k] + (s + j) * lanes, lanes, A(0));
        S::transpose(v);
        for (int lane = 0; lane < lanes; ++lane) S::put(rows[lane] + s, v[lane], lanes);
      }
      for (int lane = 0; lane < sequences; ++lane) {
        const int count = left(lane);
        if (count) write_line(t, place(lane, t), step_of(p, t), count, rows[lane]);
      }
    }
  }
}

template <class A>
void run_tasks(const ScanProblem& p, const Functor<A>& f, int64_t first, int64_t last) {
  constexpr int lanes = Vectors<A>::lanes;
  if (in_columns(p)) {
    for (int64_t task = first; task < last; ++task) run_columns(p, f, task);
    return;
  }
  const int64_t end = std::min(last * kTaskRows, p.outer * p.inner);
  for (int64_t row = first * kTaskRows; row < end; row += lanes)
    run_rows(p, f, row, int(std::min<int64_t>(lanes, end - row)));
}

template <class F>
void run(const ScanProblem& p, int64_t first, int64_t last) {
  using A = typename F::A;
  const F f(p.parameters);
  const bool flags = has_flags(p);
  const Functor<A> functor = {
      &f, F::operands, F::outputs,
      flags ? [](const void* self, const Block<A>& b) { run_block<F, true>(*static_cast<const F*>(self), b); }
            : [](const void* self, const Block<A>& b) { run_block<F, false>(*static_cast<const F*>(self), b); }};
  run_tasks(p, functor, first, last);
}

int find(const ScanProblem& p, RunScan* found) {
#if !FASTLOSS_BASELINE
  if (p.in_double) return baseline::find_scan(p, found);  // scalar code, compiled once
#endif
  int status = kUnknownLoss;
  visit_scan(p.loss, [&](auto tag) {
    using InFloat = typename decltype(tag)::template with<float>;
    const ScanDescription expected = describe_scan<InFloat>();
    status = p.parameter_count != expected.parameters                                     ? kWrongParameters
             : p.operand_count != expected.operands || p.output_count != expected.outputs ? kWrongOperands
                                                                                          : 0;
    *found = run<InFloat>;
#if FASTLOSS_BASELINE
    if (p.in_double) *found = run<typename decltype(tag)::template with<double>>;
#endif
  });
  return status;
}

}  // namespace

const FindScan find_scan = find;

}  // namespace FASTLOSS_ISA

}  // namespace fastloss

#if FASTLOSS_BASELINE
int fastloss_scan(const fastloss::ScanProblem* problem, fastloss::Device* device) {
  using namespace fastloss;
  const ScanProblem& p = *problem;
  static const FindScan find = FASTLOSS_FOR_THIS_CPU(find_scan);
  RunScan run;
  if (const int status = find(p, &run)) return status;
  if (p.starts) {
    if (p.starts[0] != 0 || p.starts[p.outer] != p.steps) return kWrongStarts;
    for (int64_t k = 0; k < p.outer; ++k)
      if (p.starts[k] > p.starts[k + 1]) return kWrongStarts;
  }
  const int64_t tasks = tasks_of(p);
  const int64_t elements = (p.starts ? 1 : p.outer) * p.steps * p.inner;
  const int64_t grain = std::max<int64_t>(1, 32768 * tasks / std::max<int64_t>(1, elements));  // worth waking a thread
  for_tasks(*device, tasks, grain, [&](int64_t first, int64_t last) { run(p, first, last); });
  return 0;
}
#endif
