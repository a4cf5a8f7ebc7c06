#include "models/model_state.hpp"

#include <algorithm>
#include <stdexcept>

#include "models/zoo.hpp"
#include "runtime/runtime.hpp"
#include "tests/catch.hpp"
#include "tests/models/model_state_testing.hpp"

namespace stpt::models {
namespace {

using runtime::Runtime;
using testing::network_of_buckets;
using testing::numbered;

bool equal(const ModelValues& a, const ModelValues& b) {
  return a.parameters == b.parameters && a.moments == b.moments && a.running == b.running;
}

TEST_CASE("a state gives back what was written", "[model state]") {
  Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  const auto rule = GENERATE(codelets::UpdateRule::velocity, codelets::UpdateRule::adamw);
  for (const char* name : {"resnet8", "lenet5"}) {
    const Network net = make_network(name, {1, 3, 28, 28}, 10);
    ModelState state(net, 3, "state", rule);
    const ModelValues fresh = read(state);
    for (const auto& bucket : fresh.moments)
      CHECK(bucket == std::vector<float>(bucket.size(), 0.0f));
    const ModelValues initial = ModelValues::initial(net, 3, 5, rule);
    CHECK(initial.running.size() == (net.has_batch_norm() ? 3U : 0U));
    write(state, initial);
    CHECK(equal(read(state), initial));
    const ModelValues values = numbered(net, 3, 0, rule);
    write(state, values);
    CHECK(equal(read(state), values));
  }
}

TEST_CASE("values in other buckets are cut anew, those of another network are not",
          "[model state]") {
  Network cut = network_of_buckets();
  const auto rule = GENERATE(codelets::UpdateRule::velocity, codelets::UpdateRule::adamw);
  for (const std::size_t least : {least_bucket, std::size_t{5000}, std::size_t{1}}) {
    const Network written = cut;
    ModelValues values = numbered(written, 2, 0, rule);
    make_buckets(cut, least);
    REQUIRE(values.arrange_for(cut, 2, rule));
    REQUIRE(values.parameters.size() == cut.buckets.size());
    const ModelValues before = numbered(written, 2, 0, rule);
    for (std::size_t i = 0; i < cut.parameters.size(); ++i) {
      const Parameter &from = written.parameters[i], &to = cut.parameters[i];
      const auto value = [](const std::vector<std::vector<float>>& buckets,
                            const Parameter& place) {
        return buckets[static_cast<std::size_t>(place.bucket)][place.offset];
      };
      CHECK(value(values.parameters, to) == value(before.parameters, from));
      CHECK(value(values.moments, to) == value(before.moments, from));
      if (rule != codelets::UpdateRule::adamw) continue;
      const auto second = [](const Network& network, const ModelValues& of,
                             const Parameter& place) {
        const auto bucket = static_cast<std::size_t>(place.bucket);
        return of.moments[bucket][network.buckets[bucket] + place.offset];
      };
      CHECK(second(cut, values, to) == second(written, before, from));
      // The number of steps, which all buckets have in common.
      CHECK(values.moments[static_cast<std::size_t>(to.bucket)].back() == before.moments[0].back());
    }
  }
  ModelValues values = numbered(cut, 2, 0);
  CHECK(values.arrange_for(cut, 2));
  CHECK_FALSE(values.arrange_for(cut, 3));
  CHECK_FALSE(values.arrange_for(make_network("resnet20", {1, 3, 8, 8}, 10), 2));
  CHECK_FALSE(values.arrange_for(make_network("mlp", {1, 3, 8, 8}, 10), 2));
  CHECK_FALSE(values.arrange_for(cut, 2, codelets::UpdateRule::adamw));
  values.moments.pop_back();
  CHECK_FALSE(values.arrange_for(cut, 2));
  ModelValues two = numbered(cut, 2, 0, codelets::UpdateRule::adamw);
  CHECK_FALSE(two.arrange_for(cut, 2));
  two.moments.back().pop_back();
  CHECK_FALSE(two.arrange_for(cut, 2, codelets::UpdateRule::adamw));
  two.moments.pop_back();
  CHECK_FALSE(two.arrange_for(cut, 2, codelets::UpdateRule::adamw));
}

TEST_CASE("values of another network are refused", "[model state]") {
  Runtime runtime({.cpu_workers = 1, .scheduler = {}});
  const Network net = network_of_buckets();
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
  const Network net = network_of_buckets();
  const auto rule = GENERATE(codelets::UpdateRule::velocity, codelets::UpdateRule::adamw);
  ModelState a(net, 2, "a", rule), b(net, 2, "b", rule);
  const ModelValues values = numbered(net, 2, 0, rule);
  write(a, values);
  b.copy_from(a);
  a.reset_moments();
  a.copy_from(a);
  CHECK(equal(read(b), values));
  ModelValues cleared = values;
  for (auto& bucket : cleared.moments) std::fill(bucket.begin(), bucket.end(), 0.0f);
  CHECK(equal(read(a), cleared));
  runtime.wait_for_all();
}

}  // namespace
}  // namespace stpt::models
