// The CUDA implementations of the row operators: shapes, strides and allocations in, raw pointers out. The schemas are
// defined in Python.
//
// The caller has validated shapes, dtypes and layouts (fastloss/operators/__init__.py), and has returned before this if there are no
// rows or no classes.
#include "../text.h"
#include "glue.h"

namespace fastloss {
namespace {

ScalarType accumulator_type(const Tensor& logits) {
  return logits.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// (N, C, D), or (rows, C), which is N = rows and D = 1. The stride of an axis of length 1 means nothing to torch.
FastlossMatrix matrix_of(const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.dim() == 2 || tensor.dim() == 3, "fastloss: expected (rows, C) or (N, C, D)");
  STD_TORCH_CHECK(tensor.dim() == 2 || tensor.size(2) == 1 || tensor.stride(2) == 1,
                  "fastloss: the last axis of (N, C, D) must have stride 1");
  return {tensor.data_ptr(), tensor.stride(0), tensor.size(1) == 1 ? 1 : tensor.stride(1)};
}

int64_t inner_size(const Tensor& tensor) { return tensor.dim() == 3 ? tensor.size(2) : 1; }

FastlossRowCall row_call(const Tensor& logits, const Tensor& target, const std::optional<Tensor>& weight,
                         const std::string& loss, const std::vector<double>& parameters, int64_t ignore_index) {
  FastlossRowCall call = {};
  call.loss = loss.c_str();
  call.parameters = parameters.data();
  call.parameter_count = int(parameters.size());
  call.dtype = dtype_code(logits);
  STD_TORCH_CHECK(call.dtype <= FASTLOSS_BFLOAT16, "fastloss: the logits are not floating-point");
  call.soft = target.scalar_type() != ScalarType::Long;
  call.classes = logits.size(1);
  call.inner = inner_size(logits);
  call.rows = logits.size(0) * call.inner;
  call.ignore_index = ignore_index;
  call.logits = matrix_of(logits);
  call.target = call.soft ? matrix_of(target) : FastlossMatrix{target.data_ptr(), 0, 0};
  call.weight = data_of(weight);
  return call;
}

// Losses of all rows, reduced as asked. `call` has its gradient and state already.
Tensor forward(FastlossRowCall call, const Tensor& logits, int64_t reduction) {
  const ScalarType accumulator = accumulator_type(logits);
  const Tensor row_loss = torch::stable::new_empty(logits, {call.rows}, accumulator);
  call.row_loss = row_loss.data_ptr();
  call.reduction = int(reduction);
  const FastlossDevice device = device_of(logits.get_device_index());
  if (reduction == FASTLOSS_NONE) {
    check(fastloss_row_forward(&call, &device));
    return row_loss;
  }
  const Tensor reduced = torch::stable::new_empty(logits, {}, accumulator);
  const Tensor scratch = torch::stable::new_empty(logits, {FASTLOSS_ROW_SCRATCH}, ScalarType::Double);
  call.reduced_loss = reduced.data_ptr();
  call.scratch = static_cast<double*>(scratch.data_ptr());
  check(fastloss_row_forward(&call, &device));
  return reduced;
}

std::tuple<Tensor, Tensor> row_forward(Tensor logits, Tensor target, std::optional<Tensor> weight, StringHandle loss,
                                       std::vector<double> parameters, int64_t ignore_index, int64_t reduction) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  const std::string name = take(loss);
  FastlossRowCall call = row_call(logits, target, weight, name, parameters, ignore_index);
  const Tensor state = torch::stable::new_empty(logits, {2, call.rows}, accumulator_type(logits));
  call.state = state.data_ptr();
  return {forward(call, logits, reduction), state};
}

Tensor row_backward(Tensor grad_loss, Tensor logits, Tensor target, std::optional<Tensor> weight, Tensor state,
                    StringHandle loss, std::vector<double> parameters, int64_t ignore_index) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  const std::string name = take(loss);
  FastlossRowCall call = row_call(logits, target, weight, name, parameters, ignore_index);
  const Tensor gradient = torch::stable::new_empty(logits, logits.sizes());
  call.gradient = matrix_of(gradient);
  call.loss_gradient = grad_loss.data_ptr();
  call.state = state.data_ptr();
  const FastlossDevice device = device_of(logits.get_device_index());
  check(fastloss_row_backward(&call, &device));
  return gradient;
}

std::tuple<Tensor, Tensor> row_forward_backward(Tensor logits, Tensor target, std::optional<Tensor> weight,
                                                StringHandle loss, std::vector<double> parameters, int64_t ignore_index,
                                                int64_t reduction) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  const std::string name = take(loss);
  FastlossRowCall call = row_call(logits, target, weight, name, parameters, ignore_index);
  const Tensor gradient = torch::stable::new_empty(logits, logits.sizes());
  call.gradient = matrix_of(gradient);
  return {forward(call, logits, reduction), gradient};
}

Tensor row_forward_backward_(Tensor logits, Tensor target, std::optional<Tensor> weight, StringHandle loss,
                             std::vector<double> parameters, int64_t ignore_index, int64_t reduction) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  const std::string name = take(loss);
  FastlossRowCall call = row_call(logits, target, weight, name, parameters, ignore_index);
  call.gradient = call.logits;
  return forward(call, logits, reduction);
}

void scale_(Tensor tensor, Tensor factor) {
  const torch::stable::accelerator::DeviceGuard guard(tensor.get_device_index());
  const FastlossDevice device = device_of(tensor.get_device_index());
  check(fastloss_scale(dtype_code(tensor), matrix_of(tensor), tensor.size(0), tensor.size(1), inner_size(tensor),
                       factor.data_ptr(), &device));
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CUDA, m) {
  m.impl("row_forward", TORCH_BOX(&row_forward));
  m.impl("row_backward", TORCH_BOX(&row_backward));
  m.impl("row_forward_backward", TORCH_BOX(&row_forward_backward));
  m.impl("row_forward_backward_", TORCH_BOX(&row_forward_backward_));
  m.impl("scale_", TORCH_BOX(&scale_));
}

}  // namespace
}  // namespace fastloss
