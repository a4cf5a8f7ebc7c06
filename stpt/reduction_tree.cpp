#include "stpt/reduction_tree.hpp"

#include <algorithm>
#include <iterator>
#include <set>

namespace stpt {
namespace {

struct Addition {
  int left, right;
  int rank;                   // where it is done
  int left_from, right_from;  // where the partials are
};

/// All additions of the tree, in order. Ranks are chosen by Fitch's rule (Fitch 1971, "Toward
/// defining the course of evolution"), which makes a tree with labelled leaves change labels as
/// seldom as can be: upwards, the labels that are best for both sides if there are any, else those
/// for either; downwards, the label above if it is among the best.
std::vector<Addition> place(const models::Team& team, int root) {
  const auto workers = static_cast<std::size_t>(team.workers);
  std::vector<std::set<int>> best(workers);
  for (int worker = 0; worker < team.workers; ++worker)
    best[static_cast<std::size_t>(worker)] = {team.rank_of(worker)};
  struct Node {
    std::size_t left, right;
    std::set<int> left_best, right_best;
  };
  std::vector<Node> nodes;
  for (std::size_t distance = 1; distance < workers; distance *= 2) {
    for (std::size_t i = 0; i + distance < workers; i += 2 * distance) {
      nodes.push_back({i, i + distance, best[i], best[i + distance]});
      std::set<int> both;
      std::ranges::set_intersection(best[i], best[i + distance], std::inserter(both, both.end()));
      if (both.empty()) {
        std::ranges::set_union(best[i], best[i + distance], std::inserter(both, both.end()));
      }
      best[i] = std::move(both);
    }
  }
  // Downwards: where the partial of position i has to be.
  std::vector<int> wanted(workers, root);
  std::vector<Addition> additions;
  for (auto node = nodes.rbegin(); node != nodes.rend(); ++node) {
    const int rank = wanted[node->left];
    const auto settle = [rank](const std::set<int>& ranks) {
      return ranks.contains(rank) ? rank : *ranks.begin();
    };
    const int left = settle(node->left_best), right = settle(node->right_best);
    additions.push_back(
        {static_cast<int>(node->left), static_cast<int>(node->right), rank, left, right});
    wanted[node->left] = left;
    wanted[node->right] = right;
  }
  std::ranges::reverse(additions);
  return additions;
}

}  // namespace

std::vector<ReductionStep> reduction_steps(const models::Team& team, int root, int rank) {
  using Kind = ReductionStep::Kind;
  std::vector<ReductionStep> steps;
  const auto move = [&](int partial, int from, int to) {
    if (from == to) return;
    if (from == rank) steps.push_back({Kind::send, partial, 0, to});
    if (to == rank) steps.push_back({Kind::receive, partial, 0, from});
  };
  if (team.workers == 1) move(0, team.rank_of(0), root);
  for (const Addition& addition : place(team, root)) {
    move(addition.left, addition.left_from, addition.rank);
    move(addition.right, addition.right_from, addition.rank);
    if (addition.rank == rank) steps.push_back({Kind::add, addition.left, addition.right, -1});
  }
  return steps;
}

}  // namespace stpt
