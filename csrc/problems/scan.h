// One call of the scan operator, as the torch glue (csrc/operators/scan.cpp) hands it to the kernels of a device;
// fastloss/operators/scan.py says what it computes. Plain C: the emulator's tests write it, too. "A" is float64 if
// in_double, else float32.
#pragma once
#include "../dtypes.h"

namespace fastloss {

constexpr int kMaxScanOperands = 6;
constexpr int kMaxScanOutputs = 2;

// Element (o, t, i) of an (outer, steps, inner) tensor is at data[o * outer + t * step + i * inner], in elements; of a
// ragged one, (total, inner), element t of sequence o is at data[(starts[o] + t) * step + i * inner]. Null: there is
// none.
struct ScanTensor {
  void* data;
  DType dtype;
  int64_t outer, step, inner;
};

// outer * inner sequences.
struct ScanProblem {
  const char* loss;          // name of the functor, as in Python
  const double* parameters;  // its hyper-parameters
  int parameter_count;
  int operand_count;
  int output_count;
  int in_double;  // is an operand float64?
  int reverse;    // from the last step to the first
  int64_t outer, steps, inner;
  const int64_t* starts;  // (outer + 1,), or null: of the sequences of a ragged batch, whose steps are `steps` together
  ScanTensor operand[kMaxScanOperands];
  double constant[kMaxScanOperands];        // of the operands that are no tensors
  ScanTensor terminated, truncated, there;  // boolean
  ScanTensor output[kMaxScanOutputs];       // floating-point
};

struct ScanDescription {
  int operands, parameters, outputs;
};

struct Device;

}  // namespace fastloss

extern "C" int fastloss_scan(const fastloss::ScanProblem* problem, fastloss::Device* device);
