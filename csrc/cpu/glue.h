// What the operators of all skeletons share: torch's dtypes and shapes as the kernels want them.
#pragma once
#include <torch/csrc/stable/tensor.h>

#include <stdexcept>
#include <vector>

#include "storage.h"

namespace fastloss {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

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

inline ScalarType floating_type(int64_t code) {  // as fastloss/ops.py numbers them
  constexpr ScalarType types[] = {ScalarType::Float, ScalarType::Double, ScalarType::Half, ScalarType::BFloat16};
  if (code < 0 || code > 3) throw std::runtime_error("fastloss: unknown dtype code");
  return types[code];
}

inline std::vector<int64_t> shape(const Tensor& t) {
  std::vector<int64_t> sizes(t.dim());
  for (int64_t i = 0; i < t.dim(); ++i) sizes[i] = t.size(i);
  return sizes;
}

}  // namespace fastloss
