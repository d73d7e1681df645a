// The vector functions of vector.h, one instruction set at a time, for the accuracy tests.
#include "probe.h"

#include "vector.h"

namespace fastloss {
namespace FASTLOSS_ISA {
namespace {

void exp_nonpositive(float* x) { store(x, exp_below_88(load(x))); }
void exp(float* x) { store(x, math::exp(load(x))); }
void expm1(float* x) { store(x, math::expm1(load(x))); }
void log1p(float* x) { store(x, math::log1p(load(x))); }
void log1p_unit(float* x) { store(x, math::log1p_unit(load(x))); }
void log(float* x) { store(x, math::log(load(x))); }
void tanh(float* x) { store(x, math::tanh(load(x))); }
// through the storage type and back
void half(float* x) { store(x, widen(narrow(load(x), Half()), Half())); }
void bfloat16(float* x) { store(x, widen(narrow(load(x), BFloat16()), BFloat16())); }

}  // namespace

extern const MathProbe math_probes[] = {{"exp_nonpositive", exp_nonpositive, kLanes},
                                        {"exp", exp, kLanes},
                                        {"expm1", expm1, kLanes},
                                        {"log", log, kLanes},
                                        {"log1p", log1p, kLanes},
                                        {"log1p_unit", log1p_unit, kLanes},
                                        {"tanh", tanh, kLanes},
                                        {"half", half, kLanes},
                                        {"bfloat16", bfloat16, kLanes},
                                        {nullptr, nullptr, 0}};

}  // namespace FASTLOSS_ISA
}  // namespace fastloss
