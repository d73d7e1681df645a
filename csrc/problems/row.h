// One call of a row operator, as the torch glue (csrc/operators/row.cpp) hands it to the kernels of a device: plain C,
// so that the emulator's tests write it, too. "A" is float64 for float64 logits and float32 otherwise.
#pragma once
#include <initializer_list>

#include "../dtypes.h"

namespace fastloss {

// Element (n, c, d) of an (N, C, D) tensor is at data[n * outer + c * step + d]; (rows, C) is (N, C, 1) with step 1.
// Null: there is none.
struct RowMatrix {
  void* data;
  int64_t outer, step;
};

// Do the classes of a row lie side by side in each of these? In an (N, C, 1) they need not.
inline bool classes_adjoin(std::initializer_list<RowMatrix> matrices, int64_t inner) {
  for (const RowMatrix& matrix : matrices)
    if (matrix.data && matrix.step != 1) return false;
  return inner == 1;
}

// Row r of the N * D rows is n = r / D, d = r % D.
struct RowProblem {
  const char* loss;          // name of the functor, as in Python
  const double* parameters;  // its hyper-parameters
  int parameter_count;
  DType dtype;
  Reduction reduction;
  int64_t rows, classes, inner;  // N * D, C, D
  int64_t ignore_index;
  RowMatrix logits;
  RowMatrix soft_target;        // of the logits' shape and dtype, or null: the targets are indices
  RowMatrix gradient;           // null: not wanted. May be the logits themselves.
  const int64_t* index_target;  // (rows,)
  const void* weight;           // (C,) of A, or null: all 1
  const void* loss_gradient;    // (rows,) of A: this is a backward pass, which reads the state; null: a forward pass
  void* state;                  // (2, rows) of A: max z and log sum exp(z - max); forward may have null
  void* row_loss;               // (rows,) of A; forward only
  void* reduced_loss;           // () of A, unless the reduction is none
  double* scratch;              // (fastloss_row_scratch(problem),), unless the reduction is none
};

// The same loss in steps: what row_statistics, row_merge, row_outputs and row_gradient ask for.
enum class RowStep : int { statistics, merge, outputs, gradient };

struct RowStepProblem {
  RowStep step;
  const char* loss;
  const double* parameters;
  int parameter_count;
  DType dtype;                         // of the logits; A's own, where a step has none
  int64_t rows, slice_classes, inner;  // N * D, classes at hand, D
  int64_t first_class, classes;        // those at hand are first_class .. of so many
  int64_t ignore_index;
  RowMatrix logits;
  RowMatrix second;       // the second row of a functor that has two: of the logits' shape and dtype
  RowMatrix soft_target;  // likewise, or null
  RowMatrix gradient;
  const int64_t* index_target;  // (rows,) of all classes; null: soft targets, or none
  const void* weight;           // (slice_classes,) of A, or null: all 1
  void* statistics;             // (k, rows) of A
  const void* slices;           // (slice_count, k, rows) of A, for a merge
  int64_t slice_count;
  void* outputs;         // (outputs, rows) of A
  const void* upstream;  // likewise
};

struct RowDescription {
  int parameters;
  bool modulated;
  int outputs;     // numbers that a row gives
  int statistics;  // k
  bool two_rows;
};

struct Device;  // what the kernels are told of where they run: csrc/cpu/simd/isa.h, csrc/cuda/gpu.h

}  // namespace fastloss

#pragma GCC visibility push(default)  // the small calls are another binary
extern "C" {
long long fastloss_row_scratch(const fastloss::RowProblem* problem);

// Losses, and the gradient of the reduced loss if it is wanted; or the gradient from the state of an earlier forward.
int fastloss_row(const fastloss::RowProblem* problem, fastloss::Device* device);

int fastloss_row_step(const fastloss::RowStepProblem* problem, fastloss::Device* device);

// False where there is no such loss.
int fastloss_row_describe(const char* loss, fastloss::RowDescription* description);
}
#pragma GCC visibility pop
