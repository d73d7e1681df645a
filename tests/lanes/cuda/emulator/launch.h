// A launch: checks its shape, runs its clusters one after another in the schedule's order, reports what went wrong.
#pragma once
#include <cxxabi.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "barrier.h"
#include "memory.h"
#include "warp.h"

namespace emulator __attribute__((visibility("hidden"))) {

  [[noreturn]] inline void trap(const char* message) { fail(std::string("trap: ") + message); }

  // What the others of the block have waited for may be complete now.
  inline void end_thread(Thread * thread) {
    const Unwatched unwatched;
    Block& block = *thread->block;
    Cluster& cluster = *block.cluster;
    const unsigned warp_index = thread->rank / kWarp;
    Warp& warp = block.warps[warp_index];
    if (thread->cluster_arrived) fail("returns between the halves of a cluster barrier");
    thread->done = true;
    warp.ended |= 1u << thread->rank % kWarp;
    --block.live;
    --cluster.live;
    for (Collective& collective : warp.collective) {
      if (complete(collective, warp)) finish_collective(block, warp_index, collective);
    }
    if (block.barrier.arrived > 0 && block.barrier.arrived == block.live) {
      block.barrier.arrived = 0;
      ++block.barrier.phase;
      open_barrier(block.barrier, block);
    }
    if (cluster.barrier.arrived > 0 && cluster.barrier.arrived == cluster.live) complete_cluster_barrier(cluster);
  }

  // A fiber runs one thread after another. Under ThreadSanitizer it runs one only: its history would order the second
  // thread after the first.
  inline void fiber_main() {
    State& s = state();
    Fiber nothing;
    arrived_on(&nothing);
    for (;;) {
      Thread* const thread = s.current;
      happens_after(&s.order_in);
      try {
        (*s.body)();
        end_thread(thread);
        leave_shared_memory(*thread->block);
      } catch (const Error& error) {
        s.error = error.message;
      }
      happens_before(&s.order_out);
      Fiber *own, *next_fiber;
      {
        const Unwatched unwatched;
        Thread* const next = s.error.empty() ? choose_next() : nullptr;
        own = thread->fiber;
#ifndef __SANITIZE_THREAD__
        if (s.error.empty()) {
          thread->fiber = nullptr;
          if (next != nullptr && next->fiber == nullptr) {  // a thread that has not begun begins on this stack
            next->fiber = own;
            enter(next);
            continue;
          }
          s.idle.push_back(own);
        }
#endif
        next_fiber = enter(next);
      }
      switch_fiber(own, next_fiber);
    }
  }

