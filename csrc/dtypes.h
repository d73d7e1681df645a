// What Python, the torch glue and the kernels number alike: element types, reductions, and how a call ends. No torch,
// no CUDA.
#pragma once
#include <stdint.h>

namespace fastloss {

// The first four as in fastloss/core/arguments.py: kernels compute in them and write them. From there on: operands and
// weights of pointwise losses only.
enum class DType : int { float32, float64, float16, bfloat16, boolean, uint8, int32, int64 };

constexpr bool is_floating(DType type) { return type <= DType::bfloat16; }

enum class Reduction : int { none, mean, sum };  // as in fastloss/operators/row.py

// What a kernel returns: 0, a CUDA error code (positive), or one of these.
enum Status : int {
  kUnknownLoss = -1,
  kWrongParameters = -2,
  kUnknownDType = -3,
  kTooManyClasses = -4,
  kWrongOperands = -5,
  kTargetOutOfRange = -6,  // on a CPU; a GPU traps
  kOutsideDomain = -7,     // likewise
  kWrongStarts = -8,       // likewise, but a GPU keeps to the tensors
};

}  // namespace fastloss
