// The row skeleton on the CPU: softmax losses over rows of logits. It knows no loss; see csrc/losses/contracts/row.h.
//
// A row that is read from memory stays in the core's cache until its gradient is written, so memory sees one read of
// the logits and one write of the gradient, whatever the number of passes below:
//   1. statistics, 8 KB at a time: z and the chunk's maximum, then the sum of exp(z - max) and the sums over the dense
//      part of the target; the running sums are rescaled when the maximum grows;
//   2. the loss of the row (scalar);
//   3. the gradient: from the exponentials of step 1, kept in the gradient's own memory or in a row of scratch; from
//      the logits where it needs them too (softcap) or where the statistics are given (backward).
// Lane sums are added to doubles after every chunk: one fp32 sum over 128k classes would lose three digits.
//
// At the end of the file, once for all instruction sets: the tasks of a call, and its sums.
#include "../problems/row.h"

#include <stdlib.h>

#include <algorithm>
#include <type_traits>

#include "../losses/all.h"
#include "simd/isa.h"
#include "simd/lanes.h"
#include "threads.h"

namespace fastloss {

// The kernel of one loss and element type. Rows come in tasks: a row, or a group of neighbouring rows of the columns
// layout. `factor` multiplies the gradient.
struct RowKernel {
  int64_t (*tasks)(const RowProblem&);
  void (*run)(const RowProblem&, double factor, int64_t first_task, int64_t last_task);
};
using FindRowKernel = int (*)(const RowProblem&, RowKernel* found);  // a Status
namespace avx512 {
extern const FindRowKernel find_row_kernel;
}
namespace avx2 {
extern const FindRowKernel find_row_kernel;
}
namespace baseline {
extern const FindRowKernel find_row_kernel;
}

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

  // ---------------------------------------------------------------- what both layouts need of one row

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

  struct Scales {
    A all;         // of the gradient of this row
    A softmax;     // of exp(z - max): the softmax's coefficient and sum, and `all`
    A index_mass;  // of an index target, not scaled
  };

