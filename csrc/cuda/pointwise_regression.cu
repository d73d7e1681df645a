#include "pointwise_launch.cuh"

FASTLOSS_DEFINE_FAMILY(regression, FASTLOSS_REGRESSION_LOSSES)
