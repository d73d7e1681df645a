// tensor *= factor, the factor read where it lies: what a backward pass does to a gradient that the forward pass
// computed.
#pragma once
#include "row.h"

namespace fastloss {

struct ScaleProblem {
  RowMatrix matrix;  // (N, C, D)
  DType dtype;
  DType factor_dtype;  // floating-point: the upstream's, which need not be the gradient's
  int64_t outer, classes, inner;
  const void* factor;
};

}  // namespace fastloss

extern "C" {
// Touches nothing if the factor is exactly 1.
int fastloss_scale(const fastloss::ScaleProblem* problem, fastloss::Device* device);
}
