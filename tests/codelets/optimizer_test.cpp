#include "codelets/optimizer.hpp"

#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/codelets/kernel_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using codelets::Cpu;
using codelets::OptimizerSettings;
using codelets::UpdateRule;

namespace {

/// Sizes around the vectors of any machine.
constexpr std::array sizes = {0, 1, 7, 16, 33, 1000};

constexpr UpdateRule all_rules[] = {UpdateRule::velocity, UpdateRule::nesterov,
                                    UpdateRule::lr_in_velocity, UpdateRule::adamw};

void step_whole(Flat& weights, Flat& moments, Flat& gradient, float gradient_scale,
                float learning_rate, const OptimizerSettings& settings) {
  const std::size_t count = weights.values().size();
  const codelets::ParameterRange whole{0, count, true};
  const codelets::UpdatedBucket bucket{{&whole, 1},
                                       count,
                                       static_cast<float*>(weights.pointer()),
                                       static_cast<float*>(moments.pointer()),
                                       static_cast<float*>(gradient.pointer())};
  optimizer_step({&bucket, 1}, gradient_scale, learning_rate, settings, Cpu{}, nullptr);
}

/// What a step leaves of one weight and its moments, in double.
struct Stepped {
  double w, m, v;
};
Stepped adamw(double w, double m, double v, double g, double steps, double decay,
              double learning_rate, const OptimizerSettings& settings) {
  const double beta1 = static_cast<double>(settings.momentum),
               beta2 = static_cast<double>(settings.beta2);
  m = beta1 * m + (1 - beta1) * g;
  v = beta2 * v + (1 - beta2) * g * g;
  const double mean = m / (1 - std::pow(beta1, steps)),
               root = std::sqrt(v / (1 - std::pow(beta2, steps)));
  return {w - learning_rate * (mean / (root + static_cast<double>(settings.epsilon)) + decay * w),
          m, v};
}

}  // namespace

TEST_CASE("SGD follows PyTorch and Chainer", "[optimizer]") {
  const GoldenFile golden = load_golden("sgd.bin");
  for (const std::string& name : golden_cases(golden)) {
    INFO(name);
    const auto values = [&](const std::string& part) {
      return golden.at(name + "/" + part).values;
    };
    const OptimizerSettings settings{.momentum = values("settings")[0],
                                     .weight_decay = values("settings")[1],
                                     .rule = static_cast<UpdateRule>(values("form")[0])};
    const std::vector<float> gradients = values("gradients"), rates = values("learning_rates");
    // The gradient comes as the sum of four, and is averaged by the scale (exactly: a power of 2).
    for (const float parts : {1.0f, 4.0f}) {
      Flat weights(values("weights")),
          gradient(static_cast<std::int64_t>(values("weights").size()));
      Flat velocity(std::vector<float>(values("weights").size(), 0.0f));
      const std::size_t count = weights.values().size();
      for (std::size_t step = 0; step < rates.size(); ++step) {
        std::vector<float> row(gradients.begin() + static_cast<std::ptrdiff_t>(step * count),
                               gradients.begin() + static_cast<std::ptrdiff_t>((step + 1) * count));
        for (float& g : row) g *= parts;
        gradient.set(row);
        step_whole(weights, velocity, gradient, 1 / parts, rates[step], settings);
        REQUIRE(gradient.values() == row);
      }
      // Four steps of about four roundings each, 6e-8 a rounding and partly averaged out.
      require_flat("weights", weights, values("weights_after"), {4e-7, 0});
      require_flat("velocity", velocity, values("velocity_after"), {4e-7, 0});
    }
  }
}

