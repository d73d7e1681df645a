// The row skeleton on the CPU: softmax losses over rows of logits. It knows no loss; see csrc/losses/row.h.
//
// A row that is read from memory stays in the core's cache until its gradient is written, so memory sees one read of
// the logits and one write of the gradient, whatever the number of passes below:
//   1. statistics, 8 KB at a time: z and the chunk's maximum, then the sum of exp(z - max) and the sums over the dense
//      part of the target; the running sums are rescaled when the maximum grows;
//   2. the loss of the row (scalar);
//   3. the gradient: from the exponentials of step 1, kept in the gradient's own memory or in a row of scratch, or, where
//      it needs the logits too (softcap) or the statistics are given (backward), from the logits.
// Lane sums are added to doubles after every chunk: one fp32 sum over 128k classes would lose three digits.
#include "row.h"

#include <stdlib.h>

#include <type_traits>

#include "vectors.h"  // before the losses: a functor sees the math overloads that are declared above it

#include "../losses/row.h"

namespace fastloss {
namespace FASTLOSS_ISA {
namespace {

// A hot loop is a function of its own: inlined into its caller, GCC keeps the caller's values in registers and reloads
// the constants of the loop in every iteration.
#define FASTLOSS_LOOP __attribute__((noinline))

constexpr int64_t kChunk = 2048;  // elements; 8 KB of floats, a quarter of the first-level cache

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
  const A* weight;
  const bool soft;
  A *loss_rows, *max_rows, *log_sum_rows;

  explicit RowTask(const RowProblem& problem)
      : p(problem),
        loss(problem.parameters, problem.classes),
        C(problem.classes),
        weight(static_cast<const A*>(problem.weight)),
        soft(problem.soft_target.data != nullptr),
        loss_rows(static_cast<A*>(problem.loss_rows)),
        max_rows(static_cast<A*>(problem.state)),
        log_sum_rows(problem.state ? max_rows + problem.outer * problem.inner : nullptr) {}

  // ---------------------------------------------------------------- what both layouts need of one row

  FASTLOSS_INLINE A gradient_factor(int64_t row) const {
    A factor = p.inverse_denominator ? A(*p.inverse_denominator) : A(1);
    return p.row_factor ? factor * static_cast<const A*>(p.row_factor)[row] : factor;
  }
  FASTLOSS_INLINE bool ignored(int64_t row) const { return !soft && p.index_target[row] == p.ignore_index; }
  FASTLOSS_INLINE void store_ignored(int64_t row) const {
    if (loss_rows) loss_rows[row] = A(0);
    if (max_rows && !p.state_known) max_rows[row] = log_sum_rows[row] = A(0);
  }
  // Adds the index target's share to the sums, stores loss and state, returns the softmax's coefficient.
  FASTLOSS_INLINE A finish(int64_t row, RowSums<A>& sums, A index_mass, A target_logit) const {
    sums.mass += index_mass;
    if (index_mass != A(0)) sums.linear += index_mass * (target_logit - sums.max);
    RowResult<A> result = loss.finish(sums);
    if (loss_rows) loss_rows[row] = result.loss;
    if (max_rows && !p.state_known) {
      max_rows[row] = sums.max;
      log_sum_rows[row] = sums.log_sum;
    }
    return result.softmax_coefficient;
  }
  FASTLOSS_INLINE A class_weight(int64_t c) const { return weight ? weight[c] : A(1); }
  FASTLOSS_INLINE V dlogit(V z, V softmax, V scaled_mass) const { return loss.slope(z) * (softmax - scaled_mass); }

  // ---------------------------------------------------------------- rows: (outer) contiguous rows of C classes

