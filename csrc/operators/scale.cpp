// tensor *= factor without waiting for the device, for the devices that one would have to wait for: a CPU has torch's
// own.
#include "../problems/scale.h"

#include "torch.h"

namespace fastloss {
namespace {

void scale_(const Tensor& tensor, const Tensor& factor) {
  if (tensor.dim() != 2 && tensor.dim() != 3) refuse("expected (rows, C) or (N, C, D)");
  Place place(tensor);
  ScaleProblem problem = {};
  problem.matrix = {tensor.data_ptr(), tensor.stride(0), tensor.size(1) == 1 ? 1 : tensor.stride(1)};
  problem.dtype = floating_dtype_of(tensor, "a gradient");
  problem.factor_dtype = floating_dtype_of(factor, "the factor of a gradient");
  problem.outer = tensor.size(0);
  problem.classes = tensor.size(1);
  problem.inner = tensor.dim() == 3 ? tensor.size(2) : 1;
  problem.factor = factor.data_ptr();
  place.check(fastloss_scale(&problem, &place.device));
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, FASTLOSS_KEY, m) { FASTLOSS_OPERATOR(scale_); }

}  // namespace
}  // namespace fastloss
