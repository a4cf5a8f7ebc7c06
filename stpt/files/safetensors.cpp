#include "stpt/files/safetensors.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/string.hpp>
#include <boost/json/value.hpp>
#include <fstream>
#include <optional>
#include <system_error>
#include <utility>

#include "stpt/config/config.hpp"
#include "stpt/config/json_text.hpp"
#include "stpt/config/json_values.hpp"
#include "stpt/files/run_directory.hpp"

namespace stpt {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

static_assert(std::endian::native == std::endian::little, "tensors are copied as they lie");

using SizeBytes = std::array<char, sizeof(std::uint64_t)>;
constexpr std::uint64_t largest_header = 100'000'000;  // the format's own limit
constexpr std::string_view metadata_key = "__metadata__";

[[noreturn]] void refuse(const fs::path& file, const std::string& problem) {
  throw ConfigError(file.string(), "", problem);
}

std::string in_quotes(std::string_view name) { return brief_json(json::string(name), 100); }

SafetensorsFile::Entry to_entry(const fs::path& file, std::string_view name,
                                const json::value& value, std::uint64_t data_begin,
                                std::uint64_t file_size) {
  const auto damaged = [&](const std::string& problem) {
    refuse(file, "is damaged (tensor " + in_quotes(name) + " " + problem + "); use a copy of it");
  };
  const json::object* object = value.if_object();
  const json::value* type = object ? object->if_contains("dtype") : nullptr;
  const json::value* shape = object ? object->if_contains("shape") : nullptr;
  const json::value* offsets = object ? object->if_contains("data_offsets") : nullptr;
  if (type == nullptr || !type->is_string() || shape == nullptr || !shape->is_array() ||
      offsets == nullptr || !offsets->is_array() || offsets->get_array().size() != 2) {
    damaged("has no dtype, shape or data_offsets");
  }
  SafetensorsFile::Entry entry;
  entry.data_type = std::string(type->get_string());
  for (const json::value& dimension : shape->get_array()) {
    const std::optional<std::int64_t> size = to_whole<std::int64_t>(dimension);
    if (!size || *size < 0) damaged("has a shape that is none");
    entry.shape.push_back(*size);
  }
  const auto begin = to_whole<std::uint64_t>(offsets->get_array()[0]);
  const auto end = to_whole<std::uint64_t>(offsets->get_array()[1]);
  if (!begin || !end || *begin > *end || *end > file_size - data_begin) {
    damaged("does not lie within the file");
  }
  entry.begin = data_begin + *begin;
  entry.end = data_begin + *end;
  return entry;
}

/// The format's own rule: the tensors lie one behind the other and fill the rest of the file.
void check_places(const fs::path& file,
                  const std::map<std::string, SafetensorsFile::Entry>& entries,
                  std::uint64_t data_begin, std::uint64_t file_size) {
  using Named = std::pair<const std::string, SafetensorsFile::Entry>;
  std::vector<const Named*> in_place;
  for (const Named& entry : entries) in_place.push_back(&entry);
  std::ranges::sort(in_place, {}, [](const Named* entry) {
    return std::pair(entry->second.begin, entry->second.end);
  });
  std::uint64_t place = data_begin;
  for (const Named* entry : in_place) {
    const auto& [name, tensor] = *entry;
    if (tensor.begin != place) {
      refuse(file, "is damaged (tensor " + in_quotes(name) +
                       (tensor.begin < place ? " overlaps another one" : " lies behind a gap") +
                       "); use a copy of it");
    }
    place = tensor.end;
  }
  if (place != file_size) {
    refuse(file, "is damaged (" + std::to_string(file_size - place) +
                     " bytes behind the last tensor belong to none); use a copy of it");
  }
}

}  // namespace

void write_safetensors(const fs::path& file, const std::vector<NamedTensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  json::object header;
  json::object notes;
  for (const auto& [key, value] : metadata) notes[key] = value;
  header[metadata_key] = std::move(notes);
  std::uint64_t bytes = 0;
  for (const NamedTensor& tensor : tensors) {
    const std::uint64_t end = bytes + tensor.data.size();
    header[tensor.name] =
        json::object{{"dtype", tensor.data_type},
                     {"shape", json::array(tensor.shape.begin(), tensor.shape.end())},
                     {"data_offsets", json::array{bytes, end}}};
    bytes = end;
  }
  std::string text = json::serialize(header);
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the format wants the data aligned

  const auto size = std::bit_cast<SizeBytes>(std::uint64_t{text.size()});
  std::vector<std::string_view> parts = {{size.data(), size.size()}, text};
  for (const NamedTensor& tensor : tensors)
    parts.emplace_back(reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size());
  write_file_atomically(file, parts);
}

SafetensorsFile::SafetensorsFile(const fs::path& file) : file_(file) {
  std::error_code error;
  const fs::file_status status = fs::status(file, error);
  if (!fs::exists(status)) refuse(file, "no such file; must be a safetensors file");
  if (!fs::is_regular_file(status)) refuse(file, "is no file; must be a safetensors file");
  const std::uint64_t file_size = fs::file_size(file, error);
  std::ifstream in(file, std::ios::binary);
  if (!in || error) refuse(file, "cannot be read; check its permissions");

  SizeBytes size_bytes{};
  in.read(size_bytes.data(), size_bytes.size());
  const auto size = std::bit_cast<std::uint64_t>(size_bytes);
  if (in.gcount() != size_bytes.size() || size > largest_header ||
      size > file_size - size_bytes.size()) {
    refuse(file, "is no safetensors file, or cut short; must be a whole one");
  }
  std::string text(static_cast<std::size_t>(size), '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.gcount() != static_cast<std::streamsize>(text.size())) refuse(file, "cannot be read");
  try {
    const json::value header = read_json(text);
    if (!header.is_object()) refuse(file, "is no safetensors file; must be one");
    for (const auto& [name, value] : header.get_object()) {
      if (name == metadata_key) continue;
      entries_[std::string(name)] =
          to_entry(file, name, value, size_bytes.size() + size, file_size);
    }
    check_places(file, entries_, size_bytes.size() + size, file_size);
  } catch (const JsonError& problem) {
    refuse(file, std::string("is no safetensors file (its header: ") + problem.what() + ")");
  }
}

void SafetensorsFile::read(const Entry& entry, std::span<std::byte> data) const {
  std::ifstream in(file_, std::ios::binary);
  in.seekg(static_cast<std::streamoff>(entry.begin));
  in.read(reinterpret_cast<char*>(data.data()), static_cast<std::streamsize>(data.size()));
  if (!in || data.size() != entry.end - entry.begin) {
    refuse(file_, "cannot be read; it has changed or the disk fails");
  }
}

}  // namespace stpt
