// The CPU implementations of the row operators: checks, allocation, threads. The schemas are in fastloss/operators/__init__.py.
// Torch is reached through its stable ABI only, so that one build serves every torch from 2.10 on.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "../text.h"
#include "features.h"
#include "glue.h"
#include "output_memory.h"
#include "row.h"

namespace fastloss {
namespace {

enum Reduction : int64_t { kNone = 0, kMean = 1, kSum = 2 };

ScalarType accumulator_type(const Tensor& logits) {
  return logits.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

RowMatrix matrix(const Tensor& t) { return {t.data_ptr(), t.stride(0), t.dim() == 3 ? t.stride(1) : 1}; }

const RowKernels& kernels() {
  static const RowKernels& chosen = FASTLOSS_FOR_THIS_CPU(row_kernels);
  return chosen;
}

// The operands of every row operator, and what is derived from them.
struct Call {
  const Tensor& logits;
  const Tensor& target;
  const std::optional<Tensor>& weight;
  std::string loss;
  std::vector<double> parameters;
  int64_t rows, classes;
  RowProblem problem{};

  Call(const Tensor& logits, const Tensor& target, const std::optional<Tensor>& weight, std::string loss,
       std::vector<double> parameters, int64_t ignore_index)
      : logits(logits), target(target), weight(weight), loss(std::move(loss)), parameters(std::move(parameters)) {
    const bool columns = logits.dim() == 3;
    RowProblem& p = problem;
    p.dtype = storage_type(logits);
    if (p.dtype > DType::bfloat16) throw std::runtime_error("fastloss: the logits are not floating-point");
    p.loss = this->loss.c_str();
    p.parameters = this->parameters.data();
    p.outer = logits.size(0);
    p.classes = classes = logits.size(1);
    p.inner = columns ? logits.size(2) : 1;
    rows = p.outer * p.inner;
    p.ignore_index = ignore_index;
    p.logits = matrix(logits);
    if (target.scalar_type() == ScalarType::Long)
      p.index_target = static_cast<const int64_t*>(target.data_ptr());
    else
      p.soft_target = matrix(target);
    if (weight) p.weight = weight->data_ptr();
  }

  // Sum over the counted rows of their weight; also the only place where targets are checked, so it always runs.
  double denominator() const {
    if (!problem.index_target) return double(rows);
    const int64_t* y = problem.index_target;
    int64_t counted = 0;
    double sum = 0;
    for (int64_t row = 0; row < rows; ++row) {
      if (y[row] == problem.ignore_index) continue;
      // std::out_of_range is Python's IndexError, as torch raises
      if (y[row] < 0 || y[row] >= classes)
        throw std::out_of_range("Target " + std::to_string(y[row]) + " is out of bounds.");
      ++counted;
      if (problem.weight)
        sum += problem.dtype == DType::float64 ? static_cast<const double*>(problem.weight)[y[row]]
                                               : double(static_cast<const float*>(problem.weight)[y[row]]);
    }
    return problem.weight ? sum : double(counted);
  }

  void run() const {
    const RowKernels& k = kernels();
    const int64_t tasks = k.tasks(problem);
    const int64_t per_task = std::max<int64_t>(1, rows * classes / std::max<int64_t>(1, tasks));
    const int64_t grain = std::max<int64_t>(1, 32768 / per_task);  // elements worth waking a thread for
    if (tasks <= grain)
      k.run(problem, 0, tasks);
    else
      torch::stable::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) { k.run(problem, begin, end); });
  }

  // Runs, and reduces the losses of the rows in their order, in double.
  Tensor run_and_reduce(int64_t reduction, double denominator) {
    const ScalarType type = accumulator_type(logits);
    Tensor loss_rows = allocate({rows}, type);
    problem.loss_rows = loss_rows.data_ptr();
    run();
    if (reduction == kNone) return loss_rows;
    Tensor result = allocate({}, type);
    if (type == ScalarType::Double)
      reduce<double>(loss_rows, result, reduction, denominator);
    else
      reduce<float>(loss_rows, result, reduction, denominator);
    return result;
  }

 private:
  template <class A>
  void reduce(const Tensor& loss_rows, const Tensor& result, int64_t reduction, double denominator) const {
    const A* loss = static_cast<const A*>(loss_rows.data_ptr());
    double sum = 0;
    for (int64_t row = 0; row < rows; ++row) sum += double(loss[row]);
    *static_cast<A*>(result.data_ptr()) = A(reduction == kMean ? sum / denominator : sum);
  }
};

std::tuple<Tensor, Tensor> row_forward(const Tensor& logits, const Tensor& target, const std::optional<Tensor>& weight,
                                       StringHandle loss, std::vector<double> parameters, int64_t ignore_index,
                                       int64_t reduction) {
  Call call(logits, target, weight, take(loss), parameters, ignore_index);
  Tensor state = allocate({2, call.rows}, accumulator_type(logits));
  call.problem.state = state.data_ptr();
  return {call.run_and_reduce(reduction, call.denominator()), state};
}

Tensor row_backward(const Tensor& grad_loss, const Tensor& logits, const Tensor& target,
                    const std::optional<Tensor>& weight, const Tensor& state, StringHandle loss,
                    std::vector<double> parameters, int64_t ignore_index) {
  Call call(logits, target, weight, take(loss), parameters, ignore_index);
  call.denominator();  // the targets may have been changed since forward
  Tensor gradient = allocate(sizes_of(logits), logits.scalar_type());
  call.problem.gradient = matrix(gradient);
  call.problem.row_factor = grad_loss.data_ptr();
  call.problem.state = state.data_ptr();
  call.problem.state_known = true;
  call.run();
  return gradient;
}

Tensor forward_backward(const Tensor& logits, const Tensor& gradient, const Tensor& target,
                        const std::optional<Tensor>& weight, std::string loss, std::vector<double> parameters,
                        int64_t ignore_index, int64_t reduction) {
  Call call(logits, target, weight, loss, parameters, ignore_index);
  const double denominator = call.denominator();
  const double inverse = 1.0 / denominator;
  call.problem.gradient = matrix(gradient);
  if (reduction == kMean) call.problem.inverse_denominator = &inverse;
  return call.run_and_reduce(reduction, denominator);
}

std::tuple<Tensor, Tensor> row_forward_backward(const Tensor& logits, const Tensor& target,
                                                const std::optional<Tensor>& weight, StringHandle loss,
                                                std::vector<double> parameters, int64_t ignore_index,
                                                int64_t reduction) {
  Tensor gradient = allocate(sizes_of(logits), logits.scalar_type());
  return {forward_backward(logits, gradient, target, weight, take(loss), parameters, ignore_index, reduction),
          gradient};
}

Tensor row_forward_backward_(const Tensor& logits, const Tensor& target, const std::optional<Tensor>& weight,
                             StringHandle loss, std::vector<double> parameters, int64_t ignore_index,
                             int64_t reduction) {
  return forward_backward(logits, logits, target, weight, take(loss), parameters, ignore_index, reduction);
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("row_forward", TORCH_BOX(&row_forward));
  m.impl("row_backward", TORCH_BOX(&row_backward));
  m.impl("row_forward_backward", TORCH_BOX(&row_forward_backward));
  m.impl("row_forward_backward_", TORCH_BOX(&row_forward_backward_));
}

}  // namespace
}  // namespace fastloss
