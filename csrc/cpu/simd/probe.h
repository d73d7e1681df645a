#pragma once

namespace fastloss {

struct MathProbe {
  const char* name;
  void (*apply)(float* lanes);  // in place, on `count` floats
  int count;
};

namespace avx512 {
extern const MathProbe math_probes[];
}
namespace avx2 {
extern const MathProbe math_probes[];
}
namespace baseline {
extern const MathProbe math_probes[];
}

}  // namespace fastloss
