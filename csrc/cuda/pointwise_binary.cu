#include "pointwise_launch.cuh"

FASTLOSS_DEFINE_FAMILY(binary, FASTLOSS_BINARY_LOSSES)
