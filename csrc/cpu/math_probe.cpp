// The vector functions of vector.h, one instruction set at a time, for the accuracy tests.
#include "math_probe.h"

#include "vector.h"

namespace fastloss {
namespace FASTLOSS_ISA {
namespace {

void exp_nonpositive(float* x) { store(x, FASTLOSS_ISA::exp_nonpositive(load(x))); }
void log(float* x) { store(x, math::log(load(x))); }
void tanh(float* x) { store(x, math::tanh(load(x))); }
// through the storage type and back
void half(float* x) { store(x, widen(narrow(load(x), Half()), Half())); }
void bfloat16(float* x) { store(x, widen(narrow(load(x), BFloat16()), BFloat16())); }

}  // namespace

extern const MathProbe math_probes[] = {{"exp_nonpositive", exp_nonpositive, kLanes},
                                        {"log", log, kLanes},
                                        {"tanh", tanh, kLanes},
                                        {"half", half, kLanes},
                                        {"bfloat16", bfloat16, kLanes},
                                        {nullptr, nullptr, 0}};

}  // namespace FASTLOSS_ISA
}  // namespace fastloss
