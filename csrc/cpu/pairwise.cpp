// The CPU skeleton of losses over all pairs of a source and a target value, for one instruction set (vector.h). It
// knows no loss. A vector runs over the targets of one source; a few sources at a time share the loads of the targets,
// and their sums do not wait for each other. Nothing of the size sources x targets is stored.
#include "pairwise.h"

#include "vectors.h"
// after the vector functions, which the functors call
#include "../losses/pairwise.h"

namespace fastloss {
namespace FASTLOSS_ISA {
namespace {

constexpr int kTogether = 4;

// The sums over the targets of `kCount` sources: their losses, and their derivatives.
template <int kCount, class F, class A = typename F::A>
void add_up(const F& f, const A* source, const A* level, const A* target, int64_t targets, double* loss,
            A* derivative) {
  using S = Vectors<A>;
  using V = typename S::V;
  const V zero{};
  V losses[kCount] = {}, derivatives[kCount] = {};
  S::for_each(targets, [&](int64_t j, int count) __attribute__((always_inline)) {
    const V y = S::get(target + j, count, A(0));
#pragma GCC unroll 4
    for (int k = 0; k < kCount; ++k) {
      const Pair<V> pair = f(zero + source[k], y, zero + level[k]);
      losses[k] += S::first(count, pair.loss, zero);
      derivatives[k] += S::first(count, pair.derivative, zero);
    }
  });
  for (int k = 0; k < kCount; ++k) {
    *loss += S::sum(losses[k]);
    derivative[k] = A(S::sum(derivatives[k]));
  }
}

template <class F>
void run_rows(const F& f, const PairProblem& p, int64_t first, int64_t last) {
  using A = typename F::A;
  const auto at = [](const void* data, int64_t i) { return static_cast<const A*>(data) + i; };
  for (int64_t row = first; row < last; ++row) {
    const A *source = at(p.source, row * p.sources), *level = at(p.level, row * p.sources);
    const A* target = at(p.target, row * p.targets);
    const double weight = (p.weight ? double(*at(p.weight, row)) : 1.0) / double(p.targets);
    const A factor = A(weight * (p.upstream ? double(*at(p.upstream, row)) : 1.0));
    A* gradient = p.gradient ? static_cast<A*>(p.gradient) + row * p.sources : nullptr;
    double loss = 0;
    A derivative[kTogether];
    int64_t i = 0;
    const auto store = [&](int count) {
      for (int k = 0; gradient && k < count; ++k) gradient[i + k] = factor * derivative[k];
    };
    for (; i + kTogether <= p.sources; i += kTogether) {
      add_up<kTogether>(f, source + i, level + i, target, p.targets, &loss, derivative);
      store(kTogether);
    }
    for (; i < p.sources; ++i) {
      add_up<1>(f, source + i, level + i, target, p.targets, &loss, derivative);
      store(1);
    }
    if (p.loss_rows) p.loss_rows[row] = weight * loss;
  }
}

void run(const PairProblem& p, int64_t first, int64_t last) {
  visit_pair_loss(p.loss, [&](auto tag) {
    if (p.in_double)
      run_rows(typename decltype(tag)::template with<double>(p.parameters), p, first, last);
    else
      run_rows(typename decltype(tag)::template with<float>(p.parameters), p, first, last);
  });
}

}  // namespace

const PairKernels pair_kernels = {run};

}  // namespace FASTLOSS_ISA

#ifdef FASTLOSS_BASELINE
int pair_loss_parameters(const char* name) {
  int count = -1;
  visit_pair_loss(name, [&](auto tag) { count = decltype(tag)::template with<float>::parameters; });
  return count;
}
#endif

}  // namespace fastloss
