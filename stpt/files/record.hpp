// What a run reports: plain values that the trainer fills and that metrics.jsonl, summary.json and
// report.html show.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace stpt {

/// Mean over a stretch of iterations, for curves.
struct CurvePoint {
  std::int64_t iteration = 0;  ///< iterations of the surviving model since the run's start
                               ///< (fractional epochs = iteration / iterations_per_epoch)
  double learning_rate = 0;
  double loss = 0;
  double top1 = 0;  ///< training accuracy in [0, 1]
};

struct CandidateRecord {
  double factor = 1;         ///< of the base LR
  double learning_rate = 0;  ///< effective LR
  double score_top1 = 0;     ///< accuracy on the scoring images; NaN if diverged, as the loss
  double score_loss = 0;
  bool diverged = false;
  bool winner = false;
  std::vector<CurvePoint> curve;  ///< its Pre-train branch
};

/// What an epoch has cost, tries that came to nothing included.
struct EpochCost {
  int retries = 0;    ///< times that all candidates diverged
  int collapses = 0;  ///< times that its training came to nothing and was repeated
  /// Of replicas whose progress was dropped, and of training that was repeated.
  std::int64_t iterations_discarded = 0, samples_discarded = 0;
  double seconds_pretrain = 0, seconds_score = 0, seconds_choose = 0, seconds_main = 0;
  std::int64_t steps_main = 0;
  /// Main-train over several ranks: what all of them sent; and the time in tasks, per StarPU
  /// worker, mean over the ranks: the rest of seconds_main is waiting.
  std::int64_t bytes_sent = 0, messages_sent = 0;
  double seconds_busy = 0;
};

struct EpochRecord : EpochCost {
  int epoch = 0;  ///< from 1
  /// "warmup", "stpt", "scheduled" (baselines and annealing without Pre-train)
  std::string phase;
  std::string candidate_set;      ///< name or "custom"; empty without Pre-train
  double base_learning_rate = 0;  ///< before the choice
  double learning_rate = 0;       ///< at the epoch's end
  std::vector<CandidateRecord> candidates;
  std::string choice_reason;      ///< "highest accuracy", "tie: unchanged LR", ...
  std::vector<CurvePoint> curve;  ///< Main-train
  /// Over Main-train; where Pre-train takes the whole epoch, over the winner's steps in it.
  double train_loss = 0, train_top1 = 0;
  double test_loss = 0, test_top1 = 0, test_top5 = 0;
  std::int64_t iterations = 0;      ///< of the surviving model, this epoch
  std::int64_t samples_winner = 0;  ///< training samples, this epoch
  int rank_count = 1;               ///< that trained it
  double seconds = 0;               ///< whole epoch
  double seconds_test = 0;
  double images_per_second = 0;    ///< training samples (winner and losers) / training seconds
  std::uint64_t memory_bytes = 0;  ///< resident set at the epoch's end
};

/// One process of the job.
struct RankRecord {
  std::string host, device;
};

struct RunRecord {
  std::string name, version, model, dataset, device, started;  ///< started: ISO 8601, UTC
  std::string policy, optimizer;
  std::int64_t parameters = 0;
  double flops_per_image = 0;                            ///< forward
  int channels = 0, height = 0, width = 0, classes = 0;  ///< of the images
  std::vector<std::string> class_names;                  ///< by label; empty if not known
  std::int64_t training_images = 0, hold_out_images = 0, test_images = 0;
  int workers = 0, batch_per_worker = 0, iterations_per_epoch = 0, epochs_planned = 0, alpha = 0;
  double initial_learning_rate = 0;
  /// What candidates are compared by, as the config names it; empty if nothing is chosen.
  std::string score, score_metric;
  std::vector<RankRecord> ranks;  ///< empty for a job of one process
  std::vector<EpochRecord> epochs;
  std::string status;        ///< "running", "complete", "stopped", "failed"
  std::string failure;       ///< one line, if failed
  std::string model_digest;  ///< SHA-256, hexadecimal
  double wall_seconds = 0;
};

}  // namespace stpt