  // q_c .. q_{c + count - 1}; t is null for index targets
  FASTLOSS_INLINE V dense_mass(const T* t, int64_t c, int count) const {
    V w = weight ? S::get(weight + c, count, A(0)) : V{} + A(1);
    V target = t ? S::get(t + c, count, A(0)) : V{};
    return S::first(count, loss.mass(w, target), V{});
  }
  // Fills in the sums over the classes. With Keep, leaves exp(z_c - shift) in kept[c], where shift is the largest logit
  // up to the end of c's chunk, noted in shifts[c / kChunk]: the gradient then needs no second exponential.
  // kept may be the row itself. Returns sum_c exp(z_c - max).
  template <bool Dense, bool Keep>
  FASTLOSS_LOOP double statistics(const T* x, const T* t, A* kept, A* shifts, RowSums<A>& sums) const {
    const Loss f = loss;  // a local copy stays in registers, nothing that is stored can alias it
    alignas(64) A buffer[Keep ? S::lanes : kChunk];
    double sum = 0, mass = 0, linear = 0;
    A max = -infinity, shift = A(0);  // shift = max, but 0 while all logits so far are -inf: -inf - -inf is NaN
    for (int64_t start = 0; start < C; start += kChunk) {
      const int64_t size = C - start < kChunk ? C - start : kChunk;
      A* z = Keep ? kept + start : buffer;
      V most = V{} - infinity;
      S::for_each(size, [&](int64_t c, int count) __attribute__((always_inline)) {
        V logit = S::first(count, f.logit(S::get(x + start + c, count, A(0))), V{} - infinity);
        most = (logit > most) ? logit : most;
        S::put(z + c, logit, count);
      });
      const A chunk_max = S::max(most);
      if (chunk_max > max) {
        max = chunk_max;
        if (start) {
          sum *= double(S::exp(shift - max));
          linear += mass * (double(shift) - double(max));
        }
        shift = max;
      }
      V chunk_sum{}, chunk_mass{}, chunk_linear{};
      const A from = shift;
      S::for_each(size, [&](int64_t c, int count) __attribute__((always_inline)) {
        V from_max = S::get(z + c, count, -infinity) - from;
        V e = S::exp(from_max);
        chunk_sum += e;
        if (Keep) S::put(z + c, e, count);
        if (Dense) {
          V q = dense_mass(t, start + c, count);
          chunk_mass += q;
          chunk_linear += q * S::first(count, from_max, V{});
        }
      });
      sum += S::sum(chunk_sum);
      if (Dense) {
        mass += S::sum(chunk_mass);
        linear += S::sum(chunk_linear);
      }
      if (Keep) shifts[start / kChunk] = shift;
    }
    sums = {max, S::log(sum), A(mass), A(linear), A(1)};
    return sum;
  }

  // scale * (coefficient softmax - q) slope, the exponentials taken once more
  template <bool Dense>
  FASTLOSS_LOOP void gradient(const T* x, const T* t, T* out, A max, A softmax_scale, A scale) const {
    const Loss f = loss;
    S::for_each(C, [=](int64_t c, int count) __attribute__((always_inline)) {
      V z = f.logit(S::get(x + c, count, A(0)));
      V scaled_mass = Dense ? dense_mass(t, c, count) * scale : V{};
      S::put(out + c, f.slope(z) * (S::exp(z - max) * softmax_scale - scaled_mass), count);
    });
  }

  // the same from the exponentials that statistics() kept
  template <bool Dense>
  FASTLOSS_LOOP void gradient_of_kept(const A* kept, const A* shifts, const T* t, T* out, A max, A softmax_scale,
                                      A scale) const {
    const A slope = loss.slope(A(0));
    const A mass_scale = scale * slope;
    for (int64_t start = 0; start < C; start += kChunk) {
      const int64_t size = C - start < kChunk ? C - start : kChunk;
      const A shift = shifts[start / kChunk];
      const A factor = softmax_scale * slope * (shift == max ? A(1) : S::exp(shift - max));
      S::for_each(size, [=](int64_t c, int count) __attribute__((always_inline)) {
        V softmax = S::get(kept + start + c, count, A(0)) * factor;
        S::put(out + start + c, Dense ? softmax - dense_mass(t, start + c, count) * mass_scale : softmax, count);
      });
    }
  }

