// Helpers for the tests of data/.
#pragma once

#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "data/memory_dataset.hpp"

namespace stpt::data::testing {

/// The text of the DataError that `action` throws; "no error" if it throws none.
template <typename Action>
std::string error_of(Action&& action) {
  try {
    std::forward<Action>(action)();
  } catch (const DataError& error) {
    return error.what();
  }
  return "no error";
}

/// A folder that is gone with the object.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    static std::atomic<int> count = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("stpt-test-" + std::to_string(getpid()) + "-" + std::to_string(count++));
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// What an IDX file holds: the numbers of its header, and its data.
inline std::string idx(const std::vector<std::uint32_t>& header, const std::string& payload) {
  std::string bytes;
  for (const std::uint32_t value : header) {
    for (unsigned shift = 32; shift > 0; shift -= 8) {
      bytes += static_cast<char>(value >> (shift - 8) & 0xffU);
    }
  }
  return bytes + payload;
}

/// The two files of a set, "train" or "t10k", of equal square images with these labels.
inline void write_idx(const std::filesystem::path& folder, const std::string& set,
                      std::uint32_t side, const std::vector<std::uint8_t>& labels) {
  std::filesystem::create_directories(folder);
  const auto write = [&](const std::string& kind, const std::string& bytes) {
    std::ofstream(folder / (set + kind), std::ios::binary) << bytes;
  };
  const auto count = static_cast<std::uint32_t>(labels.size());
  write("-images-idx3-ubyte",
        idx({0x803, count, side, side}, std::string(labels.size() * side * side, '\x40')));
  write("-labels-idx1-ubyte", idx({0x801, count}, {labels.begin(), labels.end()}));
}

inline std::vector<std::uint32_t> all_indices(std::size_t size) {
  std::vector<std::uint32_t> indices(size);
  std::iota(indices.begin(), indices.end(), 0U);
  return indices;
}

/// Black images with the given labels, for tests that look at labels alone.
inline MemoryDataset labelled(std::vector<std::uint8_t> labels, int classes) {
  std::vector<std::uint8_t> pixels(labels.size());
  return {"test set", classes, runtime::Shape{1, 1, 1, 1}, std::move(pixels), std::move(labels)};
}

}  // namespace stpt::data::testing