  // Adds an index target's share to the sums, stores loss and state.
  FASTLOSS_INLINE Scales finish(int64_t row, RowSums<A>& sums, A z_y, A inverse_sum) const {
    A index_mass = A(0);
    if (!soft) {
      sums.weight = class_weight(p.index_target[row]);
      index_mass = add_index_target(loss, z_y - sums.max, sums);
    }
    RowResult<A> result = loss.finish(sums);
    if (loss_rows) loss_rows[row] = result.loss;
    if (max_rows && !state_known) {
      max_rows[row] = sums.max;
      log_sum_rows[row] = sums.log_sum;
    }
    const A scale = gradient_factor(row);
    return {scale, result.softmax_coefficient * scale * inverse_sum, index_mass};
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
  FASTLOSS_LOOP void gradient(const T* x, const T* t, T* out, A max, Scales scales) const {
    const Loss f = loss;
    S::for_each(C, [=](int64_t c, int count) __attribute__((always_inline)) {
      V z = f.logit(S::get(x + c, count, A(0)));
      V scaled_mass = Dense ? dense_mass(t, c, count) * scales.all : V{};
      S::put(out + c, f.slope(z) * (S::exp(z - max) * scales.softmax - scaled_mass), count);
    });
  }

  // The same from kept exponentials. `shifts`: what statistics() subtracted from the logits, a chunk each; null: max.
  template <bool Dense>
  FASTLOSS_LOOP void gradient_of_kept(const A* kept, const A* shifts, const T* t, T* out, A max, Scales scales) const {
    const A slope = loss.slope(A(0));
    const A mass_scale = scales.all * slope;
    for (int64_t start = 0; start < C; start += kChunk) {
      const int64_t size = C - start < kChunk ? C - start : kChunk;
      const A shift = shifts ? shifts[start / kChunk] : max;
      const A factor = scales.softmax * slope * (shift == max ? A(1) : S::exp(shift - max));
      S::for_each(size, [=](int64_t c, int count) __attribute__((always_inline)) {
        V softmax = S::get(kept + start + c, count, A(0)) * factor;
        S::put(out + start + c, Dense ? softmax - dense_mass(t, start + c, count) * mass_scale : softmax, count);
      });
    }
  }

  // writes the element of an index target, which has a mass of its own
  template <bool Dense>
  FASTLOSS_INLINE void subtract_target(T* out, int64_t y, A z_y, const RowSums<A>& sums, Scales scales) const {
    const A mass = scales.index_mass + (Dense ? loss.mass(sums.weight, A(0)) : A(0));
    const A softmax = scales.softmax * S::exp(z_y - sums.max);
    S::put(out + y, V{} + loss.slope(z_y) * (softmax - scales.all * mass), 1);
  }

  // One row. `scratch`: room for the chunks' shifts and, where the gradient has another type than the accumulator, for
  // C exponentials; null if they cannot be of use.
  template <bool Dense>
  void one_row(int64_t row, A* scratch) const {
    const T* x = logits_of(row);
    const T* t = soft_target_of(row);
    T* out = gradient_of(row);
    if (ignored(row)) return store_ignored(row, out);
    const int64_t y = soft ? 0 : p.index_target[row];
    const A z_y = soft ? A(0) : loss.logit(S::scalar(x + y));  // read first: the row may be overwritten
    A *kept = nullptr, *shifts = scratch;
    if constexpr (std::is_same_v<T, A>) {
      if (scratch) kept = out;
    } else if (scratch) {
      kept = scratch;
      shifts = scratch + C;
    }
    RowSums<A> sums{};
    A inverse_sum;
    if (state_known) {
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
    const Scales scales = finish(row, sums, z_y, inverse_sum);
    if (!out) return;
    if (kept)
      gradient_of_kept<Dense>(kept, shifts, t, out, sums.max, scales);
    else
      gradient<Dense>(x, t, out, sums.max, scales);
    if (!soft) subtract_target<Dense>(out, y, z_y, sums, scales);
  }

  // Rows of at most kChunk classes, some at a time and stage by stage. The stages of one row wait for each other; those
  // of neighbouring rows do not, and side by side they fit into the processor's window.
  static constexpr int kBlock = 16;
  static_assert(kBlock % S::lanes == 0);

  template <bool Dense>
  FASTLOSS_LOOP void short_rows(int64_t first, int rows) const {
    const Loss f = loss;
    alignas(64) A z[kChunk];  // the rows' logits, later their exponentials, padded to whole vectors
    alignas(64) A sum[kBlock] = {}, log_sum[kBlock];
    RowSums<A> sums[kBlock];
    A z_y[kBlock];
    const int64_t padded = (C + S::lanes - 1) / S::lanes * S::lanes;
    for (int r = 0; r < rows; ++r) {
      const T* x = logits_of(first + r);
      V most = V{} - infinity;
      S::for_each(C, [&](int64_t c, int count) __attribute__((always_inline)) {
        V logit = S::first(count, f.logit(S::get(x + c, count, A(0))), V{} - infinity);
        most = (logit > most) ? logit : most;
        S::put(z + r * padded + c, logit, S::lanes);
      });
      sums[r].max = S::max(most);
      z_y[r] = soft || ignored(first + r) ? A(0) : f.logit(S::scalar(x + p.index_target[first + r]));
    }
    for (int r = 0; r < rows; ++r) {
      const T* t = soft_target_of(first + r);
      const A shift = sums[r].max;  // -inf only if all logits are, and then everything is NaN, in torch too
      V row_sum{}, mass{}, linear{};
      S::for_each(C, [&](int64_t c, int count) __attribute__((always_inline)) {
        A* at = z + r * padded + c;
        V from_max = S::get(at, S::lanes, A(0)) - shift;
        V e = S::exp(from_max);
        row_sum += e;
        S::put(at, e, S::lanes);
        if (Dense) {
          V q = dense_mass(t, c, count);
          mass += q;
          linear += q * S::first(count, from_max, V{});
        }
      });
      sum[r] = A(S::sum(row_sum));
      sums[r].mass = Dense ? A(S::sum(mass)) : A(0);
      sums[r].linear = Dense ? A(S::sum(linear)) : A(0);
      sums[r].weight = A(1);
    }
    for (int r = 0; r < rows; r += S::lanes) S::put(log_sum + r, S::log(S::get(sum + r, S::lanes, A(0))), S::lanes);
    for (int r = 0; r < rows; ++r) {
      const int64_t row = first + r;
      T* out = gradient_of(row);
      if (ignored(row)) {
        store_ignored(row, out);
        continue;
      }
      sums[r].log_sum = log_sum[r];
      const Scales scales = finish(row, sums[r], z_y[r], A(1) / sum[r]);
      if (!out) continue;
      if (f.linear())
        gradient_of_kept<Dense>(z + r * padded, nullptr, soft_target_of(row), out, sums[r].max, scales);
      else
        gradient<Dense>(logits_of(row), soft_target_of(row), out, sums[r].max, scales);
      if (!soft) subtract_target<Dense>(out, p.index_target[row], z_y[r], sums[r], scales);
    }
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
        if (state_known) S::set(g.max[k], i, max_rows[r]);
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
    if (!state_known)
      each([&](int64_t c, int k, int at) __attribute__((always_inline)) {
        V z = logit(c, k, at);
        g.max[k] = (z > g.max[k]) ? z : g.max[k];
      });
    each([&](int64_t c, int k, int at) __attribute__((always_inline)) {
      V z = logit(c, k, at);
      V from_max = z - g.max[k];  // NaN if all logits are -inf, and then everything is, in torch too
      if (!state_known) sum[k] += S::exp(from_max);
      z_y[k] = (g.target[k] == int32_t(c)) ? z : z_y[k];
      if (Dense) {
        V q = dense(c, k, at);
        mass[k] += q;
        linear[k] += q * from_max;
      }
    });
    for (int k = 0; k < kGroup; ++k) {
      for (int i = 0; i < g.count[k]; ++i) {
        const int64_t r = row + k * S::lanes + i;
        if (!S::lane(g.live[k], i)) {
          store_ignored(r, nullptr);
          continue;
        }
        RowSums<A> sums{S::lane(g.max[k], i), state_known ? log_sum_rows[r] : S::log(S::lane(sum[k], i)),
                        S::lane(mass[k], i), S::lane(linear[k], i), A(1)};
        const Scales scales = finish(r, sums, S::lane(z_y[k], i), S::exp(-sums.log_sum));
        S::set(g.index_mass[k], i, scales.index_mass * scales.all);
        S::set(g.softmax_scale[k], i, scales.softmax);
        S::set(g.scale[k], i, scales.all);
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

  int64_t tasks() const { return p.inner == 1 ? p.rows : p.rows / p.inner * column_tasks(); }

  template <bool Dense>
  void run(int64_t begin, int64_t end) const {
    if (p.inner > 1) {
      for (int64_t task = begin; task < end; ++task)
        columns<Dense>(task / column_tasks(), task % column_tasks() * kGroup * S::lanes);
      return;
    }
    if (C <= kChunk && !state_known) {
      const int64_t padded = (C + S::lanes - 1) / S::lanes * S::lanes;
      const int64_t block = kChunk / padded < kBlock ? kChunk / padded : kBlock;
      for (int64_t row = begin; row < end; row += block)
        short_rows<Dense>(row, int(end - row < block ? end - row : block));
      return;
    }
    const bool keep = p.gradient.data && !state_known && loss.linear();
    const size_t size = size_t((C + kChunk - 1) / kChunk + (std::is_same_v<T, A> ? 0 : C));
    A* scratch = keep ? static_cast<A*>(malloc(size * sizeof(A))) : nullptr;
    for (int64_t row = begin; row < end; ++row) one_row<Dense>(row, scratch);
    free(scratch);
  }
  void run(int64_t begin, int64_t end) const {
    if (!Loss::modulated && loss.dense(soft))
      run<!Loss::modulated>(begin, end);
    else
      run<false>(begin, end);
  }
};

template <class Loss, class T>
RowKernel kernel() {
  return {[](const RowProblem& p) { return RowTask<Loss, T>(p, 1).tasks(); },
          [](const RowProblem& p, double factor, int64_t first, int64_t last) {
            RowTask<Loss, T>(p, factor).run(first, last);
          }};
}

int find(const RowProblem& p, RowKernel* found) {
  int status = kUnknownLoss;
  visit_one_pass_row_loss(p.loss, [&](auto loss) {
    using InFloat = typename decltype(loss)::template with<float>;
    status = p.parameter_count != InFloat::parameters ? kWrongParameters : is_floating(p.dtype) ? 0 : kUnknownDType;
    switch (p.dtype) {
      case DType::float64:
        *found = kernel<typename decltype(loss)::template with<double>, double>();
        break;
      case DType::float32:
        *found = kernel<InFloat, float>();
        break;
      case DType::float16:
        *found = kernel<InFloat, Half>();
        break;
      case DType::bfloat16:
        *found = kernel<InFloat, BFloat16>();
        break;
      default:  // the status says so
        break;
    }
  });
  return status;
}

}  // namespace

const FindRowKernel find_row_kernel = find;

}  // namespace FASTLOSS_ISA

#if FASTLOSS_BASELINE
namespace {

// Sum over the counted rows of their weight; also the only place where targets are checked, so it always runs. False
// where one is out of range.
bool denominator(const RowProblem& p, double* result, int64_t* out_of_range) {
  if (!p.index_target) {
    *result = double(p.rows);
    return true;
  }
  const int64_t* y = p.index_target;
  int64_t counted = 0;
  double sum = 0;
  for (int64_t row = 0; row < p.rows; ++row) {
    if (y[row] == p.ignore_index) continue;
    if (y[row] < 0 || y[row] >= p.classes) {
      *out_of_range = y[row];
      return false;
    }
    ++counted;
    if (p.weight)
      sum += p.dtype == DType::float64 ? static_cast<const double*>(p.weight)[y[row]]
                                       : double(static_cast<const float*>(p.weight)[y[row]]);
  }
  *result = p.weight ? sum : double(counted);
  return true;
}

// The losses of the rows in their order, in double.
template <class A>
void reduce(const RowProblem& p, double denominator) {
  const A* loss = static_cast<const A*>(p.row_loss);
  double sum = 0;
  for (int64_t row = 0; row < p.rows; ++row) sum += double(loss[row]);
  *static_cast<A*>(p.reduced_loss) = A(p.reduction == Reduction::mean ? sum / denominator : sum);
}

}  // namespace
#endif

}  // namespace fastloss

#if FASTLOSS_BASELINE
long long fastloss_row_scratch(const fastloss::RowProblem*) { return 0; }

int fastloss_row(const fastloss::RowProblem* problem, fastloss::Device* device) {
  using namespace fastloss;
  const RowProblem& p = *problem;
  static const FindRowKernel find = FASTLOSS_FOR_THIS_CPU(find_row_kernel);
  RowKernel kernel;
  if (const int status = find(p, &kernel)) return status;
  double counted;
  if (!denominator(p, &counted, &device->target_out_of_range)) return kTargetOutOfRange;
  const double factor = p.reduction == Reduction::mean ? 1.0 / counted : 1.0;
  const int64_t tasks = kernel.tasks(p);
  const int64_t per_task = std::max<int64_t>(1, p.rows * p.classes / std::max<int64_t>(1, tasks));
  const int64_t grain = std::max<int64_t>(1, 32768 / per_task);  // elements worth waking a thread for
  for_tasks(*device, tasks, grain, [&](int64_t first, int64_t last) { kernel.run(p, factor, first, last); });
  if (!p.reduced_loss) return 0;
  if (p.dtype == DType::float64)
    reduce<double>(p, counted);
  else
    reduce<float>(p, counted);
  return 0;
}
#endif
