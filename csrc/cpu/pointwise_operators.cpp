// The CPU implementations of the pointwise operators: checks, shapes, allocation, threads. The schemas are in
// fastloss/operators/__init__.py, which also says what each argument means.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <atomic>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../losses/metric.h"
#include "../text.h"
#include "features.h"
#include "glue.h"
#include "output_memory.h"
#include "pointwise.h"

namespace fastloss {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::runtime_error("fastloss: " + what); }

// One call of an operator: the operands with their walk, and the outputs as they are added.
class Call {
 public:
  Call(const std::vector<Tensor>& tensors, const std::optional<Tensor>& weight, const std::optional<Tensor>& scale,
       std::string loss, std::vector<double> constants, std::vector<double> parameters, int64_t present, bool masked,
       double factor)
      : tensors_(tensors),
        loss_(std::move(loss)),
        parameters_(std::move(parameters)),
        sizes_(broadcast_shape(tensors)) {
    if (!describe_pointwise_loss(loss_.c_str(), &description_)) refuse("no pointwise loss is called " + loss_);
    if (int(constants.size()) != description_.operands || int(parameters_.size()) != description_.parameters)
      refuse(loss_ + " takes another number of operands or parameters");
    PointwiseProblem& p = problem_;
    p.loss = loss_.c_str();
    p.parameters = parameters_.data();
    p.factor = factor;
    p.masked = masked;
    size_t next = 0;
    for (int k = 0; k < description_.operands; ++k) {
      p.constant[k] = constants[k];
      number_[k] = -1;
      if (!(present >> k & 1)) continue;
      if (next == tensors.size()) refuse("fewer operands than announced");
      number_[k] = int(next);
      p.operand[k] = walked(tensors[next++]);
      p.in_double |= p.operand[k].dtype == DType::float64;
    }
    if (next != tensors.size()) refuse("more operands than announced");
    if (weight) p.weight = walked(*weight);
    if (scale) p.scale = walked(*scale);
  }

  void upstream(const Tensor& t) { problem_.upstream = walked(t); }

  // Gradients of the wanted operands, each in the layout of its operand if that has one for every element.
  std::vector<Tensor> gradients(int64_t wanted) {
    std::vector<Tensor> result;
    for (int k = 0; k < description_.operands; ++k) {
      if (!(wanted >> k & 1)) continue;
      const Tensor& operand = tensors_[number_[k]];
      result.push_back(allocate(sizes_, output_strides({&operand}, sizes_), operand.scalar_type()));
      problem_.gradient[k] = walked(result.back());
    }
    return result;
  }

  Tensor loss_elements(ScalarType type) {
    std::vector<const Tensor*> layouts;
    for (const Tensor& t : tensors_) layouts.push_back(&t);
    Tensor result = allocate(sizes_, output_strides(layouts, sizes_), type);
    problem_.loss_elements = walked(result);
    return result;
  }

  // Runs; the sum of the losses and the metrics are in `results` afterwards.
  void run(bool reduce, bool measure) {
    PointwiseProblem& p = problem_;
    p.measure = measure && description_.metrics > 0;
    p.iteration = iteration(int(sizes_.size()), sizes_.data(), walks_, stride_);
    const int64_t tasks = (p.iteration.numel + kTaskElements - 1) / kTaskElements;
    std::vector<double> partial;
    if (reduce || p.measure) {
      partial.resize(size_t(tasks) * kPartial);
      p.partial = partial.data();
    }
    static const PointwiseKernels& kernels = FASTLOSS_FOR_THIS_CPU(pointwise_kernels);
    std::atomic<bool> good{true};
    const auto some = [&](int64_t begin, int64_t end) {
      if (!kernels.run(p, begin, end)) good = false;
    };
    if (tasks == 1)
      some(0, 1);
    else
      torch::stable::parallel_for(0, tasks, 1, some);
    if (!good && description_.value_error) throw std::invalid_argument(description_.requirement);
    if (!good) throw std::runtime_error(description_.requirement);
    join(partial, tasks);
  }

