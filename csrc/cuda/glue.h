// What the torch glue of all skeletons shares: dtypes, the device of a call, errors. Torch is used through its stable
// ABI only, so that one binary serves every torch from 2.10 on. Nothing here waits for the device.
#pragma once
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "api.h"

namespace fastloss {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline int dtype_code(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return FASTLOSS_FLOAT32;
    case ScalarType::Double:
      return FASTLOSS_FLOAT64;
    case ScalarType::Half:
      return FASTLOSS_FLOAT16;
    case ScalarType::BFloat16:
      return FASTLOSS_BFLOAT16;
    case ScalarType::Bool:
      return FASTLOSS_BOOL;
    case ScalarType::Byte:
      return FASTLOSS_UINT8;
    case ScalarType::Int:
      return FASTLOSS_INT32;
    case ScalarType::Long:
      return FASTLOSS_INT64;
    default:
      STD_TORCH_CHECK(false, "fastloss: no CUDA kernels for this dtype");
  }
}

inline void* data_of(const std::optional<Tensor>& tensor) { return tensor.has_value() ? tensor->data_ptr() : nullptr; }

inline int device_attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&value, name, device);
  STD_TORCH_CHECK(error == cudaSuccess, "fastloss: ", cudaGetErrorString(error));
  return value;
}

inline FastlossDevice device_of(int index) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &stream));
  const int major = device_attribute(cudaDevAttrComputeCapabilityMajor, index);
  const int minor = device_attribute(cudaDevAttrComputeCapabilityMinor, index);
  return {10 * major + minor, device_attribute(cudaDevAttrMultiProcessorCount, index),
          device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index),
          device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, index), stream};
}

inline void check(int status) {
  if (status == 0) return;
  const char* message = status > 0                            ? cudaGetErrorString(cudaError_t(status))
                        : status == FASTLOSS_UNKNOWN_LOSS     ? "no such loss"
                        : status == FASTLOSS_WRONG_PARAMETERS ? "wrong number of parameters for this loss"
                        : status == FASTLOSS_WRONG_OPERANDS   ? "wrong number of operands for this loss"
                        : status == FASTLOSS_TOO_MANY_CLASSES ? "more than 2^30 classes"
                                                              : "unsupported dtype";
  STD_TORCH_CHECK(false, "fastloss: ", message);
}

}  // namespace fastloss
