#include "stpt/files/weights.hpp"

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <charconv>
#include <cmath>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "models/averages.hpp"
#include "models/state_dict.hpp"
#include "stpt/config/config.hpp"
#include "stpt/config/json_text.hpp"
#include "stpt/files/safetensors.hpp"

namespace stpt {
namespace {

namespace fs = std::filesystem;

constexpr const char* float32 = "F32";
constexpr const char* int64 = "I64";

/// PyTorch counts in each BatchNorm the batches that its running statistics have seen.
std::vector<std::string> batch_counters(const models::Network& network) {
  std::vector<std::string> names;
  for (const models::Layer& layer : network.layers) {
    if (layer.kind == models::LayerKind::batch_norm) {
      names.push_back(layer.name + ".num_batches_tracked");
    }
  }
  return names;
}

bool is_of(const std::string& tensor, const std::string& layer) {
  return tensor == layer || tensor.starts_with(layer + ".");
}

bool is_of_any(const std::string& tensor, std::span<const std::string> layers) {
  return std::ranges::any_of(layers,
                             [&](const std::string& layer) { return is_of(tensor, layer); });
}

/// What the file has to have.
std::vector<models::StateEntry> entries_but(std::span<const std::string> new_layers,
                                            const models::Network& network) {
  std::vector<models::StateEntry> entries = models::state_dict(network);
  std::erase_if(entries, [&](const auto& entry) { return is_of_any(entry.name, new_layers); });
  return entries;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t size : shape) text += (text.empty() ? "" : "x") + std::to_string(size);
  return text.empty() ? "a scalar" : text;
}

/// A list in JSON, in as many digits as it takes to come back.
std::string list_text(const std::vector<float>& values) {
  std::string text;
  for (const float value : values) {
    std::array<char, 32> digits{};
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
    text.append(text.empty() ? "[" : ", ").append(digits.data(), end);
  }
  return text + "]";
}

/// Fills the values. A run would end with what is not finite as a diverged one.
void read_finite(const SafetensorsFile& weights, const fs::path& file, const std::string& name,
                 std::span<float> values) {
  weights.read(weights.entries().at(name), std::as_writable_bytes(values));
  const bool is_variance = name.ends_with(".running_var");
  const auto bad = std::ranges::find_if_not(
      values, [&](float x) { return std::isfinite(x) && (!is_variance || x >= 0); });
  if (bad == values.end()) return;
  throw ConfigError(file.string(), "",
                    "tensor \"" + name + "\" has the value " + std::to_string(*bad) + " at " +
                        std::to_string(bad - values.begin()) + "; all must be " +
                        (is_variance ? "at least 0" : "finite numbers"));
}

void check(const SafetensorsFile& weights, const fs::path& file, const models::Network& network,
           std::span<const std::string> new_layers) {
  const auto refuse = [&](const std::string& name, const std::string& problem) {
    throw ConfigError(file.string(), "", "tensor \"" + name + "\" " + problem);
  };
  std::set<std::string> known;
  for (const std::string& counter : batch_counters(network)) known.insert(counter);
  for (const models::StateEntry& entry : entries_but(new_layers, network)) {
    known.insert(entry.name);
    const std::string needed = shape_text(entry.dimensions);
    const auto found = weights.entries().find(entry.name);
    if (found == weights.entries().end()) {
      refuse(entry.name, "is missing; " + network.name + " needs it, of shape " + needed);
    }
    const SafetensorsFile::Entry& tensor = found->second;
    if (tensor.shape != entry.dimensions) {
      refuse(entry.name, "is " + shape_text(tensor.shape) + "; must be " + needed + " for " +
                             network.name + " with " + std::to_string(network.classes) +
                             " classes and images of " + network.input().to_string() +
                             ", or its layer one of model.new_layers");
    }
    if (tensor.data_type != float32) {
      refuse(entry.name, "has the dtype " + tensor.data_type + "; must be " + float32);
    }
    if (tensor.end - tensor.begin != entry.elements() * sizeof(float)) {
      refuse(entry.name, "has " + std::to_string(tensor.end - tensor.begin) +
                             " bytes, not those of " + needed + "; the file is damaged");
    }
  }
  for (const auto& [name, tensor] : weights.entries()) {
    if (!known.contains(name) && !is_of_any(name, new_layers))
      refuse(name, "is none of " + network.name + "'s; remove it");
  }
}

}  // namespace

void export_weights(const fs::path& file, const models::Network& network,
                    const models::ModelValues& values, std::int64_t batches,
                    const data::Normalization& normalization,
                    std::span<const std::string> class_names) {
  // With one worker, whose running statistics are the mean.
  models::ModelValues averaged;
  if (network.has_batch_norm()) averaged.running = {models::average_running(values)};
  std::vector<NamedTensor> tensors;
  // Counters come first: behind them everything is aligned.
  for (const std::string& name : batch_counters(network)) {
    tensors.push_back({name, int64, {}, std::as_bytes(std::span(&batches, 1))});
  }
  for (const models::StateEntry& entry : models::state_dict(network)) {
    const models::ModelValues& source = entry.running ? averaged : values;
    tensors.push_back({entry.name, float32, entry.dimensions, std::as_bytes(entry.in(source))});
  }
  std::map<std::string, std::string> metadata = {{"format", "pt"},
                                                 {"model", network.name},
                                                 {"mean", list_text(normalization.mean)},
                                                 {"std", list_text(normalization.stddev)}};
  if (!class_names.empty()) {
    metadata["classes"] = compact_json(boost::json::array(class_names.begin(), class_names.end()));
  }
  write_safetensors(file, tensors, metadata);
}

std::string problem_with_layers(std::span<const std::string> layers,
                                const models::Network& network) {
  const std::vector<models::StateEntry> entries = models::state_dict(network);
  for (const std::string& layer : layers) {
    if (std::ranges::any_of(entries, [&](const auto& entry) { return is_of(entry.name, layer); }))
      continue;
    const std::string& last = entries.back().name;
    return "has \"" + layer + "\"; must have layers of " + network.name +
           " with parameters, of which the last is \"" + last.substr(0, last.rfind('.')) + "\"";
  }
  return "";
}

void check_weights(const fs::path& file, const models::Network& network,
                   std::span<const std::string> new_layers) {
  const SafetensorsFile weights(file);
  check(weights, file, network, new_layers);
  std::vector<float> values;
  for (const models::StateEntry& entry : entries_but(new_layers, network)) {
    values.resize(entry.elements());
    read_finite(weights, file, entry.name, values);
  }
}

void import_weights(const fs::path& file, const models::Network& network,
                    models::ModelValues& values, std::span<const std::string> new_layers) {
  const SafetensorsFile weights(file);
  check(weights, file, network, new_layers);
  for (const models::StateEntry& entry : entries_but(new_layers, network)) {
    const std::span<float> first = entry.in(values);
    read_finite(weights, file, entry.name, first);
    for (std::size_t worker = 1; entry.running && worker < values.running.size(); ++worker) {
      std::ranges::copy(first, entry.in(values, worker).begin());
    }
  }
}

}  // namespace stpt
