// Strings among the arguments of an operator.
#pragma once
#include <torch/csrc/stable/library.h>

#include <string>

namespace fastloss {

// Takes a string over from the caller. (An operator that declares std::string loses one at every call: up to torch
// 2.13, stable::detail::to<std::string> returns a copy of one that it has allocated.)
inline std::string take(StringHandle handle) {
  size_t length = 0;
  const char* data = nullptr;
  TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
  TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
  std::string text(data, length);
  TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
  return text;
}

}  // namespace fastloss
