// Warp collectives. The lanes of the mask meet in one source line, then each gets its result.
#pragma once
#include "fiber.h"

namespace emulator __attribute__((visibility("hidden"))) {

  enum Operation { kSyncWarp, kShuffle, kShuffleUp, kShuffleDown, kShuffleXor };

  // The lane that `lane` reads from, by the CUDA programming guide.
  inline int source_lane(int operation, int lane, int argument, int width) {
    const int begin = lane & ~(width - 1), end = begin + width;
    switch (operation) {
      case kShuffle:
        return begin + (argument & (width - 1));
      case kShuffleUp:
        return lane - argument < begin ? lane : lane - argument;
      case kShuffleDown:
        return lane + argument >= end ? lane : lane + argument;
      default:
        return (lane ^ argument) >= end ? lane : lane ^ argument;
    }
  }

  inline bool complete(const Collective& collective, const Warp& warp) {
    return collective.arrived != 0 && ((collective.arrived | warp.ended) & collective.mask) == collective.mask;
  }

  inline void finish_collective(Block & block, unsigned warp, Collective& collective) {
    Thread* const lanes = block.threads + warp * kWarp;
    const auto takes_part = [&](int lane) { return (collective.arrived >> lane & 1) != 0; };
    for (int lane = 0; lane < kWarp; ++lane) {
      if (!takes_part(lane)) continue;
      if (collective.operation != kSyncWarp) {
        const int source = source_lane(collective.operation, lane, lanes[lane].argument, collective.width);
        if (!takes_part(source)) {
          throw Error{name_of(lanes[lane]) +
                      text(": the shuffle at %s:%d reads lane %d, which is not in the mask %08x or "
                           "has returned",
                           collective.file, collective.line, source, collective.mask)};
        }
        lanes[lane].result = lanes[source].value;
      }
      make_ready(&lanes[lane]);
    }
    collective.arrived = 0;
    ++collective.phase;
  }

  // The record for `mask`: the one in use for it, else a free one.
  inline Collective& find_collective(Warp & warp, unsigned mask) {
    for (Collective& collective : warp.collective) {
      if (collective.arrived != 0 && collective.mask == mask) return collective;
    }
    for (Collective& collective : warp.collective) {
      if (collective.arrived == 0) return collective;
    }
    fail("more warp collectives at once than lanes");
  }

  inline uint64_t meet(int operation, unsigned mask, uint64_t value, int argument, int width, const char* what,
                       const char* file, int line) {
    const Unwatched unwatched;
    Thread* const thread = state().current;
    const unsigned lane = thread->rank % kWarp, warp_index = thread->rank / kWarp;
    Warp& warp = thread->block->warps[warp_index];
    if (!(mask >> lane & 1)) fail(text("%s %s:%d: lane %u is not in its mask %08x", what, file, line, lane, mask));
    Collective& collective = find_collective(warp, mask);
    if (collective.arrived != 0 && (collective.operation != operation || collective.width != width ||
                                    collective.line != line || strcmp(collective.file, file) != 0)) {
      fail(text("divergent warp collective: this lane is at %s %s:%d, lanes %08x wait at %s:%d", what, file, line,
                collective.arrived, collective.file, collective.line));
    }
    collective.mask = mask;
    collective.arrived |= 1u << lane;
    collective.operation = operation;
    collective.width = width;
    collective.file = file;
    collective.line = line;
    thread->value = value;
    thread->argument = argument;
    thread->waits_at = &collective;
    // Shuffles carry values, but only __syncwarp orders memory.
    char* const order = operation == kSyncWarp ? &collective.order[collective.phase & 1] : nullptr;
    if (order != nullptr) happens_before(order);
    if (complete(collective, warp)) finish_collective(*thread->block, warp_index, collective);
    wait(what, file, line);
    if (order != nullptr) happens_after(order);
    return thread->result;
  }

  template <class T>
  T shuffle(int operation, unsigned mask, T value, int argument, int width, const char* what, const char* file,
            int line) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves at most 64 bits");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = meet(operation, mask, bits, argument, width, what, file, line);
    memcpy(&value, &bits, sizeof value);
    return value;
  }

}  // namespace emulator
