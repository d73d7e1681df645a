// The CPU implementation of the pairs operator: checks, allocation, threads. The schema, and what each argument means,
// are in fastloss/operators/outer.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "features.h"
#include "glue.h"
#include "output_memory.h"
#include "pairs.h"

namespace fastloss {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::runtime_error("fastloss: " + what); }

// (rows, elements), or (elements) for all rows; in the order of the elements, which is that of memory if contiguous.
PairsTensor walked(const Tensor& t, int64_t rows, int64_t elements) {
  const bool shared = t.dim() == 1;
  if (t.dim() > 2 || t.size(t.dim() - 1) != elements || (!shared && t.size(0) != rows))
    refuse("the shapes of source, target and operands do not fit");
  const int64_t step = t.stride(t.dim() - 1), row_step = shared ? 0 : t.stride(0);
  PairsTensor result{t.data_ptr(), storage_type(t), {}};
  Iteration& walk = result.walk;
  walk.tensors = 1;
  walk.numel = rows * elements;
  if (rows == 1 || row_step == elements * step) {
    walk.dimensions = 1;
    walk.size[0] = walk.numel;
    walk.stride[0][0] = step;
  } else {
    walk.dimensions = 2;
    walk.size[0] = rows;
    walk.size[1] = elements;
    walk.stride[0][0] = row_step;
    walk.stride[0][1] = step;
  }
  return result;
}

template <class A>
void put_losses(const std::vector<double>& partial, int64_t tasks_of_row, const Tensor& loss) {
  A* out = static_cast<A*>(loss.data_ptr());
  if (loss.dim() == 0) tasks_of_row = int64_t(partial.size());
  for (size_t task = 0; task < partial.size(); out++) {
    double sum = 0;
    for (int64_t k = 0; k < tasks_of_row; ++k) sum += partial[task++];
    *out = A(sum);
  }
}

std::tuple<Tensor, Tensor> pairs(Tensor source, Tensor target, std::vector<Tensor> operands,
                                 std::optional<Tensor> row_factor, std::string loss, std::vector<double> parameters,
                                 double factor, bool reduce, bool wanted) {
  PairsDescription description;
  if (!describe_pairs_loss(loss.c_str(), &description)) refuse("no pairs loss is called " + loss);
  if (int(operands.size()) != description.operands || int(parameters.size()) != description.parameters)
    refuse(loss + " takes another number of operands or parameters");
  if (source.dim() != 2 || target.dim() != 2) refuse("source and target must have two dimensions");
  PairsProblem p{};
  p.loss = loss.c_str();
  p.parameters = parameters.data();
  p.rows = source.size(0);
  p.sources = source.size(1);
  p.targets = target.size(1);
  p.factor = factor;
  p.source = walked(source, p.rows, p.sources);
  p.target = walked(target, p.rows, p.targets);
  for (size_t k = 0; k < operands.size(); ++k) p.operand[k] = walked(operands[k], p.rows, p.sources);
  p.in_double = p.source.dtype == DType::float64 || p.target.dtype == DType::float64;
  const ScalarType accumulator = p.in_double ? ScalarType::Double : ScalarType::Float;
  if (row_factor) {
    if (row_factor->dim() != 1 || row_factor->size(0) != p.rows || row_factor->scalar_type() != accumulator ||
        !row_factor->is_contiguous())
      refuse("row_factor must be (rows), contiguous, of the accumulator dtype");
    p.row_factor = row_factor->data_ptr();
  }
  Tensor gradient = allocate(wanted ? Sizes{p.rows, p.sources} : Sizes{0}, source.scalar_type());
  if (wanted) p.gradient = walked(gradient, p.rows, p.sources);

  const int64_t tasks_of_row = pairs_tasks_of_row(p), tasks = p.rows * tasks_of_row;
  std::vector<double> partial(static_cast<size_t>(tasks));
  p.partial = partial.data();
  static const PairsKernels& kernels = FASTLOSS_FOR_THIS_CPU(pairs_kernels);
  const int64_t task_pairs = std::max<int64_t>(1, std::min(p.sources, kTaskSources) * p.targets);
  const int64_t grain = std::max<int64_t>(1, 32768 / task_pairs);  // pairs worth waking a thread for
  if (tasks <= grain)
    kernels.run(p, 0, tasks);
  else
    torch::stable::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) { kernels.run(p, begin, end); });

  Tensor result = allocate(reduce ? Sizes{} : Sizes{p.rows}, accumulator);
  if (p.in_double)
    put_losses<double>(partial, tasks_of_row, result);
  else
    put_losses<float>(partial, tasks_of_row, result);
  return {result, gradient};
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) { m.impl("outer", TORCH_BOX(&pairs)); }

}  // namespace
}  // namespace fastloss
