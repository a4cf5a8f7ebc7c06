// What rank 0 writes and shows while the job trains: the run directory's files, the progress line
// and the result.
#pragma once

#include <chrono>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "stpt/files/record.hpp"
#include "stpt/files/run_directory.hpp"
#include "stpt/progress.hpp"
#include "stpt/trainer.hpp"

namespace stpt {

/// "2 images cannot be read; others of their class stand in: a.jpg: is empty; b.jpg: ..."
[[nodiscard]] std::string unreadable_line(const std::vector<std::string>& images);

/// Other ranks' failures come from a thread of their own: any function may be called from any
/// thread.
class RunOutput {
 public:
  /// `start`: the record until now. The directory must outlive this.
  RunOutput(RunDirectory& directory, const RunRecord& start, std::string version,
            std::vector<RankRecord> ranks);

  /// The notices are said first, a line each. Does nothing behind a failure. Throws
  /// OutputError.
  void begin(std::span<const std::string> notices);

  /// Shows progress, and writes each epoch. Must not outlive this.
  [[nodiscard]] TrainerObserver observer();

  /// Says which images cannot be read if there are more than when it was last called.
  void name_unreadable(const std::vector<std::string>& images);

  /// Writes what the run has come to, unless a failure came first: then false. Throws OutputError.
  [[nodiscard]] bool finish(const RunRecord& run);

  /// Throws std::runtime_error if standard output cannot be written to.
  void print_result(const RunRecord& run) const;

  /// Writes and tells the first failure.
  void fail(const std::string& failure);

 private:
  [[nodiscard]] RunRecord stamped(RunRecord run) const;

  RunDirectory& directory_;
  std::string version_;
  std::vector<RankRecord> ranks_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double earlier_seconds_;
  RunRecord last_;
  ProgressLine progress_;
  bool failed_ = false, finished_ = false;
  std::size_t named_ = 0;  ///< unreadable images
  std::mutex mutex_;
};

}  // namespace stpt
