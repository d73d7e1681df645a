// One call of the operator over all pairs of a source and a target, as the torch glue (csrc/operators/outer.cpp) hands
// it to the kernels of a device; fastloss/operators/outer.py says what it computes. Plain C: the emulator's tests write
// it, too. "A" is float64 if in_double, else float32.
#pragma once
#include "../dtypes.h"

namespace fastloss {

constexpr int kMaxOuterOperands = 2;

// (rows, elements of a row), by strides in elements; null: there is none.
struct OuterTensor {
  void* data;
  DType dtype;
  int64_t row, step;
};

struct OuterProblem {
  const char* loss;          // name of the functor, as in Python
  const double* parameters;  // its hyper-parameters
  int parameter_count;
  int operand_count;
  int in_double;  // is the source or the target float64?
  int reduce;
  int64_t rows, sources, targets;  // none is 0
  OuterTensor source, target, operand[kMaxOuterOperands];
  void* gradient;          // (rows, sources), contiguous, of the source's dtype; null: not wanted
  const void* row_factor;  // (rows,) of A, or null: all 1
  double factor;
  void* losses;     // of A: () if reduce, else (rows,)
  double* scratch;  // (fastloss_outer_scratch(problem),)
};

struct OuterDescription {
  int operands, parameters;
};

struct Device;

}  // namespace fastloss

extern "C" {
long long fastloss_outer_scratch(const fastloss::OuterProblem* problem);
int fastloss_outer(const fastloss::OuterProblem* problem, fastloss::Device* device);
}
