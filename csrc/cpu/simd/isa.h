// Which of the builds of the CPU kernels (csrc/cpu/simd/vector.h) this process uses: the best that the processor runs,
// or, for tests and for comparisons, the one that the environment variable FASTLOSS_CPU_CAPABILITY names, if it is no
// better.
#pragma once
#include <stdlib.h>
#include <string.h>

namespace fastloss {

enum class InstructionSet { baseline, avx2, avx512 };
constexpr const char* kInstructionSetNames[] = {"baseline", "avx2", "avx512"};

inline InstructionSet processor_instruction_set() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c"))
    return InstructionSet::baseline;
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")
             ? InstructionSet::avx512
             : InstructionSet::avx2;
#else
  return InstructionSet::baseline;
#endif
}

// A build may leave sets out (setup.py, FASTLOSS_INSTRUCTION_SETS). They are never chosen; the names below are for the
// linker.
#if defined(__x86_64__) && !defined(FASTLOSS_WITHOUT_AVX2)
#define FASTLOSS_AVX2 avx2
constexpr bool kAvx2IsBuilt = true;
#else
#define FASTLOSS_AVX2 baseline
constexpr bool kAvx2IsBuilt = false;
#endif
#if defined(__x86_64__) && !defined(FASTLOSS_WITHOUT_AVX512)
#define FASTLOSS_AVX512 avx512
constexpr bool kAvx512IsBuilt = true;
#else
#define FASTLOSS_AVX512 baseline
constexpr bool kAvx512IsBuilt = false;
#endif

inline bool runs(InstructionSet set) {
  constexpr bool built[] = {true, kAvx2IsBuilt, kAvx512IsBuilt};
  return set <= processor_instruction_set() && built[int(set)];
}

inline InstructionSet instruction_set() {
  const char* wanted = getenv("FASTLOSS_CPU_CAPABILITY");
  InstructionSet best = InstructionSet::baseline;
  for (const InstructionSet set : {InstructionSet::baseline, InstructionSet::avx2, InstructionSet::avx512}) {
    if (!runs(set)) continue;
    best = set;
    if (wanted && strcmp(wanted, kInstructionSetNames[int(set)]) == 0) break;
  }
  return best;
}

// The entry of the process's instruction set in a table that every build of a kernel file defines.
#define FASTLOSS_FOR_THIS_CPU(table)                                                            \
  (::fastloss::instruction_set() == ::fastloss::InstructionSet::avx512 ? FASTLOSS_AVX512::table \
   : ::fastloss::instruction_set() == ::fastloss::InstructionSet::avx2 ? FASTLOSS_AVX2::table   \
                                                                       : baseline::table)

}  // namespace fastloss
