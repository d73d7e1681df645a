// The CUDA implementation of the pairs operator: strides and allocations in, raw pointers out. The schema, and what
// each argument means, are in fastloss/operators/outer.py. The caller has returned before this if there are
// no elements.
#include "glue.h"

namespace fastloss {
namespace {

FastlossPairsTensor pairs_tensor(const Tensor& tensor, int64_t rows, int64_t elements) {
  const int64_t last = tensor.dim() - 1;
  STD_TORCH_CHECK((last == 0 || (last == 1 && tensor.size(0) == rows)) && tensor.size(last) == elements,
                  "fastloss: the shapes of source, target and operands do not fit");
  FastlossPairsTensor result = {tensor.data_ptr(), dtype_code(tensor), last == 0 ? 0 : tensor.stride(0),
                                tensor.stride(last)};
  STD_TORCH_CHECK(result.dtype <= FASTLOSS_BFLOAT16, "fastloss: source, target and operands are floating-point");
  return result;
}

std::tuple<Tensor, Tensor> pairs(Tensor source, Tensor target, std::vector<Tensor> operands,
                                 std::optional<Tensor> row_factor, std::string loss, std::vector<double> parameters,
                                 double factor, bool reduce, bool wanted) {
  const torch::stable::accelerator::DeviceGuard guard(source.get_device_index());
  STD_TORCH_CHECK(source.dim() == 2 && target.dim() == 2, "fastloss: source and target must have two dimensions");
  STD_TORCH_CHECK(operands.size() <= FASTLOSS_PAIRS_OPERANDS, "fastloss: wrong number of operands");
  FastlossPairsCall call = {};
  call.loss = loss.c_str();
  call.parameters = parameters.data();
  call.parameter_count = int(parameters.size());
  call.operand_count = int(operands.size());
  call.reduce = reduce;
  call.rows = source.size(0);
  call.sources = source.size(1);
  call.targets = target.size(1);
  call.source = pairs_tensor(source, call.rows, call.sources);
  call.target = pairs_tensor(target, call.rows, call.targets);
  for (size_t k = 0; k < operands.size(); ++k) call.operand[k] = pairs_tensor(operands[k], call.rows, call.sources);
  call.in_double = call.source.dtype == FASTLOSS_FLOAT64 || call.target.dtype == FASTLOSS_FLOAT64;
  call.factor = factor;
  const ScalarType accumulator = call.in_double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(!row_factor.has_value() || (row_factor->dim() == 1 && row_factor->size(0) == call.rows &&
                                              row_factor->is_contiguous() && row_factor->scalar_type() == accumulator),
                  "fastloss: row_factor must be (rows), contiguous, of the accumulator dtype");
  call.row_factor = data_of(row_factor);
  const std::vector<int64_t> per_row = {call.rows}, scalar, whole = {call.rows, call.sources}, nothing = {0};
  const Tensor losses = torch::stable::new_empty(source, reduce ? scalar : per_row, accumulator);
  const Tensor gradient = torch::stable::new_empty(source, wanted ? whole : nothing);
  const Tensor scratch = torch::stable::new_empty(source, {fastloss_pairs_scratch(&call)}, ScalarType::Double);
  call.losses = losses.data_ptr();
  call.gradient = wanted ? gradient.data_ptr() : nullptr;
  call.scratch = static_cast<double*>(scratch.data_ptr());
  const FastlossDevice device = device_of(source.get_device_index());
  check(fastloss_pairs(&call, &device));
  return {losses, gradient};
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CUDA, m) { m.impl("outer", TORCH_BOX(&pairs)); }

}  // namespace
}  // namespace fastloss
