// A CUDA device as the torch glue sees it; what the members mean is in csrc/operators/torch.h, which includes this.
// Nothing here waits for the device.
#pragma once
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "limits.h"

#ifndef FASTLOSS_KEY  // the tests register the operators on emulated kernels for the CPU
#define FASTLOSS_KEY CUDA
#endif

namespace fastloss {

class Place {
 public:
  explicit Place(const Tensor& like) : like_(like), guard_(like.get_device_index()) {
    const int index = like.get_device_index();
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &device.stream));
    const auto attribute = [&](cudaDeviceAttr name) {
      int value = 0;
      check(cudaDeviceGetAttribute(&value, name, index));
      return value;
    };
    device.arch = 10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
    device.processors = attribute(cudaDevAttrMultiProcessorCount);
    device.shared_per_block = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    device.shared_per_processor = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
    device.grid_blocks = attribute(cudaDevAttrMaxGridDimX);
  }

  Tensor empty(const Sizes& sizes, const Sizes& strides, ScalarType type) const {
    int32_t device_type = 0;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like_.get(), &device_type));
    const int32_t dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
    AtenTensorHandle handle = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(), dtype,
                                                    device_type, like_.get_device_index(), &handle));
    return Tensor(handle);
  }
  Tensor empty(const Sizes& sizes, ScalarType type) const { return empty(sizes, contiguous_strides(sizes), type); }

  double* scratch(int64_t count) {
    scratch_ = empty({count}, ScalarType::Double);
    return static_cast<double*>(scratch_->data_ptr());
  }

  void check(int status) const {
    if (status == 0) return;
    refuse(status > 0 ? cudaGetErrorString(cudaError_t(status)) : meaning_of(status));
  }

  Device device = {};

 private:
  const Tensor& like_;
  const torch::stable::accelerator::DeviceGuard guard_;
  std::optional<Tensor> scratch_;
};

}  // namespace fastloss
