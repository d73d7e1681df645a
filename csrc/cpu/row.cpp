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
// Rows of few classes, and rows that do not lie in one piece, are row_lanes.h's. At the end of the file, once for all
// instruction sets: the tasks of a call, and its sums.
#include "../problems/row.h"

#include <stdlib.h>

#include <algorithm>
#include <type_traits>

#include "../losses/all.h"
#include "row_lanes.h"
#include "row_task.h"
#include "simd/isa.h"
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

constexpr int64_t kChunk = 2048;  // elements; 8 KB of floats, a quarter of the first-level cache

// Contiguous rows, one after the other.
template <class Loss, class T>
struct RowByRow : RowTask<Loss, T> {
  using Task = RowTask<Loss, T>;
  using Task::C, Task::infinity, Task::loss, Task::p, Task::soft, Task::state_known, Task::weight;
  using Task::class_weight, Task::gradient_factor, Task::gradient_of, Task::ignored, Task::logits_of;
  using Task::loss_rows, Task::max_rows, Task::log_sum_rows;
  using Task::soft_target_of, Task::store_ignored, Task::Task;
  using typename Task::A;
  using typename Task::S;
  using typename Task::V;

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

  template <bool Dense>
  void run(int64_t begin, int64_t end) const {
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
};

template <class Loss, class T>
int64_t tasks(const RowProblem& p) {
  return p.inner == 1 ? p.rows : p.rows / p.inner * RowLanes<Loss, T>(p, 1).column_tasks();
}

template <bool Dense, class Loss, class T>
void run_tasks(const RowProblem& p, double factor, int64_t first, int64_t last) {
  if (p.inner > 1)
    RowLanes<Loss, T>(p, factor).template column_rows<Dense>(first, last);
  else if (p.classes <= RowLanes<Loss, T>::kFew)
    RowLanes<Loss, T>(p, factor).template contiguous_rows<Dense>(first, last);
  else
    RowByRow<Loss, T>(p, factor).template run<Dense>(first, last);
}

template <class Loss, class T>
void run(const RowProblem& p, double factor, int64_t first, int64_t last) {
  if (!Loss::modulated && Loss(p.parameters, p.classes).dense(p.soft_target.data != nullptr))
    run_tasks<!Loss::modulated, Loss, T>(p, factor, first, last);
  else
    run_tasks<false, Loss, T>(p, factor, first, last);
}

template <class Loss, class T>
RowKernel kernel() {
  return {tasks<Loss, T>, run<Loss, T>};
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
  const auto outside = [&](int64_t t) { return t != p.ignore_index && uint64_t(t) >= uint64_t(p.classes); };
  int64_t counted = 0, wrong = 0;
  for (int64_t row = 0; row < p.rows; ++row) {  // without branches: 0.3 ns a row
    counted += y[row] != p.ignore_index;
    wrong += outside(y[row]);
  }
  if (wrong) {
    *out_of_range = *std::find_if(y, y + p.rows, outside);
    return false;
  }
  *result = double(counted);
  if (!p.weight) return true;
  double sum = 0;
  for (int64_t row = 0; row < p.rows; ++row) {
    if (y[row] == p.ignore_index) continue;
    sum += p.dtype == DType::float64 ? static_cast<const double*>(p.weight)[y[row]]
                                     : double(static_cast<const float*>(p.weight)[y[row]]);
  }
  *result = sum;
  return true;
}

// The losses of the rows in double, and in an order that depends on their number alone: every eighth row, then these
// eight. One sum would wait four cycles for each row.
template <class A>
void reduce(const RowProblem& p, double denominator) {
  const A* loss = static_cast<const A*>(p.row_loss);
  double sums[8] = {};
  int64_t row = 0;
  for (; row + 8 <= p.rows; row += 8)
    for (int k = 0; k < 8; ++k) sums[k] += double(loss[row + k]);
  for (int k = 0; row + k < p.rows; ++k) sums[k] += double(loss[row + k]);
  double sum = 0;
  for (double part : sums) sum += part;
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
