// The emulator's data: what runs, where it waits, and the settings of a run.
#pragma once
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

// The toolkit's own types, float16 and bfloat16 included: their headers have host implementations.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_functions.h>
#include <vector_types.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

// Default arguments that hold the caller's source position.
#define EMULATOR_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace emulator __attribute__((visibility("hidden"))) {

  constexpr int kWarp = 32;
  constexpr unsigned kMaxBlockThreads = 1024, kMaxClusterBlocks = 8;
  constexpr size_t kMaxShared = 227 * 1024;  // of a block on Hopper, static and dynamic together

  struct Error {
    std::string message;
  };

  struct Fiber {
    char* stack = nullptr;
    size_t bytes = 0;
    void* stack_pointer = nullptr;
    void* asan_fake_stack = nullptr;
    void* tsan_fiber = nullptr;
  };

  struct Block;

  struct Thread {
    Block* block = nullptr;
    Fiber* fiber = nullptr;
    uint3 index{};
    unsigned rank = 0;  // place in the block
    bool done = false;
    const void* waits_at = nullptr;  // a Barrier or Collective
    const char* waits_for = "start";
    const char* file = "";
    int line = 0;
    bool cluster_arrived = false;  // between the halves of a cluster barrier
    unsigned cluster_phase = 0;
    uint64_t value = 0, result = 0;  // in and out of a warp collective
    int argument = 0;
    unsigned packs = 0;  // 16-byte accesses so far, if they are recorded
  };

  struct Barrier {
    unsigned arrived = 0, phase = 0;
    const char* file = "";
    int line = 0;
    char order[2] = {};  // addresses that order memory for ThreadSanitizer, one for each parity of the phase
  };

  // One warp collective in progress. A warp can have several at once, of disjoint lanes.
  struct Collective {
    unsigned mask = 0, arrived = 0, phase = 0;
    int operation = 0, width = 0;
    const char* file = "";
    int line = 0;
    char order[2] = {};
  };

  struct Warp {
    unsigned ended = 0;  // lanes that have returned, or never were
    Collective collective[kWarp];
  };

  struct SharedArray {
    const void* key;
    char* data;
    size_t bytes;
  };

  struct Cluster;

  struct Block {
    Cluster* cluster = nullptr;
    Thread* threads = nullptr;
    uint3 index{};
    unsigned rank = 0;  // place in the cluster
    unsigned size = 0, live = 0;
    bool started = false;
    Barrier barrier;
    std::vector<Warp> warps;
    std::vector<SharedArray> shared;
  };

  struct Cluster {
    unsigned live = 0;
    Barrier barrier;
    std::vector<Block> blocks;
  };

  // Either end of one of a thread's 16-byte accesses. The lanes of a warp make theirs side by side.
  struct Access {
    uint64_t block, thread, number, address;
  };

  enum class Order { forward, reverse, random };

  struct State {
    Order order = Order::forward;
    uint64_t random_state = 1;
    int poison = 0xFF;

    // The launch in progress.
    std::string kernel;
    size_t dynamic_shared = 0;
    const std::function<void()>* body = nullptr;
    Cluster cluster;
    std::vector<Thread> threads;
    std::vector<Thread*> ready;
    size_t next_ready = 0;
    Thread* current = nullptr;
    std::string error;

    Fiber host;
    std::vector<Fiber*> idle;
    bool left_host = false;
    char order_in = 0, order_out = 0;  // ThreadSanitizer: host to kernel, kernel to host

    std::string last_error;
    uint64_t launches = 0;
    uint64_t last_shape[5] = {};  // blocks, threads along x and y, blocks of a cluster, bytes of shared memory
    uint64_t blocks = 0;          // of all launches
    bool rehearsing = false;      // launches are checked and counted only
    unsigned largest_cluster = kMaxClusterBlocks;
    bool recording = false;
    std::vector<Access> accesses;

    unsigned random(size_t below) {
      random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
      return unsigned((random_state >> 33) % below);
    }
  };

  // Never destroyed: fibers may outlive main's statics.
  inline State& state() {
    static State* const instance = new State;
    return *instance;
  }

  // ThreadSanitizer must not take the emulator's own variables, which all fibers share, for the kernel's.
  struct Unwatched {
#ifdef __SANITIZE_THREAD__
    Unwatched() {
      AnnotateIgnoreReadsBegin("", 0);
      AnnotateIgnoreWritesBegin("", 0);
    }
    ~Unwatched() {
      AnnotateIgnoreReadsEnd("", 0);
      AnnotateIgnoreWritesEnd("", 0);
    }
#else
    Unwatched() {}
#endif
  };

  inline void happens_before([[maybe_unused]] void* address) {
#ifdef __SANITIZE_THREAD__
    __tsan_release(address);
#endif
  }

  inline void happens_after([[maybe_unused]] void* address) {
#ifdef __SANITIZE_THREAD__
    __tsan_acquire(address);
#endif
  }

  __attribute__((format(printf, 1, 2))) inline std::string text(const char* format, ...) {
    char buffer[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(buffer, sizeof buffer, format, arguments);
    va_end(arguments);
    return buffer;
  }

  inline std::string name_of(const Thread& t) {
    const uint3 b = t.block->index;
    return text("kernel '%s' block (%u,%u,%u) thread (%u,%u,%u)", state().kernel.c_str(), b.x, b.y, b.z, t.index.x,
                t.index.y, t.index.z);
  }

  [[noreturn]] inline void fail(const std::string& message) { throw Error{name_of(*state().current) + ": " + message}; }

}  // namespace emulator
