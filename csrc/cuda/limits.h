// What the launchers ask of the device; the tests describe devices of their own. Plain C.
#pragma once

namespace fastloss {

struct Device {
  int arch;              // 80, 90, 100 ...
  int processors;        // streaming multiprocessors
  int shared_per_block;  // bytes a block may have after opting in
  int shared_per_processor;
  int grid_blocks;  // of one launch at most
  void* stream;
};

}  // namespace fastloss