TEST_CASE("AdamW follows PyTorch", "[optimizer]") {
  const GoldenFile golden = load_golden("adamw.bin");
  for (const std::string& name : golden_cases(golden)) {
    INFO(name);
    const auto values = [&](const std::string& part) {
      return golden.at(name + "/" + part).values;
    };
    const std::vector<float> given = values("settings"), gradients = values("gradients"),
                             rates = values("learning_rates"), start = values("weights");
    const OptimizerSettings settings{.momentum = given[0],
                                     .weight_decay = given[3],
                                     .rule = UpdateRule::adamw,
                                     .beta2 = given[1],
                                     .epsilon = given[2]};
    const std::size_t count = start.size();
    for (const float parts : {1.0f, 4.0f}) {
      Flat weights(start), gradient(static_cast<std::int64_t>(count));
      Flat moments(std::vector<float>(moment_elements(UpdateRule::adamw, count), 0.0f));
      for (std::size_t step = 0; step < rates.size(); ++step) {
        std::vector<float> row(gradients.begin() + static_cast<std::ptrdiff_t>(step * count),
                               gradients.begin() + static_cast<std::ptrdiff_t>((step + 1) * count));
        for (float& g : row) g *= parts;
        gradient.set(row);
        step_whole(weights, moments, gradient, 1 / parts, rates[step], settings);
        REQUIRE(gradient.values() == row);
      }
      const std::vector<float> after = moments.values();
      const auto second = after.begin() + static_cast<std::ptrdiff_t>(count);
      // Five steps of about eight roundings each, 6e-8 a rounding and partly averaged out.
      require_flat("weights", weights, values("weights_after"), {4e-7, 0});
      CHECK(difference(std::vector(after.begin(), second), values("first_after"), {4e-7, 0}) == "");
      CHECK(difference(std::vector(second, after.end() - 1), values("second_after"), {4e-7, 0}) ==
            "");
      CHECK(after.back() == static_cast<float>(rates.size()));
    }
  }
}

TEST_CASE("A constant learning rate acts alike inside the velocity and outside", "[optimizer]") {
  const std::vector<float> start = random_values(50, 1);
  Flat plain(start), chainer(start);
  Flat plain_velocity(std::vector<float>(50, 0.0f)), chainer_velocity(std::vector<float>(50, 0.0f));
  for (unsigned step = 0; step < 5; ++step) {
    Flat gradient(random_values(50, 2 + step));
    const auto update = [&](Flat& weights, Flat& velocity, UpdateRule form) {
      step_whole(weights, velocity, gradient, 1, 0.1f, {0.9f, 1e-3f, form});
    };
    update(plain, plain_velocity, UpdateRule::velocity);
    update(chainer, chainer_velocity, UpdateRule::lr_in_velocity);
  }
  require_flat("weights", chainer, plain.values(), {1e-6, 0});
}

TEST_CASE("SGD updates the ranges it is given, each with its own decay", "[optimizer]") {
  constexpr std::size_t count = 100;
  const std::vector<codelets::ParameterRange> first = {{3, 20, true}, {40, 17, false}},
                                              second = {{0, 1, false}, {64, 36, true}};
  const OptimizerSettings settings{.weight_decay = 0.5f};
  const auto values = [](unsigned seed) { return random_values(count, seed); };
  Flat weights[] = {Flat(values(1)), Flat(values(2))};
  Flat velocity[] = {Flat(values(3)), Flat(values(4))};
  Flat gradient[] = {Flat(values(5)), Flat(values(6))};
  const auto floats = [](Flat& flat) { return static_cast<float*>(flat.pointer()); };
  const codelets::UpdatedBucket buckets[] = {
      {first, count, floats(weights[0]), floats(velocity[0]), floats(gradient[0])},
      {second, count, floats(weights[1]), floats(velocity[1]), floats(gradient[1])}};
  optimizer_step(buckets, 1, 0.25f, settings, Cpu{}, nullptr);

  for (const unsigned bucket : {0u, 1u}) {
    std::vector<float> w = values(1 + bucket), v = values(3 + bucket);
    const std::vector<float> g = values(5 + bucket);
    for (const auto& [offset, length, decay] : buckets[bucket].ranges) {
      for (std::size_t i = offset; i < offset + length; ++i) {
        v[i] = settings.momentum * v[i] + g[i] + (decay ? 0.5f * w[i] : 0);
        w[i] -= 0.25f * v[i];
      }
    }
    // Three or four roundings, 6e-8 each; what lies between the ranges is compared, too.
    require_flat("velocity", velocity[bucket], v, {4e-7, 0});
    require_flat("weights", weights[bucket], w, {4e-7, 0});
  }
}

