// What the torch glue (operators.cpp) hands to the pointwise kernels (pointwise.cpp): raw pointers, dtypes, the walk.
#pragma once
#include <stdint.h>

#include "../iteration.h"
#include "storage.h"

namespace fastloss {

constexpr int kMaxOperands = 8;
constexpr int kMaxMetrics = 8;

// A tensor of the walk; null if there is none. `walk` is its number in the Iteration.
struct PointwiseTensor {
  void* data = nullptr;
  DType dtype = DType::float32;
  int walk = 0;
};

struct PointwiseProblem {
  const char* loss;          // name of the functor, as in Python
  const double* parameters;  // its hyper-parameters
  int operands;              // as the caller counts them; has to be the functor's number
  int parameter_count;
  bool in_double;       // is the accumulator double?
  Iteration iteration;  // of all the tensors below
  PointwiseTensor operand[kMaxOperands];
  double constant[kMaxOperands] = {};  // of the operands that are no tensors
  PointwiseTensor weight, scale, upstream;
  PointwiseTensor loss_elements;           // f_i loss_i, or null
  PointwiseTensor gradient[kMaxOperands];  // null: not wanted
  double factor = 1;
  bool masked = false;   // an element of weight 0 is not there
  bool measure = false;  // are metrics wanted?
  // Partial results of every task, kPartial doubles each: loss, weight, metrics; or null: none wanted
  double* partial = nullptr;
};

constexpr int kPartial = 2 + kMaxMetrics;

// A task is a fixed number of elements, so that sums do not depend on the number of threads.
constexpr int64_t kTaskElements = 32768;

struct PointwiseDescription {
  int operands, parameters, metrics;
  int metric_kind[kMaxMetrics];
  const char* requirement;
  bool value_error;
};

struct PointwiseKernels {
  // Elements [first task, last task); false if an element is outside the functor's domain.
  bool (*run)(const PointwiseProblem&, int64_t first_task, int64_t last_task);
};

// False if there is no such loss.
bool describe_pointwise_loss(const char* name, PointwiseDescription* description);

namespace avx512 {
extern const PointwiseKernels pointwise_kernels;
}
namespace avx2 {
extern const PointwiseKernels pointwise_kernels;
}
namespace baseline {
extern const PointwiseKernels pointwise_kernels;
}

}  // namespace fastloss
