// The first failure inside a task. Tasks never throw through StarPU: they record here, later tasks
// do nothing, and whoever waits asks.
#pragma once

#include <atomic>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>

namespace stpt::runtime {

/// A task failed; what() names the task and the reason in one line. What the task threw is nested
/// in it.
class TaskError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Failure {
 public:
  /// Keeps the message if it is the first, and the exception that it is of.
  void record(const std::string& message, std::exception_ptr cause = nullptr) noexcept;
  [[nodiscard]] bool failed() const noexcept { return failed_.load(std::memory_order_acquire); }
  /// Of the first failure; empty if there was none.
  [[nodiscard]] std::string message() const;
  /// Throws TaskError with the first failure's message, if there was one.
  void rethrow() const;

 private:
  mutable std::mutex mutex_;
  std::string message_;
  std::exception_ptr cause_;
  std::atomic<bool> failed_ = false;
};

}  // namespace stpt::runtime
