// The operator over all pairs of a source and a target: strides and allocations in, raw pointers out. The schema, and
// what each argument means, are in fastloss/operators/outer.py. The caller has returned before this if there are no
// elements.
#include "../problems/outer.h"

#include "torch.h"

namespace fastloss {
namespace {

// (rows, elements), or (elements) for all rows
OuterTensor described(const Tensor& tensor, int64_t rows, int64_t elements) {
  const int64_t last = tensor.dim() - 1;
  if (last < 0 || last > 1 || tensor.size(last) != elements || (last == 1 && tensor.size(0) != rows))
    refuse("the shapes of source, target and operands do not fit");
  const DType dtype = floating_dtype_of(tensor, "source, target and operands");
  return {tensor.data_ptr(), dtype, last == 0 ? 0 : tensor.stride(0), tensor.stride(last)};
}

std::tuple<Tensor, Tensor> outer(const Tensor& source, const Tensor& target, const std::vector<Tensor>& operands,
                                 const std::optional<Tensor>& row_factor, StringHandle loss,
                                 const std::vector<double>& parameters, double factor, bool reduce, bool wanted) {
  const std::string name = take(loss);
  if (source.dim() != 2 || target.dim() != 2) refuse("source and target must have two dimensions");
  if (operands.size() > size_t(kMaxOuterOperands)) refuse(meaning_of(kWrongOperands));
  Place place(source);
  OuterProblem problem = {};
  problem.loss = name.c_str();
  problem.parameters = parameters.data();
  problem.parameter_count = int(parameters.size());
  problem.operand_count = int(operands.size());
  problem.reduce = reduce;
  problem.rows = source.size(0);
  problem.sources = source.size(1);
  problem.targets = target.size(1);
  problem.source = described(source, problem.rows, problem.sources);
  problem.target = described(target, problem.rows, problem.targets);
  for (size_t k = 0; k < operands.size(); ++k)
    problem.operand[k] = described(operands[k], problem.rows, problem.sources);
  problem.in_double = problem.source.dtype == DType::float64 || problem.target.dtype == DType::float64;
  problem.factor = factor;
  const ScalarType accumulator = problem.in_double ? ScalarType::Double : ScalarType::Float;
  if (row_factor && (row_factor->dim() != 1 || row_factor->size(0) != problem.rows ||
                     row_factor->scalar_type() != accumulator || !row_factor->is_contiguous()))
    refuse("row_factor must be (rows), contiguous, of the accumulator dtype");
  problem.row_factor = data_of(row_factor);
  const Tensor losses = place.empty(reduce ? Sizes{} : Sizes{problem.rows}, accumulator);
  const Tensor gradient = place.empty(wanted ? Sizes{problem.rows, problem.sources} : Sizes{0}, source.scalar_type());
  problem.losses = losses.data_ptr();
  problem.gradient = wanted ? gradient.data_ptr() : nullptr;
  problem.scratch = place.scratch(fastloss_outer_scratch(&problem));
  place.check(fastloss_outer(&problem, &place.device));
  return {losses, gradient};
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, FASTLOSS_KEY, m) { FASTLOSS_OPERATOR(outer); }

}  // namespace
}  // namespace fastloss