  // Who waits where, in the first block that is stuck.
  inline std::string describe_deadlock() {
    State& s = state();
    const Block* block = nullptr;
    for (const Thread& thread : s.threads) {
      if (!thread.done && block == nullptr) block = thread.block;
    }
    std::vector<std::pair<std::string, std::string>> groups;  // what they do, which threads
    for (unsigned begin = 0, end; begin < block->size; begin = end) {
      const auto situation = [&](unsigned i) {
        const Thread& t = block->threads[i];
        return t.done ? std::string("have returned") : text("wait for %s at %s:%d", t.waits_for, t.file, t.line);
      };
      const std::string what = situation(begin);
      for (end = begin + 1; end < block->size && situation(end) == what;) ++end;
      auto group = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.first == what; });
      if (group == groups.end()) group = groups.insert(groups.end(), {what, ""});
      group->second += end - begin > 1 ? text(" %u-%u", begin, end - 1) : text(" %u", begin);
    }
    std::string message = text("kernel '%s' block (%u,%u,%u): deadlock", s.kernel.c_str(), block->index.x,
                               block->index.y, block->index.z);
    for (const auto& group : groups) message += "; threads" + group.second + " " + group.first;
    return message;
  }

  inline std::string kernel_name(const void* function) {
    Dl_info info{};
    if (dladdr(function, &info) == 0 || info.dli_sname == nullptr) return "?";
    int status = 0;
    const std::unique_ptr<char, void (*)(void*)> demangled(
        abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status), free);
    const std::string name = demangled ? demangled.get() : info.dli_sname;
    return name.substr(0, name.rfind('('));
  }

  inline const char* refuse(dim3 grid, dim3 block, unsigned cluster, size_t shared_bytes) {
    const unsigned threads = block.x * block.y * block.z;
    if (threads == 0 || threads > kMaxBlockThreads || block.z > 64) return "bad block size";
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return "empty grid";
    if (grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535) return "bad grid size";
    if (cluster == 0 || cluster > kMaxClusterBlocks || grid.x % cluster != 0) return "bad cluster size";
    if (shared_bytes > kMaxShared) return "too much dynamic shared memory";
    return nullptr;
  }

  inline void set_up_cluster(uint64_t cluster_index, unsigned blocks) {
    State& s = state();
    const unsigned threads_per_block = blockDim.x * blockDim.y * blockDim.z;
    s.cluster = Cluster();  // a new one also gives ThreadSanitizer new addresses to order memory by
    s.cluster.blocks.resize(blocks);
    s.cluster.live = blocks * threads_per_block;
    s.threads.assign(size_t(blocks) * threads_per_block, Thread());
    for (unsigned rank = 0; rank < blocks; ++rank) {
      Block& block = s.cluster.blocks[rank];
      const uint64_t index = cluster_index * blocks + rank;
      block.cluster = &s.cluster;
      block.threads = &s.threads[size_t(rank) * threads_per_block];
      block.index = make_uint3(unsigned(index % gridDim.x), unsigned(index / gridDim.x % gridDim.y),
                               unsigned(index / gridDim.x / gridDim.y));
      block.rank = rank;
      block.size = block.live = threads_per_block;
      block.warps.resize((threads_per_block + kWarp - 1) / kWarp);
      if (threads_per_block % kWarp != 0) block.warps.back().ended = ~0u << threads_per_block % kWarp;
      for (unsigned i = 0; i < threads_per_block; ++i) {
        Thread& thread = block.threads[i];
        thread.block = &block;
        thread.rank = i;
        thread.index = make_uint3(i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y);
#ifdef __SANITIZE_THREAD__
        thread.fiber = new_fiber();  // made by the host: what the host has seen, and nothing else, comes before it
#endif
        s.ready.push_back(&thread);
      }
    }
  }

  // Frees what the threads of a cluster leave behind, those included that an error has stopped in mid-kernel.
  inline void clean_up_cluster() {
    State& s = state();
    s.ready.clear();
    s.next_ready = 0;
    for (Thread& thread : s.threads) {
      if (thread.fiber != nullptr) delete_fiber(thread.fiber, thread.done && s.error.empty());
      thread.fiber = nullptr;
    }
    for (Block& block : s.cluster.blocks) {
      for (SharedArray& array : block.shared) free(array.data);
      block.shared.clear();
    }
  }

#ifdef __SANITIZE_ADDRESS__
  inline void name_the_thread(const char*) {  // AddressSanitizer has found something
    State& s = state();
    if (s.current == nullptr) return;
    fprintf(stderr, "emulator: in %s\n", name_of(*s.current).c_str());
    if (s.last_error.empty()) s.last_error = name_of(*s.current) + ": AddressSanitizer report";
  }
