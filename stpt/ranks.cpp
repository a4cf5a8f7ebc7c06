#include "stpt/ranks.hpp"

#include <cstddef>
#include <exception>
#include <span>

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
  const auto outcomes = cluster.all_gather(std::as_bytes(std::span(outcome)));
  const auto text = [&](std::size_t rank) {
    return std::string(reinterpret_cast<const char*>(outcomes[rank].data()), outcomes[rank].size());
  };
  bool all_alike = true;
  std::size_t first = outcomes.size();
  for (std::size_t rank = outcomes.size(); rank-- > 0;) {
    all_alike = all_alike && text(rank) == text(0);
    if (text(rank).front() != '0') first = rank;
  }
  // Hosts by a second exchange, which all ranks reach.
  const auto hosts = cluster.all_gather(std::as_bytes(std::span(cluster.host())));
  if (first == outcomes.size()) return;
  const std::string message = text(first).substr(1);
  const std::string host(reinterpret_cast<const char*>(hosts[first].data()), hosts[first].size());
  throw StartError(
      all_alike ? message : "rank " + std::to_string(first) + " (" + host + "): " + message,
      text(first).front() - '0');
}

std::string rank_0s(const std::string& text) {
  const auto bytes = runtime::Cluster::current().broadcast(std::as_bytes(std::span(text)));
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace stpt
