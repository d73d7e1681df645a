// The CUDA implementations of the pointwise operators: shapes, strides and allocations in, raw pointers out. The
// schemas, and what each argument means, are in fastloss/operators/pointwise.py. The caller has returned
// before this if there are no elements.
#include <utility>
#include "../shapes.h"
#include "../text.h"

#include "glue.h"

namespace fastloss {
namespace {

// One call of an operator, as its outputs are added.
class Call {
 public:
  Call(const std::vector<Tensor>& operands, const std::optional<Tensor>& weight, const std::optional<Tensor>& scale,
       std::string loss, const std::vector<double>& constants, const std::vector<double>& parameters, int64_t present,
       bool masked, double factor)
      : operands_(operands), loss_(std::move(loss)), sizes_(broadcast_shape(operands)) {
    STD_TORCH_CHECK(!operands.empty() && constants.size() <= FASTLOSS_POINTWISE_OPERANDS,
                    "fastloss: wrong number of operands");
    call_.loss = loss_.c_str();
    call_.parameters = parameters.data();
    call_.parameter_count = int(parameters.size());
    call_.operand_count = int(constants.size());
    call_.masked = masked;
    call_.factor = factor;
    call_.dimensions = int(sizes_.size());
    for (size_t d = 0; d < sizes_.size(); ++d) call_.size[d] = sizes_[d];
    size_t next = 0;
    for (size_t k = 0; k < constants.size(); ++k) {
      call_.constant[k] = constants[k];
      if (!(present >> k & 1)) continue;
      STD_TORCH_CHECK(next < operands.size(), "fastloss: fewer operands than announced");
      number_[k] = next;
      call_.operand[k] = described(operands[next++]);
      call_.in_double |= call_.operand[k].dtype == FASTLOSS_FLOAT64;
    }
    STD_TORCH_CHECK(next == operands.size(), "fastloss: more operands than announced");
    if (weight.has_value()) call_.weight = described(*weight);
    if (scale.has_value()) call_.scale = described(*scale);
  }

  void upstream(const Tensor& tensor) { call_.upstream = described(tensor); }

  // Each in the layout of its operand if that has one for every element.
  std::vector<Tensor> gradients(int64_t wanted) {
    std::vector<Tensor> results;
    for (int k = 0; k < call_.operand_count; ++k) {
      if (!(wanted >> k & 1)) continue;
      const Tensor& operand = operands_[number_[k]];
      results.push_back(empty(output_strides({&operand}, sizes_), operand.scalar_type()));
      call_.gradient[k] = described(results.back());
    }
    return results;
  }

  Tensor loss_elements(ScalarType type) {
    std::vector<const Tensor*> layouts;
    for (const Tensor& operand : operands_) layouts.push_back(&operand);
    const Tensor result = empty(output_strides(layouts, sizes_), type);
    call_.loss_elements = described(result);
    return result;
  }

  Tensor sum() {
    const Tensor result = torch::stable::new_empty(operands_[0], {}, accumulator());
    call_.reduced_loss = result.data_ptr();
    return result;
  }

  Tensor metrics(bool measure) {
    const int count = fastloss_pointwise_metrics(call_.loss);
    if (count < 0) check(count);
    const Tensor result = torch::stable::new_empty(operands_[0], {measure ? count : 0}, accumulator());
    call_.measure = measure && count > 0;
    call_.metrics = result.data_ptr();
    return result;
  }

  void run() {
    std::optional<Tensor> scratch;
    if (call_.reduced_loss != nullptr || call_.measure) {
      scratch = torch::stable::new_empty(operands_[0], {fastloss_pointwise_scratch(&call_)}, ScalarType::Double);
      call_.scratch = static_cast<double*>(scratch->data_ptr());
    }
    const FastlossDevice device = device_of(operands_[0].get_device_index());
    check(fastloss_pointwise(&call_, &device));
  }

 private:
  ScalarType accumulator() const { return call_.in_double ? ScalarType::Double : ScalarType::Float; }

  Tensor empty(const Sizes& strides, ScalarType type) const {
    int32_t device_type = 0;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(operands_[0].get(), &device_type));
    const int32_t dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
    AtenTensorHandle handle = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(sizes_.size()), sizes_.data(), strides.data(), dtype,
                                                    device_type, operands_[0].get_device_index(), &handle));
    return Tensor(handle);
  }

  FastlossTensor described(const Tensor& tensor) const {
    FastlossTensor result = {tensor.data_ptr(), dtype_code(tensor), {}};
    int64_t strides[FASTLOSS_POINTWISE_DIMENSIONS];
    strides_in(tensor, sizes_, strides);
    for (size_t d = 0; d < sizes_.size(); ++d) result.stride[d] = strides[d];
    return result;
  }

  const std::vector<Tensor>& operands_;
  const std::string loss_;
  const Sizes sizes_;
  size_t number_[FASTLOSS_POINTWISE_OPERANDS] = {};  // of operand k among the tensors
  FastlossPointwiseCall call_ = {};
};

std::tuple<Tensor, Tensor, std::vector<Tensor>> pointwise(std::vector<Tensor> operands, std::optional<Tensor> weight,
                                                          std::optional<Tensor> scale, StringHandle loss,
                                                          std::vector<double> constants, std::vector<double> parameters,
                                                          int64_t present, int64_t wanted, bool masked, double factor,
                                                          bool reduce, bool measure, int64_t dtype) {
  STD_TORCH_CHECK(!operands.empty(), "fastloss: a pointwise loss needs a tensor");
  const torch::stable::accelerator::DeviceGuard guard(operands[0].get_device_index());
  Call call(operands, weight, scale, take(loss), constants, parameters, present, masked, factor);
  const Tensor losses = reduce ? call.sum() : call.loss_elements(floating_type(dtype));
  const Tensor metrics = call.metrics(measure);
  std::vector<Tensor> gradients = call.gradients(wanted);
  call.run();
  return {losses, metrics, gradients};
}

std::vector<Tensor> pointwise_backward(Tensor upstream, std::vector<Tensor> operands, std::optional<Tensor> weight,
                                       std::optional<Tensor> scale, StringHandle loss, std::vector<double> constants,
                                       std::vector<double> parameters, int64_t present, int64_t wanted, bool masked,
                                       double factor) {
  const torch::stable::accelerator::DeviceGuard guard(upstream.get_device_index());
  Call call(operands, weight, scale, take(loss), constants, parameters, present, masked, factor);
  call.upstream(upstream);
  std::vector<Tensor> gradients = call.gradients(wanted);
  call.run();
  return gradients;
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CUDA, m) {
  m.impl("pointwise", TORCH_BOX(&pointwise));
  m.impl("pointwise_backward", TORCH_BOX(&pointwise_backward));
}

}  // namespace
}  // namespace fastloss
