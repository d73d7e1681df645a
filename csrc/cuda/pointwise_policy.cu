#include "pointwise_launch.cuh"

FASTLOSS_DEFINE_FAMILY(policy, FASTLOSS_POLICY_LOSSES)
