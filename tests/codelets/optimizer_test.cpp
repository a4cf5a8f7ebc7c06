#include "codelets/optimizer.hpp"

#include <array>
#include <string>
#include <vector>

#include "tests/codelets/kernel_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using codelets::Cpu;
using codelets::SgdForm;
using codelets::SgdSettings;

namespace {

/// Sizes around the vectors of any machine.
constexpr std::array sizes = {0, 1, 7, 16, 33, 1000};

void step_whole(Flat& weights, Flat& velocity, Flat& gradient, float gradient_scale,
                float learning_rate, const SgdSettings& settings) {
  const codelets::ParameterRange whole{0, weights.values().size(), true};
  const codelets::SgdBucket bucket{{&whole, 1},
                                   static_cast<float*>(weights.pointer()),
                                   static_cast<float*>(velocity.pointer()),
                                   static_cast<float*>(gradient.pointer())};
  sgd_step({&bucket, 1}, gradient_scale, learning_rate, settings, Cpu{}, nullptr);
}

}  // namespace

TEST_CASE("SGD follows PyTorch and Chainer", "[optimizer]") {
  const GoldenFile golden = load_golden("sgd.bin");
  for (const std::string& name : golden_cases(golden)) {
    INFO(name);
    const auto values = [&](const std::string& part) {
      return golden.at(name + "/" + part).values;
    };
    const SgdSettings settings{.momentum = values("settings")[0],
                               .weight_decay = values("settings")[1],
                               .form = static_cast<SgdForm>(values("form")[0])};
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

TEST_CASE("A constant learning rate acts alike inside the velocity and outside", "[optimizer]") {
  const std::vector<float> start = random_values(50, 1);
  Flat plain(start), chainer(start);
  Flat plain_velocity(std::vector<float>(50, 0.0f)), chainer_velocity(std::vector<float>(50, 0.0f));
  for (unsigned step = 0; step < 5; ++step) {
    Flat gradient(random_values(50, 2 + step));
    const auto update = [&](Flat& weights, Flat& velocity, SgdForm form) {
      step_whole(weights, velocity, gradient, 1, 0.1f, {0.9f, 1e-3f, form});
    };
    update(plain, plain_velocity, SgdForm::velocity);
    update(chainer, chainer_velocity, SgdForm::lr_in_velocity);
  }
  require_flat("weights", chainer, plain.values(), {1e-6, 0});
}

TEST_CASE("SGD updates the ranges it is given, each with its own decay", "[optimizer]") {
  constexpr std::size_t count = 100;
  const std::vector<codelets::ParameterRange> first = {{3, 20, true}, {40, 17, false}},
                                              second = {{0, 1, false}, {64, 36, true}};
  const SgdSettings settings{.weight_decay = 0.5f};
  const auto values = [](unsigned seed) { return random_values(count, seed); };
  Flat weights[] = {Flat(values(1)), Flat(values(2))};
  Flat velocity[] = {Flat(values(3)), Flat(values(4))};
  Flat gradient[] = {Flat(values(5)), Flat(values(6))};
  const auto floats = [](Flat& flat) { return static_cast<float*>(flat.pointer()); };
  const codelets::SgdBucket buckets[] = {
      {first, floats(weights[0]), floats(velocity[0]), floats(gradient[0])},
      {second, floats(weights[1]), floats(velocity[1]), floats(gradient[1])}};
  sgd_step(buckets, 1, 0.25f, settings, Cpu{}, nullptr);

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

TEST_CASE("SGD touches nothing behind the end", "[optimizer]") {
  for (const int size : sizes) {
    Flat weights(random_values(size, 1)), velocity(random_values(size, 2)),
        gradient(random_values(size, 3));
    step_whole(weights, velocity, gradient, 1, 0.1f, {});
    REQUIRE(weights.guard_intact());
    REQUIRE(velocity.guard_intact());
  }
}
