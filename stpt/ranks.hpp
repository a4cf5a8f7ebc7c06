// What all ranks of a job do together before they train.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "stpt/config/config.hpp"
#include "stpt/experiment.hpp"
#include "stpt/files/record.hpp"

namespace stpt {

/// A start that failed on some rank: what to say, once, and the status for all.
class StartError : public std::runtime_error {
 public:
  StartError(const std::string& message, int status)
      : std::runtime_error(message), status_(status) {}
  [[nodiscard]] int status() const { return status_; }

 private:
  int status_;
};

/// Does something on every rank and goes on only if it worked on all of them: else all throw the
/// first failing rank's error, as StartError. On a job of one rank errors pass as they are.
void on_all_ranks(const std::function<void()>& step);

/// Throws ConfigError where ranks would have no logical worker to train with.
void check_workers_of_ranks(const Config& config, const ConfigSource& source);

/// All ranks have the same program, config (`config` is this rank's) and data, and compute on the
/// same kind of device; else StartError that says which rank differs.
void check_agreement(const Config& config, const ConfigSource& source, const Experiment& experiment,
                     const std::string& version);

/// Host and device of every rank, of which `device` is this one's; empty for a job of one.
[[nodiscard]] std::vector<RankRecord> describe_ranks(const std::string& device);

}  // namespace stpt
