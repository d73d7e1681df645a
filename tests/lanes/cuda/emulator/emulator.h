// Runs CUDA C++ kernels on a CPU as ordinary C++, to test them in a machine without a GPU, in many schedules and under
// sanitizers. It is a test tool: nothing here is built into the package.
//
// Every CUDA thread is a fiber with a stack of its own; barriers and warp collectives are the only places where one
// fiber hands over to another, and one OS thread runs them all. A schedule (forward, reverse, or random with a seed)
// decides who is next and in which order blocks run, so a run can be repeated exactly.
//
//   state.h     what exists: threads, blocks, clusters, the settings, errors
//   fiber.h     stacks and switches, and what the sanitizers must be told about them
//   barrier.h   __syncthreads and cluster barriers
//   warp.h      shuffles and __syncwarp
//   memory.h    shared memory, static, dynamic and distributed; checked 16-byte accesses
//   launch.h    a grid: its blocks in the schedule's order, and the report when it is stuck
//   cuda.h      the CUDA names, as far as the kernels use them
//
// It reports: a barrier in two places at once, missed barriers and deadlocks (who waits where), warp collectives that
// do not match, shuffles from lanes that take no part, misaligned 16-byte accesses, dynamic shared memory beyond the
// launch's, distributed shared memory of a block that has not started or has ended, launch shapes that a device
// refuses, GPU_TRAP. Fresh shared memory is poison. AddressSanitizer sees every array of shared memory as a heap block
// of its own. ThreadSanitizer sees every CUDA thread as a thread, ordered by barriers only: it finds races that no
// schedule shows.
//
// What it cannot show: registers, occupancy, coalescing, bank conflicts, speed; memory weaker than its own; the last
// bits of the device's intrinsics. Not there: atomics, votes, cp.async, TMA, cooperative tiles, tensor cores.
//
// Build: g++ -x c++ -std=c++17 -fno-strict-aliasing -fno-gnu-unique -isystem <cuda>/include (x86-64, Linux).
// The emulator of a shared library is its own: everything is hidden but the functions at the end of launch.h.
#pragma once
#include "cuda.h"
