// How run files spell the enumerators of config.hpp, and what docs/config.md says about each.
#pragma once

#include <algorithm>
#include <array>
#include <string_view>

#include "stpt/config/config.hpp"

namespace stpt::config {

template <typename Enum>
struct Named {
  Enum value;
  std::string_view name;
  std::string_view meaning;  ///< for docs/config.md; may be empty where the key's text says it
};

/// Every enum's names, in the order of docs/config.md.
template <typename Enum>
inline constexpr std::array<Named<Enum>, 0> names{};

template <>
inline constexpr std::array names<runtime::DataType> = {
    Named{runtime::DataType::float32, "float32", ""},
    Named{runtime::DataType::bfloat16, "bfloat16", "float32's range, 8 bits of mantissa"},
    Named{runtime::DataType::float16, "float16",
          "11 bits of mantissa; gradients need `training.loss_scale`"},
};
template <>
inline constexpr std::array names<Fusion> = {
    Named{Fusion::automatic, "auto",
          "`step` on one rank; `block` on several, where messages then pass behind backward"},
    Named{Fusion::op, "op", "a task per layer, for traces and tests"},
    Named{Fusion::block, "block", "a task per residual block"},
    Named{Fusion::step, "step", "one task for all of forward and backward"},
};
template <>
inline constexpr std::array names<GradientReduction> = {
    Named{GradientReduction::tree, "tree",
          "in one fixed tree: the same bits on any number of ranks"},
    Named{GradientReduction::redux, "redux",
          "within a rank in a tree, over ranks by StarPU-MPI's reduction, in any order"},
};
template <>
inline constexpr std::array names<Policy> = {
    Named{Policy::stpt, "stpt", "Pre-train every candidate, go on with the best"},
    Named{Policy::fixed, "fixed", "the initial value throughout"},
    Named{Policy::step, "step", "times `decay_factor` at each of `milestones`"},
    Named{Policy::plateau, "plateau",
          "times `decay_factor` when accuracy has not risen for `patience` epochs (the paper's "
          "reference)"},
    Named{Policy::cosine, "cosine", "half a cosine from the initial value to 0"},
    Named{Policy::linear, "linear", "a straight line from the initial value to 0"},
    Named{Policy::random_winner, "random_winner",
          "a control: as `stpt`, but the winner is drawn at random"},
    Named{Policy::always_one, "always_one", "a control: as `stpt`, but candidate 1.0 always wins"},
};
template <>
inline constexpr std::array names<WarmupForm> = {
    Named{WarmupForm::linear, "linear", "rises from `start` to the initial value"},
    Named{WarmupForm::constant, "constant", "stays at `start`"},
};
template <>
inline constexpr std::array names<AnnealForm> = {
    Named{AnnealForm::none, "none", ""},
    Named{AnnealForm::linear, "linear", "a straight line"},
    Named{AnnealForm::cosine, "cosine", "half a cosine"},
};
template <>
inline constexpr std::array names<DataFormat> = {
    Named{DataFormat::idx, "idx", "the files of MNIST, Fashion-MNIST and their kin"},
    Named{DataFormat::cifar10, "cifar10", "the binary version of CIFAR-10"},
    Named{DataFormat::cifar100, "cifar100", "the binary version of CIFAR-100, fine labels"},
    Named{DataFormat::image_folder, "image_folder",
          "JPEG and PNG files, `train/<class>/*` and `val/<class>/*`, as ImageNet has them"},
    Named{DataFormat::synthetic, "synthetic", "learnable images made from the seed"},
};
template <>
inline constexpr std::array names<data::Padding> = {
    Named{data::Padding::black, "black", ""},
    Named{data::Padding::reflect, "reflect",
          "the image mirrored at its outermost pixels, which are not repeated"},
};
template <>
inline constexpr std::array names<data::ResizeMode> = {
    Named{data::ResizeMode::stretch, "stretch", "both sides to that, as in the paper"},
    Named{data::ResizeMode::crop, "crop", "the square in the middle is cut out, then resized"},
};
template <>
inline constexpr std::array names<PretrainBatch> = {
    Named{PretrainBatch::global, "global",
          "the batch of all workers together, so that a candidate is judged by the batch it will "
          "be used with (as the paper simulates it)"},
    Named{PretrainBatch::worker, "worker",
          "the batch of one worker, or of the few that few_candidates gives it: cheap, but judges "
          "another noise (the paper's Figure 1)"},
};
template <>
inline constexpr std::array names<LrScaling> = {
    Named{LrScaling::none, "none", ""},
    Named{LrScaling::linear, "linear", "by the ratio of the batches"},
    Named{LrScaling::square_root, "square_root", "by the root of that ratio"},
};
template <>
inline constexpr std::array names<ScoreSource> = {
    Named{ScoreSource::hold_out, "hold_out", "the images that `data.hold_out` sets apart"},
    Named{ScoreSource::training_window, "training_window",
          "the batches of the last `score_window` Pre-train iterations"},
    Named{ScoreSource::validation, "validation",
          "the test images; leaks them into the training, only to match the paper"},
};
template <>
inline constexpr std::array names<ScoreMetric> = {
    Named{ScoreMetric::accuracy, "accuracy", "the highest top-1"},
    Named{ScoreMetric::loss, "loss", "the lowest mean loss"},
};
template <>
inline constexpr std::array names<ScoreWeights> = {
    Named{ScoreWeights::mean, "mean",
          "the mean over the second half of Pre-train, with less of the noise that a learning rate "
          "keeps up and that falls with it in the end"},
    Named{ScoreWeights::last, "last",
          "those after the last iteration, as in the paper; favours small learning rates"},
};
template <>
inline constexpr std::array names<ScoreStatistics> = {
    Named{
        ScoreStatistics::batch, "batch",
        "of the scored batch, one of even parts of at most `batch_per_worker` images, or 32 where "
        "that is more"},
    Named{ScoreStatistics::running, "running", "running averages, which lag after few iterations"},
};
template <>
inline constexpr std::array names<TieRule> = {
    Named{TieRule::prefer_unchanged, "prefer_unchanged",
          "within one paired standard error of the best, and three points, prefer candidate 1.0, "
          "then the lower loss"},
    Named{TieRule::none, "none", "plain best, of equal ones that with the lower loss"},
    Named{TieRule::larger, "larger",
          "within two paired standard errors the one with the lowest loss, or instead the largest "
          "up to half a decade above it that is nearly as good (docs/learning_rate.md): "
          "a short Pre-train prefers learning rates that are too small in the end"},
};
template <>
inline constexpr std::array names<ReplicaData> = {
    Named{ReplicaData::same, "same", "only the learning rate differs"},
    Named{ReplicaData::disjoint, "disjoint",
          "of m candidates number k, from 0, takes in iteration i batch i * m + k of the epoch, "
          "which begins again where it ends: where m * `alpha` exceeds its iterations candidates "
          "share batches. Main-train goes on from batch `alpha`, whatever the winner has seen"},
};
template <>
inline constexpr std::array names<RunningStatistics> = {
    Named{RunningStatistics::winner, "winner",
          "the averages of the training, after a choice the winner's"},
    Named{RunningStatistics::recalibrate, "recalibrate",
          "measured anew on `recalibration_batches` batches for every test, and for every score "
          "with `score_statistics` running, under every policy, and exports have those of the "
          "last test"},
};
template <>
inline constexpr std::array names<MomentumAtChoice> = {
    Named{MomentumAtChoice::winner, "winner", "the winner's"},
    Named{MomentumAtChoice::reset, "reset",
          "zero, but not in epochs with one candidate, where nothing was chosen"},
};
template <>
inline constexpr std::array names<OptimizerName> = {
    Named{OptimizerName::sgd, "sgd", "stochastic gradient descent with momentum, as in the paper"},
    Named{OptimizerName::adamw, "adamw",
          "Adam with the weight decay beside the gradient (Loshchilov and Hutter 2019)"},
};
template <>
inline constexpr std::array names<MomentumForm> = {
    Named{MomentumForm::velocity, "velocity",
          "v = momentum * v + g, w = w - lr * v: a new learning rate acts at once"},
    Named{MomentumForm::lr_in_velocity, "lr_in_velocity",
          "v = momentum * v - lr * g, w = w + v: Chainer's form, as in the paper"},
};
template <>
inline constexpr std::array names<Progress> = {
    Named{Progress::kept, "kept", "goes on from there"},
    Named{Progress::discarded, "discarded", "goes back to the start and trains again"},
};
template <>
inline constexpr std::array names<DriftLimit> = {
    Named{DriftLimit::clamp, "clamp",
          "between `clamp_low` and `clamp_high` times the initial value"},
    Named{DriftLimit::anchor, "anchor", "candidates always multiply the initial value"},
    Named{DriftLimit::ratio_cap, "ratio_cap", "changes by at most `ratio_cap` times an epoch"},
};
template <>
inline constexpr std::array names<ManyCandidates> = {
    Named{ManyCandidates::waves, "waves", "as many at a time as there are workers"},
    Named{ManyCandidates::reject, "reject", "refuse to start"},
};
template <>
inline constexpr std::array names<FewCandidates> = {
    Named{FewCandidates::groups, "groups",
          "workers / candidates, rounded down, train each candidate, every one on a batch"},
    Named{FewCandidates::idle, "idle", "the others wait"},
};

}  // namespace stpt::config

namespace stpt {

/// The name of an enumerator as run files spell it.
template <typename Enum>
[[nodiscard]] std::string_view enum_name(Enum value) {
  return std::ranges::find(config::names<Enum>, value, &config::Named<Enum>::value)->name;
}

}  // namespace stpt
