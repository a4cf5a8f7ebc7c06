// What ends a run from outside, and what does not.
#pragma once

#include <atomic>
#include <csignal>
#include <functional>

namespace stpt {

/// From here on a write beyond `ulimit -f` fails, with a message, instead of killing the process.
void ignore_file_size_limit();

/// From here on nobody need read what is printed: the files of a run are what counts.
void ignore_broken_pipes();

/// While it lives the first SIGINT or SIGTERM asks the run to stop, and the second one kills. One
/// at a time.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// Whether one has come, and which (0: none).
  [[nodiscard]] static const std::atomic<bool>& requested();
  [[nodiscard]] static int last();

 private:
  struct sigaction interrupt_ {};
  struct sigaction terminate_ {};
};

/// StarPU aborts the process where it cannot go on: where CUDA fails in its own calls, as it does
/// once a GPU is lost, or where its watchdog is told to. While this lives `speak` is called first,
/// in the thread that aborts, and the process exits with status 1. One at a time.
class BeforeAbort {
 public:
  explicit BeforeAbort(std::function<void()> speak);
  ~BeforeAbort();
  BeforeAbort(const BeforeAbort&) = delete;
  BeforeAbort& operator=(const BeforeAbort&) = delete;

 private:
  void (*before_)(int);
};

}  // namespace stpt
