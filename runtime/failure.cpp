#include "runtime/failure.hpp"

#include <utility>

namespace stpt::runtime {

void Failure::record(const std::string& message, std::exception_ptr cause) noexcept {
  const std::scoped_lock lock(mutex_);
  if (failed_.load(std::memory_order_relaxed)) return;
  try {
    message_ = message;
  } catch (...) {
    // No memory for the text; that there was a failure still counts.
  }
  cause_ = std::move(cause);
  failed_.store(true, std::memory_order_release);
}

std::string Failure::message() const {
  const std::scoped_lock lock(mutex_);
  return message_;
}

void Failure::rethrow() const {
  if (!failed()) return;
  const std::scoped_lock lock(mutex_);
  if (!cause_) throw TaskError(message_);
  try {
    std::rethrow_exception(cause_);
  } catch (...) {
    std::throw_with_nested(TaskError(message_));
  }
}

}  // namespace stpt::runtime
