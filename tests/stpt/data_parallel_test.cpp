#include "stpt/data_parallel.hpp"

#include <span>
#include <vector>

#include "tests/catch.hpp"

namespace stpt {
namespace {

TEST_CASE("a model's steps are joined from its ranks' workers", "[data parallel]") {
  using Results = std::vector<WorkerResult>;
  // Worker w's part of step s: loss 10 s + w.
  const auto part = [](int step, int worker) {
    return WorkerResult{10.0 * step + worker, step + worker, 4};
  };
  const auto check = [](const std::vector<StepResult>& steps) {
    REQUIRE(steps.size() == 2);
    CHECK(steps[0].samples == 12);
    CHECK(steps[0].loss == (10.0 + 11.0 + 12.0) / 12);
    CHECK(steps[0].top1 == (1.0 + 2.0 + 3.0) / 12);
    CHECK(steps[1].samples == 12);
    CHECK(steps[1].loss == (20.0 + 21.0 + 22.0) / 12);
    CHECK(steps[1].top1 == (2.0 + 3.0 + 4.0) / 12);
  };
  const Results all = {part(1, 0), part(1, 1), part(1, 2), part(2, 0), part(2, 1), part(2, 2)};
  SECTION("on one rank") {
    const std::vector<std::span<const WorkerResult>> ranks = {all};
    check(join_steps(ranks, {0, 1, 3}));
  }
  SECTION("on two ranks that are not the job's first ones") {
    const Results first = {part(1, 0), part(2, 0)};
    const Results second = {part(1, 1), part(1, 2), part(2, 1), part(2, 2)};
    const std::vector<std::span<const WorkerResult>> ranks = {first, second};
    check(join_steps(ranks, {3, 2, 3}));
  }
  SECTION("on more ranks than there are workers") {
    const models::Team team{1, 4, 3};
    std::vector<Results> results(4);
    for (const int step : {1, 2}) {
      for (int worker = 0; worker < 3; ++worker)
        results[static_cast<std::size_t>(team.rank_of(worker) - 1)].push_back(part(step, worker));
    }
    REQUIRE(results.front().empty());
    const std::vector<std::span<const WorkerResult>> ranks(results.begin(), results.end());
    check(join_steps(ranks, team));
  }
  SECTION("where there are none") {
    const std::vector<std::span<const WorkerResult>> ranks(2);
    CHECK(join_steps(ranks, {0, 2, 3}).empty());
  }
}

}  // namespace
}  // namespace stpt
