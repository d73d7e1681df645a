// Which of the builds of the CPU kernels (csrc/cpu/vector.h) this process uses: the best that the processor runs, or,
// for tests and for comparisons, the one that the environment variable FASTLOSS_CPU_CAPABILITY names, if it is no
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

inline InstructionSet instruction_set() {
  const InstructionSet best = processor_instruction_set();
  const char* wanted = getenv("FASTLOSS_CPU_CAPABILITY");
  for (int set = 0; wanted && set <= int(best); ++set) {
    if (strcmp(wanted, kInstructionSetNames[set]) == 0) return InstructionSet(set);
  }
  return best;
}

// A build may leave sets out (setup.py, FASTLOSS_INSTRUCTION_SETS): the baseline's kernels stand in for theirs.
#if defined(__x86_64__) && !defined(FASTLOSS_WITHOUT_AVX2)
#define FASTLOSS_AVX2 avx2
#else
#define FASTLOSS_AVX2 baseline
#endif
#if defined(__x86_64__) && !defined(FASTLOSS_WITHOUT_AVX512)
#define FASTLOSS_AVX512 avx512
#else
#define FASTLOSS_AVX512 baseline
#endif

// The entry of the process's instruction set in a table that every build of a kernel file defines.
#define FASTLOSS_FOR_THIS_CPU(table)                                                            \
  (::fastloss::instruction_set() == ::fastloss::InstructionSet::avx512 ? FASTLOSS_AVX512::table \
   : ::fastloss::instruction_set() == ::fastloss::InstructionSet::avx2 ? FASTLOSS_AVX2::table   \
                                                                       : baseline::table)

}  // namespace fastloss