TEST_CASE("AdamW updates the ranges it is given, each with its own decay", "[optimizer]") {
  constexpr std::size_t count = 100;
  const std::vector<codelets::ParameterRange> first = {{3, 20, true}, {40, 17, false}},
                                              second = {{0, 1, false}, {64, 36, true}}, none;
  const OptimizerSettings settings{.weight_decay = 0.5f, .rule = UpdateRule::adamw};
  const auto values = [](unsigned seed) { return random_values(count, seed); };
  const auto start = [&](unsigned seed, float steps) {
    std::vector<float> moments = values(seed);  // m, then v, which is positive, then their steps
    for (const float v : values(seed + 1)) moments.push_back(std::abs(v));
    moments.push_back(steps);
    return moments;
  };
  // Buckets count their steps, each for itself.
  const std::vector<float> before[] = {start(3, 2), start(5, 1000), start(3, 7)};
  Flat weights[] = {Flat(values(1)), Flat(values(2)), Flat(values(1))};
  Flat moments[] = {Flat(before[0]), Flat(before[1]), Flat(before[2])};
  Flat gradient[] = {Flat(values(7)), Flat(values(8)), Flat(values(7))};
  const auto floats = [](Flat& flat) { return static_cast<float*>(flat.pointer()); };
  std::vector<codelets::UpdatedBucket> buckets;
  for (const unsigned bucket : {0u, 1u, 2u}) {
    buckets.push_back({bucket == 0   ? first
                       : bucket == 1 ? second
                                     : none,
                       count, floats(weights[bucket]), floats(moments[bucket]),
                       floats(gradient[bucket])});
  }
  optimizer_step(buckets, 0.5f, 0.25f, settings, Cpu{}, nullptr);

  for (const unsigned bucket : {0u, 1u, 2u}) {
    std::vector<float> w = values(bucket == 1 ? 2 : 1), m = before[bucket];
    const std::vector<float> g = gradient[bucket].values();
    m.back() += 1;
    for (const auto& [offset, length, decay] : buckets[bucket].ranges) {
      for (std::size_t i = offset; i < offset + length; ++i) {
        const Stepped after =
            adamw(static_cast<double>(w[i]), static_cast<double>(m[i]),
                  static_cast<double>(m[count + i]), 0.5 * static_cast<double>(g[i]),
                  static_cast<double>(m.back()), decay ? 0.5 : 0, 0.25, settings);
        w[i] = static_cast<float>(after.w);
        m[i] = static_cast<float>(after.m);
        m[count + i] = static_cast<float>(after.v);
      }
    }
    // Fewer than ten roundings, 6e-8 each; what lies between the ranges is compared, too. Where the
    // root is small the step is large, and so are its roundings.
    require_flat("moments", moments[bucket], m, {4e-7, 0});
    require_flat("weights", weights[bucket], w, {4e-7, 1e-5});
  }
}

TEST_CASE("The size of a gradient does not matter to AdamW, and NaN stays", "[optimizer]") {
  const OptimizerSettings settings{.rule = UpdateRule::adamw};
  constexpr float infinity = std::numeric_limits<float>::infinity();
  Flat weights(std::vector<float>(6, 1.0f)), moments(std::vector<float>(13, 0.0f)),
      gradient(std::vector<float>{1e-4f, -1e4f, 0, std::numeric_limits<float>::quiet_NaN(),
                                  infinity, -1e30f});
  step_whole(weights, moments, gradient, 1, 0.25f, settings);
  const std::vector<float> after = weights.values();
  CHECK(static_cast<double>(after[0]) == Approx(0.75).epsilon(1e-3));  // epsilon is 1e-4 of it
  CHECK(after[1] == 1.25f);
  CHECK(after[2] == 1);
  CHECK(std::isnan(after[3]));
  CHECK(std::isnan(after[4]));
  CHECK(after[5] == 1);  // its square is infinite: no step rather than one of a wrong size
}

TEST_CASE("Steps touch nothing behind the end", "[optimizer]") {
  for (const UpdateRule rule : all_rules) {
    for (const int size : sizes) {
      const auto kept =
          static_cast<std::int64_t>(moment_elements(rule, static_cast<std::size_t>(size)));
      Flat weights(random_values(size, 1)), moments(random_values(kept, 2)),
          gradient(random_values(size, 3));
      step_whole(weights, moments, gradient, 1, 0.1f, {.rule = rule});
      REQUIRE(weights.guard_intact());
      REQUIRE(moments.guard_intact());
    }
  }
}
