// What a person sees while a run goes on: a line with the speed and the time left, and one per
// epoch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <ostream>
#include <string>

#include "stpt/files/record.hpp"

namespace stpt {

struct ProgressState {
  int epoch = 0, epochs = 0;  ///< from 1
  std::string phase;          ///< "warm-up", "pre-train", "main-train", "test", ...
  /// Work done and to do in the whole run, losers' share included, in any unit that passes evenly.
  std::int64_t done = 0, planned = 0;
  double images_per_second = 0;  ///< 0: not known yet
  double learning_rate = 0;
  std::optional<double> train_top1;  ///< in [0, 1]
  std::optional<double> test_top1;
  double elapsed = 0;  ///< seconds since the run began or went on
};

/// On a terminal one line that is redrawn in place, elsewhere plain lines now and then. Not
/// thread-safe.
class ProgressLine {
 public:
  using Clock = std::function<double()>;  ///< seconds, monotonic
  using Width = std::function<int()>;     ///< columns of the terminal

  /// Where clock or width are empty: the steady clock, and the width of the terminal on stderr.
  ProgressLine(std::ostream& out, bool terminal, Clock clock = {}, Width width = {});
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  /// Cheap where it is too early to draw again: ten times a second on a terminal, else every 10 s.
  void update(const ProgressState& state);
  void epoch_done(const EpochRecord& record);
  /// Any other line, printed above the one that is redrawn.
  void message(const std::string& line);
  /// Takes the redrawn line away.
  void finish();

 private:
  void erase();

  std::ostream& out_;
  bool terminal_;
  Clock clock_;
  Width width_;
  int epochs_ = 0;
  struct Start {
    std::int64_t done;
    double elapsed;
  };
  std::optional<Start> first_;  ///< the first update; a resumed run has done some before
  double last_drawn_ = 0;
  bool ever_drawn_ = false;
  std::size_t drawn_columns_ = 0;  ///< of the line that stands there now
};

/// The parts, for results and errors, too: "1:02:03", "3 120", "7.5", "0.0125", and the whole
/// lines.
[[nodiscard]] std::string format_duration(double seconds);
[[nodiscard]] std::string format_count(std::uint64_t value);
[[nodiscard]] std::string format_rate(double value);  ///< below 10 with a decimal
[[nodiscard]] std::string format_learning_rate(double value);
[[nodiscard]] std::string format_epoch(const EpochRecord& record, int epochs);

}  // namespace stpt
