#include "pointwise_launch.cuh"

FASTLOSS_DEFINE_FAMILY(likelihood, FASTLOSS_LIKELIHOOD_LOSSES)
