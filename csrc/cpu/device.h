// The CPU as the torch glue sees it; what the members mean is in csrc/operators/torch.h, which includes this.
#pragma once
#include <memory>

#include "output_memory.h"
#include "threads.h"

#define FASTLOSS_KEY CPU

namespace fastloss {

inline size_t element_size(ScalarType type) {
  return type == ScalarType::Double ? 8 : type == ScalarType::Float ? 4 : 2;
}

class Place {
 public:
  explicit Place(const Tensor&) {}

  Tensor empty(const Sizes& sizes, const Sizes& strides, ScalarType type) const {
    const int32_t dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
    const int32_t cpu = aoti_torch_device_type_cpu();
    AtenTensorHandle handle = nullptr;
#if FASTLOSS_KEEPS_OUTPUTS
    size_t bytes = element_size(type);
    for (int64_t size : sizes) bytes *= size_t(size);
    if (bytes >= OutputMemory::smallest && torch_from_blob) {
      const OutputMemory::Block block = OutputMemory::instance().take(bytes);
      if (block.data) {
        auto give_back = [](void* data, void* size) {
          OutputMemory::instance().give({data, reinterpret_cast<size_t>(size)});
        };
        TORCH_ERROR_CODE_CHECK(torch_from_blob(block.data, int64_t(sizes.size()), sizes.data(), strides.data(), 0,
                                               dtype, cpu, -1, &handle, aoti_torch_layout_strided(), nullptr, 0,
                                               give_back, reinterpret_cast<void*>(block.bytes)));
        return Tensor(handle);
      }
    }
#endif
    TORCH_ERROR_CODE_CHECK(
        aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(), dtype, cpu, 0, &handle));
    Tensor tensor(handle);
#if FASTLOSS_KEEPS_OUTPUTS
    if (bytes >= 2 * OutputMemory::page) OutputMemory::on_huge_pages(tensor.data_ptr(), bytes);
#endif
    return tensor;
  }
  Tensor empty(const Sizes& sizes, ScalarType type) const { return empty(sizes, contiguous_strides(sizes), type); }

  double* scratch(int64_t count) {
    scratch_.reset(new double[size_t(count)]);
    return scratch_.get();
  }

  void check(int status) const {
    if (status == 0) return;
    // std::out_of_range is Python's IndexError, as torch raises
    if (status == kTargetOutOfRange)
      throw std::out_of_range("Target " + std::to_string(device.target_out_of_range) + " is out of bounds.");
    refuse(meaning_of(status));
  }

  Device device = {parallel_for, 0};

 private:
  static void parallel_for(int64_t tasks, int64_t grain, void (*body)(int64_t, int64_t, void*), void* context) {
    TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, tasks, grain, body, context));
  }

  std::unique_ptr<double[]> scratch_;
};

}  // namespace fastloss
