// How a pointwise kernel walks over tensors of different layouts: the broadcast shape with its dimensions reordered and
// merged until nothing more can be, in the manner of torch's TensorIterator. No torch, no CUDA: both devices use it.
#pragma once
#include <stdint.h>

#include <utility>

namespace fastloss {

constexpr int kMaxDimensions = 8;  // of the broadcast shape, as in fastloss/operators/pointwise.py
constexpr int kMaxTensors = 20;    // operands, weight, scale, upstream gradient, loss and gradients

struct Iteration {
  int dimensions = 0;  // after merging; 0 for a single element
  int tensors = 0;
  int64_t numel = 1;
  int64_t size[kMaxDimensions] = {};                 // slowest first
  int64_t stride[kMaxTensors][kMaxDimensions] = {};  // in elements; 0 along a broadcast dimension

  bool contiguous(int tensor) const { return dimensions == 0 || (dimensions == 1 && stride[tensor][0] == 1); }
};

// `stride[t]` holds the strides of tensor t along all `dimensions` of `size` (the broadcast shape). The order of the
// dimensions follows the strides of the tensors, the first tensor first, so that the fastest one comes last.
inline Iteration iteration(int dimensions, const int64_t* size, int tensors, const int64_t (*stride)[kMaxDimensions]) {
  int order[kMaxDimensions];
  int kept = 0;
  for (int d = 0; d < dimensions; ++d) {
    if (size[d] != 1) order[kept++] = d;
  }
  // By insertion, as torch does: "slower than" is not transitive where broadcast dimensions leave it open.
  const auto slower = [&](int a, int b) {
    for (int t = 0; t < tensors; ++t) {
      const int64_t sa = stride[t][a], sb = stride[t][b];
      if (sa != sb && sa != 0 && sb != 0) return sa > sb;
    }
    return false;
  };
  for (int k = 1; k < kept; ++k) {
    for (int j = k; j > 0 && slower(order[j], order[j - 1]); --j) std::swap(order[j], order[j - 1]);
  }
  Iteration it;
  it.tensors = tensors;
  for (int k = 0; k < kept; ++k) {
    const int d = order[k];
    it.numel *= size[d];
    const int last = it.dimensions - 1;
    bool merge = last >= 0;
    for (int t = 0; merge && t < tensors; ++t) merge = it.stride[t][last] == stride[t][d] * size[d];
    const int at = merge ? last : it.dimensions++;
    it.size[at] = merge ? it.size[at] * size[d] : size[d];
    for (int t = 0; t < tensors; ++t) it.stride[t][at] = stride[t][d];
  }
  return it;
}

}  // namespace fastloss
