// The kernels of one family of pointwise losses, the one that the build names: -DFASTLOSS_FAMILY=<name in
// losses/all.h>.
#include "../../losses/all.h"
#include "launch.cuh"

namespace fastloss {
namespace {

#define FASTLOSS_ENTRY(name, Functor) \
  {#name, describe_pointwise<Functor<float>>(), {run_pointwise<Functor<float>>, run_pointwise<Functor<double>>}},
#define FASTLOSS_TABLE(family) FASTLOSS_POINTWISE_##family(FASTLOSS_ENTRY)
#define FASTLOSS_TABLE_OF(family) FASTLOSS_TABLE(family)
constexpr PointwiseEntry kEntries[] = {FASTLOSS_TABLE_OF(FASTLOSS_FAMILY)};

struct Listed : PointwiseFamily {
  Listed() : PointwiseFamily{kEntries, int(sizeof kEntries / sizeof kEntries[0]), first_pointwise_family()} {
    first_pointwise_family() = this;
  }
};
const Listed listed;

}  // namespace
}  // namespace fastloss
