#include "data/cifar.hpp"

#include <fstream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "data/memory_dataset.hpp"

namespace stpt::data {
namespace {

namespace fs = std::filesystem;

constexpr runtime::Shape image_shape{1, 3, 32, 32};
constexpr std::size_t image_bytes = 3 * 32 * 32;

/// A record is label_bytes labels, of which the last one counts, and then an image.
struct Format {
  std::string name;
  std::string subfolder;  ///< what the published archive unpacks to
  std::vector<std::string> train;
  std::vector<std::string> test;
  std::string class_names;  ///< a line for each
  int classes;
  std::size_t label_bytes;
};

void append_records(const fs::path& path, const Format& format, std::vector<std::uint8_t>& pixels,
                    std::vector<std::uint8_t>& labels) {
  const std::size_t record_bytes = format.label_bytes + image_bytes;
  std::error_code error;
  const std::uintmax_t size = fs::file_size(path, error);
  if (error) throw DataError(path, "cannot be read: " + error.message());
  if (size == 0 || size % record_bytes != 0) {
    throw DataError(path, std::to_string(size) + " bytes; must be a whole number of records of " +
                              std::to_string(record_bytes) + " bytes each");
  }
  std::ifstream in(path, std::ios::binary);
  std::vector<std::uint8_t> record(record_bytes);
  for (std::uintmax_t number = 0; number < size / record_bytes; ++number) {
    if (!in.read(reinterpret_cast<char*>(record.data()),
                 static_cast<std::streamsize>(record_bytes))) {
      throw DataError(path, "cannot be read beyond record " + std::to_string(number));
    }
    const std::uint8_t label = record[format.label_bytes - 1];
    if (label >= format.classes) {
      throw DataError(path, "label " + std::to_string(label) + " in record " +
                                std::to_string(number) + "; " + format.name + "'s are 0 to " +
                                std::to_string(format.classes - 1));
    }
    labels.push_back(label);
    pixels.insert(pixels.end(), record.begin() + static_cast<std::ptrdiff_t>(format.label_bytes),
                  record.end());
  }
}

/// The archives have them, but they are not needed for training: empty where they are not as they
/// should be.
std::vector<std::string> read_class_names(const fs::path& file, int classes) {
  std::vector<std::string> names;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.ends_with('\r')) line.pop_back();
    if (!line.empty()) names.push_back(std::move(line));
  }
  if (std::ssize(names) != classes) names.clear();
  return names;
}

DatasetPair load(const fs::path& given, const Format& format) {
  std::error_code error;
  const fs::path folder =
      fs::is_directory(given / format.subfolder, error) ? given / format.subfolder : given;
  const auto load_set = [&](const std::vector<std::string>& files, const std::string& set) {
    std::vector<std::uint8_t> pixels;
    std::vector<std::uint8_t> labels;
    for (const std::string& file : files) {
      if (!fs::is_regular_file(folder / file, error)) {
        throw DataError(folder / file,
                        "no such file; " + format.name + " in its binary version has it");
      }
    }
    for (const std::string& file : files) append_records(folder / file, format, pixels, labels);
    return make_mixed_dataset(format.name + " " + set, format.classes, image_shape,
                              std::move(pixels), std::move(labels));
  };
  return {load_set(format.train, "train"), load_set(format.test, "test"), format.name,
          read_class_names(folder / format.class_names, format.classes)};
}

}  // namespace

DatasetPair load_cifar10(const fs::path& folder) {
  return load(folder, {"CIFAR-10",
                       "cifar-10-batches-bin",
                       {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                        "data_batch_4.bin", "data_batch_5.bin"},
                       {"test_batch.bin"},
                       "batches.meta.txt",
                       10,
                       1});
}

DatasetPair load_cifar100(const fs::path& folder) {
  return load(folder, {"CIFAR-100",
                       "cifar-100-binary",
                       {"train.bin"},
                       {"test.bin"},
                       "fine_label_names.txt",
                       100,
                       2});
}

}  // namespace stpt::data
