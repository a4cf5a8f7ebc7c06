#include "models/optimizer.hpp"

#include <cmath>
#include <random>
#include <vector>

#include "models/zoo.hpp"
#include "runtime/runtime.hpp"
#include "tests/catch.hpp"
#include "tests/models/model_state_testing.hpp"

namespace stpt::models {
namespace {

using runtime::Access;
using runtime::Home;
using runtime::HostView;
using runtime::Runtime;
using runtime::Tensor;
using testing::network_of_buckets;

TEST_CASE("the optimizer updates every parameter, with decay where it applies", "[optimizer]") {
  Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  const Network net = GENERATE(network_of_buckets(), make_network("lenet5", {1, 1, 28, 28}, 10));
  const bool decay_all = GENERATE(false, true);
  const auto rule = GENERATE(codelets::UpdateRule::velocity, codelets::UpdateRule::adamw);
  const codelets::OptimizerSettings settings{
      .momentum = 0.9f, .weight_decay = 0.1f, .rule = rule, .beta2 = 0.5f, .epsilon = 1e-3f};
  const Optimizer optimizer(net, settings, decay_all);
  ModelState state(net, 1, "state", rule);
  const ModelValues before = ModelValues::initial(net, 1, 3, rule);
  write(state, before);
  std::mt19937 random(1);
  std::vector<Tensor> gradients;
  std::vector<std::vector<float>> values;
  for (std::size_t bucket = 0; bucket < net.buckets.size(); ++bucket) {
    gradients.emplace_back(state.parameters[bucket].spec(), "gradient", Home::host);
    const HostView view(gradients.back(), Access::write);
    for (const Parameter& parameter : net.parameters) {
      if (parameter.bucket != static_cast<int>(bucket)) continue;
      for (std::int64_t i = 0; i < parameter.shape.elements(); ++i) {
        view.as<float>()[parameter.offset + static_cast<std::size_t>(i)] =
            static_cast<float>(random() % 1000) / 500.0f - 1;
      }
    }
    values.emplace_back(view.as<float>().begin(), view.as<float>().end());
  }
  const float scale = 0.25f, rate = 0.5f;
  for (int step = 0; step < 2; ++step) {
    for (std::size_t bucket = 0; bucket < gradients.size(); ++bucket) {
      optimizer.step(state, bucket, gradients[bucket], scale, rate);
    }
  }
  const ModelValues after = read(state);
  for (const Parameter& parameter : net.parameters) {
    INFO(parameter.name);
    const auto bucket = static_cast<std::size_t>(parameter.bucket);
    const double decay = parameter.decay || decay_all ? 0.1 : 0.0;
    for (std::size_t i = parameter.offset;
         i < parameter.offset + static_cast<std::size_t>(parameter.shape.elements()); ++i) {
      double w = static_cast<double>(before.parameters[bucket][i]), m = 0, v = 0;
      const double g = static_cast<double>(values[bucket][i] * scale);
      for (int step = 1; step <= 2; ++step) {
        if (rule == codelets::UpdateRule::velocity) {
          m = 0.9 * m + g + decay * w;
          w -= static_cast<double>(rate) * m;
          continue;
        }
        m = 0.9 * m + 0.1 * g;
        v = 0.5 * v + 0.5 * g * g;
        const double root = std::sqrt(v / (1 - std::pow(0.5, step)));
        w -=
            static_cast<double>(rate) * (m / (1 - std::pow(0.9, step)) / (root + 1e-3) + decay * w);
      }
      const std::vector<float>& moments = after.moments[bucket];
      const auto same = [](double value) { return Approx(value).epsilon(1e-5).margin(1e-6); };
      REQUIRE(static_cast<double>(after.parameters[bucket][i]) == same(w));
      REQUIRE(static_cast<double>(moments[i]) == same(m));
      if (rule == codelets::UpdateRule::velocity) continue;
      REQUIRE(static_cast<double>(moments[net.buckets[bucket] + i]) == same(v));
      REQUIRE(moments.back() == 2);
    }
  }
  // What lies between the parameters has stayed 0.
  double sum_all = 0, sum_parameters = 0;
  for (const auto& bucket : after.parameters) {
    for (const float value : bucket) sum_all += std::abs(static_cast<double>(value));
  }
  for (const Parameter& parameter : net.parameters) {
    const float* value =
        after.parameters[static_cast<std::size_t>(parameter.bucket)].data() + parameter.offset;
    for (std::int64_t i = 0; i < parameter.shape.elements(); ++i) {
      sum_parameters += std::abs(static_cast<double>(value[i]));
    }
  }
  CHECK(sum_all == Approx(sum_parameters).epsilon(1e-12));
}

}  // namespace
}  // namespace stpt::models
