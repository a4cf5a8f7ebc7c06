// Files of named tensors in the format of Hugging Face's safetensors: the size of the header (u64,
// little-endian), the header (JSON: name -> dtype, shape, place of the data), the data.
// https://huggingface.co/docs/safetensors
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace stpt {

/// A tensor to write; the data are not copied.
struct NamedTensor {
  std::string name;
  std::string data_type;            ///< "F32", "I64"
  std::vector<std::int64_t> shape;  ///< empty for a scalar
  std::span<const std::byte> data;  ///< row-major, little-endian
};

/// Replaces `file` in one go. Throws OutputError.
void write_safetensors(const std::filesystem::path& file, const std::vector<NamedTensor>& tensors,
                       const std::map<std::string, std::string>& metadata);

/// The header of a file, and its data on demand.
class SafetensorsFile {
 public:
  struct Entry {
    std::string data_type;
    std::vector<std::int64_t> shape;
    std::uint64_t begin = 0, end = 0;  ///< bytes, from the start of the file
  };

  /// Throws ConfigError if it is no such file, or a damaged one.
  explicit SafetensorsFile(const std::filesystem::path& file);

  [[nodiscard]] const std::map<std::string, Entry>& entries() const { return entries_; }
  /// Fills `data`, which must be of the entry's size. Throws ConfigError if the file cannot be
  /// read.
  void read(const Entry& entry, std::span<std::byte> data) const;

 private:
  std::filesystem::path file_;
  std::map<std::string, Entry> entries_;
};

}  // namespace stpt
