// The one list of the families of losses. A new family is its header, and its name here; a loss is found in the table
// at the end of its family's header, FASTLOSS_<CONTRACT>_<family>.
#pragma once
#include <string.h>

#include "alignment/grpo.h"
#include "alignment/preference.h"
#include "alignment/reward.h"
#include "binary.h"
#include "classification.h"
#include "distillation.h"
#include "likelihood.h"
#include "log_prob.h"
#include "margin.h"
#include "regression.h"
#include "rl/distributional.h"
#include "rl/policy.h"
#include "rl/returns.h"
#include "rl/value.h"

// setup.py reads the names of the first: the kernels of each pointwise family are a compilation of their own.
// clang-format off
#define FASTLOSS_POINTWISE_FAMILIES(FAMILY) \
  FAMILY(regression) FAMILY(binary) FAMILY(likelihood) FAMILY(policy) FAMILY(value) FAMILY(preference) FAMILY(reward) \
  FAMILY(grpo)
#define FASTLOSS_ROW_FAMILIES(FAMILY) FAMILY(classification) FAMILY(log_prob) FAMILY(distillation) FAMILY(margin)
#define FASTLOSS_OUTER_FAMILIES(FAMILY) FAMILY(distributional)
#define FASTLOSS_SCAN_FAMILIES(FAMILY) FAMILY(returns)
// clang-format on

namespace fastloss {

template <template <class> class Functor>
struct Tag {
  template <class A>
  using with = Functor<A>;
};

// visit_<contract>_loss(name, visit) calls visit with the tag of the loss of this name in Python, if there is one;
// `typename decltype(tag)::template with<A>` is the functor.
#define FASTLOSS_VISIT_IF_NAMED(python_name, Functor) \
  if (strcmp(name, #python_name) == 0) return visit(Tag<Functor>{}), true;
#define FASTLOSS_VISIT_POINTWISE(family) FASTLOSS_POINTWISE_##family(FASTLOSS_VISIT_IF_NAMED)
#define FASTLOSS_VISIT_ROW(family) FASTLOSS_ROW_##family(FASTLOSS_VISIT_IF_NAMED)
#define FASTLOSS_VISIT_OUTER(family) FASTLOSS_OUTER_##family(FASTLOSS_VISIT_IF_NAMED)
#define FASTLOSS_VISIT_SCAN(family) FASTLOSS_SCAN_##family(FASTLOSS_VISIT_IF_NAMED)

template <class Visit>
bool visit_pointwise_loss(const char* name, Visit visit) {
  FASTLOSS_POINTWISE_FAMILIES(FASTLOSS_VISIT_POINTWISE)
  return false;
}
template <class Visit>
bool visit_row_loss(const char* name, Visit visit) {
  FASTLOSS_ROW_FAMILIES(FASTLOSS_VISIT_ROW)
  return false;
}
// Those that come out of one pass.
template <class Visit>
bool visit_one_pass_row_loss(const char* name, Visit visit) {
  bool found = false;
  visit_row_loss(name, [&](auto tag) {
    if constexpr (in_one_pass<typename decltype(tag)::template with<float>>) {
      visit(tag);
      found = true;
    }
  });
  return found;
}
template <class Visit>
bool visit_outer_loss(const char* name, Visit visit) {
  FASTLOSS_OUTER_FAMILIES(FASTLOSS_VISIT_OUTER)
  return false;
}
template <class Visit>
bool visit_scan(const char* name, Visit visit) {
  FASTLOSS_SCAN_FAMILIES(FASTLOSS_VISIT_SCAN)
  return false;
}

}  // namespace fastloss
