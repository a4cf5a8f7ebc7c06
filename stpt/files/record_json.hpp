// The run's record as JSON: the lines of metrics.jsonl, summary.json, and the way back.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>

#include "stpt/files/record.hpp"

namespace stpt {

/// Doubles may be NaN or infinite, which JSON text has as null; null is read as NaN.
boost::json::object to_json(const CurvePoint& point);
boost::json::object to_json(const CandidateRecord& candidate);
boost::json::object to_json(const RankRecord& rank);
boost::json::object to_json(const EpochRecord& epoch);

/// The run without its epochs: the header line of metrics.jsonl.
boost::json::object to_json(const RunRecord& run);

/// The inverses. Absent keys leave the member's default and unknown keys are passed over, so that
/// files of other versions can be read; a key of the wrong type throws std::runtime_error.
EpochRecord epoch_from_json(const boost::json::value& json);
RunRecord run_from_json(const boost::json::value& json);

/// What summary.json holds.
boost::json::object summary_json(const RunRecord& run);

/// Sums over the run's epochs, as summary.json and report.html show them.
struct RunTotals {
  std::int64_t iterations = 0;             ///< of the surviving model
  std::int64_t iterations_discarded = 0;   ///< of losers
  std::int64_t iterations_exhaustive = 0;  ///< had every candidate been tried for the whole epoch
  std::int64_t samples_winner = 0, samples_discarded = 0, samples_exhaustive = 0;
  double seconds = 0;  ///< of the epochs
  double seconds_pretrain = 0, seconds_score = 0, seconds_choose = 0, seconds_main = 0,
         seconds_test = 0;
  double images_per_second = 0;  ///< training samples / (seconds_pretrain + seconds_main)
  double best_test_top1 = 0;
  int best_epoch = 0;               ///< 0: no epoch has ended
  double chosen_learning_rate = 0;  ///< of the last choice; 0: nothing was chosen
};
RunTotals totals(const RunRecord& run);

}  // namespace stpt
