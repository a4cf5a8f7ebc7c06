// The state of a run at the end of an epoch: what it takes to go on with the same bits.
#pragma once

#include <filesystem>
#include <limits>
#include <string>

#include "data/augmentation.hpp"
#include "models/model_state.hpp"
#include "runtime/input_error.hpp"
#include "stpt/config/config.hpp"
#include "stpt/learning_rate.hpp"

namespace stpt {

/// Where a run is between two epochs, besides its model; the same on all ranks. Samplers,
/// augmentation and candidates are functions of the config and the epoch: nothing of them is here.
struct RunPosition {
  int epoch = 0;                    ///< the last one completed
  double chosen_learning_rate = 0;  ///< Main-train's base
  double base_learning_rate = 0;    ///< what the next candidates multiply
  /// Half of one with which training fell apart: candidates above it are out.
  double highest_learning_rate = std::numeric_limits<double>::infinity();
  PlateauState plateau;
};

struct Checkpoint : RunPosition {
  std::string file = "checkpoint";    ///< that it was read from, as errors name it
  double wall_seconds = 0;            ///< of the run so far
  std::string config;                 ///< the run's, by print_config
  std::string data;                   ///< a checksum of its data
  data::Normalization normalization;  ///< of the images it is fed with
  /// With running statistics as the last test had them where they are measured anew for each.
  models::ModelValues model;
};

/// One line that says which file, what is wrong and what to do.
class CheckpointError : public InputError {
  using InputError::InputError;
};

/// Replaces `file` in one go: a crash leaves the old one. Throws OutputError.
void save_checkpoint(const std::filesystem::path& file, const Checkpoint& checkpoint);

/// Throws CheckpointError if the file is missing, truncated or damaged (it carries a SHA-256), or
/// of another version.
[[nodiscard]] Checkpoint load_checkpoint(const std::filesystem::path& file);

/// Throws CheckpointError if the checkpoint was made with another config, but for what may change
/// on resume, and the weights that the run began with.
void check_made_with(const Checkpoint& checkpoint, const Config& config);

/// Has the model in the network's buckets. Throws CheckpointError if it is not one of such a
/// network, of so many workers and an optimizer of that rule.
void arrange_model(Checkpoint& checkpoint, const models::Network& network, int workers,
                   codelets::UpdateRule rule);

}  // namespace stpt
