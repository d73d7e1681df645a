// Shapes and layouts of the tensors of a pointwise call, as the operators on the CPU and on a GPU see them; in Python,
// fastloss/operators/pointwise.py. Torch's stable ABI only.
#pragma once
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "iteration.h"

namespace fastloss {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = std::vector<int64_t>;

// The floating-point type with this number in fastloss/core/arguments.py.
inline ScalarType floating_type(int64_t code) {
  constexpr ScalarType types[] = {ScalarType::Float, ScalarType::Double, ScalarType::Half, ScalarType::BFloat16};
  if (code < 0 || code > 3) throw std::runtime_error("fastloss: unknown dtype code");
  return types[code];
}

inline Sizes sizes_of(const Tensor& t) {
  Sizes sizes(size_t(t.dim()));
  for (size_t d = 0; d < sizes.size(); ++d) sizes[d] = t.size(int64_t(d));
  return sizes;
}

inline Sizes strides_of(const Tensor& t) {
  Sizes strides(size_t(t.dim()));
  for (size_t d = 0; d < strides.size(); ++d) strides[d] = t.stride(int64_t(d));
  return strides;
}

inline Sizes contiguous_strides(const Sizes& sizes) {
  Sizes strides(sizes.size());
  int64_t next = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = next;
    next *= sizes[d];
  }
  return strides;
}

inline Sizes broadcast_shape(const std::vector<Tensor>& tensors) {
  Sizes sizes;
  for (const Tensor& t : tensors) {
    const int64_t more = t.dim() - int64_t(sizes.size());
    if (more > 0) sizes.insert(sizes.begin(), size_t(more), 1);
  }
  for (const Tensor& t : tensors) {
    const int64_t missing = int64_t(sizes.size()) - t.dim();
    for (int64_t d = 0; d < t.dim(); ++d) {
      int64_t& size = sizes[size_t(missing + d)];
      if (size == 1) size = t.size(d);
      if (t.size(d) != size && t.size(d) != 1) throw std::runtime_error("fastloss: the operands do not broadcast");
    }
  }
  if (sizes.size() > size_t(kMaxDimensions)) throw std::runtime_error("fastloss: more than 8 dimensions");
  return sizes;
}

// The strides of t along a broadcast shape, 0 along the dimensions in which it is broadcast.
inline void strides_in(const Tensor& t, const Sizes& sizes, int64_t* strides) {
  const int64_t missing = int64_t(sizes.size()) - t.dim();
  for (int64_t d = 0; d < int64_t(sizes.size()); ++d) {
    const int64_t size = d < missing ? 1 : t.size(d - missing);
    if (missing < 0 || (size != 1 && size != sizes[size_t(d)]))
      throw std::runtime_error("fastloss: a weight does not broadcast to the operands");
    strides[d] = size == 1 ? 0 : t.stride(d - missing);
  }
}

// Do the elements fill a block of memory, each once?
inline bool is_dense(const Tensor& t) {
  std::vector<std::pair<int64_t, int64_t>> steps;  // (stride, size)
  for (int64_t d = 0; d < t.dim(); ++d) {
    if (t.size(d) != 1) steps.emplace_back(t.stride(d), t.size(d));
  }
  std::sort(steps.begin(), steps.end());
  int64_t expected = 1;
  for (const auto& [stride, size] : steps) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

// The strides of an output of this shape: those of the first of the tensors that has one place for every element, else
// contiguous ones.
inline Sizes output_strides(const std::vector<const Tensor*>& layouts, const Sizes& sizes) {
  for (const Tensor* t : layouts) {
    if (sizes_of(*t) == sizes && is_dense(*t)) return strides_of(*t);
  }
  return contiguous_strides(sizes);
}

}  // namespace fastloss
