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
  Network cut = network_of_buckets();
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

}  // namespace
}  // namespace stpt::models
