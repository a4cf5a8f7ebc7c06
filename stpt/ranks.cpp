#include "stpt/ranks.hpp"

#include <cstddef>
#include <exception>
#include <string>
#include <vector>

#include "runtime/cluster.hpp"
#include "stpt/messages.hpp"

namespace stpt {

void on_all_ranks(const std::function<void()>& step) {
  runtime::Cluster& cluster = runtime::Cluster::current();
  if (cluster.size() == 1) return step();
  // The status as one character, and the message.
  std::string outcome = "0";
  try {
    step();
  } catch (const std::exception& error) {
    outcome = std::to_string(blames_input(error) ? bad_input : failed) + message_of(error);
  }
  const std::vector<std::string> outcomes = cluster.all_gather(outcome);
  bool all_alike = true;
  std::size_t first = outcomes.size();
  for (std::size_t rank = outcomes.size(); rank-- > 0;) {
    all_alike = all_alike && outcomes[rank] == outcomes[0];
    if (outcomes[rank].front() != '0') first = rank;
  }
  // Hosts by a second exchange, which all ranks reach.
  const std::vector<std::string> hosts = cluster.all_gather(cluster.host());
  if (first == outcomes.size()) return;
  const std::string message = outcomes[first].substr(1);
  throw StartError(
      all_alike ? message : "rank " + std::to_string(first) + " (" + hosts[first] + "): " + message,
      outcomes[first].front() - '0');
}

}  // namespace stpt
