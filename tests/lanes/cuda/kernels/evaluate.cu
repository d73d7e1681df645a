// The functors of the pointwise losses one element at a time, for the tests' reference: no walk, no weights, no sums.
#include "../../../../csrc/losses/all.h"

namespace fastloss {
namespace {

// operands (K, count), losses (count,), derivatives (K, count), metrics (M, count), inside (count,): all of A but the
// last.
template <class Functor>
void evaluate(const void* operands, const double* parameters, long long count, void* losses, void* derivatives,
              void* metrics, bool* inside) {
  using A = typename Functor::A;
  constexpr int K = Functor::operands;
  const Functor functor(parameters);
  for (long long i = 0; i < count; ++i) {
    A x[K];
    for (int k = 0; k < K; ++k) x[k] = static_cast<const A*>(operands)[k * count + i];
    const auto element = functor(x);
    static_cast<A*>(losses)[i] = element.loss;
    for (int k = 0; k < K; ++k) static_cast<A*>(derivatives)[k * count + i] = element.derivative[k];
    for (int m = 0; m < Functor::metrics; ++m) static_cast<A*>(metrics)[m * count + i] = element.metric[m];
    inside[i] = true;
    if constexpr (Functor::requirement != nullptr) inside[i] = functor.valid(x);
  }
}

}  // namespace
}  // namespace fastloss

#define NAME(name, Functor) #name " "
#define NAMES(family) FASTLOSS_POINTWISE_##family(NAME)

extern "C" {

const char* pointwise_names() { return FASTLOSS_POINTWISE_FAMILIES(NAMES); }

void evaluate_pointwise(const char* loss, int in_double, const void* operands, const double* parameters,
                        long long count, void* losses, void* derivatives, void* metrics, bool* inside) {
  fastloss::visit_pointwise_loss(loss, [&](auto tag) {
    const auto run = in_double ? fastloss::evaluate<typename decltype(tag)::template with<double>>
                               : fastloss::evaluate<typename decltype(tag)::template with<float>>;
    run(operands, parameters, count, losses, derivatives, metrics, inside);
  });
}

}  // extern "C"