#endif

  inline int run(const void* function, dim3 grid, dim3 block, unsigned cluster, size_t shared_bytes,
                 const std::function<void()>& body) {
    const Unwatched unwatched;
    State& s = state();
    s.last_error.clear();
    s.error.clear();
    s.kernel = kernel_name(function);
    ++s.launches;
    s.blocks += uint64_t(grid.x) * grid.y * grid.z;
    const uint64_t shape[] = {grid.x, block.x, block.y, cluster, shared_bytes};
    std::copy(std::begin(shape), std::end(shape), s.last_shape);
    if (const char* reason = refuse(grid, block, cluster, shared_bytes)) {
      s.last_error = text("kernel '%s' grid (%u,%u,%u) block (%u,%u,%u) cluster %u shared %zu: %s", s.kernel.c_str(),
                          grid.x, grid.y, grid.z, block.x, block.y, block.z, cluster, shared_bytes, reason);
      return 1;
    }
    if (s.rehearsing) return 0;
#ifdef __SANITIZE_ADDRESS__
    __asan_set_error_report_callback(name_the_thread);
#endif
#ifdef __SANITIZE_THREAD__
    s.host.tsan_fiber = __tsan_get_current_fiber();
#endif
    blockDim = block;
    gridDim = grid;
    s.body = &body;
    s.dynamic_shared = shared_bytes;
    // NaN in one schedule and 3.4e38 in another, because fmaxf swallows a NaN.
    s.poison = s.order == Order::reverse || (s.order == Order::random && s.random(2) == 1) ? 0x7F : 0xFF;
    std::vector<uint64_t> clusters(uint64_t(grid.x) * grid.y * grid.z / cluster);
    for (uint64_t i = 0; i < clusters.size(); ++i)
      clusters[i] = s.order == Order::reverse ? clusters.size() - 1 - i : i;
    if (s.order == Order::random) {
      for (size_t i = clusters.size(); i > 1; --i) std::swap(clusters[i - 1], clusters[s.random(i)]);
    }
    happens_before(&s.order_in);
    for (size_t i = 0; i < clusters.size() && s.error.empty(); ++i) {
      set_up_cluster(clusters[i], cluster);
      Fiber* const first = enter(choose_next());
      s.left_host = true;
      switch_fiber(&s.host, first);
      s.current = nullptr;
      const bool stuck = std::any_of(s.threads.begin(), s.threads.end(), [](const Thread& t) { return !t.done; });
      if (stuck && s.error.empty()) s.error = describe_deadlock();
      clean_up_cluster();
    }
    happens_after(&s.order_out);
    if (!s.error.empty()) s.last_error = s.error;
    return s.last_error.empty() ? 0 : 1;
  }

  // Does the device have as many processors side by side?
  inline bool cluster_fits(unsigned cluster) { return cluster <= state().largest_cluster; }

  template <class... Parameters, class... Arguments>
  int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, unsigned cluster, size_t shared_bytes,
             Arguments... arguments) {
    return run(reinterpret_cast<const void*>(kernel), grid, block, cluster, shared_bytes,
               [=] { kernel(Parameters(arguments)...); });
  }

}  // namespace emulator

// For the tests, through ctypes.
extern "C" {
#define EMULATOR_API __attribute__((visibility("default"), used)) inline
EMULATOR_API const char* emulator_last_error() { return emulator::state().last_error.c_str(); }
// From now on launches are checked and counted, and not run; or run again. Returns the blocks launched since the last
// call.
EMULATOR_API uint64_t emulator_rehearse(int on) {
  emulator::State& s = emulator::state();
  s.rehearsing = on != 0;
  const uint64_t blocks = s.blocks;
  s.blocks = 0;
  return blocks;
}
EMULATOR_API void emulator_set_largest_cluster(unsigned blocks) { emulator::state().largest_cluster = blocks; }
EMULATOR_API uint64_t emulator_launches() { return emulator::state().launches; }
EMULATOR_API const uint64_t* emulator_last_shape() { return emulator::state().last_shape; }
// Begins anew, or ends, to record the 16-byte accesses of all threads; the latter returns how many ends there are.
EMULATOR_API uint64_t emulator_record(int on) {
  emulator::State& s = emulator::state();
  s.recording = on != 0;
  if (on != 0) s.accesses.clear();
  return s.accesses.size();
}
EMULATOR_API const emulator::Access* emulator_accesses() { return emulator::state().accesses.data(); }
// order: 0 forward, 1 reverse, 2 random.
EMULATOR_API void emulator_set_order(int order, unsigned seed) {
  emulator::state().order = emulator::Order(order);
  emulator::state().random_state = seed * 2654435761u + 1;
}
#undef EMULATOR_API
}
