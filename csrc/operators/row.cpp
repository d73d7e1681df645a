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

// One step of a row loss; of the classes first_class .. of so many, where it reads logits.
class Step {
 public:
  Step(RowStep step, const Tensor& like, StringHandle loss, std::vector<double> parameters, int64_t ignore_index,
       int64_t first_class, int64_t classes)
      : loss_(take(loss)), parameters_(std::move(parameters)), place_(like) {
    if (!fastloss_row_describe(loss_.c_str(), &description_)) refuse(meaning_of(kUnknownLoss));
    RowStepProblem& p = problem_;
    p.step = step;
    p.loss = loss_.c_str();
    p.parameters = parameters_.data();
    p.parameter_count = int(parameters_.size());
    p.dtype = floating_dtype_of(like, "the operand");
    p.inner = 1;
    p.ignore_index = ignore_index;
    p.first_class = first_class;
    p.classes = classes;
    if (int(parameters_.size()) != description_.parameters) refuse(meaning_of(kWrongParameters));
  }

  void logits(const Tensor& logits, const std::optional<Tensor>& second, const std::optional<Tensor>& target,
              const std::optional<Tensor>& weight) {
    RowStepProblem& p = problem_;
    p.logits = matrix_of(logits);
    p.slice_classes = logits.size(1);
    p.inner = logits.dim() == 3 ? logits.size(2) : 1;
    p.rows = logits.size(0) * p.inner;
    if (second.has_value() != description_.two_rows)
      refuse(second ? "this loss has no second row of logits" : "this loss has a second row of logits");
    if (second) p.second = like(logits, *second, "the second row of logits");
    if (target && target->scalar_type() != ScalarType::Long) p.soft_target = like(logits, *target, "a soft target");
    this->target(target);
    p.weight = data_of(weight);
  }
  void target(const std::optional<Tensor>& target) {
    if (!target || target->scalar_type() != ScalarType::Long) return;
    if (target->dim() != 1 || target->size(0) != problem_.rows) refuse("an index target has one number for each row");
    problem_.index_target = static_cast<const int64_t*>(target->data_ptr());
  }
  void statistics(const Tensor& statistics) {
    problem_.statistics = numbers(statistics, description_.statistics, "the statistics");
  }
  void upstream(const Tensor& upstream) {
    problem_.upstream = numbers(upstream, description_.outputs, "the upstream gradient");
  }
  void slices(const Tensor& slices) {
    if (slices.dim() != 3 || slices.size(1) != description_.statistics) refuse("expected (slices, k, rows)");
    if (slices.scalar_type() != accumulator() || strides_of(slices) != contiguous_strides(sizes_of(slices)))
      refuse("the statistics must be contiguous, of the accumulator dtype");
    problem_.slice_count = slices.size(0);
    problem_.rows = slices.size(2);
    problem_.slices = slices.data_ptr();
  }
  void rows(int64_t count) { problem_.rows = count; }

  Tensor make_statistics() { return run(problem_.statistics, description_.statistics); }
  Tensor make_outputs() { return run(problem_.outputs, description_.outputs); }
  Tensor make_gradient(const Tensor& logits) {
    const Tensor result = place_.empty(sizes_of(logits), logits.scalar_type());
    problem_.gradient = matrix_of(result);
    place_.check(fastloss_row_step(&problem_, &place_.device));
    return result;
  }

 private:
  ScalarType accumulator() const { return problem_.dtype == DType::float64 ? ScalarType::Double : ScalarType::Float; }

  static RowMatrix like(const Tensor& logits, const Tensor& tensor, const char* what) {
    if (sizes_of(tensor) != sizes_of(logits) || tensor.scalar_type() != logits.scalar_type())
      refuse(std::string(what) + " has the shape and the dtype of the logits");
    return matrix_of(tensor);
  }
  void* numbers(const Tensor& tensor, int count, const char* what) const {
    const int64_t rows = problem_.rows;
    if (sizes_of(tensor) != Sizes{count, rows} || tensor.scalar_type() != accumulator() ||
        (rows > 1 && tensor.stride(1) != 1) || (count > 1 && tensor.stride(0) != rows))
      refuse(std::string(what) + " must be contiguous, of the accumulator dtype, " + std::to_string(count) +
             " numbers for each row");
    return tensor.data_ptr();
  }
  Tensor run(void*& place, int count) {
    const Tensor result = place_.empty({count, problem_.rows}, accumulator());
    place = result.data_ptr();
    place_.check(fastloss_row_step(&problem_, &place_.device));
    return result;
  }

  const std::string loss_;
  const std::vector<double> parameters_;
  RowDescription description_ = {};
  Place place_;
  RowStepProblem problem_ = {};
};

Tensor row_statistics(const Tensor& logits, const std::optional<Tensor>& second, const std::optional<Tensor>& target,
                      const std::optional<Tensor>& weight, StringHandle loss, const std::vector<double>& parameters,
                      int64_t ignore_index, int64_t first_class, int64_t classes) {
  Step step(RowStep::statistics, logits, loss, parameters, ignore_index, first_class, classes);
  step.logits(logits, second, target, weight);
  return step.make_statistics();
}

Tensor row_merge(const Tensor& statistics, StringHandle loss, const std::vector<double>& parameters) {
  Step step(RowStep::merge, statistics, loss, parameters, 0, 0, 1);
  step.slices(statistics);
  return step.make_statistics();
}

Tensor row_outputs(const Tensor& statistics, const std::optional<Tensor>& target, StringHandle loss,
                   const std::vector<double>& parameters, int64_t ignore_index, int64_t classes) {
  Step step(RowStep::outputs, statistics, loss, parameters, ignore_index, 0, classes);
  step.rows(statistics.size(1));
  step.statistics(statistics);
  step.target(target);
  return step.make_outputs();
}

Tensor row_gradient(const Tensor& upstream, const Tensor& statistics, const Tensor& logits,
                    const std::optional<Tensor>& second, const std::optional<Tensor>& target,
                    const std::optional<Tensor>& weight, StringHandle loss, const std::vector<double>& parameters,
                    int64_t ignore_index, int64_t first_class, int64_t classes) {
  Step step(RowStep::gradient, logits, loss, parameters, ignore_index, first_class, classes);
  step.logits(logits, second, target, weight);
  step.statistics(statistics);
  step.upstream(upstream);
  return step.make_gradient(logits);
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, FASTLOSS_KEY, m) {
  FASTLOSS_OPERATOR(row_statistics);
  FASTLOSS_OPERATOR(row_merge);
  FASTLOSS_OPERATOR(row_outputs);
  FASTLOSS_OPERATOR(row_gradient);
  FASTLOSS_OPERATOR(row_forward);
  FASTLOSS_OPERATOR(row_backward);
  FASTLOSS_OPERATOR(row_forward_backward);
  FASTLOSS_OPERATOR(row_forward_backward_);
}

}  // namespace
}  // namespace fastloss
