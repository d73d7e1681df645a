// The operator of what runs over time: strides and allocations in, raw pointers out. The schema, and what each argument
// means, are in fastloss/operators/scan.py. The caller has returned before this if there are no elements.
#include "../problems/scan.h"

#include "torch.h"

namespace fastloss {
namespace {

// Where the steps and sequences of a tensor lie: (outer, steps, inner) with time_dim 1, or (steps, inner), (outer,
// steps) or (steps) alone. Those of a ragged batch are (total, inner) or (total).
ScanTensor described(const Tensor& tensor, int64_t time_dim) {
  const int64_t last = tensor.dim() - 1;
  return {tensor.data_ptr(), dtype_of(tensor), time_dim > 0 ? tensor.stride(0) : 0, tensor.stride(time_dim),
          last > time_dim ? tensor.stride(last) : 0};
}

std::vector<Tensor> scan(const std::vector<Tensor>& operands, const std::vector<double>& constants, int64_t present,
                         const std::optional<Tensor>& terminated, const std::optional<Tensor>& truncated,
                         const std::optional<Tensor>& there, const std::optional<Tensor>& starts, StringHandle loss,
                         const std::vector<double>& parameters, int64_t time_dim, bool reverse, int64_t outputs,
                         int64_t output) {
  const std::string name = take(loss);
  if (operands.empty() || constants.size() > size_t(kMaxScanOperands) || outputs < 1 || outputs > kMaxScanOutputs)
    refuse(meaning_of(kWrongOperands));
  const Tensor& first = operands[0];
  const Sizes sizes = sizes_of(first);
  if (sizes.empty() || time_dim < 0 || time_dim > 1 || time_dim >= first.dim() || first.dim() > time_dim + 2 ||
      (starts && time_dim != 0))
    refuse("a scan takes (outer, steps, inner)");
  Place place(first);
  ScanProblem problem = {};
  problem.loss = name.c_str();
  problem.parameters = parameters.data();
  problem.parameter_count = int(parameters.size());
  problem.operand_count = int(constants.size());
  problem.output_count = int(outputs);
  problem.reverse = reverse;
  problem.outer = time_dim > 0 ? first.size(0) : 1;
  problem.steps = first.size(time_dim);
  problem.inner = first.dim() - 1 > time_dim ? first.size(first.dim() - 1) : 1;
  const auto fitting = [&](const Tensor& tensor) {
    if (sizes_of(tensor) != sizes) refuse("the operands of a scan have one shape");
    return described(tensor, time_dim);
  };
  size_t next = 0;
  for (size_t k = 0; k < constants.size(); ++k) {
    problem.constant[k] = constants[k];
    if (!(present >> k & 1)) continue;
    if (next == operands.size()) refuse(meaning_of(kWrongOperands));
    problem.operand[k] = fitting(operands[next]);
    floating_dtype_of(operands[next], "an operand of a scan");
    problem.in_double |= problem.operand[k].dtype == DType::float64;
    ++next;
  }
  const auto flags = [&](const std::optional<Tensor>& tensor, ScanTensor& into) {
    if (!tensor) return;
    into = fitting(*tensor);
    if (into.dtype != DType::boolean) refuse("what ends an episode, and a mask, are boolean");
  };
  flags(terminated, problem.terminated);
  flags(truncated, problem.truncated);
  flags(there, problem.there);
  if (starts) {
    if (starts->dim() != 1 || starts->size(0) < 1 || starts->scalar_type() != ScalarType::Long ||
        !starts->is_contiguous())
      refuse("the starts of sequences are (sequences + 1) of int64, contiguous");
    problem.starts = static_cast<const int64_t*>(starts->data_ptr());
    problem.outer = starts->size(0) - 1;
  }
  std::vector<Tensor> results;
  const Sizes strides = output_strides({&first}, sizes);
  for (int64_t k = 0; k < outputs; ++k) {
    results.push_back(place.empty(sizes, strides, floating_type(output)));
    problem.output[k] = described(results.back(), time_dim);
  }
  place.check(fastloss_scan(&problem, &place.device));
  return results;
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, FASTLOSS_KEY, m) { FASTLOSS_OPERATOR(scan); }

}  // namespace
}  // namespace fastloss
