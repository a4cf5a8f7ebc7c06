// What the tests of the runtime and the models share.
#pragma once

#include <algorithm>
#include <exception>
#include <string>

#include "runtime/runtime.hpp"

namespace stpt::testing {

/// The message of the exception that `act` throws; empty if it throws none, or one of another type.
template <class Exception, class Act>
std::string message_of(Act&& act) {
  try {
    act();
  } catch (const Exception& error) {
    return error.what();
  } catch (...) {
  }
  return {};
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// So many CPU workers, or as many as StarPU was built for.
inline int workers_up_to(int workers) {
  return std::min(workers, runtime::Runtime::most_cpu_workers());
}

}  // namespace stpt::testing
