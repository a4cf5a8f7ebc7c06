// What all ranks of a job do together before they train.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>

namespace stpt {

/// A start that failed on some rank: what to say, once, and the status for all.
class StartError : public std::runtime_error {
 public:
  StartError(const std::string& message, int status)
      : std::runtime_error(message), status_(status) {}
  [[nodiscard]] int status() const { return status_; }

 private:
  int status_;
};

/// Does something on every rank and goes on only if it worked on all of them: else all throw the
/// first failing rank's error, as StartError. On a job of one rank errors pass as they are.
void on_all_ranks(const std::function<void()>& step);

}  // namespace stpt
