// Fills records with what a training is and what it did.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "runtime/message.hpp"
#include "stpt/choice.hpp"
#include "stpt/data_parallel.hpp"
#include "stpt/experiment.hpp"
#include "stpt/files/record.hpp"
#include "stpt/pretrain.hpp"
#include "stpt/session.hpp"

namespace stpt {

/// What is known before the first epoch.
[[nodiscard]] RunRecord new_record(const Experiment& experiment);

/// At most `points` means over consecutive steps; `first` is the run's iteration before the first
/// step.
[[nodiscard]] std::vector<CurvePoint> curve_of(
    std::span<const StepResult> steps, std::int64_t first, std::size_t points,
    const std::function<double(std::int64_t)>& learning_rate);

/// How well the epoch's model did on what it was trained on, as the mean over these steps.
void set_training(std::span<const StepResult> steps, EpochRecord& record);

/// What the candidates did and cost in this try, the last one so far.
void record_candidates(const Experiment& experiment, const PretrainResult& outcome,
                       const Choice& choice, EpochRecord& record);

/// What Main-train took since `before` and `busy_before` (runtime::Runtime::busy_seconds): messages
/// of all ranks, and their time in tasks. Nothing on a job of one. All ranks call it.
void record_traffic(const Session& session, const runtime::Traffic& before, double busy_before,
                    EpochRecord& record);

}  // namespace stpt
