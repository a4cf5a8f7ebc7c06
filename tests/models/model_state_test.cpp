#include "models/model_state.hpp"

#include <cmath>
#include <random>
#include <stdexcept>

#include "models/zoo.hpp"
#include "runtime/runtime.hpp"
#include "tests/catch.hpp"

namespace stpt::models {
namespace {

using runtime::Access;
using runtime::Home;
using runtime::HostView;
using runtime::Runtime;
using runtime::Tensor;

Network network() {
  Network network = make_network("resnet8", {1, 3, 8, 8}, 10);
  make_buckets(network, 1);  // several of them
  return network;
}

/// Every number another one.
ModelValues numbered(const Network& network, int workers, float start) {
  ModelValues values = ModelValues::initial(network, workers, 1);
  for (auto* part : {&values.parameters, &values.velocity, &values.running}) {
    for (auto& tensor : *part) {
      for (float& value : tensor) value = start += 1;
    }
  }
  return values;
}

bool equal(const ModelValues& a, const ModelValues& b) {
  return a.parameters == b.parameters && a.velocity == b.velocity && a.running == b.running;
}

TEST_CASE("a state gives back what was written", "[model state]") {
  Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  for (const char* name : {"resnet8", "lenet5"}) {
    const Network net = make_network(name, {1, 3, 28, 28}, 10);
    ModelState state(net, 3, "state");
    const ModelValues fresh = read(state);
    for (const auto& bucket : fresh.velocity)
      CHECK(bucket == std::vector<float>(bucket.size(), 0.0f));
    const ModelValues initial = ModelValues::initial(net, 3, 5);
    CHECK(initial.running.size() == (net.has_batch_norm() ? 3U : 0U));
    write(state, initial);
    CHECK(equal(read(state), initial));
    const ModelValues values = numbered(net, 3, 0);
    write(state, values);
    CHECK(equal(read(state), values));
  }
}

TEST_CASE("values in other buckets are cut anew, those of another network are not",
          "[model state]") {
  Network cut = network();
  for (const std::size_t least : {least_bucket, std::size_t{5000}, std::size_t{1}}) {
    const Network written = cut;
    ModelValues values = numbered(written, 2, 0);
    make_buckets(cut, least);
    REQUIRE(values.arrange_for(cut, 2));
    REQUIRE(values.parameters.size() == cut.buckets.size());
    const ModelValues before = numbered(written, 2, 0);
    for (std::size_t i = 0; i < cut.parameters.size(); ++i) {
      const Parameter &from = written.parameters[i], &to = cut.parameters[i];
      const auto value = [](const std::vector<std::vector<float>>& buckets,
                            const Parameter& place) {
        return buckets[static_cast<std::size_t>(place.bucket)][place.offset];
      };
      CHECK(value(values.parameters, to) == value(before.parameters, from));
      CHECK(value(values.velocity, to) == value(before.velocity, from));
    }
  }
  ModelValues values = numbered(cut, 2, 0);
  CHECK(values.arrange_for(cut, 2));
  CHECK_FALSE(values.arrange_for(cut, 3));
  CHECK_FALSE(values.arrange_for(make_network("resnet20", {1, 3, 8, 8}, 10), 2));
  CHECK_FALSE(values.arrange_for(make_network("mlp", {1, 3, 8, 8}, 10), 2));
  values.velocity.pop_back();
  CHECK_FALSE(values.arrange_for(cut, 2));
}

TEST_CASE("values of another network are refused", "[model state]") {
  Runtime runtime({.cpu_workers = 1, .scheduler = {}});
  const Network net = network();
  ModelState state(net, 2, "state");
  ModelValues values = numbered(net, 2, 0);
  write(state, values);
  CHECK_THROWS_AS(
      write(state, ModelValues::initial(make_network("resnet20", {1, 3, 8, 8}, 10), 2, 1)),
      std::invalid_argument);
  CHECK_THROWS_AS(write(state, ModelValues::initial(net, 3, 1)), std::invalid_argument);
  ModelValues longer = values;
  longer.parameters[1].push_back(0);
  CHECK_THROWS_AS(write(state, longer), std::invalid_argument);
  ModelState one(net, 1, "one");
  CHECK_THROWS_AS(one.copy_from(state), std::logic_error);
}

TEST_CASE("copies are complete and independent", "[model state]") {
  Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  const Network net = network();
  ModelState a(net, 2, "a"), b(net, 2, "b");
  const ModelValues values = numbered(net, 2, 0);
  write(a, values);
  b.copy_from(a);
  a.reset_velocity();
  a.copy_from(a);
  CHECK(equal(read(b), values));
  ModelValues cleared = values;
  for (auto& bucket : cleared.velocity) std::fill(bucket.begin(), bucket.end(), 0.0f);
  CHECK(equal(read(a), cleared));
  runtime.wait_for_all();
}

TEST_CASE("a transfer spreads running statistics of fewer workers in turn", "[model state]") {
  Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  const Network net = network();
  ModelState two(net, 2, "two"), five(net, 5, "five");
  const ModelValues values = numbered(net, 2, 0);
  write(two, values);
  transfer(&two, two.placement, &five, five.placement, 0);
  const ModelValues after = read(five);
  for (std::size_t worker = 0; worker < 5; ++worker)
    CHECK(after.running[worker] == values.running[worker % 2]);
  CHECK(after.parameters == values.parameters);
  CHECK(after.velocity == values.velocity);
}

TEST_CASE("running statistics are averaged over the workers", "[model state]") {
  Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  const int workers = GENERATE(1, 2, 3, 12, 20);
  const Network net = network();
  ModelState state(net, workers, "state");
  const ModelValues values = numbered(net, workers, 0);
  write(state, values);
  const Tensor mean(runtime::vector_spec(net.running_statistics), "mean");
  std::vector<RunningStatisticsPart> parts;
  for (const Tensor& running : state.running) parts.push_back({&running, 0});
  average_running_statistics(parts, mean, state.placement.team, 0);
  const HostView view(mean, Access::read);
  for (std::size_t i = 0; i < net.running_statistics; ++i) {
    double sum = 0;
    for (const auto& running : values.running) sum += static_cast<double>(running[i]);
    REQUIRE(static_cast<double>(view.as<float>()[i]) == Approx(sum / workers).epsilon(1e-6));
  }
}

TEST_CASE("parameters are averaged over moments of the training", "[model state]") {
  Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  const Network net = network();
  ModelState state(net, 1, "state");
  ParameterMean mean(state, "mean");
  for (const int moments : {1, 2, 5}) {  // one after the other: nothing of the last mean stays
    std::vector<ModelValues> values;
    for (int moment = 1; moment <= moments; ++moment) {
      values.push_back(numbered(net, 1, static_cast<float>(100 * moment * moment)));
      write(state, values.back());
      mean.add(state, moment, 0);
    }
    for (std::size_t bucket = 0; bucket < net.buckets.size(); ++bucket) {
      const HostView view(mean.parameters()[bucket], Access::read);
      const auto found = view.as<float>();
      REQUIRE(found.size() == values.front().parameters[bucket].size());
      for (std::size_t i = 0; i < found.size(); ++i) {
        double sum = 0;
        for (const ModelValues& value : values) sum += value.parameters[bucket][i];
        // Each moment but the first adds about two roundings, 6e-8 each.
        REQUIRE(found[i] == Approx(sum / moments).epsilon(5e-7));
      }
    }
  }
}

TEST_CASE("the optimizer updates every parameter, with decay where it applies", "[optimizer]") {
  Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  const Network net = GENERATE(network(), make_network("lenet5", {1, 1, 28, 28}, 10));
  const bool decay_all = GENERATE(false, true);
  const codelets::SgdSettings settings{.momentum = 0.9f, .weight_decay = 0.1f};
  const Optimizer optimizer(net, settings, decay_all);
  ModelState state(net, 1, "state");
  const ModelValues before = ModelValues::initial(net, 1, 3);
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
      double w = static_cast<double>(before.parameters[bucket][i]), v = 0;
      for (int step = 0; step < 2; ++step) {
        v = 0.9 * v + static_cast<double>(values[bucket][i] * scale) + decay * w;
        w -= static_cast<double>(rate) * v;
      }
      REQUIRE(static_cast<double>(after.parameters[bucket][i]) ==
              Approx(w).epsilon(1e-5).margin(1e-6));
      REQUIRE(static_cast<double>(after.velocity[bucket][i]) ==
              Approx(v).epsilon(1e-5).margin(1e-6));
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
