#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>

#include "models/state_dict.hpp"
#include "models/zoo.hpp"
#include "tests/catch.hpp"
#include "tests/models/program_testing.hpp"
#include "tests/models/resnet50_golden.hpp"

namespace stpt::testing {
namespace {

/// Element i of tensor t, as tests/golden/README.md has it.
std::vector<float> formula(std::uint64_t t, std::int64_t count, double scale) {
  std::vector<float> values;
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(count); ++i) {
    const std::uint64_t u = (i * 2654435761U + t * 40503U + 12345U) & 0xFFFFFFFFU;
    values.push_back(static_cast<float>(scale * (static_cast<double>(u) / 4294967296.0 - 0.5)));
  }
  return values;
}

TEST_CASE("a step of ResNet-8 computes what PyTorch computes", "[program][golden]") {
  const GoldenFile golden = load_golden("resnet8_step.bin");
  Problem problem(models::make_network("resnet8", {1, 1, 28, 28}, 10), 4, 1);
  const Network& network = problem.network;
  problem.values = ModelValues::initial(network, 1, 1);
  problem.images = formula(1000, 4 * 28 * 28, 2);
  for (int i = 0; i < 4; ++i) problem.labels[static_cast<std::size_t>(i)] = 3 * i % 10;
  REQUIRE(problem.images == golden.at("images").values);
  std::size_t known = 0;
  for (std::size_t t = 0; t < network.parameters.size(); ++t) {
    const models::Parameter& parameter = network.parameters[t];
    if (parameter.initial) continue;
    const auto values = formula(t, parameter.shape.elements(),
                                2 * std::sqrt(6.0 / static_cast<double>(parameter.fan_in)));
    std::copy(values.begin(), values.end(),
              problem.values.parameters[static_cast<std::size_t>(parameter.bucket)].begin() +
                  static_cast<std::ptrdiff_t>(parameter.offset));
    if (const auto initial = golden.find(parameter.name + "/initial"); initial != golden.end()) {
      REQUIRE(values == initial->second.values);
      ++known;
    }
  }
  REQUIRE(known == 2);

  const Grain grain = GENERATE(Grain::op, Grain::block, Grain::step);
  runtime::Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  const Optimizer optimizer(network, {.momentum = 0.9f, .weight_decay = 5e-4f}, false);
  const Outcome outcome = execute(problem, Mode::train, grain, How::tasks, &optimizer);

  // PyTorch in float32 is within 3e-6 of the largest element (sums: 1e-5); three times that leaves
  // room for other orders of summation.
  const Tolerance elements{1e-5, 0}, sums{3e-5, 0};
  require_close("loss", std::vector{outcome.mean_loss()}, golden.at("loss").values, elements);
  const auto& logits = golden.at("logits").values;
  for (std::size_t n = 0; n < 4; ++n) {
    const std::span<const float> row = std::span(logits).subspan(10 * n, 10);
    const float own = row[static_cast<std::size_t>(problem.labels[n])];
    double sum = 0;
    for (const float logit : row) sum += std::exp(static_cast<double>(logit - own));
    CHECK(static_cast<double>(outcome.scores[n].loss) == Approx(std::log(sum)).epsilon(1e-5));
    CHECK(outcome.scores[n].rank ==
          std::count_if(row.begin(), row.end(), [own](float logit) { return logit > own; }));
  }
  std::size_t tensors = 0;
  for (const models::Parameter& parameter : network.parameters) {
    const auto gradient = outcome.gradient(parameter);
    require_close(parameter.name + " gradient", sampled(gradient),
                  golden.at(parameter.name + "/grad").values, elements);
    require_close(parameter.name + " updated", sampled(outcome.value(parameter)),
                  golden.at(parameter.name + "/updated").values, elements);
    double sum = 0, squares = 0;
    for (const float value : gradient) {
      sum += static_cast<double>(value);
      squares += static_cast<double>(value) * static_cast<double>(value);
    }
    require_close(parameter.name + " sum and norm of the gradient",
                  std::vector{sum, std::sqrt(squares)},
                  golden.at(parameter.name + "/grad_stats").values, sums);
    tensors += 3;
  }
  for (const models::Layer& layer : network.layers) {
    if (layer.kind != models::LayerKind::batch_norm) continue;
    const auto channels =
        static_cast<std::size_t>(network.activations[static_cast<std::size_t>(layer.output)].c);
    const std::span<const float> running = outcome.values.running[0];
    require_close(layer.name + " running mean",
                  running.subspan(static_cast<std::size_t>(layer.running_mean), channels),
                  golden.at(layer.name + "/running_mean").values, elements);
    require_close(layer.name + " running variance",
                  running.subspan(static_cast<std::size_t>(layer.running_variance), channels),
                  golden.at(layer.name + "/running_variance").values, elements);
    tensors += 2;
  }
  CHECK(tensors + 6 == golden.size());  // images, labels, loss, logits and two initial values
}

TEST_CASE("a step of ResNet-50 computes what PyTorch computes", "[program][golden]") {
  const GoldenFile golden = load_golden("resnet50_step.bin");
  const Problem problem = resnet50_problem(golden);
  runtime::Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  check_resnet50(execute(problem, Mode::train, Grain::block), problem.network, golden,
                 float32_limits);
}

TEST_CASE("torchvision's networks compute what they do there", "[program][golden]") {
  runtime::Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  for (const auto& [name, losses] : load_golden("torchvision_losses.bin")) {
    INFO(name);
    Problem problem(models::make_network(name, {1, 3, 64, 64}, 10), 4);
    problem.images = scrambled(1000, 4 * 3 * 64 * 64, 2);
    for (int i = 0; i < 4; ++i) problem.labels.push_back(3 * i % 10);
    for (const models::StateEntry& entry : models::state_dict(problem.network)) {
      if (entry.running) continue;
      std::uint32_t t = 0x811C9DC5U;  // FNV-1a
      for (const char c : entry.name) t = (t ^ static_cast<unsigned char>(c)) * 0x01000193U;
      const auto count = static_cast<std::int64_t>(entry.elements());
      const bool is_weight = entry.dimensions.size() > 1;
      const double scale = is_weight
                               ? 2 * std::sqrt(6.0 * static_cast<double>(entry.dimensions[0]) /
                                               static_cast<double>(count))
                               : 0.25;
      const float shift = is_weight || entry.name.ends_with("bias") ? 0 : 1;
      std::ranges::copy(scrambled(t, count, scale, shift), entry.in(problem.values).begin());
    }
    const Outcome outcome = execute(problem, Mode::batch_statistics, Grain::step);
    std::vector<float> found;
    for (const SampleScore& score : outcome.scores) found.push_back(score.loss);
    // PyTorch in float32 is within 1.1e-5 of the largest; three times that, as above.
    require_close("losses", found, losses.values, {4e-5, 0});
  }
}

}  // namespace
}  // namespace stpt::testing