  Tensor scalar(double value) const {
    const Tensor result = allocate({}, type());
    put(result, 0, value);
    return result;
  }
  Tensor sum() const { return scalar(results_[0]); }
  Tensor metrics() const {
    const Tensor result = allocate({problem_.measure ? description_.metrics : 0}, type());
    for (int m = 0; problem_.measure && m < description_.metrics; ++m) put(result, m, results_[2 + m]);
    return result;
  }

 private:
  ScalarType type() const { return problem_.in_double ? ScalarType::Double : ScalarType::Float; }

  static void put(const Tensor& t, int64_t at, double value) {
    if (t.scalar_type() == ScalarType::Double)
      static_cast<double*>(t.data_ptr())[at] = value;
    else
      static_cast<float*>(t.data_ptr())[at] = float(value);
  }

  // The partial results in the order of the tasks.
  void join(const std::vector<double>& partial, int64_t tasks) {
    const int metrics = problem_.measure ? description_.metrics : 0;
    for (int m = 0; m < metrics; ++m) {
      const int kind = description_.metric_kind[m];
      const double infinity = std::numeric_limits<double>::infinity();
      results_[2 + m] = kind == kMinMetric ? infinity : kind == kMaxMetric ? -infinity : 0;
    }
    for (int64_t task = 0; problem_.partial && task < tasks; ++task) {
      const double* from = &partial[size_t(task) * kPartial];
      results_[0] += from[0];
      results_[1] += from[1];
      for (int m = 0; m < metrics; ++m) {
        double& total = results_[2 + m];
        const double value = from[2 + m];
        const int kind = description_.metric_kind[m];
        if (kind == kMinMetric)
          total = value < total || value != value ? value : total;
        else if (kind == kMaxMetric)
          total = value > total || value != value ? value : total;
        else
          total += value;
      }
    }
    for (int m = 0; m < metrics; ++m) {
      if (description_.metric_kind[m] == kMeanMetric)
        results_[2 + m] = results_[1] == 0 ? 0 : results_[2 + m] / results_[1];
    }
  }

  PointwiseTensor walked(const Tensor& t) {
    strides_in(t, sizes_, stride_[walks_]);
    return {t.data_ptr(), storage_type(t), walks_++};
  }

  const std::vector<Tensor>& tensors_;
  std::string loss_;
  std::vector<double> parameters_;
  Sizes sizes_;
  PointwiseDescription description_;
  PointwiseProblem problem_{};
  int number_[kMaxOperands];  // of operand k among the tensors
  int walks_ = 0;
  int64_t stride_[kMaxTensors][kMaxDimensions];
  double results_[kPartial] = {};
};

std::tuple<Tensor, Tensor, std::vector<Tensor>> pointwise(std::vector<Tensor> operands, std::optional<Tensor> weight,
                                                          std::optional<Tensor> scale, StringHandle loss,
                                                          std::vector<double> constants, std::vector<double> parameters,
                                                          int64_t present, int64_t wanted, bool masked, double factor,
                                                          bool reduce, bool measure, int64_t dtype) {
  Call call(operands, weight, scale, take(loss), constants, parameters, present, masked, factor);
  std::vector<Tensor> gradients = call.gradients(wanted);
  if (reduce) {
    call.run(true, measure);
    return {call.sum(), call.metrics(), gradients};
  }
  Tensor elements = call.loss_elements(floating_type(dtype));
  call.run(false, measure);
  return {elements, call.metrics(), gradients};
}

std::vector<Tensor> pointwise_backward(Tensor upstream, std::vector<Tensor> operands, std::optional<Tensor> weight,
                                       std::optional<Tensor> scale, StringHandle loss, std::vector<double> constants,
                                       std::vector<double> parameters, int64_t present, int64_t wanted, bool masked,
                                       double factor) {
  Call call(operands, weight, scale, take(loss), constants, parameters, present, masked, factor);
  call.upstream(upstream);
  std::vector<Tensor> gradients = call.gradients(wanted);
  call.run(false, false);
  return gradients;
}

STABLE_TORCH_LIBRARY_IMPL(fastloss, CPU, m) {
  m.impl("pointwise", TORCH_BOX(&pointwise));
  m.impl("pointwise_backward", TORCH_BOX(&pointwise_backward));
}

}  // namespace
}  // namespace fastloss
