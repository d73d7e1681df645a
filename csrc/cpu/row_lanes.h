// The row skeleton where neighbouring rows lie in the lanes of a vector: the columns layout, (outer, C, inner), whose
// rows lie so in memory, and contiguous rows of few classes, which are transposed on the way. Nothing is added across
// lanes, so that a row has the same bits whatever its neighbours are, and losses and factors are computed for as many
// rows at once.
#pragma once
#include "row_task.h"

namespace fastloss {
namespace FASTLOSS_ISA {

template <class Loss, class T>
struct RowLanes : RowTask<Loss, T> {
  using Task = RowTask<Loss, T>;
  using Task::C, Task::infinity, Task::loss, Task::p, Task::soft, Task::state_known, Task::weight;
  using Task::loss_rows, Task::max_rows, Task::log_sum_rows;
  using Task::Task;
  using typename Task::A;
  using typename Task::I;
  using typename Task::S;
  using typename Task::V;

  // Few: a vector of rows is read once, into a tile of at most so many classes that stays in the first-level cache
  // beside the target's. Contiguous rows are transposed up to six vectors of classes; from there on, the lanes of one
  // row are quicker (AVX2, one core, ns an element forward: 0.74 and 0.65 at 64 classes, 1.03 and 2.2 at 16).
  static constexpr int kFew = 128;
  static constexpr int kTransposed = 6 * S::lanes;
  static constexpr int kTile = (S::lanes > 8 ? 2 : 4) * kFew * S::lanes;  // 16 KB of float
  static constexpr int kTerms = 16;  // terms of a float sum that are added in a row; then their sums are
  static constexpr int kGroup = 4;   // vectors of neighbouring rows in a task of the columns layout: whole cache lines

  // Vectors of rows.
  struct Rows {
    int64_t first;
    int count;
    I target, live;  // live: -1 in the lanes of rows that count
    V weight;        // of the index target
    V max, z_y, sum, mass, linear;
    V softmax_scale, scale, index_mass;  // of the gradient
  };

  FASTLOSS_INLINE Rows begin(int64_t first, int count) const {
    Rows rows;  // not {}: GCC's `rep stos` took a quarter of the time of two classes
    rows.first = first;
    rows.count = count;
    rows.z_y = rows.sum = rows.mass = rows.linear = V{};
    rows.weight = V{} + A(1);
    rows.target = I{};
    rows.live = ~I{};
    if (!soft) S::targets(p.index_target + first, count, p.ignore_index, rows.target, rows.live);
    if (weight && !soft) {
      alignas(64) A of_target[S::lanes];
      for (int i = 0; i < S::lanes; ++i) of_target[i] = weight[S::lane(rows.target, i)];
      rows.weight = S::get(of_target, S::lanes, A(0));
    }
    rows.max = state_known ? S::get(max_rows + first, count, A(0)) : V{} - infinity;
    return rows;
  }

  // From the sums of the rows to their losses and state, which are stored, and the factors of the gradient.
  FASTLOSS_INLINE void finish(Rows& rows) const {
    const V known_log_sum = state_known ? S::get(log_sum_rows + rows.first, rows.count, A(0)) : S::log(rows.sum);
    RowSums<V> sums{rows.max, known_log_sum, rows.mass, rows.linear, rows.weight};
    V index_mass{};
    if (!soft) index_mass = add_index_target(loss, rows.z_y - rows.max, sums);
    const RowResult<V> result = loss.finish(sums);
    if (loss_rows) S::put(loss_rows + rows.first, rows.live ? result.loss : V{}, rows.count);
    if (max_rows && !state_known) {
      S::put(max_rows + rows.first, rows.live ? sums.max : V{}, rows.count);
      S::put(log_sum_rows + rows.first, rows.live ? sums.log_sum : V{}, rows.count);
    }
    rows.scale = V{} + this->factor;
    if (p.loss_gradient) rows.scale *= S::get(static_cast<const A*>(p.loss_gradient) + rows.first, rows.count, A(0));
    const V inverse_sum = state_known ? S::exp(V{} - sums.log_sum) : (V{} + A(1)) / rows.sum;
    rows.softmax_scale = result.softmax_coefficient * rows.scale * inverse_sum;
    rows.index_mass = index_mass * rows.scale;
  }

