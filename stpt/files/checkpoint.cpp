// The file: 8 bytes "STPTCKPT", version (u32), size of the whole file (u64), size of the header
// (u64), the header (JSON), the arrays that it lists (float32), and 64 hexadecimal digits: the
// SHA-256 of all that precedes them. Numbers are little-endian.
#include "stpt/files/checkpoint.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <boost/json/value_from.hpp>
#include <boost/json/value_to.hpp>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <span>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "stpt/config/json_text.hpp"
#include "stpt/files/run_directory.hpp"
#include "stpt/files/sha256.hpp"

namespace stpt {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

static_assert(std::endian::native == std::endian::little, "checkpoints are copied as they lie");
static_assert(sizeof(float) == 4 && std::numeric_limits<float>::is_iec559);

constexpr std::string_view magic = "STPTCKPT";
constexpr std::uint32_t version = 5;
constexpr std::size_t preamble_bytes =
    magic.size() + sizeof(std::uint32_t) + 2 * sizeof(std::uint64_t);
constexpr std::size_t digest_bytes = 64;
constexpr std::size_t smallest_file = preamble_bytes + digest_bytes;

using Arrays = std::vector<std::vector<float>>;

/// The model's arrays as the header names them, in the order of the file; for both directions.
template <class Model, class Visit>
void visit_arrays(Model& model, Visit&& visit) {
  visit("parameters", model.parameters);
  visit("moments", model.moments);
  visit("running", model.running);
}

[[noreturn]] void refuse(const fs::path& file, const std::string& problem) {
  throw CheckpointError(file.string() + ": " + problem);
}

[[noreturn]] void refuse_damaged(const fs::path& file, const std::string& problem) {
  refuse(file, "is damaged (" + problem + "); use a copy of it, or start a new run");
}

std::string digest_of(std::span<const std::string_view> parts) {
  Sha256 hash;
  for (const std::string_view part : parts) hash.update(std::as_bytes(std::span(part)));
  return hash.hex_digest();
}

// ---- The header ------------------------------------------------------------------------------

/// JSON has no name for NaN and infinity, and its -0 is a whole number: they become strings.
json::value number(double value) {
  if (std::isfinite(value) && (value != 0 || !std::signbit(value))) return value;
  std::array<char, 16> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  return json::string(text.data(), static_cast<std::size_t>(end - text.data()));
}

double to_double(const json::value& value) {
  const json::string* text = value.if_string();
  if (text == nullptr) return value.to_number<double>();
  double number = 0;
  const char* end = text->data() + text->size();
  if (std::from_chars(text->data(), end, number).ptr != end) {
    throw std::invalid_argument("\"" + std::string(*text) + "\" is no number");
  }
  return number;
}

std::string header_text(const Checkpoint& checkpoint) {
  json::object header;
  header["epoch"] = checkpoint.epoch;
  header["chosen_learning_rate"] = number(checkpoint.chosen_learning_rate);
  header["base_learning_rate"] = number(checkpoint.base_learning_rate);
  header["highest_learning_rate"] = number(checkpoint.highest_learning_rate);
  header["plateau"] = json::object{{"best_top1", number(checkpoint.plateau.best_top1)},
                                   {"stale_epochs", checkpoint.plateau.stale_epochs},
                                   {"decays", checkpoint.plateau.decays}};
  header["wall_seconds"] = number(checkpoint.wall_seconds);
  header["config"] = checkpoint.config;
  header["data"] = checkpoint.data;
  header["normalization"] =
      json::object{{"mean", json::value_from(checkpoint.normalization.mean)},
                   {"stddev", json::value_from(checkpoint.normalization.stddev)}};
  visit_arrays(checkpoint.model, [&header](const char* name, const Arrays& arrays) {
    json::array sizes;
    for (const std::vector<float>& array : arrays) sizes.emplace_back(array.size());
    header[name] = std::move(sizes);
  });
  return compact_json(header);
}

/// Throws some std::exception for a header that does not hold what it must.
Checkpoint read_header(const json::object& header) {
  Checkpoint checkpoint;
  checkpoint.epoch = header.at("epoch").to_number<int>();
  checkpoint.chosen_learning_rate = to_double(header.at("chosen_learning_rate"));
  checkpoint.base_learning_rate = to_double(header.at("base_learning_rate"));
  checkpoint.highest_learning_rate = to_double(header.at("highest_learning_rate"));
  const json::object& plateau = header.at("plateau").as_object();
  checkpoint.plateau.best_top1 = to_double(plateau.at("best_top1"));
  checkpoint.plateau.stale_epochs = plateau.at("stale_epochs").to_number<int>();
  checkpoint.plateau.decays = plateau.at("decays").to_number<int>();
  checkpoint.wall_seconds = to_double(header.at("wall_seconds"));
  checkpoint.config = header.at("config").as_string();
  checkpoint.data = header.at("data").as_string();
  const json::object& normalization = header.at("normalization").as_object();
  checkpoint.normalization = {json::value_to<std::vector<float>>(normalization.at("mean")),
                              json::value_to<std::vector<float>>(normalization.at("stddev"))};
  return checkpoint;
}

/// Takes the arrays that the header lists from `bytes`, which they must fill exactly. Nothing is
/// allocated that the file does not hold.
void read_arrays(const json::object& header, std::string_view bytes, models::ModelValues& model) {
  visit_arrays(model, [&](const char* name, Arrays& arrays) {
    for (const json::value& element : header.at(name).as_array()) {
      const auto size = element.to_number<std::uint64_t>();
      if (size > bytes.size() / sizeof(float)) throw std::length_error("too few bytes");
      std::vector<float>& array = arrays.emplace_back(static_cast<std::size_t>(size));
      if (!array.empty()) std::memcpy(array.data(), bytes.data(), array.size() * sizeof(float));
      bytes.remove_prefix(array.size() * sizeof(float));
    }
  });
  if (!bytes.empty()) throw std::length_error("too many bytes");
}

// ---- Bytes -----------------------------------------------------------------------------------

template <class T>
void append(std::string& out, T value) {
  std::array<char, sizeof(T)> bytes{};
  std::memcpy(bytes.data(), &value, sizeof(T));
  out.append(bytes.data(), bytes.size());
}

template <class T>
T take(std::string_view& bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  bytes.remove_prefix(sizeof(T));
  return value;
}

std::string read_file(const fs::path& file) {
  std::error_code error;
  const fs::file_status status = fs::status(file, error);
  if (!fs::exists(status)) {
    refuse(file,
           "no such file; the run has saved no checkpoint, which it does after each epoch, "
           "unless runtime.checkpoint is false");
  }
  if (!fs::is_regular_file(status)) refuse(file, "is no file; must be a run's checkpoint");
  std::ifstream in(file, std::ios::binary);
  const std::uintmax_t size = fs::file_size(file, error);
  if (!in || error) refuse(file, "cannot be read; check its permissions");
  std::string bytes(static_cast<std::size_t>(size), '\0');
  in.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (in.bad()) refuse(file, "cannot be read; check the disk");
  bytes.resize(static_cast<std::size_t>(in.gcount()));
  return bytes;
}

}  // namespace

