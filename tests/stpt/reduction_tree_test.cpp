#include "stpt/reduction_tree.hpp"

#include <deque>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "models/zoo.hpp"
#include "stpt/data_parallel.hpp"
#include "tests/catch.hpp"

namespace stpt {
namespace {

using models::Team;

/// The sum that the tree stands for, with its parentheses.
std::string expected_sum(int workers) {
  std::vector<std::string> partial;
  for (int worker = 0; worker < workers; ++worker) partial.push_back(std::to_string(worker));
  for (std::size_t distance = 1; distance < partial.size(); distance *= 2) {
    for (std::size_t i = 0; i + distance < partial.size(); i += 2 * distance)
      partial[i] = "(" + partial[i] + "+" + partial[i + distance] + ")";
  }
  return partial[0];
}

/// Does what all ranks would do, on sums written as text; messages arrive in the order of sending.
std::string simulate(const Team& team, int root, int& messages) {
  struct Rank {
    std::map<int, std::string> partial;
    std::vector<ReductionStep> steps;
    std::size_t next = 0;
  };
  std::map<int, Rank> ranks;
  for (int rank = team.first_rank; rank < team.first_rank + team.ranks; ++rank) {
    ranks[rank].steps = reduction_steps(team, root, rank);
    for (int worker = team.first_worker(rank); worker < team.first_worker(rank + 1); ++worker)
      ranks[rank].partial[worker] = std::to_string(worker);
  }
  std::map<std::tuple<int, int, int>, std::deque<std::string>> network;  // from, to, partial
  messages = 0;
  for (bool moved = true; moved;) {
    moved = false;
    for (auto& [number, rank] : ranks) {
      while (rank.next < rank.steps.size()) {
        const ReductionStep& step = rank.steps[rank.next];
        if (step.kind == ReductionStep::Kind::send) {
          network[{number, step.peer, step.left}].push_back(rank.partial.at(step.left));
          rank.partial.erase(step.left);
          ++messages;
        } else if (step.kind == ReductionStep::Kind::receive) {
          auto& waiting = network[{step.peer, number, step.left}];
          if (waiting.empty()) break;
          rank.partial[step.left] = waiting.front();
          waiting.pop_front();
        } else {
          rank.partial[step.left] =
              "(" + rank.partial.at(step.left) + "+" + rank.partial.at(step.right) + ")";
          rank.partial.erase(step.right);
        }
        ++rank.next;
        moved = true;
      }
    }
  }
  for (const auto& [number, rank] : ranks) {
    REQUIRE(rank.next == rank.steps.size());
    REQUIRE(rank.partial.size() == (number == root ? 1U : 0U));
  }
  return ranks.at(root).partial.at(0);
}

TEST_CASE("the tree's sum is the same wherever its leaves live", "[reduction tree]") {
  for (int workers = 1; workers <= 17; ++workers) {
    for (int ranks = 1; ranks <= std::min(workers, 9); ++ranks) {
      for (int root = 0; root < ranks; ++root) {
        INFO(workers << " workers on " << ranks << " ranks, sum on " << root);
        int messages = 0;
        REQUIRE(simulate({5, ranks, workers}, 5 + root, messages) == expected_sum(workers));
        REQUIRE(messages >= ranks - 1);
      }
    }
  }
}

TEST_CASE("as few partial sums change ranks as can", "[reduction tree]") {
  int messages = 0;
  // One less than there are ranks where blocks are whole subtrees.
  for (const int ranks : {1, 2, 4, 8}) {
    for (int root = 0; root < ranks; ++root) {
      static_cast<void>(simulate({0, ranks, 8}, root, messages));
      CHECK(messages == ranks - 1);
    }
  }
  // 2, 3 and 3 of 8 workers: the pair (4, 5) is torn apart, and so one more is sent.
  static_cast<void>(simulate({0, 3, 8}, 0, messages));
  CHECK(messages == 3);
}

// ---- What a step costs -----------------------------------------------------------------------

struct JobCost {
  std::size_t bytes = 0, messages = 0, most_tasks = 0, most_messages = 0;
};

JobCost cost_of(const models::Network& network, int ranks, int workers) {
  const models::Placement placement(network, {0, ranks, workers});
  JobCost job;
  for (int rank = 0; rank < ranks; ++rank) {
    const StepCost cost = step_cost(network.buckets, placement, rank);
    job.bytes += cost.bytes_sent;
    job.messages += cost.sent + cost.received;
    job.most_tasks = std::max(job.most_tasks, cost.tasks);
    job.most_messages = std::max(job.most_messages, cost.sent + cost.received);
  }
  return job;
}

TEST_CASE("a step moves the bytes of a reduce-scatter and an all-gather", "[reduction tree]") {
  for (const char* name : {"resnet20", "resnet56", "lenet5"}) {
    const models::Network network = models::make_network(name, {1, 3, 32, 32}, 10);
    const auto model = static_cast<double>(network.parameter_count()) * sizeof(float);
    for (const int ranks : {2, 4, 8}) {
      INFO(name << " on " << ranks << " ranks");
      // Each rank sends (R - 1) / R of the model twice. Buckets are padded to 64 bytes.
      const double least = 2 * (ranks - 1) * model;
      const auto bytes = static_cast<double>(cost_of(network, ranks, 8).bytes);
      CHECK(bytes >= least);
      CHECK(bytes <= 1.05 * least);
    }
  }
}

TEST_CASE("what a rank submits does not grow with the number of ranks", "[reduction tree]") {
  const models::Network network = models::make_network("resnet56", {1, 3, 32, 32}, 10);
  const std::size_t buckets = network.buckets.size();
  constexpr int workers_per_rank = 4;
  for (const int ranks : {1, 2, 4, 8}) {
    INFO(ranks << " ranks");
    const JobCost cost = cost_of(network, ranks, workers_per_rank * ranks);
    // A bucket's gradient: an addition for each worker, those at a rank's edge included. Its
    // update, and the report.
    CHECK(cost.most_tasks <= (workers_per_rank + 1) * buckets + 1);
    // A bucket's gradient is sent R - 1 times, its parameters too, and each time received: a rank's
    // share of that is less than 4 messages. Ranks that own many small buckets have some more.
    CHECK(cost.messages <= 4 * buckets * static_cast<std::size_t>(ranks));
    CHECK(cost.most_messages <= 5 * buckets);
  }
}

}  // namespace
}  // namespace stpt
