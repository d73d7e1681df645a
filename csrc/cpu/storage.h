// The element types that CPU kernels read; they write the first four.
#pragma once

namespace fastloss {

enum class DType : int { float32, float64, float16, bfloat16, boolean, uint8, int32, int64 };

}  // namespace fastloss
