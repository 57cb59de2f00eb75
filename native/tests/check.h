// What the native tests share: checks, a list of tests that fills itself, and random numbers.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "bidiffsr/kernels.h"
#include "kernels/kernel.h"

namespace bidiffsr::tests {

struct CheckFailed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
  throw CheckFailed(std::string(file) + ":" + std::to_string(line) + ": " + what);
}

// `about` says which case it was: a string, made only on failure.
#define CHECK_THAT(condition, about)                                                         \
  do {                                                                                       \
    if (!(condition))                                                                        \
      ::bidiffsr::tests::fail(__FILE__, __LINE__, std::string(#condition) + "; " + (about)); \
  } while (false)
#define CHECK(condition)                                                       \
  do {                                                                         \
    if (!(condition)) ::bidiffsr::tests::fail(__FILE__, __LINE__, #condition); \
  } while (false)
#define CHECK_THROWS(exception, expression, about)                               \
  do {                                                                           \
    bool thrown = false;                                                         \
    try {                                                                        \
      (void)(expression);                                                        \
    } catch (const exception&) {                                                 \
      thrown = true;                                                             \
    }                                                                            \
    if (!thrown)                                                                 \
      ::bidiffsr::tests::fail(                                                   \
          __FILE__, __LINE__,                                                    \
          std::string(#expression " did not throw " #exception "; ") + (about)); \
  } while (false)

struct Test {
  const char* name;
  void (*run)();
};
// In order of definition within a file.
inline std::vector<Test>& all_tests() {
  static std::vector<Test> tests;
  return tests;
}
struct Registered {
  Registered(const char* name, void (*run)()) { all_tests().push_back({name, run}); }
};
#define TEST(name)                                                           \
  static void name();                                                        \
  static const ::bidiffsr::tests::Registered name##_registered(#name, name); \
  static void name()

// Runs body(kernel) for every kernel that this CPU has.
template <class Body>
void for_each_kernel(const Body& body) {
  for (const KernelInfo& info : kernels()) {
    if (!info.supported) continue;
    try {
      body(*info.kernel);
    } catch (const CheckFailed& failure) {
      throw CheckFailed(std::string(failure.what()) + " [kernel " + info.name + "]");
    }
  }
}

// The same numbers everywhere (splitmix64; Steele et al. 2014).
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t bits() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int below(int bound) { return static_cast<int>(bits() % static_cast<std::uint64_t>(bound)); }
  // Uniform in [low, high).
  float uniform(float low = -1, float high = 1) {
    return low + (high - low) * static_cast<float>(bits() >> 40) * 0x1p-24f;
  }
  std::vector<float> floats(std::size_t count, float low = -1, float high = 1) {
    std::vector<float> result(count);
    for (float& value : result) value = uniform(low, high);
    return result;
  }

 private:
  std::uint64_t state_;
};

inline std::string text(const char* name, double value) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, "%s %.9g ", name, value);
  return buffer;
}

// |a - b| <= tolerance · scale; NaN is near nothing.
inline bool near(double a, double b, double tolerance, double scale) {
  return std::abs(a - b) <= tolerance * scale;
}

}  // namespace bidiffsr::tests
