// Barriers of a block and of a cluster. Threads that have returned are not waited for, as on a device.
#pragma once
#include "fiber.h"

namespace emulator __attribute__((visibility("hidden"))) {

  inline void open_barrier(Barrier & barrier, Block & block) {
    for (unsigned i = 0; i < block.size; ++i) {
      if (block.threads[i].waits_at == &barrier) make_ready(&block.threads[i]);
    }
  }

  inline void block_barrier(const char* what, const char* file, int line) {
    const Unwatched unwatched;
    Thread* const thread = state().current;
    Block& block = *thread->block;
    Barrier& barrier = block.barrier;
    if (barrier.arrived > 0 && (barrier.line != line || strcmp(barrier.file, file) != 0)) {
      fail(text("divergent barrier: this thread is at %s %s:%d while %u thread(s) of its block wait at %s:%d", what,
                file, line, barrier.arrived, barrier.file, barrier.line));
    }
    barrier.file = file;
    barrier.line = line;
    thread->waits_at = &barrier;
    char* const order = &barrier.order[barrier.phase & 1];
    happens_before(order);
    if (++barrier.arrived == block.live) {
      barrier.arrived = 0;
      ++barrier.phase;
      open_barrier(barrier, block);
    }
    wait(what, file, line);
    happens_after(order);
  }

  inline void complete_cluster_barrier(Cluster & cluster) {
    cluster.barrier.arrived = 0;
    ++cluster.barrier.phase;
    for (Block& block : cluster.blocks) open_barrier(cluster.barrier, block);
  }

  inline void cluster_arrive(const char* file, int line) {
    const Unwatched unwatched;
    Thread* const thread = state().current;
    Cluster& cluster = *thread->block->cluster;
    if (thread->cluster_arrived) fail(text("arrives twice at the cluster barrier, %s:%d", file, line));
    thread->cluster_arrived = true;
    thread->cluster_phase = cluster.barrier.phase;
    happens_before(&cluster.barrier.order[cluster.barrier.phase & 1]);
    if (++cluster.barrier.arrived == cluster.live) complete_cluster_barrier(cluster);
  }

  inline void cluster_wait(const char* file, int line) {
    const Unwatched unwatched;
    Thread* const thread = state().current;
    Barrier& barrier = thread->block->cluster->barrier;
    if (!thread->cluster_arrived) fail(text("waits at the cluster barrier without having arrived, %s:%d", file, line));
    if (barrier.phase == thread->cluster_phase) {
      thread->waits_at = &barrier;
    } else {
      make_ready(thread);  // complete already; others may run first all the same
    }
    wait("the cluster barrier", file, line);
    thread->cluster_arrived = false;
    happens_after(&barrier.order[thread->cluster_phase & 1]);
  }

}  // namespace emulator