  // `kept`: room for C exponentials and the chunks' shifts behind them, or null if they cannot be of use
  template <bool Dense>
  void one_row(int64_t row, A* scratch) const {
    const T* x = static_cast<const T*>(p.logits.data) + row * p.logits.outer;
    const T* t = soft ? static_cast<const T*>(p.soft_target.data) + row * p.soft_target.outer : nullptr;
    T* out = p.gradient.data ? static_cast<T*>(p.gradient.data) + row * p.gradient.outer : nullptr;
    if (ignored(row)) {
      store_ignored(row);
      if (out) memset(out, 0, size_t(C) * sizeof(T));
      return;
    }
    const int64_t y = soft ? 0 : p.index_target[row];
    const A z_y = soft ? A(0) : loss.logit(S::scalar(x + y));  // read first: the row may be overwritten
    A *kept = nullptr, *shifts = scratch;
    if (scratch) {
      if constexpr (std::is_same_v<T, A>) {
        kept = out;
      } else {
        kept = scratch;
        shifts = scratch + C;
      }
    }
    RowSums<A> sums{};
    A inverse_sum;
    if (p.state_known) {
      double mass = 0;
      if (Dense)
        S::for_each(
            C, [&](int64_t c, int count) __attribute__((always_inline)) { mass += S::sum(dense_mass(t, c, count)); });
      sums = {max_rows[row], log_sum_rows[row], A(mass), A(0), A(1)};
      inverse_sum = S::exp(-sums.log_sum);
    } else {
      inverse_sum = A(1.0 / (kept ? statistics<Dense, true>(x, t, kept, shifts, sums)
                                  : statistics<Dense, false>(x, t, nullptr, nullptr, sums)));
    }
    if (!soft) sums.weight = class_weight(y);
    const A index_mass = soft ? A(0) : loss.index_mass(sums.weight);
    const A coefficient = finish(row, sums, index_mass, z_y);
    if (!out) return;
    const A scale = gradient_factor(row);
    const A softmax_scale = coefficient * scale * inverse_sum;
    if (kept)
      gradient_of_kept<Dense>(kept, shifts, t, out, sums.max, softmax_scale, scale);
    else
      gradient<Dense>(x, t, out, sums.max, softmax_scale, scale);
    if (soft) return;
    const A mass = index_mass + (Dense ? loss.mass(sums.weight, A(0)) : A(0));
    S::put(out + y, V{} + loss.slope(z_y) * (softmax_scale * S::exp(z_y - sums.max) - scale * mass), 1);
  }

  // ---------------------------------------------------------------- columns: (outer, C, inner), inner contiguous
  // A task is kGroup vectors of neighbouring rows, a lane each; the classes are walked in order, three times.

  static constexpr int kGroup = 4;
  struct Group {
    V max[kGroup], softmax_scale[kGroup], scale[kGroup], index_mass[kGroup];
    I target[kGroup], live[kGroup];
    int count[kGroup];
  };

  int64_t column_tasks() const { return (p.inner + kGroup * S::lanes - 1) / (kGroup * S::lanes); }

  FASTLOSS_INLINE V column_mass(const T* t, int64_t c, int count) const {
    V target = t ? S::get(t, count, A(0)) : V{};
    return loss.mass(V{} + class_weight(c), target);
  }

