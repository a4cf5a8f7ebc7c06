// Whole trainings on small synthetic data, for tests.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "stpt/config/config.hpp"
#include "stpt/experiment.hpp"
#include "stpt/trainer.hpp"
#include "tests/catch.hpp"

namespace stpt::testing {

using Overrides = std::vector<std::string>;

/// 4 classes of 1x12x12 images, 8 workers x 8 images: 6 iterations an epoch, 3 candidates.
inline const Overrides small = {"data.format=synthetic",
                                "data.synthetic.channels=1",
                                "data.synthetic.height=12",
                                "data.synthetic.width=12",
                                "data.synthetic.classes=4",
                                "data.synthetic.train_images=448",
                                "data.synthetic.test_images=64",
                                "data.hold_out=64",
                                "training.batch_per_worker=8",
                                "training.epochs=2",
                                "training.learning_rate.anneal.form=none",
                                "training.optimizer.momentum=0.9",
                                "stpt.alpha=3",
                                "stpt.candidates=refine",
                                "model.name=mlp",
                                "training.learning_rate.initial=0.05"};

inline Overrides operator+(Overrides first, const Overrides& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

inline const Overrides adamw = {"training.optimizer.name=adamw"};

/// The same of a network with batch norm and, unless `dropout` is "", such a layer.
inline Overrides small_with(const std::string& dropout) {
  Overrides overrides = small;
  REQUIRE(std::erase(overrides, "model.name=mlp") == 1);
  return overrides + Overrides{R"(model.network={"name": "dropped", "layers": [
      {"name": "conv", "type": "convolution", "filters": 9, "kernel": 3, "padding": 1},
      {"name": "bn", "type": "batch_norm"}, {"type": "relu"}, {"type": "max_pool", "kernel": 2},
      )" + dropout + R"({"name": "fc", "type": "fully_connected"}]})"};
}
inline Overrides small_with_dropout() {
  return small_with(R"({"type": "dropout", "rate": 0.3}, )");
}

/// What the run file {} with these keys amounts to.
inline Experiment experiment(const Overrides& overrides) {
  return {parse_config("{}", "test", overrides), "test"};
}

struct Outcome {
  RunRecord record;
  models::ModelValues model;
};

inline Outcome train(const Overrides& overrides) {
  Trainer trainer(parse_config("{}", "test", overrides), "test");
  Outcome outcome;
  outcome.record = trainer.run({});
  outcome.model = trainer.model();
  return outcome;
}

inline const CandidateRecord& winner(const EpochRecord& epoch) {
  const auto found =
      std::find_if(epoch.candidates.begin(), epoch.candidates.end(),
                   [](const CandidateRecord& candidate) { return candidate.winner; });
  REQUIRE(found != epoch.candidates.end());
  return *found;
}

inline bool same_bits(const models::ModelValues& a, const models::ModelValues& b) {
  const auto same = [](const std::vector<std::vector<float>>& x,
                       const std::vector<std::vector<float>>& y) {
    return std::equal(x.begin(), x.end(), y.begin(), y.end(), [](const auto& p, const auto& q) {
      return p.size() == q.size() && std::memcmp(p.data(), q.data(), p.size() * sizeof(float)) == 0;
    });
  };
  return same(a.parameters, b.parameters) && same(a.moments, b.moments) &&
         same(a.running, b.running);
}

}  // namespace stpt::testing
