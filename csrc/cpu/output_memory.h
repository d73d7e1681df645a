// Memory for large outputs, that is gradients as large as the logits.
//
// glibc returns blocks of more than 32 MB to the kernel when they are freed, and gets them again, zeroed, page fault by
// page fault, in the next step: for a softmax cross-entropy that takes longer than the loss (measured, 1024 x 32000
// fp32 on two cores: 14.8 ms with a fresh gradient, 6.0 ms in place). So the last such block that was freed is kept for
// the next output of about its size. It is kept as MADV_FREE: its pages belong to whoever needs memory, and only if
// nobody did does the next step find them in place. Large outputs are put on huge pages where the kernel grants them.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <mutex>
#include <utility>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "../shapes.h"

extern "C" {
// Of torch 2.11 on; null in 2.10, which then allocates.
__attribute__((weak)) AOTITorchError torch_from_blob(void* data, int64_t ndim, const int64_t* sizes,
                                                     const int64_t* strides, int64_t storage_offset, int32_t dtype,
                                                     int32_t device_type, int32_t device_index,
                                                     AtenTensorHandle* result, int32_t layout, const uint8_t* metadata,
                                                     int64_t metadata_size, void (*deleter)(void* data, void* context),
                                                     void* context);
}

namespace fastloss {

#if defined(__linux__) && defined(MADV_FREE) && defined(MADV_HUGEPAGE)

class OutputMemory {
 public:
  static constexpr size_t page = size_t(2) << 20;       // a huge page
  static constexpr size_t smallest = size_t(32) << 20;  // up to here glibc keeps what is freed

  // Never destroyed: tensors may outlive every static object.
  static OutputMemory& instance() {
    static OutputMemory* memory = new OutputMemory;
    return *memory;
  }

  struct Block {
    void* data = nullptr;
    size_t bytes = 0;
  };

  // A block of at least `bytes`; data is null if there is no memory.
  Block take(size_t bytes) {
    bytes = (bytes + page - 1) / page * page;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (kept_.bytes >= bytes && kept_.bytes <= 2 * bytes) return std::exchange(kept_, Block{});
    }
    char* mapped = static_cast<char*>(
        mmap(nullptr, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (mapped == MAP_FAILED) return {};
    const size_t before = (page - reinterpret_cast<uintptr_t>(mapped) % page) % page;
    if (before) munmap(mapped, before);
    munmap(mapped + before + bytes, page - before);
    madvise(mapped + before, bytes, MADV_HUGEPAGE);
    return {mapped + before, bytes};
  }

  // Keeps the larger of this block and the one kept so far.
  void give(Block block) {
    madvise(block.data, block.bytes, MADV_FREE);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (block.bytes >= kept_.bytes) std::swap(block, kept_);
    }
    if (block.data) munmap(block.data, block.bytes);
  }

 private:
  std::mutex mutex_;
  Block kept_;
};

#endif

inline size_t element_size(torch::headeronly::ScalarType type) {
  using torch::headeronly::ScalarType;
  return type == ScalarType::Double ? 8 : type == ScalarType::Float ? 4 : 2;
}

// An uninitialised tensor on the CPU, whose strides (of a dense layout) are given.
inline torch::stable::Tensor allocate(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                                      torch::headeronly::ScalarType type) {
  int64_t numel = 1;
  for (int64_t size : sizes) numel *= size;
  const int32_t dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  const int32_t cpu = aoti_torch_device_type_cpu();
  AtenTensorHandle handle = nullptr;
#if defined(__linux__) && defined(MADV_FREE) && defined(MADV_HUGEPAGE)
  const size_t bytes = size_t(numel) * element_size(type);
  if (bytes >= OutputMemory::smallest && torch_from_blob) {
    const OutputMemory::Block block = OutputMemory::instance().take(bytes);
    if (block.data) {
      auto give_back = [](void* data, void* size) {
        OutputMemory::instance().give({data, reinterpret_cast<size_t>(size)});
      };
      TORCH_ERROR_CODE_CHECK(torch_from_blob(block.data, int64_t(sizes.size()), sizes.data(), strides.data(), 0, dtype,
                                             cpu, -1, &handle, aoti_torch_layout_strided(), nullptr, 0, give_back,
                                             reinterpret_cast<void*>(block.bytes)));
      return torch::stable::Tensor(handle);
    }
  }
#endif
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(), dtype, cpu, 0, &handle));
  torch::stable::Tensor tensor(handle);
#if defined(__linux__) && defined(MADV_FREE) && defined(MADV_HUGEPAGE)
  if (bytes >= 2 * OutputMemory::page) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor.data_ptr()), page = OutputMemory::page;
    const uintptr_t first = (begin + page - 1) / page * page, last = (begin + bytes) / page * page;
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
  }
#endif
  return tensor;
}

inline torch::stable::Tensor allocate(const std::vector<int64_t>& sizes, torch::headeronly::ScalarType type) {
  return allocate(sizes, contiguous_strides(sizes), type);
}

}  // namespace fastloss
