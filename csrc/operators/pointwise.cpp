// The pointwise operators: shapes, strides and allocations in, raw pointers out. The schemas, and what each argument
// means, are in fastloss/operators/pointwise.py. The caller has returned before this if there are no elements.
#include "../problems/pointwise.h"

#include "torch.h"

namespace fastloss {
namespace {

const Tensor& first_of(const std::vector<Tensor>& operands) {
  if (operands.empty()) refuse("a pointwise loss needs a tensor");
  return operands[0];
}

// One call of an operator, as its outputs are added.
class Call {
 public:
  Call(const std::vector<Tensor>& operands, const std::optional<Tensor>& weight, const std::optional<Tensor>& scale,
       StringHandle loss, const std::vector<double>& constants, const std::vector<double>& parameters, int64_t present,
       bool masked, double factor)
      : loss_(take(loss)), operands_(operands), place_(first_of(operands)), sizes_(broadcast_shape(operands)) {
    if (!fastloss_pointwise_describe(loss_.c_str(), &description_)) refuse(meaning_of(kUnknownLoss));
    if (constants.size() > size_t(kMaxOperands)) refuse(meaning_of(kWrongOperands));
    PointwiseProblem& p = problem_;
    p.loss = loss_.c_str();
    p.parameters = parameters.data();
    p.parameter_count = int(parameters.size());
    p.operand_count = int(constants.size());
    p.masked = masked;
    p.factor = factor;
    p.dimensions = int(sizes_.size());
    for (size_t d = 0; d < sizes_.size(); ++d) p.size[d] = sizes_[d];
    size_t next = 0;
    for (size_t k = 0; k < constants.size(); ++k) {
      p.constant[k] = constants[k];
      if (!(present >> k & 1)) continue;
      if (next == operands.size()) refuse("fewer operands than announced");
      number_[k] = next;
      describe(operands[next++], p.operand[k]);
      p.in_double |= p.operand[k].dtype == DType::float64;
    }
    if (next != operands.size()) refuse("more operands than announced");
    if (weight) describe(*weight, p.weight);
    if (scale) describe(*scale, p.scale);
  }

  void upstream(const Tensor& tensor) { describe(tensor, problem_.upstream); }

  // Of the wanted operands, each in the layout of its operand if that has one for every element.
  std::vector<Tensor> gradients(int64_t wanted) {
    std::vector<Tensor> results;
    for (int k = 0; k < problem_.operand_count; ++k) {
      if (!(wanted >> k & 1)) continue;
      const Tensor& operand = operands_[number_[k]];
      results.push_back(place_.empty(sizes_, output_strides({&operand}, sizes_), operand.scalar_type()));
      describe(results.back(), problem_.gradient[k]);
    }
    return results;
  }

  Tensor loss_elements(ScalarType type) {
    std::vector<const Tensor*> layouts;
    for (const Tensor& operand : operands_) layouts.push_back(&operand);
    const Tensor result = place_.empty(sizes_, output_strides(layouts, sizes_), type);
    describe(result, problem_.loss_elements);
    return result;
  }

  Tensor sum() {
    const Tensor result = place_.empty({}, accumulator());
    problem_.reduced_loss = result.data_ptr();
    return result;
  }

  Tensor metrics(bool measure) {
    const Tensor result = place_.empty({measure ? description_.metrics : 0}, accumulator());
    problem_.measure = measure && description_.metrics > 0;
    problem_.metrics = result.data_ptr();
    return result;
  }

  void run() {
    if (problem_.reduced_loss || problem_.measure)
      problem_.scratch = place_.scratch(fastloss_pointwise_scratch(&problem_));
    const int status = fastloss_pointwise(&problem_, &place_.device);
    if (status == kOutsideDomain && description_.raises_value_error)
      throw std::invalid_argument(description_.requirement);
    if (status == kOutsideDomain) throw std::runtime_error(description_.requirement);
    place_.check(status);
  }

 private:
  ScalarType accumulator() const { return problem_.in_double ? ScalarType::Double : ScalarType::Float; }

  void describe(const Tensor& tensor, PointwiseTensor& result) const {
    result.data = tensor.data_ptr();
    result.dtype = dtype_of(tensor);
    strides_in(tensor, sizes_, result.stride);
  }

  const std::string loss_;
  const std::vector<Tensor>& operands_;
  Place place_;
  const Sizes sizes_;
  PointwiseDescription description_;
  size_t number_[kMaxOperands] = {};  // of operand k among the tensors
  PointwiseProblem problem_ = {};
};

std::tuple<Tensor, Tensor, std::vector<Tensor>> pointwise(
    const std::vector<Tensor>& operands, const std::optional<Tensor>& weight, const std::optional<Tensor>& scale,
    StringHandle loss, const std::vector<double>& constants, const std::vector<double>& parameters, int64_t present,
    int64_t wanted, bool masked, double factor, bool reduce, bool measure, int64_t dtype) {
  Call call(operands, weight, scale, loss, constants, parameters, present, masked, factor);
  const Tensor losses = reduce ? call.sum() : call.loss_elements(floating_type(dtype));
  const Tensor metrics = call.metrics(measure);
  std::vector<Tensor> gradients = call.gradients(wanted);
  call.run();
  return {losses, metrics, gradients};
}

std::vector<Tensor> pointwise_backward(const Tensor& upstream, const std::vector<Tensor>& operands,
                                       const std::optional<Tensor>& weight, const std::optional<Tensor>& scale,
                                       StringHandle loss, const std::vector<double>& constants,
                                       const std::vector<double>& parameters, int64_t present, int64_t wanted,
                                       bool masked, double factor) {
  Call call(operands, weight, scale, loss, constants, parameters, present, masked, factor);
  call.upstream(upstream);
  std::vector<Tensor> gradients = call.gradients(wanted);
  call.run();
  return gradients;
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, FASTLOSS_KEY, m) {
  FASTLOSS_OPERATOR(pointwise);
  FASTLOSS_OPERATOR(pointwise_backward);
}

}  // namespace
}  // namespace fastloss