  // dloss/dx_c
  template <bool Dense>
  FASTLOSS_INLINE V derivative(const Rows& rows, int64_t c, V exponential, V mass, V slope) const {
    V scaled_mass = (rows.target == int32_t(c)) ? rows.index_mass : V{};
    if (Dense) scaled_mass += mass * rows.scale;
    const V d = slope * (exponential * rows.softmax_scale - scaled_mass);
    return rows.live ? d : V{};
  }
  FASTLOSS_INLINE V dense_mass(int64_t c, V target) const { return loss.mass(V{} + this->class_weight(c), target); }

  // ---------------------------------------------------------------- few classes

  // Some vectors of rows, stage by stage: the stages of one wait for each other, and two classes are no work between.
  // Logits in z, (groups, C, lanes), become the gradient; t: soft targets, likewise.
  template <bool Dense>
  FASTLOSS_LOOP void few(Rows* g, int groups, A* z, const A* t) const {
    const Loss f = loss;
    alignas(64) A kept[kTile];  // z, where the slope depends on it
    // what is read once: any store below might be to the members
    const bool linear = f.linear(), known = state_known, gradient = p.gradient.data != nullptr;
    const int64_t C = this->C;
    const auto at = [=](auto* tile, int k, int64_t c)
                        __attribute__((always_inline)) { return tile + (k * C + c) * S::lanes; };
    const auto get = [=](const A* tile, int k, int64_t c)
                         __attribute__((always_inline)) { return S::get(at(tile, k, c), S::lanes, A(0)); };
    const auto dense = [=](int k, int64_t c)
                           __attribute__((always_inline)) { return dense_mass(c, t ? get(t, k, c) : V{}); };
    for (int k = 0; k < groups; ++k) {
      V most = g[k].max, z_y{};
      for (int64_t c = 0; c < C; ++c) {
        const V logit = f.logit(get(z, k, c));
        if (!known) most = (logit > most) ? logit : most;
        if (C <= kTerms) z_y = (g[k].target == int32_t(c)) ? logit : z_y;
        S::put(at(z, k, c), logit, S::lanes);
        if (!linear) S::put(at(kept, k, c), logit, S::lanes);
      }
      g[k].max = most;
      g[k].z_y = z_y;
      if (C <= kTerms || soft) continue;
      alignas(64) A of_target[S::lanes];  // of many classes, rather than a comparison for each
      for (int i = 0; i < S::lanes; ++i) of_target[i] = at(z, k, S::lane(g[k].target, i))[i];
      g[k].z_y = S::get(of_target, S::lanes, A(0));
    }
    for (int k = 0; k < groups; ++k) {
      const V most = g[k].max;
      for (int64_t start = 0; start < C; start += kTerms) {
        const int64_t end = C - start < kTerms ? C : start + kTerms;
        V sum{}, mass{}, products{};
        for (int64_t c = start; c < end; ++c) {
          const V from_max = get(z, k, c) - most;  // NaN if all are -inf, as in torch
          const V e = S::exp(from_max);
          sum += e;
          if (gradient) S::put(at(z, k, c), e, S::lanes);
          if (Dense) {
            const V q = dense(k, c);
            mass += q;
            products += q * from_max;
          }
        }
        g[k].sum += sum;
        g[k].mass += mass;
        g[k].linear += products;
      }
    }
    for (int k = 0; k < groups; ++k) finish(g[k]);
    if (!gradient) return;
    for (int k = 0; k < groups; ++k) {
      const Rows rows = g[k];
      for (int64_t c = 0; c < C; ++c) {
        const V slope = f.slope(linear ? V{} : get(kept, k, c));
        S::put(at(z, k, c), derivative<Dense>(rows, c, get(z, k, c), Dense ? dense(k, c) : V{}, slope), S::lanes);
      }
    }
  }

