// What the kernels are told of the CPU: how to use its threads. They see nothing of torch, whose inline functions must
// not be compiled for an instruction set of the kernels'.
#pragma once
#include <stdint.h>

namespace fastloss {

struct Device {
  // body(first task, last task, context), side by side for parts of [0, tasks) that have `grain` tasks at least
  void (*parallel_for)(int64_t tasks, int64_t grain, void (*body)(int64_t, int64_t, void*), void* context);
  int64_t target_out_of_range;  // the kernels' answer beside kTargetOutOfRange
};

// body(first task, last task)
template <class Body>
void for_tasks(const Device& device, int64_t tasks, int64_t grain, const Body& body) {
  if (tasks <= grain) return body(int64_t(0), tasks);
  device.parallel_for(
      tasks, grain,
      [](int64_t first, int64_t last, void* context) { (*static_cast<const Body*>(context))(first, last); },
      const_cast<Body*>(&body));
}

}  // namespace fastloss
