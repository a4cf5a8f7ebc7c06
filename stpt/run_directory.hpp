// The directory that holds all that a run produced.
#pragma once

#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>

#include "stpt/record.hpp"

namespace stpt {

/// One line that says which file or directory cannot be used, and what would help.
class OutputError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Writes a file so that readers, and a crash, see either the old contents or the new.
/// Throws OutputError.
void write_file_atomically(const std::filesystem::path& file, std::string_view contents);

class RunDirectory {
 public:
  /// Throws OutputError if a new run may not write to `output` (empty: the default place, always
  /// fine). Touches nothing, so that it can be asked before anything else is known to be right.
  static void check(const std::filesystem::path& output);

  /// Makes the directory for a new run: `output`, or runs/<name>-<YYYYmmdd-HHMMSS>, with -2, -3, …
  /// appended if another run has just taken that.
  static RunDirectory create(const std::filesystem::path& output, const std::string& name);

  /// The directory of an earlier run, to go on with it; throws OutputError if there is none.
  static RunDirectory open(const std::filesystem::path& directory);

  RunDirectory(RunDirectory&& other) noexcept;
  RunDirectory& operator=(RunDirectory&& other) noexcept;
  ~RunDirectory();

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path file(std::string_view name) const { return path_ / name; }

  /// config.json, of the resolved configuration.
  void write_config(std::string_view text) const;

  /// (Re)writes metrics.jsonl: a header line and one line for each epoch the record already has.
  /// To resume: read_metrics(), drop the epochs after the checkpoint, then this.
  void begin_metrics(const RunRecord& run);
  /// Appends an epoch's line and has it on disk before returning.
  void append_epoch(const EpochRecord& epoch);
  /// What metrics.jsonl says; a last line cut short by a crash is passed over.
  RunRecord read_metrics() const;

  void write_summary(const RunRecord& run) const;
  void write_report(const RunRecord& run) const;

 private:
  explicit RunDirectory(std::filesystem::path path) : path_(std::move(path)) {}

  std::filesystem::path path_;
  int metrics_ = -1;  ///< descriptor of metrics.jsonl, open for appending
};

}  // namespace stpt