  // Visits all of a row's classes in pieces of S::lanes, the last of which may repeat some; shorter rows in one piece.
  template <class Piece>
  FASTLOSS_INLINE void pieces(Piece piece) const {
    if (C < S::lanes) return piece(0, int(C));
    int64_t c = 0;
    for (; c + S::lanes <= C; c += S::lanes) piece(c, S::lanes);
    if (c < C) piece(C - S::lanes, S::lanes);
  }
  // Contiguous rows into a tile, (C, lanes); in the lanes beyond `count`, the last of them.
  FASTLOSS_INLINE void load(const T* x, int64_t outer, int count, A* tile) const {
    pieces([=](int64_t c, int size) __attribute__((always_inline)) {
      V row[S::lanes];
      for (int i = 0; i < S::lanes; ++i) row[i] = S::get(x + (i < count ? i : count - 1) * outer + c, size, A(0));
      S::transpose(row);
      for (int i = 0; i < size; ++i) S::put(tile + (c + i) * S::lanes, row[i], S::lanes);
    });
  }
  FASTLOSS_INLINE void store(const A* tile, int count, int64_t outer, T* x) const {
    pieces([=](int64_t c, int size) __attribute__((always_inline)) {
      V row[S::lanes];
      for (int i = 0; i < S::lanes; ++i) row[i] = i < size ? S::get(tile + (c + i) * S::lanes, S::lanes, A(0)) : V{};
      S::transpose(row);
      for (int i = 0; i < count; ++i) S::put(x + i * outer + c, row[i], size);
    });
  }

  // A piece here and a piece there is no stream that the processor foresees: rows are asked for a vector of them ahead.
  template <int Write, class U>
  FASTLOSS_INLINE void ask_for(U* row, int64_t outer, int64_t count) const {
    constexpr int64_t line = 64 / sizeof(T);
    if (C < line) return;
    for (int i = 0; i < (count < S::lanes ? count : S::lanes); ++i) {
      for (int64_t c = 0; c < C; c += line) __builtin_prefetch(row + i * outer + c, Write);
    }
  }

  // Vectors of rows that fit into a tile, but no more than hide each other's latencies.
  FASTLOSS_INLINE int groups() const {
    const int64_t fit = kTile / (C * S::lanes);
    return int(fit < kGroup ? fit : kGroup);
  }

  template <bool Dense>
  void contiguous_rows(int64_t begin, int64_t end) const {
    alignas(64) A z[kTile], t[kTile];
    const int64_t step = groups() * S::lanes;
    for (int64_t start = begin; start < end; start += step) {
      Rows g[kGroup];
      int k = 0;
      for (int64_t row = start; row < end && row < start + step; row += S::lanes, ++k) {
        const int count = int(end - row < S::lanes ? end - row : S::lanes);
        g[k] = this->begin(row, count);
        load(this->logits_of(row), p.logits.outer, count, z + k * C * S::lanes);
        if (soft) load(this->soft_target_of(row), p.soft_target.outer, count, t + k * C * S::lanes);
        const int64_t next = row + step;
        if (next < end) {
          ask_for<0>(this->logits_of(next), p.logits.outer, end - next);
          if (soft) ask_for<0>(this->soft_target_of(next), p.soft_target.outer, end - next);
        }
        if (p.gradient.data) ask_for<1>(this->gradient_of(row), p.gradient.outer, count);
      }
      few<Dense>(g, k, z, soft ? t : nullptr);
      for (int done = 0; p.gradient.data && done < k; ++done)
        store(z + done * C * S::lanes, g[done].count, p.gradient.outer, this->gradient_of(g[done].first));
    }
  }

  // ---------------------------------------------------------------- columns: (outer, C, inner), inner contiguous

  int64_t column_tasks() const { return (p.inner + kGroup * S::lanes - 1) / (kGroup * S::lanes); }
  int column_count(int64_t first, int k) const {
    const int64_t left = p.inner - first - k * S::lanes;
    return int(left < 0 ? 0 : left < S::lanes ? left : S::lanes);
  }

