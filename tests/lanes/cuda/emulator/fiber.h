// Stacks, the switch between them, and the schedule.
#pragma once
#include <sys/mman.h>

#include <utility>

#include "state.h"

#ifndef __x86_64__
#error "the emulator switches stacks in x86-64 assembly"
#endif

inline __attribute__((visibility("hidden"))) uint3 threadIdx, blockIdx;
inline __attribute__((visibility("hidden"))) dim3 blockDim, gridDim;

// void emulator_switch(void** save, void* load): pushes what the ABI has a callee preserve and changes stacks.
extern "C" void emulator_switch(void** save, void* load);
asm(R"(
  .pushsection .text.emulator_switch, "axG", @progbits, emulator_switch, comdat
  .weak emulator_switch
  .hidden emulator_switch
  .type emulator_switch, @function
emulator_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
  .popsection
)");

namespace emulator __attribute__((visibility("hidden"))) {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr size_t kStackBytes = 256 << 10;
#else
  constexpr size_t kStackBytes = 64 << 10;
#endif
  constexpr size_t kPage = 4096;

  void fiber_main();  // launch.h

  inline Fiber* new_fiber() {
    Fiber* const fiber = new Fiber;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* const stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (stack == MAP_FAILED) throw Error{"no memory for a fiber"};
    fiber->stack = static_cast<char*>(stack);
    fiber->bytes = kStackBytes;
    mprotect(stack, kPage, PROT_NONE);  // a stack that overflows faults
    // Stacks are page-aligned, so their hot ends would all fall into the same cache sets: each begins a little lower.
    static unsigned count = 0;
    void** top = reinterpret_cast<void**>(fiber->stack + kStackBytes - (count++ % 48) * 320);
    *--top = nullptr;  // fiber_main's return address; it never returns
    *--top = reinterpret_cast<void*>(&fiber_main);
    for (int registers = 0; registers < 6; ++registers) *--top = nullptr;
    fiber->stack_pointer = top;
#ifdef __SANITIZE_THREAD__
    fiber->tsan_fiber = __tsan_create_fiber(0);
#endif
    return fiber;
  }

  // `finished` is false for a fiber that was left in the middle of a kernel.
  inline void delete_fiber(Fiber * fiber, [[maybe_unused]] bool finished) {
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(fiber->stack, fiber->bytes);
#endif
#ifdef __SANITIZE_THREAD__
    if (finished) __tsan_destroy_fiber(fiber->tsan_fiber);
#endif
    munmap(fiber->stack, fiber->bytes);
    delete fiber;
  }

  inline void arrived_on([[maybe_unused]] Fiber * fiber) {
#ifdef __SANITIZE_ADDRESS__
    const void* from_stack;
    size_t from_bytes;
    __sanitizer_finish_switch_fiber(fiber->asan_fake_stack, &from_stack, &from_bytes);
    State& s = state();
    if (s.left_host) {  // the one chance to learn where the host's stack is
      s.host.stack = static_cast<char*>(const_cast<void*>(from_stack));
      s.host.bytes = from_bytes;
      s.left_host = false;
    }
#endif
  }

  inline void switch_fiber(Fiber * from, Fiber * to) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&from->asan_fake_stack, to->stack, to->bytes);
#endif
#ifdef __SANITIZE_THREAD__
    constexpr unsigned no_synchronisation = 1;
    __tsan_switch_to_fiber(to->tsan_fiber, no_synchronisation);
#endif
    emulator_switch(&from->stack_pointer, to->stack_pointer);
    arrived_on(from);
  }

  // The thread that runs next, by the schedule; null if none is ready. `ready` is a queue going forward, a stack in
  // reverse, a bag at random.
  inline Thread* choose_next() {
    State& s = state();
    if (s.next_ready == s.ready.size()) {
      s.ready.clear();
      s.next_ready = 0;
      return nullptr;
    }
    if (s.order == Order::forward) return s.ready[s.next_ready++];
    if (s.order == Order::random) {
      std::swap(s.ready[s.next_ready + s.random(s.ready.size() - s.next_ready)], s.ready.back());
    }
    Thread* const thread = s.ready.back();
    s.ready.pop_back();
    return thread;
  }

  // Makes `thread` the current one, and returns the fiber to switch to; the host's if there is no thread.
  inline Fiber* enter(Thread * thread) {
    State& s = state();
    s.current = thread;
    if (thread == nullptr) return &s.host;
    if (thread->fiber == nullptr) {
      if (s.idle.empty()) {
        thread->fiber = new_fiber();
      } else {
        thread->fiber = s.idle.back();
        s.idle.pop_back();
      }
    }
    thread->block->started = true;
    threadIdx = thread->index;
    blockIdx = thread->block->index;
    return thread->fiber;
  }

  // The current thread waits, until somebody has called make_ready for it.
  inline void wait(const char* what, const char* file, int line) {
    Thread* const thread = state().current;
    thread->waits_for = what;
    thread->file = file;
    thread->line = line;
    happens_before(&state().order_out);
    Thread* const next = choose_next();
    if (next != thread) switch_fiber(thread->fiber, enter(next));
  }

  inline void make_ready(Thread * thread) {
    thread->waits_at = nullptr;
    state().ready.push_back(thread);
  }

}  // namespace emulator
