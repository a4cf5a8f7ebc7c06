// The directory that holds all that a run produced.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "runtime/file_descriptor.hpp"
#include "runtime/input_error.hpp"
#include "stpt/files/record.hpp"

namespace stpt {

/// One line that says which file or directory cannot be used, and what would help.
class OutputError : public InputError {
  using InputError::InputError;
};

/// Writes a file, its parts one behind the other, so that readers, and a crash, see either the old
/// contents or the new. Throws OutputError.
void write_file_atomically(const std::filesystem::path& file,
                           std::span<const std::string_view> parts);
void write_file_atomically(const std::filesystem::path& file, std::string_view contents);

/// What lies in a run's directory.
inline constexpr std::string_view config_name = "config.json";
inline constexpr std::string_view metrics_name = "metrics.jsonl";
inline constexpr std::string_view summary_name = "summary.json";
inline constexpr std::string_view report_name = "report.html";
inline constexpr std::string_view checkpoint_name = "checkpoint.bin";

/// What reads or writes its files throws OutputError.
class RunDirectory {
 public:
  /// Throws OutputError if a new run may not write to `output` (empty: the default place, always
  /// fine). Touches nothing, so that it can be asked before anything else is known to be right.
  static void check(const std::filesystem::path& output);

  /// Makes and locks the directory for a new run: `output`, or runs/<name>-<YYYYmmdd-HHMMSS>, with
  /// -2, -3, … appended if another run has just taken that. `name` is a run file's.
  static RunDirectory create(const std::filesystem::path& output, const std::string& name);

  /// The directory of an earlier run, to read it; throws OutputError if there is none.
  static RunDirectory open(const std::filesystem::path& directory);
  /// To go on with the run: as long as this lives no other process does. Throws OutputError if one
  /// writes to it now.
  void lock();
  /// False also where the file system has no locks; lock() lets that pass.
  [[nodiscard]] bool locked() const { return lock_ != nullptr; }

  RunDirectory(RunDirectory&& other) noexcept;
  RunDirectory& operator=(RunDirectory&& other) noexcept;
  ~RunDirectory();

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::filesystem::path file(std::string_view name) const { return path_ / name; }
  /// Where `wanted` leads, whose contents may be replaced. Throws OutputError if that is no file,
  /// or one of the run's own. `option` is what asks for it.
  [[nodiscard]] std::filesystem::path other_file(const std::filesystem::path& wanted,
                                                 const std::string& option) const;

  /// config.json, of the resolved configuration.
  void write_config(std::string_view text) const;

  /// (Re)writes metrics.jsonl: a header line and one line for each epoch the record already has.
  /// To resume: read_metrics(), drop the epochs after the checkpoint, then this. Takes away
  /// half-written files of a process that was killed.
  void begin_metrics(const RunRecord& run);
  /// Appends an epoch's line and has it on disk before returning.
  void append_epoch(const EpochRecord& epoch);
  /// What metrics.jsonl says, nothing if there is none; a last line cut short by a crash is passed
  /// over.
  [[nodiscard]] RunRecord read_metrics() const;

  void write_summary(const RunRecord& run) const;
  /// Whether the summary says that the run has come to its end.
  [[nodiscard]] bool is_complete() const;
  void write_report(const RunRecord& run) const;

 private:
  class Lock;
  explicit RunDirectory(std::filesystem::path path);
  void remove_temporaries() const;

  std::filesystem::path path_;
  runtime::FileDescriptor metrics_;  ///< metrics.jsonl, open for appending
  std::unique_ptr<Lock> lock_;
};

}  // namespace stpt
