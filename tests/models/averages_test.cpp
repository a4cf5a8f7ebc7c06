#include "models/averages.hpp"

#include <vector>

#include "runtime/runtime.hpp"
#include "tests/catch.hpp"
#include "tests/models/model_state_testing.hpp"

namespace stpt::models {
namespace {

using runtime::Access;
using runtime::HostView;
using runtime::Runtime;
using runtime::Tensor;
using testing::network_of_buckets;
using testing::numbered;

TEST_CASE("running statistics are averaged over the workers", "[averages]") {
  Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  const int workers = GENERATE(1, 2, 3, 12, 20);
  const Network net = network_of_buckets();
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

TEST_CASE("parameters are averaged over moments of the training", "[averages]") {
  Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  const Network net = network_of_buckets();
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

}  // namespace
}  // namespace stpt::models
