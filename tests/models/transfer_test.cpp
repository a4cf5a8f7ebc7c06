#include "models/transfer.hpp"

#include "runtime/runtime.hpp"
#include "tests/catch.hpp"
#include "tests/models/model_state_testing.hpp"

namespace stpt::models {
namespace {

using runtime::Runtime;
using testing::network_of_buckets;
using testing::numbered;

TEST_CASE("a transfer spreads running statistics of fewer workers in turn", "[transfer]") {
  Runtime runtime({.cpu_workers = 2, .scheduler = {}});
  const Network net = network_of_buckets();
  ModelState two(net, 2, "two"), five(net, 5, "five");
  const ModelValues values = numbered(net, 2, 0);
  write(two, values);
  transfer(&two, two.placement, &five, five.placement, 0);
  const ModelValues after = read(five);
  for (std::size_t worker = 0; worker < 5; ++worker)
    CHECK(after.running[worker] == values.running[worker % 2]);
  CHECK(after.parameters == values.parameters);
  CHECK(after.moments == values.moments);
}

}  // namespace
}  // namespace stpt::models
