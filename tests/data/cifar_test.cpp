#include "data/cifar.hpp"

#include "tests/catch.hpp"
#include "tests/data/image_files.hpp"
#include "tests/data/testing.hpp"

namespace {

using namespace stpt::data;
using namespace stpt::data::testing;
namespace fs = std::filesystem;

/// Records with these labels; the pixels of record i are i, i + 1, ...
Bytes records(const std::vector<Bytes>& labels) {
  Bytes bytes;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    bytes.insert(bytes.end(), labels[i].begin(), labels[i].end());
    for (std::size_t j = 0; j < 3072; ++j) bytes.push_back(static_cast<std::uint8_t>(i + j));
  }
  return bytes;
}

void write_cifar10(const fs::path& folder) {
  for (std::uint8_t batch = 1; batch <= 5; ++batch) {
    write_bytes(folder / ("data_batch_" + std::to_string(batch) + ".bin"),
                records({{batch}, {static_cast<std::uint8_t>(batch + 4)}}));
  }
  write_bytes(folder / "test_batch.bin", records({{0}, {9}, {3}}));
}

}  // namespace

TEST_CASE("CIFAR-10 is read batch by batch", "[cifar]") {
  const TemporaryFolder folder;
  write_cifar10(GENERATE(true, false) ? folder.path() : folder.path() / "cifar-10-batches-bin");
  const DatasetPair pair = load_cifar10(folder.path());
  CHECK(pair.name == "CIFAR-10");
  CHECK(pair.train->size() == 10);
  CHECK(pair.test->size() == 3);
  CHECK(pair.train->classes() == 10);
  CHECK(pair.train->image_shape() == stpt::runtime::Shape{1, 3, 32, 32});
  CHECK(pair.train->label(0) == 1);
  CHECK(pair.train->label(3) == 6);
  CHECK(pair.train->label(8) == 5);
  CHECK(pair.test->label(1) == 9);
  Bytes image(3072);
  pair.train->read(3, image);
  CHECK(image[0] == 1);
  CHECK(image[3071] == 3072 % 256);
  CHECK(pair.class_names.empty());
}

TEST_CASE("CIFAR's classes have names where the archive's list of them is there", "[cifar]") {
  const TemporaryFolder folder;
  write_cifar10(folder.path());
  const auto names_with = [&](const std::string& list) {
    write_bytes(folder.path() / "batches.meta.txt", Bytes(list.begin(), list.end()));
    return load_cifar10(folder.path()).class_names;
  };
  const std::vector<std::string> names = {"airplane", "automobile", "bird",  "cat",  "deer",
                                          "dog",      "frog",       "horse", "ship", "truck"};
  std::string unix_list, dos_list;
  for (const std::string& name : names) {
    unix_list += name + "\n";
    dos_list += name + "\r\n";
  }
  CHECK(names_with(unix_list + "\n") == names);  // as published, an empty line at the end
  CHECK(names_with(dos_list) == names);
  CHECK(names_with("airplane\nbird\n").empty());
  CHECK(names_with("").empty());

  write_bytes(folder.path() / "train.bin", records({{3, 99}}));
  write_bytes(folder.path() / "test.bin", records({{0, 42}}));
  std::string fine;
  for (int i = 0; i < 100; ++i) fine += "class" + std::to_string(i) + "\n";
  write_bytes(folder.path() / "fine_label_names.txt", Bytes(fine.begin(), fine.end()));
  REQUIRE(load_cifar100(folder.path()).class_names.size() == 100);
  CHECK(load_cifar100(folder.path()).class_names[42] == "class42");
}

TEST_CASE("CIFAR-100 has fine labels", "[cifar]") {
  const TemporaryFolder folder;
  write_bytes(folder.path() / "train.bin", records({{3, 99}, {19, 0}}));
  write_bytes(folder.path() / "test.bin", records({{0, 42}}));
  const DatasetPair pair = load_cifar100(folder.path());
  CHECK(pair.name == "CIFAR-100");
  CHECK(pair.train->classes() == 100);
  CHECK(pair.train->label(0) == 99);
  CHECK(pair.train->label(1) == 0);
  CHECK(pair.test->label(0) == 42);
  Bytes image(3072);
  pair.train->read(1, image);
  CHECK(image[0] == 1);
}

TEST_CASE("CIFAR files that are not right are refused", "[cifar]") {
  const TemporaryFolder folder;
  write_cifar10(folder.path());
  const auto error = [&] { return error_of([&] { (void)load_cifar10(folder.path()); }); };
  const std::string third = (folder.path() / "data_batch_3.bin").string();
  SECTION("missing") {
    fs::remove(third);
    CHECK(error() == third + ": no such file; CIFAR-10 in its binary version has it");
  }
  SECTION("truncated") {
    fs::resize_file(third, 2 * 3073 - 1);
    CHECK(error() == third + ": 6145 bytes; must be a whole number of records of 3073 bytes each");
  }
  SECTION("empty") {
    fs::resize_file(third, 0);
    CHECK(error() == third + ": 0 bytes; must be a whole number of records of 3073 bytes each");
  }
  SECTION("label out of range") {
    write_bytes(third, records({{9}, {10}}));
    CHECK(error() == third + ": label 10 in record 1; CIFAR-10's are 0 to 9");
  }
  SECTION("CIFAR-100 in its place") {
    write_bytes(third, records({{3, 99}}));
    CHECK(error() == third + ": 3074 bytes; must be a whole number of records of 3073 bytes each");
  }
  SECTION("missing folder") {
    CHECK(error_of([&] { (void)load_cifar100(folder.path() / "none"); }) ==
          (folder.path() / "none/train.bin").string() +
              ": no such file; CIFAR-100 in its binary version has it");
  }
}

TEST_CASE("CIFAR files sorted by class are mixed", "[cifar]") {
  const TemporaryFolder folder;
  write_bytes(folder.path() / "train.bin",
              records({{0, 7}, {0, 7}, {0, 7}, {0, 9}, {0, 9}, {0, 9}}));
  write_bytes(folder.path() / "test.bin", records({{0, 9}, {0, 7}, {0, 9}}));
  const DatasetPair pair = load_cifar100(folder.path());
  std::vector<int> labels;
  for (std::size_t i = 0; i < pair.train->size(); ++i) labels.push_back(pair.train->label(i));
  CHECK(labels == std::vector<int>{7, 9, 7, 9, 7, 9});
  CHECK(pair.test->label(0) == 9);
}
