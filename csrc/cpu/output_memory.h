// Memory for large outputs, that is gradients as large as the logits, or the two outputs of a scan.
//
// glibc returns blocks of more than 32 MB to the kernel when they are freed, and gets them again, zeroed, page fault by
// page fault, in the next step: for a softmax cross-entropy that takes longer than the loss (measured, 1024 x 32000
// fp32 on two cores: 14.8 ms with a fresh gradient, 6.0 ms in place). The end of its heap it returns from 32 MB on, and
// so the two outputs of a scan of 16 MB each. So the last two blocks that were freed are kept for the next outputs of
// about their size. They are kept as MADV_FREE: their pages belong to whoever needs memory, and only if nobody did does
// the next step find them in place. Large outputs are put on huge pages where the kernel grants them.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <mutex>
#include <utility>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#if defined(__linux__) && defined(MADV_FREE) && defined(MADV_HUGEPAGE)
#define FASTLOSS_KEEPS_OUTPUTS 1
#else
#define FASTLOSS_KEEPS_OUTPUTS 0
#endif

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

#if FASTLOSS_KEEPS_OUTPUTS

class OutputMemory {
 public:
  static constexpr size_t page = size_t(2) << 20;       // a huge page
  static constexpr size_t smallest = size_t(16) << 20;  // up to here glibc keeps two that are freed

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
      for (Block& block : kept_)
        if (block.bytes >= bytes && block.bytes <= 2 * bytes) return std::exchange(block, Block{});
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

  // Keeps this block instead of the smallest of those kept so far, unless it is smaller.
  void give(Block block) {
    madvise(block.data, block.bytes, MADV_FREE);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      Block& least = kept_[0].bytes <= kept_[1].bytes ? kept_[0] : kept_[1];
      if (block.bytes >= least.bytes) std::swap(block, least);
    }
    if (block.data) munmap(block.data, block.bytes);
  }

  static void on_huge_pages(void* data, size_t bytes) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
    const uintptr_t first = (begin + page - 1) / page * page, last = (begin + bytes) / page * page;
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
  }

 private:
  std::mutex mutex_;
  Block kept_[2];
};

#endif

}  // namespace fastloss