void save_checkpoint(const fs::path& file, const Checkpoint& checkpoint) {
  const std::string header = header_text(checkpoint);
  std::size_t size = smallest_file + header.size();
  visit_arrays(checkpoint.model, [&size](const char*, const Arrays& arrays) {
    for (const std::vector<float>& array : arrays) size += array.size() * sizeof(float);
  });

  std::string start(magic);
  append(start, version);
  append(start, std::uint64_t{size});
  append(start, std::uint64_t{header.size()});
  start += header;
  // The arrays are written from where they lie: a large model is not copied once more.
  std::vector<std::string_view> parts = {start};
  visit_arrays(checkpoint.model, [&parts](const char*, const Arrays& arrays) {
    for (const std::vector<float>& array : arrays)
      parts.emplace_back(reinterpret_cast<const char*>(array.data()), array.size() * sizeof(float));
  });
  const std::string digest = digest_of(parts);
  parts.push_back(digest);
  write_file_atomically(file, parts);
}

Checkpoint load_checkpoint(const fs::path& file) {
  const std::string contents = read_file(file);
  std::string_view bytes = contents;
  if (!bytes.starts_with(magic.substr(0, std::min(magic.size(), bytes.size())))) {
    refuse(file, "is no checkpoint; must be one that a run has saved");
  }
  const std::string cut = "is cut short; use a copy of it, or start a new run";
  if (bytes.size() < smallest_file) refuse(file, cut);

  bytes.remove_prefix(magic.size());
  if (const auto found = take<std::uint32_t>(bytes); found != version) {
    refuse(file, "is of version " + std::to_string(found) + "; must be of version " +
                     std::to_string(version) + ", go on with the program that wrote it");
  }
  if (take<std::uint64_t>(bytes) > contents.size()) refuse(file, cut);
  const auto header_size = take<std::uint64_t>(bytes);
  bytes.remove_suffix(digest_bytes);

  const std::string_view whole = contents, digest = whole.substr(whole.size() - digest_bytes);
  const std::string_view precedes = whole.substr(0, whole.size() - digest_bytes);
  if (digest_of(std::span(&precedes, 1)) != digest) {
    refuse_damaged(file, "its SHA-256 does not fit");
  }
  // What follows fails for a file that someone made, not for one that a disk has spoilt.
  try {
    const auto header_end = static_cast<std::size_t>(header_size);
    const json::value header = read_json(bytes.substr(0, header_end));
    Checkpoint checkpoint = read_header(header.as_object());
    read_arrays(header.as_object(), bytes.substr(header_end), checkpoint.model);
    checkpoint.file = file.string();
    return checkpoint;
  } catch (const std::exception&) {
    refuse_damaged(file, "its header and its arrays do not fit together");
  }
}

void check_made_with(const Checkpoint& checkpoint, const Config& config) {
  const std::string changed = first_difference(
      parse_config(checkpoint.config, checkpoint.file), config, [](std::string_view key) {
        return !may_change_on_resume(key) && key != "model.weights" && key != "model.new_layers";
      });
  if (changed.empty()) return;
  throw CheckpointError(checkpoint.file + ": was made with another " + changed +
                        "; the run's config.json must say what it said then");
}

void arrange_model(Checkpoint& checkpoint, const models::Network& network, int workers,
                   codelets::UpdateRule rule) {
  if (checkpoint.model.arrange_for(network, workers, rule)) return;
  throw CheckpointError(checkpoint.file + ": its tensors are not those of model " + network.name +
                        " with " + std::to_string(workers) +
                        " workers; must be the checkpoint of the run's config");
}

}  // namespace stpt
