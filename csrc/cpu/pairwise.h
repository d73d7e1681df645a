// What the torch glue (pairwise_operators.cpp) hands to the kernels of pairs (pairwise.cpp): raw pointers.
#pragma once
#include <stdint.h>

namespace fastloss {

// Contiguous matrices of float or double: source and level (rows, sources), target (rows, targets).
struct PairProblem {
  const char* loss;          // name of the functor, as in Python
  const double* parameters;  // its hyper-parameters
  bool in_double;
  int64_t rows, sources, targets;
  const void *source, *target, *level;
  const void* weight;    // of each row, or null: 1
  const void* upstream;  // of each row, of the gradient alone, or null: 1
  double* loss_rows;     // weight_b sum_i mean_j f, or null
  void* gradient;        // upstream_b weight_b mean_j f', or null
};

struct PairKernels {
  void (*run)(const PairProblem&, int64_t first_row, int64_t last_row);
};

// The number of hyper-parameters of a loss, -1 if there is no such loss.
int pair_loss_parameters(const char* name);

namespace avx512 {
extern const PairKernels pair_kernels;
}
namespace avx2 {
extern const PairKernels pair_kernels;
}
namespace baseline {
extern const PairKernels pair_kernels;
}

}  // namespace fastloss
