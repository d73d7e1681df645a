// The CPU implementation of the operator over pairs of values: checks, allocation, threads. The schema is in
// fastloss/skeletons/pairwise_operators.py, which also says what each argument means.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "features.h"
#include "glue.h"
#include "output_memory.h"
#include "pairwise.h"

namespace fastloss {
namespace {

const void* data_of(const std::optional<Tensor>& tensor) { return tensor ? tensor->data_ptr() : nullptr; }

// A task for a thread is at least so many pairs.
constexpr int64_t kTaskPairs = 65536;

std::tuple<Tensor, std::vector<Tensor>> pairwise_elements(Tensor source, Tensor target, Tensor level,
                                                          std::optional<Tensor> weight, std::string loss,
                                                          std::vector<double> parameters,
                                                          std::optional<Tensor> upstream, int64_t wanted) {
  if (pair_loss_parameters(loss.c_str()) != int(parameters.size()))
    throw std::runtime_error("fastloss: no loss of pairs is called " + loss + " with so many parameters");
  source = torch::stable::contiguous(source);
  target = torch::stable::contiguous(target);
  level = torch::stable::contiguous(level);
  if (weight) weight = torch::stable::contiguous(*weight);
  if (upstream) upstream = torch::stable::contiguous(*upstream);
  const ScalarType type = source.scalar_type();
  PairProblem p{};
  p.loss = loss.c_str();
  p.parameters = parameters.data();
  p.in_double = type == ScalarType::Double;
  p.rows = source.size(0);
  p.sources = source.size(1);
  p.targets = target.size(1);
  p.source = source.data_ptr();
  p.target = target.data_ptr();
  p.level = level.data_ptr();
  p.weight = data_of(weight);
  p.upstream = data_of(upstream);
  std::vector<double> loss_rows(size_t(p.rows));
  p.loss_rows = loss_rows.data();
  std::vector<Tensor> found;
  if (wanted) {
    found.push_back(allocate({p.rows, p.sources}, type));
    p.gradient = found[0].data_ptr();
  }
  static const PairKernels& kernels = FASTLOSS_FOR_THIS_CPU(pair_kernels);
  const int64_t grain = std::max<int64_t>(1, kTaskPairs / std::max<int64_t>(1, p.sources * p.targets));
  torch::stable::parallel_for(0, p.rows, grain, [&](int64_t begin, int64_t end) { kernels.run(p, begin, end); });

  const std::vector<int64_t> sizes = wanted ? std::vector<int64_t>{} : std::vector<int64_t>{p.rows};
  Tensor result = allocate(sizes, type);
  const auto put = [&](int64_t i, double value) {
    if (p.in_double)
      static_cast<double*>(result.data_ptr())[i] = value;
    else
      static_cast<float*>(result.data_ptr())[i] = float(value);
  };
  double sum = 0;
  for (int64_t row = 0; row < p.rows; ++row) {
    sum += loss_rows[size_t(row)];
    if (!wanted) put(row, loss_rows[size_t(row)]);
  }
  if (wanted) put(0, sum);
  return {result, found};
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) { m.impl("pairwise_elements", TORCH_BOX(&pairwise_elements)); }

}  // namespace
}  // namespace fastloss
