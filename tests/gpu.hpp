// What tests that need a GPU share.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "runtime/gpu.hpp"
#include "tests/catch.hpp"

/// Ends the test where there are fewer than `count` GPUs; ctest then shows it as skipped.
#define NEEDS_GPUS(count)                                                    \
  if (stpt::runtime::find_gpus().size() < static_cast<std::size_t>(count)) { \
    std::puts("skipped: no CUDA device, or fewer than the test needs");      \
    SUCCEED("no CUDA device");                                               \
    return;                                                                  \
  }                                                                          \
  static_assert(true)

namespace stpt::testing {

/// CUDA's numbers of the first `count` GPUs.
inline std::vector<int> first_gpus(int count) {
  std::vector<int> numbers;
  for (int number = 0; number < count; ++number) numbers.push_back(number);
  return numbers;
}

/// Sets an environment variable for as long as it lives.
class WithEnvironment {
 public:
  WithEnvironment(std::string name, const std::string& value) : name_(std::move(name)) {
    if (const char* before = std::getenv(name_.c_str())) before_ = before;
    setenv(name_.c_str(), value.c_str(), 1);
  }
  ~WithEnvironment() {
    if (before_.empty()) {
      unsetenv(name_.c_str());
    } else {
      setenv(name_.c_str(), before_.c_str(), 1);
    }
  }
  WithEnvironment(const WithEnvironment&) = delete;
  WithEnvironment& operator=(const WithEnvironment&) = delete;

 private:
  std::string name_, before_;
};

}  // namespace stpt::testing
