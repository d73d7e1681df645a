// What the operators of all skeletons share: torch's dtypes as the kernels want them.
#pragma once
#include <torch/csrc/stable/tensor.h>

#include <stdexcept>

#include "../shapes.h"
#include "storage.h"

namespace fastloss {

inline DType storage_type(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return DType::float64;
    case ScalarType::Float:
      return DType::float32;
    case ScalarType::Half:
      return DType::float16;
    case ScalarType::BFloat16:
      return DType::bfloat16;
    case ScalarType::Bool:
      return DType::boolean;
    case ScalarType::Byte:
      return DType::uint8;
    case ScalarType::Int:
      return DType::int32;
    case ScalarType::Long:
      return DType::int64;
    default:
      throw std::runtime_error("fastloss: no CPU kernels for this dtype");
  }
}

}  // namespace fastloss
