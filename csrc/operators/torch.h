// What the operators of all skeletons ask of torch: dtypes, shapes and layouts, strings, refusals. In Python,
// fastloss/operators. Torch's stable ABI only, so that one binary serves every torch from 2.10 on.
//
// The files beside this one are compiled once for each device, -DFASTLOSS_DEVICE=cpu or cuda; device.h of its folder
// says where memory comes from and what the kernels are told of the device. The kernels behind csrc/problems are its
// own.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../dtypes.h"
#include "../layout.h"

namespace fastloss {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = std::vector<int64_t>;

[[noreturn]] inline void refuse(const std::string& what) { throw std::runtime_error("fastloss: " + what); }

// Takes a string over from the caller: an operator declares its strings as StringHandle, which FASTLOSS_OPERATOR sees
// to. (One that declares std::string loses it at every call: up to torch 2.13, stable::detail::to<std::string> returns
// a copy of one that it has allocated.)
inline std::string take(StringHandle handle) {
  size_t length = 0;
  const char* data = nullptr;
  TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
  TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
  std::string text(data, length);
  TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
  return text;
}

template <class T>
struct TakesString;
template <class Result, class... Arguments>
struct TakesString<Result (*)(Arguments...)> {
  static constexpr bool value = (std::is_same_v<std::decay_t<Arguments>, std::string> || ...);
};

// Registers the function `name` as the operator of that name, in STABLE_TORCH_LIBRARY_IMPL(fastloss, ..., m).
#define FASTLOSS_OPERATOR(name)                                                                           \
  static_assert(!TakesString<decltype(&name)>::value, "an operator takes its strings over, see torch.h"); \
  m.impl(#name, TORCH_BOX(&name))

inline DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::float32;
    case ScalarType::Double:
      return DType::float64;
    case ScalarType::Half:
      return DType::float16;
    case ScalarType::BFloat16:
      return DType::bfloat16;
    case ScalarType::Bool:
      return DType::boolean;
    case ScalarType::Byte:
      return DType::uint8;
    case ScalarType::Int:
      return DType::int32;
    case ScalarType::Long:
      return DType::int64;
    default:
      refuse("no kernels for this dtype");
  }
}

inline DType floating_dtype_of(const Tensor& tensor, const char* what) {
  const DType type = dtype_of(tensor);
  if (!is_floating(type)) refuse(std::string(what) + " must be floating-point");
  return type;
}

inline ScalarType floating_type(int64_t code) {
  constexpr ScalarType types[] = {ScalarType::Float, ScalarType::Double, ScalarType::Half, ScalarType::BFloat16};
  if (code < 0 || !is_floating(DType(code))) refuse("unknown dtype code");
  return types[code];
}

inline void* data_of(const std::optional<Tensor>& tensor) { return tensor ? tensor->data_ptr() : nullptr; }

// What a kernel that has refused a call means.
inline const char* meaning_of(int status) {
  switch (status) {
    case kUnknownLoss:
      return "no such loss";
    case kWrongParameters:
      return "wrong number of parameters for this loss";
    case kWrongOperands:
      return "wrong number of operands for this loss";
    case kUnknownDType:
      return "unsupported dtype";
    case kTooManyClasses:
      return "more than 2^30 classes";
    case kWrongStarts:
      return "the starts of sequences must rise from 0 to the number of steps";
    default:
      return "unknown status";
  }
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
      if (t.size(d) != size && t.size(d) != 1) refuse("the operands do not broadcast");
    }
  }
  if (sizes.size() > size_t(kMaxDimensions)) refuse("more than " + std::to_string(kMaxDimensions) + " dimensions");
  return sizes;
}

// The strides of t along a broadcast shape, 0 along the dimensions in which it is broadcast.
inline void strides_in(const Tensor& t, const Sizes& sizes, int64_t* strides) {
  const int64_t missing = int64_t(sizes.size()) - t.dim();
  for (int64_t d = 0; d < int64_t(sizes.size()); ++d) {
    const int64_t size = d < missing ? 1 : t.size(d - missing);
    if (missing < 0 || (size != 1 && size != sizes[size_t(d)])) refuse("a weight does not broadcast to the operands");
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

// csrc/<device>/device.h: the dispatch key FASTLOSS_KEY, and
//   Place(like)                      the device of a tensor, for the duration of a call
//   empty(sizes, strides, type)      an uninitialised tensor there, also with contiguous strides
//   scratch(count)                   doubles that live as long as the Place, where the kernels see them
//   Device device                    what the kernels are told
//   check(status)                    raises what a kernel has returned
// clang-format off
#define FASTLOSS_QUOTED(path) #path
#define FASTLOSS_HEADER_OF(folder) FASTLOSS_QUOTED(../folder/device.h)
#include FASTLOSS_HEADER_OF(FASTLOSS_DEVICE)
// clang-format on
