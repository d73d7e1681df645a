#include "pointwise_launch.cuh"

FASTLOSS_DEFINE_FAMILY(preference, FASTLOSS_PREFERENCE_LOSSES)
