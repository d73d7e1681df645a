// Stand-ins for the families of pointwise losses that the sanitizers' builds leave out (cuda_build.py).
#include "../../../csrc/cuda/pointwise_launch.cuh"

namespace fastloss {
namespace {
int unknown(const char*, const FastlossPointwiseCall&, const FastlossDevice&) { return FASTLOSS_UNKNOWN_LOSS; }
int unknown_metrics(const char*) { return FASTLOSS_UNKNOWN_LOSS; }
}  // namespace

extern const PointwiseFamily likelihood_family, preference_family;
const PointwiseFamily likelihood_family = {unknown, unknown_metrics}, preference_family = {unknown, unknown_metrics};
}  // namespace fastloss
