// What tools/mutants/schemata.py writes into the C++ kernels: a mutant of number K beside the original, and the choice
// between them when the program runs (FASTLOSS_MUTANT=K). One build then has all mutants of a kind. Included before all
// else, by an option of the compiler.
//
// An operator is mutated by a second one of the same precedence beside it: a - b becomes a - minus<K>{} - b, which is
// (a - minus<K>{}) - b, whatever a and b are made of.
#pragma once

#include <stdio.h>
#include <stdlib.h>

namespace mutant {

inline const int chosen = getenv("FASTLOSS_MUTANT") ? atoi(getenv("FASTLOSS_MUTANT")) : 0;
inline bool reached = false;

// Says that the mutant was reached, by a file: nothing can be concluded from a test of one that was not.
inline void report() {
  if (__atomic_exchange_n(&reached, true, __ATOMIC_RELAXED)) return;
  if (FILE* file = fopen(getenv("FASTLOSS_MUTANT_REACHED"), "w")) fclose(file);
}

// False where the compiler asks: a mutant of a constant needs a build of its own.
template <int K>
constexpr bool on() {
  if (__builtin_is_constant_evaluated()) return false;
  if (chosen != K) return false;
  report();
  return true;
}

#define MUTANT_OPERATOR(name, original, mutated)                           \
  template <int K>                                                         \
  struct name {};                                                          \
  template <class L, int K>                                                \
  struct name##_of {                                                       \
    const L& left;                                                         \
  };                                                                       \
  template <class L, int K>                                                \
  constexpr name##_of<L, K> operator original(const L& left, name<K>) {    \
    return {left};                                                         \
  }                                                                        \
  template <class L, int K, class R>                                       \
  constexpr auto operator original(name##_of<L, K> pair, const R& right) { \
    return on<K>() ? pair.left mutated right : pair.left original right;   \
  }

MUTANT_OPERATOR(less, <, <=)
MUTANT_OPERATOR(greater, >, >=)
MUTANT_OPERATOR(at_most, <=, <)
MUTANT_OPERATOR(at_least, >=, >)
MUTANT_OPERATOR(equal, ==, !=)
MUTANT_OPERATOR(minus, -, +)
MUTANT_OPERATOR(plus, +, -)
MUTANT_OPERATOR(both, &, |)

// left += right becomes left += into<K>{} += right; these associate from the right.
template <int K>
struct into {};
template <class R, int K>
struct into_of {
  const R& right;
};
template <int K, class R>
constexpr into_of<R, K> operator+=(into<K>, const R& right) {
  return {right};
}
template <class L, class R, int K>
constexpr L& operator+=(L& left, into_of<R, K> sum) {
  return on<K>() ? left -= sum.right : left += sum.right;
}

// -x becomes negative<K>{}->*x, the binary operator that binds almost as a unary one does.
template <int K>
struct negative {};
template <int K, class R>
constexpr auto operator->*(negative<K>, const R& right) {
  return on<K>() ? decltype(-right)(right) : -right;
}

}  // namespace mutant
