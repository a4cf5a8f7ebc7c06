// An open file of the system's.
#pragma once

#include <unistd.h>

#include <utility>

namespace stpt::runtime {

/// Owns a file descriptor and closes it; may own none.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  /// What open() gave; negative: none.
  explicit FileDescriptor(int number) : number_(number) {}
  FileDescriptor(FileDescriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~FileDescriptor() {
    if (number_ >= 0) ::close(number_);
  }

  explicit operator bool() const { return number_ >= 0; }
  [[nodiscard]] int number() const { return number_; }

 private:
  int number_ = -1;
};

}  // namespace stpt::runtime
