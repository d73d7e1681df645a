// The CUDA implementations of the pointwise operators: shapes, strides and allocations in, raw pointers out. The
// schemas, and what each argument means, are in fastloss/skeletons/pointwise_operators.py. The caller has returned
// before this if there are no elements.
#include "glue.h"

namespace fastloss {
namespace {

using Sizes = std::vector<int64_t>;

int element_dtype(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return FASTLOSS_FLOAT32;
    case ScalarType::Double:
      return FASTLOSS_FLOAT64;
    case ScalarType::Half:
      return FASTLOSS_FLOAT16;
    case ScalarType::BFloat16:
      return FASTLOSS_BFLOAT16;
    case ScalarType::Bool:
      return FASTLOSS_BOOL;
    case ScalarType::Byte:
      return FASTLOSS_UINT8;
    case ScalarType::Int:
      return FASTLOSS_INT32;
    case ScalarType::Long:
      return FASTLOSS_INT64;
    default:
      STD_TORCH_CHECK(false, "fastloss: no CUDA kernels for this dtype");
  }
}

ScalarType floating_type(int64_t code) {
  constexpr ScalarType types[] = {ScalarType::Float, ScalarType::Double, ScalarType::Half, ScalarType::BFloat16};
  STD_TORCH_CHECK(code >= 0 && code < 4, "fastloss: unknown dtype code");
  return types[code];
}

Sizes broadcast_shape(const std::vector<Tensor>& tensors) {
  Sizes sizes;
  for (const Tensor& tensor : tensors) {
    const int64_t more = tensor.dim() - int64_t(sizes.size());
    if (more > 0) sizes.insert(sizes.begin(), size_t(more), 1);
  }
  for (const Tensor& tensor : tensors) {
    const int64_t missing = int64_t(sizes.size()) - tensor.dim();
    for (int64_t d = 0; d < tensor.dim(); ++d) {
      int64_t& size = sizes[size_t(missing + d)];
      if (size == 1) size = tensor.size(d);
      STD_TORCH_CHECK(tensor.size(d) == size || tensor.size(d) == 1, "fastloss: the operands do not broadcast");
    }
  }
  STD_TORCH_CHECK(sizes.size() <= FASTLOSS_POINTWISE_DIMENSIONS, "fastloss: more than 8 dimensions");
  return sizes;
}

Sizes contiguous_strides(const Sizes& sizes) {
  Sizes strides(sizes.size());
  int64_t next = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = next;
    next *= sizes[d];
  }
  return strides;
}

bool has_shape(const Tensor& tensor, const Sizes& sizes) {
  if (size_t(tensor.dim()) != sizes.size()) return false;
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (tensor.size(int64_t(d)) != sizes[d]) return false;
  }
  return true;
}

// Do the elements fill a stretch of memory, each once?
bool dense(const Tensor& tensor) {
  bool used[FASTLOSS_POINTWISE_DIMENSIONS] = {};
  int64_t expected = 1;
  int64_t left = 0;
  for (int64_t d = 0; d < tensor.dim(); ++d) left += tensor.size(d) != 1;
  for (; left > 0; --left) {  // the fastest dimension, the next one ...
    int64_t d = 0;
    while (d < tensor.dim() && (used[d] || tensor.size(d) == 1 || tensor.stride(d) != expected)) ++d;
    if (d == tensor.dim()) return false;
    used[d] = true;
    expected *= tensor.size(d);
  }
  return true;
}

// One call of an operator, as its outputs are added.
class Call {
 public:
  Call(const std::vector<Tensor>& operands, const std::optional<Tensor>& weight, const std::optional<Tensor>& scale,
       const std::string& loss, const std::vector<double>& constants, const std::vector<double>& parameters,
       int64_t present, bool masked, double factor)
      : operands_(operands), sizes_(broadcast_shape(operands)) {
    STD_TORCH_CHECK(!operands.empty() && constants.size() <= FASTLOSS_POINTWISE_OPERANDS,
                    "fastloss: wrong number of operands");
    call_.loss = loss.c_str();
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
      const bool keeps = has_shape(operand, sizes_) && dense(operand);
      results.push_back(empty(keeps ? strides_of(operand) : contiguous_strides(sizes_), operand.scalar_type()));
      call_.gradient[k] = described(results.back());
    }
    return results;
  }

  Tensor loss_elements(ScalarType type) {
    Sizes strides = contiguous_strides(sizes_);
    for (const Tensor& operand : operands_) {
      if (!has_shape(operand, sizes_) || !dense(operand)) continue;
      strides = strides_of(operand);
      break;
    }
    const Tensor result = empty(strides, type);
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

  static Sizes strides_of(const Tensor& tensor) {
    Sizes strides(size_t(tensor.dim()));
    for (size_t d = 0; d < strides.size(); ++d) strides[d] = tensor.stride(int64_t(d));
    return strides;
  }

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
    FastlossTensor result = {tensor.data_ptr(), element_dtype(tensor), {}};
    const int64_t missing = int64_t(sizes_.size()) - tensor.dim();
    STD_TORCH_CHECK(missing >= 0, "fastloss: a weight does not broadcast to the operands");
    for (int64_t d = 0; d < tensor.dim(); ++d) {
      const int64_t size = sizes_[size_t(missing + d)];
      STD_TORCH_CHECK(tensor.size(d) == size || tensor.size(d) == 1,
                      "fastloss: a weight does not broadcast to the operands");
      result.stride[missing + d] = tensor.size(d) == 1 ? 0 : tensor.stride(d);
    }
    return result;
  }

  const std::vector<Tensor>& operands_;
  const Sizes sizes_;
  size_t number_[FASTLOSS_POINTWISE_OPERANDS] = {};  // of operand k among the tensors
  FastlossPointwiseCall call_ = {};
};

std::tuple<Tensor, Tensor, std::vector<Tensor>> pointwise(std::vector<Tensor> operands, std::optional<Tensor> weight,
                                                          std::optional<Tensor> scale, std::string loss,
                                                          std::vector<double> constants, std::vector<double> parameters,
                                                          int64_t present, int64_t wanted, bool masked, double factor,
                                                          bool reduce, bool measure, int64_t dtype) {
  STD_TORCH_CHECK(!operands.empty(), "fastloss: a pointwise loss needs a tensor");
  const torch::stable::accelerator::DeviceGuard guard(operands[0].get_device_index());
  Call call(operands, weight, scale, loss, constants, parameters, present, masked, factor);
  const Tensor losses = reduce ? call.sum() : call.loss_elements(floating_type(dtype));
  const Tensor metrics = call.metrics(measure);
  std::vector<Tensor> gradients = call.gradients(wanted);
  call.run();
  return {losses, metrics, gradients};
}

std::vector<Tensor> pointwise_backward(Tensor upstream, std::vector<Tensor> operands, std::optional<Tensor> weight,
                                       std::optional<Tensor> scale, std::string loss, std::vector<double> constants,
                                       std::vector<double> parameters, int64_t present, int64_t wanted, bool masked,
                                       double factor) {
  const torch::stable::accelerator::DeviceGuard guard(upstream.get_device_index());
  Call call(operands, weight, scale, loss, constants, parameters, present, masked, factor);
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
