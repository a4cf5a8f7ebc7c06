#include "stpt/files/safetensors.hpp"

#include <bit>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

#include "stpt/config/config.hpp"
#include "stpt/files/run_directory.hpp"
#include "tests/catch.hpp"
#include "tests/data/testing.hpp"

namespace stpt {
namespace {

using data::testing::TemporaryFolder;

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

std::string with_size(std::string header, std::uint64_t size) {
  const auto bytes = std::bit_cast<std::array<char, 8>>(size);
  return std::string(bytes.data(), bytes.size()) + std::move(header);
}

/// What the file with these bytes is refused for.
std::string refusal(const std::string& bytes) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "a.safetensors";
  std::ofstream(path, std::ios::binary) << bytes;
  try {
    const SafetensorsFile file(path);
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    const std::string place = path.string() + ": ";
    REQUIRE(message.starts_with(place));
    return message.substr(place.size());
  }
  return "no error";
}

TEST_CASE("tensors come back as they were written", "[safetensors]") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "a.safetensors";
  const std::vector<float> matrix = {1, -0.0f, std::numeric_limits<float>::quiet_NaN(), 4, 5, 6};
  const std::vector<std::int64_t> counter = {std::int64_t{1} << 40};
  write_safetensors(path,
                    {{"count", "I64", {}, bytes_of(counter)},
                     {"a \"matrix\"", "F32", {2, 3}, bytes_of(matrix)},
                     {"nothing", "F32", {0, 7}, {}}},
                    {{"format", "pt"}});

  const SafetensorsFile file(path);
  REQUIRE(file.entries().size() == 3);
  const auto& entry = file.entries().at("a \"matrix\"");
  CHECK(entry.data_type == "F32");
  CHECK(entry.shape == std::vector<std::int64_t>{2, 3});
  CHECK(entry.begin % alignof(float) == 0);
  std::vector<float> read(6);
  file.read(entry, std::as_writable_bytes(std::span(read)));
  CHECK(std::memcmp(read.data(), matrix.data(), sizeof(float) * 6) == 0);
  std::vector<std::int64_t> count(1);
  file.read(file.entries().at("count"), std::as_writable_bytes(std::span(count)));
  CHECK(count == counter);
  CHECK(file.entries().at("count").shape.empty());
  CHECK(file.entries().at("nothing").begin == file.entries().at("nothing").end);
  CHECK_THROWS_AS(file.read(entry, std::as_writable_bytes(std::span(count))), ConfigError);
}

TEST_CASE("the bytes of a file are those of the format", "[safetensors]") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "a.safetensors";
  const std::vector<float> one = {1};
  write_safetensors(path, {{"x", "F32", {1}, bytes_of(one)}}, {});
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  const std::string header =
      R"({"__metadata__":{},"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  const std::string padded = header + std::string((8 - header.size() % 8) % 8, ' ');
  CHECK(text.str() == with_size(padded, padded.size()) + std::string({'\0', '\0', '\x80', '\x3f'}));
}

TEST_CASE("files that are damaged or something else are refused", "[safetensors]") {
  const std::string no_file = "is no safetensors file, or cut short; must be a whole one";
  CHECK(refusal("") == no_file);
  CHECK(refusal("PK\3\4") == no_file);
  CHECK(refusal("an ordinary text file") == no_file);
  CHECK(refusal(with_size("{}", 3)) == no_file);
  CHECK(refusal(with_size("{}", std::numeric_limits<std::uint64_t>::max())) == no_file);
  CHECK(refusal(with_size("[1]", 3)) == "is no safetensors file; must be one");
  CHECK(refusal(with_size("{\"a\"", 4)).starts_with("is no safetensors file (its header: "));
  CHECK(refusal(with_size("{}", 2)) == "no error");

  const auto tensor = [](const std::string& text) {
    const std::string header = "{\"x\": " + text + "}";
    return refusal(with_size(header + "12345678", header.size()));
  };
  CHECK(tensor(R"({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]})") == "no error");
  const std::string damaged = "is damaged (tensor \"x\" ";
  const std::string outside = damaged + "does not lie within the file); use a copy of it";
  CHECK(tensor(R"({"dtype": "F32", "shape": [2], "data_offsets": [0, 9]})") == outside);
  CHECK(tensor(R"({"dtype": "F32", "shape": [2], "data_offsets": [8, 0]})") == outside);
  CHECK(tensor(R"({"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]})") == outside);
  CHECK(tensor(R"({"dtype": "F32", "shape": [2], "data_offsets": [0, 18446744073709551615]})") ==
        outside);
  for (const char* text : {"1", "[]", "{}", R"({"dtype": 1, "shape": [], "data_offsets": [0, 0]})",
                           R"({"dtype": "F32", "shape": 1, "data_offsets": [0, 0]})",
                           R"({"dtype": "F32", "shape": [], "data_offsets": [0]})"}) {
    INFO(text);
    CHECK(tensor(text) == damaged + "has no dtype, shape or data_offsets); use a copy of it");
  }
  for (const char* shape : {"[-1]", "[0.5]", "[\"1\"]", "[[1]]"}) {
    INFO(shape);
    CHECK(tensor(R"({"dtype": "F32", "data_offsets": [0, 0], "shape": )" + std::string(shape) +
                 "}") == damaged + "has a shape that is none); use a copy of it");
  }
}

TEST_CASE("a file is all tensors, one behind the other", "[safetensors]") {
  const auto file = [](const std::string& x, const std::string& y, std::size_t bytes) {
    const auto tensor = [](const char* name, const std::string& place) {
      return "\"" + std::string(name) + R"(": {"dtype": "F32", "shape": [1], "data_offsets": )" +
             place + "}";
    };
    const std::string header = "{" + tensor("x", x) + "," + tensor("y", y) + "}";
    return refusal(with_size(header + std::string(bytes, 'z'), header.size()));
  };
  CHECK(file("[4, 8]", "[0, 4]", 8) == "no error");
  CHECK(file("[4, 8]", "[4, 8]", 8) ==
        "is damaged (tensor \"x\" lies behind a gap); use a copy of it");
  CHECK(file("[0, 4]", "[0, 4]", 4) ==
        "is damaged (tensor \"y\" overlaps another one); use a copy of it");
  CHECK(file("[0, 4]", "[2, 6]", 6) ==
        "is damaged (tensor \"y\" overlaps another one); use a copy of it");
  CHECK(file("[0, 4]", "[5, 9]", 9) ==
        "is damaged (tensor \"y\" lies behind a gap); use a copy of it");
  CHECK(file("[0, 4]", "[4, 8]", 11) ==
        "is damaged (3 bytes behind the last tensor belong to none); use a copy of it");
}

TEST_CASE("files that are not there, or cannot be, are refused", "[safetensors]") {
  const TemporaryFolder folder;
  const auto missing = folder.path() / "b.safetensors";
  CHECK_THROWS_WITH(SafetensorsFile(missing),
                    missing.string() + ": no such file; must be a safetensors file");
  CHECK_THROWS_WITH(SafetensorsFile(folder.path()),
                    folder.path().string() + ": is no file; must be a safetensors file");
  CHECK_THROWS_AS(write_safetensors(folder.path() / "none" / "a.safetensors", {}, {}), OutputError);
}

}  // namespace
}  // namespace stpt
