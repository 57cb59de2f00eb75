// Runs every test, or those whose names contain the argument.
#include <chrono>
#include <cstring>
#include <exception>

#include "check.h"

int main(int count, char** arguments) {
  using bidiffsr::tests::Test;
  using Clock = std::chrono::steady_clock;
  int run = 0, failed = 0;
  for (const bidiffsr::KernelInfo& info : bidiffsr::kernels())
    std::printf("%-12s %s\n", info.name.c_str(), info.supported ? "tested" : "not on this CPU");
  for (const Test& test : bidiffsr::tests::all_tests()) {
    if (count > 1 && !std::strstr(test.name, arguments[1])) continue;
    ++run;
    const auto start = Clock::now();
    const char* result = "ok";
    try {
      test.run();
    } catch (const std::exception& failure) {
      ++failed;
      result = "FAILED";
      std::printf("%s\n", failure.what());
    }
    const std::chrono::duration<double> time = Clock::now() - start;
    std::printf("%-6s %5.2f s  %s\n", result, time.count(), test.name);
    std::fflush(stdout);
  }
  std::printf("%d tests, %d failed\n", run, failed);
  return failed || !run ? 1 : 0;
}
