// One call of a pointwise operator, as the torch glue (csrc/operators/pointwise.cpp) hands it to the kernels of a
// device; fastloss/operators/pointwise.py says what it computes. Plain C: the emulator's tests write it, too. "A" is
// float64 if in_double, else float32.
#pragma once
#include "../dtypes.h"
#include "../layout.h"

namespace fastloss {

constexpr int kMaxOperands = 8;
constexpr int kMaxMetrics = 16;

// A tensor of the call, by its strides along the call's dimensions: 0 where it is broadcast. Null: there is none.
struct PointwiseTensor {
  void* data;
  DType dtype;
  int64_t stride[kMaxDimensions];  // in elements
};

struct PointwiseProblem {
  const char* loss;          // name of the functor, as in Python
  const double* parameters;  // its hyper-parameters
  int parameter_count;
  int operand_count;
  int in_double;  // is an operand float64?
  int masked;     // is an element of weight 0 not there?
  int measure;    // are metrics wanted?
  int dimensions;
  int64_t size[kMaxDimensions];  // the broadcast shape; no size is 0
  PointwiseTensor operand[kMaxOperands];
  double constant[kMaxOperands];  // of the operands that are no tensors
  PointwiseTensor weight, scale, upstream;
  double factor;
  PointwiseTensor loss_elements;           // every f_i loss_i, in a floating-point dtype
  PointwiseTensor gradient[kMaxOperands];  // of the operand's dtype
  void* reduced_loss;                      // () of A, or null
  void* metrics;                           // (metrics of the loss,) of A, if measure
  double* scratch;                         // (fastloss_pointwise_scratch(problem),)
  int64_t launch_elements;                 // on a GPU, of one launch at most; 0: 2^30. The tests ask for fewer.
};

// Every tensor of a call, in the order of the Iteration: operands, weight, scale, upstream, losses, gradients.
constexpr int kWeightTensor = kMaxOperands, kScaleTensor = kWeightTensor + 1, kUpstreamTensor = kScaleTensor + 1,
              kLossTensor = kUpstreamTensor + 1, kFirstGradient = kLossTensor + 1;
static_assert(kFirstGradient + kMaxOperands == kMaxTensors, "see layout.h");

inline const PointwiseTensor& tensor_of(const PointwiseProblem& problem, int t) {
  if (t < kWeightTensor) return problem.operand[t];
  if (t >= kFirstGradient) return problem.gradient[t - kFirstGradient];
  switch (t) {
    case kWeightTensor:
      return problem.weight;
    case kScaleTensor:
      return problem.scale;
    case kUpstreamTensor:
      return problem.upstream;
    default:
      return problem.loss_elements;
  }
}

// How a metric of the elements becomes one of the batch. An element that the mask takes out adds nothing to any.
enum MetricKind : int {
  kMeanMetric,  // sum(weight * metric) / sum(weight); 0 if nothing is counted
  kPartMetric,  // reduced exactly as the loss is: a part of it
  kMinMetric,   // +inf if nothing is counted
  kMaxMetric,   // -inf if nothing is counted
};

struct PointwiseDescription {
  int operands, parameters, metrics;
  MetricKind kind[kMaxMetrics];
  const char* requirement;  // of the domain; null: there is none
  int raises_value_error;   // is it Python's ValueError, or a RuntimeError as torch raises?
};

struct Device;

}  // namespace fastloss

#pragma GCC visibility push(default)  // the small calls are another binary
extern "C" {
// False if there is no such loss.
int fastloss_pointwise_describe(const char* loss, fastloss::PointwiseDescription* description);

// How long the scratch of a call must be; it may have null until then.
long long fastloss_pointwise_scratch(const fastloss::PointwiseProblem* problem);

// Whatever of losses, sum, gradients and metrics the call has a place for.
int fastloss_pointwise(const fastloss::PointwiseProblem* problem, fastloss::Device* device);
}
#pragma GCC visibility pop