  template <bool Dense>
  FASTLOSS_LOOP void columns(int64_t n, int64_t first) const {
    const T* x = static_cast<const T*>(p.logits.data) + n * p.logits.outer + first;
    const T* t = soft ? static_cast<const T*>(p.soft_target.data) + n * p.soft_target.outer + first : nullptr;
    T* out = p.gradient.data ? static_cast<T*>(p.gradient.data) + n * p.gradient.outer + first : nullptr;
    const int64_t row = n * p.inner + first;
    Group g;
    V sum[kGroup], mass[kGroup], linear[kGroup], z_y[kGroup];
    for (int k = 0; k < kGroup; ++k) {
      int64_t left = p.inner - first - k * S::lanes;
      g.count[k] = int(left < 0 ? 0 : left < S::lanes ? left : S::lanes);
      g.max[k] = V{} - infinity;
      g.softmax_scale[k] = g.scale[k] = g.index_mass[k] = sum[k] = mass[k] = linear[k] = z_y[k] = V{};
      g.target[k] = g.live[k] = I{};
      for (int i = 0; i < g.count[k]; ++i) {
        const int64_t r = row + k * S::lanes + i;
        if (ignored(r)) continue;
        S::set(g.live[k], i, -1);
        if (!soft) S::set(g.target[k], i, int32_t(p.index_target[r]));
        if (p.state_known) S::set(g.max[k], i, max_rows[r]);
      }
    }
    auto each = [&](auto body) __attribute__((always_inline)) {
      for (int64_t c = 0; c < C; ++c) {
        for (int k = 0; k < kGroup; ++k) {
          if (g.count[k]) body(c, k, k * S::lanes);
        }
      }
    };
    auto logit = [&](int64_t c, int k, int at) __attribute__((always_inline)) {
      return loss.logit(S::get(x + c * p.logits.step + at, g.count[k], A(0)));
    };
    auto dense = [&](int64_t c, int k, int at) __attribute__((always_inline)) {
      return column_mass(t ? t + c * p.soft_target.step + at : nullptr, c, g.count[k]);
    };
    if (!p.state_known)
      each([&](int64_t c, int k, int at) __attribute__((always_inline)) {
        V z = logit(c, k, at);
        g.max[k] = (z > g.max[k]) ? z : g.max[k];
      });
    each([&](int64_t c, int k, int at) __attribute__((always_inline)) {
      V z = logit(c, k, at);
      V shift = (g.max[k] == -infinity) ? V{} : g.max[k];
      if (!p.state_known) sum[k] += S::exp(z - shift);
      z_y[k] = (g.target[k] == int32_t(c)) ? z : z_y[k];
      if (Dense) {
        V q = dense(c, k, at);
        mass[k] += q;
        linear[k] += q * (z - shift);
      }
    });
    for (int k = 0; k < kGroup; ++k) {
      for (int i = 0; i < g.count[k]; ++i) {
        const int64_t r = row + k * S::lanes + i;
        if (!S::lane(g.live[k], i)) {
          store_ignored(r);
          continue;
        }
        RowSums<A> sums{S::lane(g.max[k], i), p.state_known ? log_sum_rows[r] : S::log(S::lane(sum[k], i)),
                        S::lane(mass[k], i), S::lane(linear[k], i), A(1)};
        A index_mass = A(0);
        if (!soft) {
          sums.weight = class_weight(p.index_target[r]);
          index_mass = loss.index_mass(sums.weight);
        }
        const A scale = gradient_factor(r);
        const A coefficient = finish(r, sums, index_mass, S::lane(z_y[k], i));
        S::set(g.softmax_scale[k], i, coefficient * scale * S::exp(-sums.log_sum));
        S::set(g.index_mass[k], i, index_mass * scale);
        S::set(g.scale[k], i, scale);
      }
    }
    if (!out) return;
    each([&](int64_t c, int k, int at) __attribute__((always_inline)) {
      V z = logit(c, k, at);
      V scaled_mass = (g.target[k] == int32_t(c)) ? g.index_mass[k] : V{};
      if (Dense) scaled_mass += dense(c, k, at) * g.scale[k];
      V d = dlogit(z, S::exp(z - g.max[k]) * g.softmax_scale[k], scaled_mass);
      S::put(out + c * p.gradient.step + at, g.live[k] ? d : V{}, g.count[k]);
    });
  }

  // ---------------------------------------------------------------- tasks

  int64_t tasks() const { return p.inner == 1 ? p.outer : p.outer * column_tasks(); }

  template <bool Dense>
  void run(int64_t begin, int64_t end) const {
    if (p.inner > 1) {
      for (int64_t task = begin; task < end; ++task)
        columns<Dense>(task / column_tasks(), task % column_tasks() * kGroup * S::lanes);
      return;
    }
    // What the gradient can take over from the statistics: exponentials, in the gradient's own memory if its type is
    // the accumulator's, else in a row of scratch.
    const bool keep = p.gradient.data && !p.state_known && loss.linear();
    const size_t size = size_t((C + kChunk - 1) / kChunk + (std::is_same_v<T, A> ? 0 : C));
    alignas(64) A small[kChunk + 1];
    A* scratch = !keep ? nullptr : size <= kChunk + 1 ? small : static_cast<A*>(malloc(size * sizeof(A)));
    for (int64_t row = begin; row < end; ++row) one_row<Dense>(row, scratch);
    if (scratch != small) free(scratch);
  }
  void run(int64_t begin, int64_t end) const { loss.dense(soft) ? run<true>(begin, end) : run<false>(begin, end); }
};

template <class F>
void for_type(const RowProblem& p, F f) {
  visit_row_loss(p.loss, [&](auto loss) {
    switch (p.dtype) {
      case DType::float64:
        return f(RowTask<typename decltype(loss)::template with<double>, double>(p));
      case DType::float32:
        return f(RowTask<typename decltype(loss)::template with<float>, float>(p));
      case DType::float16:
        return f(RowTask<typename decltype(loss)::template with<float>, Half>(p));
      case DType::bfloat16:
        return f(RowTask<typename decltype(loss)::template with<float>, BFloat16>(p));
    }
  });
}

int64_t tasks(const RowProblem& p) {
  int64_t count = 0;
  for_type(p, [&](const auto& task) { count = task.tasks(); });
  return count;
}
void run(const RowProblem& p, int64_t begin, int64_t end) {
  for_type(p, [&](const auto& task) { task.run(begin, end); });
}

}  // namespace

const RowKernels row_kernels = {tasks, run};

}  // namespace FASTLOSS_ISA
}  // namespace fastloss
