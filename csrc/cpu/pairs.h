// What the torch glue (pairs_operators.cpp) hands to the pairs kernels (pairs.cpp): raw pointers, dtypes, strides.
#pragma once
#include <stdint.h>

#include "../iteration.h"
#include "storage.h"

namespace fastloss {

constexpr int kMaxPairsOperands = 2;

// (rows, elements of a row); an operand (elements) has stride 0 along the rows. Null: there is none.
struct PairsTensor {
  void* data = nullptr;
  DType dtype = DType::float32;
  Iteration walk;
};

struct PairsProblem {
  const char* loss;          // name of the functor, as in Python
  const double* parameters;  // its hyper-parameters
  bool in_double;            // is the accumulator double?
  int64_t rows, sources, targets;
  PairsTensor source, target, operand[kMaxPairsOperands];
  PairsTensor gradient;              // contiguous; null: not wanted
  const void* row_factor = nullptr;  // (rows) accumulators, or null: all 1
  double factor = 1;
  double* partial;  // (tasks): the losses of each task, with their factors
};

// A task is up to so many sources of a row, so that sums do not depend on the number of threads.
constexpr int64_t kTaskSources = 1024;

inline int64_t pairs_tasks_of_row(const PairsProblem& p) { return (p.sources + kTaskSources - 1) / kTaskSources; }

struct PairsDescription {
  int operands, parameters;
};

struct PairsKernels {
  void (*run)(const PairsProblem&, int64_t first_task, int64_t last_task);
};

// False if there is no such loss.
bool describe_pairs_loss(const char* name, PairsDescription* description);

namespace avx512 {
extern const PairsKernels pairs_kernels;
}
namespace avx2 {
extern const PairsKernels pairs_kernels;
}
namespace baseline {
extern const PairsKernels pairs_kernels;
}

}  // namespace fastloss
