// The row operators: shapes, strides and allocations in, raw pointers out. The schemas, and what each argument means,
// are in fastloss/operators/row.py. The caller has returned before this if there are no rows or no classes.
#include "../problems/row.h"

#include "torch.h"

namespace fastloss {
namespace {

// (N, C, D), or (rows, C), which is N = rows and D = 1. The stride of an axis of length 1 means nothing to torch.
RowMatrix matrix_of(const Tensor& tensor) {
  if (tensor.dim() != 2 && tensor.dim() != 3) refuse("expected (rows, C) or (N, C, D)");
  if (tensor.dim() == 3 && tensor.size(2) != 1 && tensor.stride(2) != 1)
    refuse("the last axis of (N, C, D) must have stride 1");
  return {tensor.data_ptr(), tensor.stride(0), tensor.size(1) == 1 ? 1 : tensor.stride(1)};
}

// One call of an operator, as its outputs are added.
class Call {
 public:
  Call(const Tensor& logits, const Tensor& target, const std::optional<Tensor>& weight, StringHandle loss,
       const std::vector<double>& parameters, int64_t ignore_index)
      : logits_(logits), loss_(take(loss)), place_(logits) {
    RowProblem& p = problem_;
    p.loss = loss_.c_str();
    p.parameters = parameters.data();
    p.parameter_count = int(parameters.size());
    p.dtype = floating_dtype_of(logits, "the logits");
    p.logits = matrix_of(logits);
    p.classes = logits.size(1);
    p.inner = logits.dim() == 3 ? logits.size(2) : 1;
    p.rows = logits.size(0) * p.inner;
    p.ignore_index = ignore_index;
    if (target.scalar_type() == ScalarType::Long)
      p.index_target = static_cast<const int64_t*>(target.data_ptr());
    else
      p.soft_target = matrix_of(target);
    p.weight = data_of(weight);
  }

  Tensor state() {
    Tensor result = place_.empty({2, problem_.rows}, accumulator());
    problem_.state = result.data_ptr();
    return result;
  }

  Tensor gradient() {
    Tensor result = place_.empty(sizes_of(logits_), logits_.scalar_type());
    problem_.gradient = matrix_of(result);
    return result;
  }
  void gradient_in_place() { problem_.gradient = problem_.logits; }

  // The losses of the rows, or the reduced loss.
  Tensor forward(int64_t reduction) {
    const Tensor row_loss = place_.empty({problem_.rows}, accumulator());
    problem_.row_loss = row_loss.data_ptr();
    problem_.reduction = Reduction(reduction);
    if (problem_.reduction == Reduction::none) {
      run();
      return row_loss;
    }
    const Tensor reduced = place_.empty({}, accumulator());
    problem_.reduced_loss = reduced.data_ptr();
    problem_.scratch = place_.scratch(fastloss_row_scratch(&problem_));
    run();
    return reduced;
  }

  Tensor backward(const Tensor& grad_loss, const Tensor& state) {
    if (grad_loss.scalar_type() != accumulator()) refuse("the upstream gradient must be of the accumulator dtype");
    problem_.loss_gradient = grad_loss.data_ptr();
    problem_.state = state.data_ptr();
    const Tensor result = gradient();
    run();
    return result;
  }

 private:
  ScalarType accumulator() const { return problem_.dtype == DType::float64 ? ScalarType::Double : ScalarType::Float; }
  void run() { place_.check(fastloss_row(&problem_, &place_.device)); }

  const Tensor& logits_;
  const std::string loss_;
  Place place_;
  RowProblem problem_ = {};
};

std::tuple<Tensor, Tensor> row_forward(const Tensor& logits, const Tensor& target, const std::optional<Tensor>& weight,
                                       StringHandle loss, const std::vector<double>& parameters, int64_t ignore_index,
                                       int64_t reduction) {
  Call call(logits, target, weight, loss, parameters, ignore_index);
  const Tensor state = call.state();
  return {call.forward(reduction), state};
}

Tensor row_backward(const Tensor& grad_loss, const Tensor& logits, const Tensor& target,
                    const std::optional<Tensor>& weight, const Tensor& state, StringHandle loss,
                    const std::vector<double>& parameters, int64_t ignore_index) {
  return Call(logits, target, weight, loss, parameters, ignore_index).backward(grad_loss, state);
}

std::tuple<Tensor, Tensor> row_forward_backward(const Tensor& logits, const Tensor& target,
                                                const std::optional<Tensor>& weight, StringHandle loss,
                                                const std::vector<double>& parameters, int64_t ignore_index,
                                                int64_t reduction) {
  Call call(logits, target, weight, loss, parameters, ignore_index);
  const Tensor gradient = call.gradient();
  return {call.forward(reduction), gradient};
}

Tensor row_forward_backward_(const Tensor& logits, const Tensor& target, const std::optional<Tensor>& weight,
                             StringHandle loss, const std::vector<double>& parameters, int64_t ignore_index,
                             int64_t reduction) {
  Call call(logits, target, weight, loss, parameters, ignore_index);
  call.gradient_in_place();
  return call.forward(reduction);
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, FASTLOSS_KEY, m) {
  FASTLOSS_OPERATOR(row_forward);
  FASTLOSS_OPERATOR(row_backward);
  FASTLOSS_OPERATOR(row_forward_backward);
  FASTLOSS_OPERATOR(row_forward_backward_);
}

}  // namespace
}  // namespace fastloss
