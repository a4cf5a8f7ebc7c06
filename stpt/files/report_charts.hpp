// The report's pictures, as inline SVG. Colours come from the page's style sheet.
#pragma once

#include <string>
#include <vector>

#include "stpt/files/record.hpp"

namespace stpt::report {

/// All charts are empty for a run that has no epoch yet.
///
/// A chart is drawn for each width it is shown at, since scaling it would scale its letters, too.
struct ChartSize {
  double width = 0, height = 0;  ///< in the page's pixels
  bool narrow = false;           ///< no room for labels beside the last points
};

/// Accuracy against epoch: training (line), test (dots), and the Pre-train branches from each
/// epoch's start, the winner's drawn boldly.
std::string accuracy_chart(const RunRecord& run, ChartSize size);

/// Whether the chart draws the branches; it leaves them out where epochs are too narrow.
bool has_room_for_branches(const RunRecord& run, ChartSize size);

/// When the last figures of a run with epochs were taken: at the end, if there will be no more.
std::string last_moment(const RunRecord& run);

/// Effective learning rate on a log axis, with the candidates that were tried.
std::string learning_rate_chart(const RunRecord& run, ChartSize size);

/// One bar an epoch. `text` writes a value, and `name` says what it is.
std::string epoch_bars(const RunRecord& run, ChartSize size, const std::vector<double>& values,
                       std::string (*text)(double), const std::string& name);

/// Round numbers in [low, high] that divide it into at most `most` steps.
std::vector<double> linear_ticks(double low, double high, int most);
/// Of 1, 2 and 5 times the powers of ten in [low, high], as fine as `most` allows.
std::vector<double> log_ticks(double low, double high, int most);

}  // namespace stpt::report
