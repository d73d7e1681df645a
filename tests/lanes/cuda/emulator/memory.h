// Shared memory: a poisoned heap block for every array, so that AddressSanitizer fences it.
#pragma once
#include <cstdlib>

#include "fiber.h"

namespace emulator __attribute__((visibility("hidden"))) {

  inline char* shared_array(Block & block, const void* key, size_t bytes) {
    size_t total = bytes;
    for (const SharedArray& array : block.shared) {
      if (array.key == key) {
        if (array.bytes == bytes) return array.data;
        fail(text("threads disagree about the size of a shared array: %zu and %zu bytes", array.bytes, bytes));
      }
      total += array.bytes;
    }
    if (total > kMaxShared) fail(text("%zu bytes of shared memory, a block has at most %zu", total, kMaxShared));
    void* data = nullptr;
    if (posix_memalign(&data, 128, bytes > 0 ? bytes : 1) != 0) fail("no memory for shared memory");
    memset(data, state().poison, bytes);
    block.shared.push_back({key, static_cast<char*>(data), bytes});
    return static_cast<char*>(data);
  }

  // A static array is known by the address of its key.
  template <class T>
  T& shared_variable(const void* key) {
    static_assert(std::is_trivially_default_constructible<T>::value, "shared variables have no constructors");
    const Unwatched unwatched;
    return *reinterpret_cast<T*>(shared_array(*state().current->block, key, sizeof(T)));
  }

  // A piece of the dynamic shared memory is known by its offset; 0 bytes at an offset are not an array.
  inline char* dynamic_shared_piece(size_t offset, size_t bytes) {
    const Unwatched unwatched;
    State& s = state();
    if (offset + bytes > s.dynamic_shared) {
      fail(text("takes %zu bytes of dynamic shared memory, the launch gave %zu", offset + bytes, s.dynamic_shared));
    }
    return shared_array(*s.current->block, reinterpret_cast<const void*>(offset + 1), bytes);
  }

  // Called by every thread at its end. The last one poisons and frees: a peer that still reads sees a race, freed
  // memory, or at least poison.
  inline void leave_shared_memory(Block & block) {
    happens_before(&block.live);
    if (block.live > 0) return;
    happens_after(&block.live);
    for (SharedArray& array : block.shared) memset(array.data, state().poison, array.bytes);
    const Unwatched unwatched;
    for (SharedArray& array : block.shared) free(array.data);
    block.shared.clear();
  }

  // Distributed shared memory: where `address` of this block's shared memory is in block `rank` of the cluster.
  inline void* map_shared(const void* address, unsigned rank) {
    const Unwatched unwatched;
    Block& own = *state().current->block;
    if (rank >= own.cluster->blocks.size()) fail(text("there is no block %u in the cluster", rank));
    Block& peer = own.cluster->blocks[rank];
    const char* const at = static_cast<const char*>(address);
    for (const SharedArray& array : own.shared) {
      if (at < array.data || at >= array.data + array.bytes) continue;
      if (!peer.started) fail(text("reaches shared memory of block %u of the cluster before it has started", rank));
      if (peer.live == 0) fail(text("reaches shared memory of block %u of the cluster after it has ended", rank));
      return shared_array(peer, array.key, array.bytes) + (at - array.data);
    }
    fail("maps an address that is not in its shared memory");
  }

  inline void copy_16_bytes(void* to, const void* from) {
    for (const void* pointer : {static_cast<const void*>(to), from}) {
      if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) fail(text("misaligned 16-byte access to %p", pointer));
    }
    memcpy(to, from, 16);
    State& s = state();
    if (!s.recording) return;
    for (const void* pointer : {static_cast<const void*>(to), from}) {
      s.accesses.push_back({s.current->block->index.x, s.current->rank, s.current->packs, uintptr_t(pointer)});
    }
    ++s.current->packs;
  }

}  // namespace emulator