  template <bool Dense>
  FASTLOSS_LOOP void columns_of_few(int64_t n, int64_t first) const {
    alignas(64) A z[kTile], t[kTile];
    const int step = groups();
    for (int done = 0; done < kGroup && column_count(first, done); done += step) {
      const int64_t at = first + done * S::lanes;
      Rows g[kGroup];
      int vectors = 0;
      for (; vectors < step && done + vectors < kGroup && column_count(at, vectors); ++vectors)
        g[vectors] = begin(n * p.inner + at + vectors * S::lanes, column_count(at, vectors));
      const auto each = [&](auto visit) __attribute__((always_inline)) {
        for (int64_t c = 0; c < C; ++c) {
          for (int k = 0; k < vectors; ++k) visit(c, k * S::lanes, (k * C + c) * S::lanes, g[k].count);
        }
      };
      const auto read = [&](const RowMatrix& matrix, A* tile) __attribute__((always_inline)) {
        const T* x = static_cast<const T*>(matrix.data) + n * matrix.outer + at;
        each([&](int64_t c, int lane, int64_t place, int count) __attribute__((always_inline)) {
          S::put(tile + place, S::get(x + c * matrix.step + lane, count, A(0)), S::lanes);
        });
      };
      read(p.logits, z);
      if (soft) read(p.soft_target, t);
      few<Dense>(g, vectors, z, soft ? t : nullptr);
      if (!p.gradient.data) continue;
      T* out = static_cast<T*>(p.gradient.data) + n * p.gradient.outer + at;
      each([&](int64_t c, int lane, int64_t place, int count) __attribute__((always_inline)) {
        S::put(out + c * p.gradient.step + lane, S::get(z + place, S::lanes, A(0)), count);
      });
    }
  }

  // Classes in order, three times: there is no room for a tile of them.
  template <bool Dense>
  FASTLOSS_LOOP void columns_of_many(int64_t n, int64_t first) const {
    const T* x = static_cast<const T*>(p.logits.data) + n * p.logits.outer + first;
    const T* t = soft ? static_cast<const T*>(p.soft_target.data) + n * p.soft_target.outer + first : nullptr;
    T* out = p.gradient.data ? static_cast<T*>(p.gradient.data) + n * p.gradient.outer + first : nullptr;
    Rows g[kGroup];
    for (int k = 0; k < kGroup; ++k) {
      g[k].count = 0;
      if (const int count = column_count(first, k)) g[k] = begin(n * p.inner + first + k * S::lanes, count);
    }
    const auto each = [&](auto body) __attribute__((always_inline)) {
      for (int64_t c = 0; c < C; ++c) {
        for (int k = 0; k < kGroup; ++k) {
          if (g[k].count) body(c, g[k], k * S::lanes);
        }
      }
    };
    const auto logit = [&](int64_t c, const Rows& rows, int lane) __attribute__((always_inline)) {
      return loss.logit(S::get(x + c * p.logits.step + lane, rows.count, A(0)));
    };
    const auto dense = [&](int64_t c, const Rows& rows, int lane) __attribute__((always_inline)) {
      return dense_mass(c, t ? S::get(t + c * p.soft_target.step + lane, rows.count, A(0)) : V{});
    };
    if (!state_known)
      each([&](int64_t c, Rows& rows, int lane) __attribute__((always_inline)) {
        const V z = logit(c, rows, lane);
        rows.max = (z > rows.max) ? z : rows.max;
      });
    each([&](int64_t c, Rows& rows, int lane) __attribute__((always_inline)) {
      const V z = logit(c, rows, lane);
      const V from_max = z - rows.max;
      if (!state_known) rows.sum += S::exp(from_max);
      rows.z_y = (rows.target == int32_t(c)) ? z : rows.z_y;
      if (Dense) {
        const V q = dense(c, rows, lane);
        rows.mass += q;
        rows.linear += q * from_max;
      }
    });
    for (Rows& rows : g) {
      if (rows.count) finish(rows);
    }
    if (!out) return;
    each([&](int64_t c, Rows& rows, int lane) __attribute__((always_inline)) {
      const V z = logit(c, rows, lane);
      const V mass = Dense ? dense(c, rows, lane) : V{};
      S::put(out + c * p.gradient.step + lane, derivative<Dense>(rows, c, S::exp(z - rows.max), mass, loss.slope(z)),
             rows.count);
    });
  }

  template <bool Dense>
  void column_rows(int64_t begin, int64_t end) const {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / column_tasks(), first = task % column_tasks() * kGroup * S::lanes;
      if (C <= kFew)
        columns_of_few<Dense>(n, first);
      else
        columns_of_many<Dense>(n, first);
    }
  }
};

}  // namespace FASTLOSS_ISA
}  // namespace fastloss
