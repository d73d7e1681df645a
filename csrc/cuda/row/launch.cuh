// What the launches of all row kernels have in common.
#pragma once
#include "../gpu.h"

namespace fastloss {

constexpr int kLaneRowClasses = 1024;         // rows up to here are shared by lanes of a warp
constexpr int kPacksPerThread = 4;            // what a thread has in flight (traverse)
constexpr long long kMaxClasses = 1ll << 30;  // a row is indexed with int

inline int round_up(long long count, int multiple) { return int((count + multiple - 1) / multiple * multiple); }

inline unsigned block_threads(int slice, int pack, int max_threads) {
  unsigned threads = 128;
  while (threads < unsigned(max_threads) && slice > int(threads) * kPacksPerThread * pack) threads *= 2;
  return threads;
}

// Lanes of a warp that share a row of so many packs.
inline int lanes_for(int classes, int pack) {
  int lanes = 4;
  while (lanes < 32 && lanes * pack < classes) lanes *= 2;
  return lanes;
}

// Parts that the classes of a column are shared among.
inline unsigned parts_for(int classes, int max_parts, int class_group) {
  unsigned parts = 1;
  while (parts < unsigned(max_parts) && long(parts) * 2 * class_group <= classes) parts *= 2;
  return parts;
}

// A launch has no more blocks than the device's grid, so that many rows take several launches. `rows_of_group` rows
// take `blocks_of_group` blocks.
template <class Job>
int launch_all(void (*kernel)(const Job), Job job, long long rows_of_group, unsigned blocks_of_group, dim3 block,
               unsigned cluster, size_t shared_bytes, const Device& device) {
  const long long most = device.grid_blocks / blocks_of_group, groups = (job.rows + rows_of_group - 1) / rows_of_group;
  for (long long group = 0; group < groups; group += most) {
    if (group > 0) job.skip(most * rows_of_group);  // to rows that exist: an address beyond them may overflow
    const long long left = groups - group;
    const dim3 grid(unsigned(left < most ? left : most) * blocks_of_group);
    const int status = launch(kernel, grid, block, cluster, shared_bytes, static_cast<GpuStream>(device.stream), job);
    if (status != 0) return status;
  }
  return 0;
}

}  // namespace fastloss
