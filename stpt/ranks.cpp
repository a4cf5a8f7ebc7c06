#include "stpt/ranks.hpp"

#include <cstddef>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "data/dataset.hpp"
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

void check_workers_of_ranks(const Config& config, const ConfigSource& source) {
  const int ranks = runtime::Cluster::current().size();
  if (config.training.workers >= ranks) return;
  throw ConfigError(source, "training.workers",
                    "is " + std::to_string(config.training.workers) + ", but the job has " +
                        std::to_string(ranks) + " ranks; each needs at least one worker");
}

void check_agreement(const Config& config, const ConfigSource& source, const Experiment& experiment,
                     const std::string& version) {
  runtime::Cluster& cluster = runtime::Cluster::current();
  if (cluster.size() == 1) return;
  const std::string other_version = cluster.broadcast(version);
  const std::string other_config = cluster.broadcast(print_config(config));
  const std::string data = experiment.data_checksum, other_data = cluster.broadcast(data);
  const std::string kind = experiment.gpu_choice.gpus.empty() ? "cores" : "GPUs",
                    other_kind = cluster.broadcast(kind);
  on_all_ranks([&] {
    if (version != other_version) {
      throw ConfigError("", "",
                        "this is stpt_starpu " + version + ", on rank 0 it is " + other_version +
                            "; all ranks must run the same program");
    }
    const std::string difference = first_difference(config, parse_config(other_config, "rank 0"),
                                                    [](std::string_view) { return true; });
    if (!difference.empty()) {
      throw ConfigError(source, difference,
                        "differs from rank 0's; all ranks must train with the same config");
    }
    if (kind != other_kind) {
      throw ConfigError(source, "runtime",
                        "this rank would train on " + kind + ", rank 0 on " + other_kind +
                            "; set STARPU_NCUDA=0 for all to train on cores");
    }
    if (data != other_data) {
      throw data::DataError(experiment.data.name +
                            ": the images or labels differ from rank 0's; all ranks must read the "
                            "same data");
    }
  });
}

std::vector<RankRecord> describe_ranks(const std::string& device) {
  runtime::Cluster& cluster = runtime::Cluster::current();
  if (cluster.size() == 1) return {};
  const std::string mine = cluster.host() + "\n" + device;
  std::vector<RankRecord> ranks;
  for (const std::string& text : cluster.all_gather(mine)) {
    const std::size_t end = text.find('\n');
    ranks.push_back({text.substr(0, end), text.substr(end + 1)});
  }
  return ranks;
}

}  // namespace stpt
