#include "stpt/files/checkpoint.hpp"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <csignal>
#include <cstring>
#include <fstream>
#include <limits>
#include <span>
#include <sstream>
#include <string_view>

#include "stpt/files/run_directory.hpp"
#include "stpt/files/sha256.hpp"
#include "tests/catch.hpp"
#include "tests/data/testing.hpp"

namespace stpt {
namespace {

namespace fs = std::filesystem;
using data::testing::TemporaryFolder;

constexpr std::size_t digest_bytes = 64;
constexpr std::size_t size_at = 12, header_size_at = 20, header_at = 28;

Checkpoint example() {
  Checkpoint checkpoint;
  checkpoint.epoch = 7;
  checkpoint.chosen_learning_rate = 0.1 + 0.2;  // 17 digits
  checkpoint.base_learning_rate = std::nextafter(0.05, 1.0);
  checkpoint.highest_learning_rate = 0.7;
  checkpoint.plateau = {0.91234567890123456, 2, 3};
  checkpoint.wall_seconds = 1e-300;
  checkpoint.config = "{\"name\": \"\u00e4\"}\n";
  checkpoint.data = "c0ffee";
  checkpoint.normalization = {{0.1F, -0.25F}, {1.0F / 3, 1e-38F}};
  checkpoint.model.parameters = {
      {1.5F, -0.0F, std::bit_cast<float>(0x7fc12345U)},
      {},
      {std::bit_cast<float>(0xff812345U),  // a signalling NaN
       std::numeric_limits<float>::infinity(), std::numeric_limits<float>::denorm_min()}};
  checkpoint.model.moments = {{0.25F, 1e-38F, -3.0F}, {}, {1, 2, 3}};
  checkpoint.model.running = {{0.5F, 0.75F}};
  return checkpoint;
}

bool same_bits(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  return std::ranges::equal(a, b, [](const auto& x, const auto& y) {
    return x.size() == y.size() &&
           (x.empty() || std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0);
  });
}

bool same_bits(double a, double b) {
  return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
}

void check_same(const Checkpoint& a, const Checkpoint& b) {
  CHECK(a.epoch == b.epoch);
  CHECK(same_bits(a.chosen_learning_rate, b.chosen_learning_rate));
  CHECK(same_bits(a.base_learning_rate, b.base_learning_rate));
  CHECK(same_bits(a.highest_learning_rate, b.highest_learning_rate));
  CHECK(same_bits(a.plateau.best_top1, b.plateau.best_top1));
  CHECK(a.plateau.stale_epochs == b.plateau.stale_epochs);
  CHECK(a.plateau.decays == b.plateau.decays);
  CHECK(same_bits(a.wall_seconds, b.wall_seconds));
  CHECK(a.config == b.config);
  CHECK(a.data == b.data);
  CHECK(same_bits({a.normalization.mean, a.normalization.stddev},
                  {b.normalization.mean, b.normalization.stddev}));
  CHECK(same_bits(a.model.parameters, b.model.parameters));
  CHECK(same_bits(a.model.moments, b.model.moments));
  CHECK(same_bits(a.model.running, b.model.running));
}

std::string read_file(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

void write_file(const fs::path& file, std::string_view bytes) {
  std::ofstream out(file, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  REQUIRE(out.good());
}

std::string error_of(const fs::path& file) {
  try {
    (void)load_checkpoint(file);
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "no error";
}

/// The bytes with a digest that fits them, as a forger would leave them.
std::string sign(std::string bytes) {
  Sha256 hash;
  hash.update(std::as_bytes(std::span(bytes).first(bytes.size() - digest_bytes)));
  return bytes.replace(bytes.size() - digest_bytes, digest_bytes, hash.hex_digest());
}

void put(std::string& bytes, std::size_t at, std::uint64_t value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

std::uint64_t get(const std::string& bytes, std::size_t at) {
  std::uint64_t value = 0;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

/// The file with another header, its sizes and digest put right.
std::string with_header(const std::string& bytes, const std::string& header) {
  std::string out = bytes;
  out.replace(header_at, get(bytes, header_size_at), header);
  put(out, header_size_at, header.size());
  put(out, size_at, out.size());
  return sign(out);
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

TEST_CASE("A checkpoint comes back bit for bit", "[checkpoint]") {
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "checkpoint.bin";
  SECTION("with every kind of float") {
    save_checkpoint(file, example());
    check_same(load_checkpoint(file), example());
  }
  SECTION("empty") {
    save_checkpoint(file, Checkpoint{});
    check_same(load_checkpoint(file), Checkpoint{});
  }
  SECTION("with doubles that JSON has no number for") {
    Checkpoint odd = example();
    odd.plateau.best_top1 = -0.0;
    odd.chosen_learning_rate = std::numeric_limits<double>::infinity();
    odd.base_learning_rate = -std::numeric_limits<double>::infinity();
    odd.wall_seconds = std::numeric_limits<double>::quiet_NaN();
    save_checkpoint(file, odd);
    const Checkpoint read = load_checkpoint(file);
    CHECK(std::isnan(read.wall_seconds));
    odd.wall_seconds = read.wall_seconds;
    check_same(read, odd);
  }
  SECTION("and the same values make the same file") {
    save_checkpoint(file, example());
    save_checkpoint(folder.path() / "again.bin", example());
    CHECK(read_file(file) == read_file(folder.path() / "again.bin"));
  }
  SECTION("over an older one, and leaves no other file") {
    save_checkpoint(file, Checkpoint{});
    save_checkpoint(file, example());
    check_same(load_checkpoint(file), example());
    CHECK(std::distance(fs::directory_iterator(folder.path()), {}) == 1);
  }
}

TEST_CASE("What is no checkpoint is refused in one line", "[checkpoint]") {
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "checkpoint.bin";
  const std::string name = file.string();
  save_checkpoint(file, example());
  const std::string bytes = read_file(file);
  const auto error_with = [&](const std::string& changed) {
    write_file(file, changed);
    const std::string error = error_of(file);
    CHECK(error.starts_with(name + ": "));
    CHECK(error.find('\n') == std::string::npos);
    return error.substr(std::min(error.size(), name.size() + 2));
  };
  const std::string cut = "is cut short; use a copy of it, or start a new run";

  SECTION("missing") {
    CHECK(error_of(folder.path() / "none.bin") ==
          (folder.path() / "none.bin").string() +
              ": no such file; the run has saved no checkpoint, which it does after each epoch, "
              "unless runtime.checkpoint is false");
  }
  SECTION("a folder") {
    CHECK(error_of(folder.path()) ==
          folder.path().string() + ": is no file; must be a run's checkpoint");
  }
  SECTION("cut short anywhere") {
    for (std::size_t size = 0; size < bytes.size(); ++size) {
      INFO(size);
      write_file(file, std::string_view(bytes).substr(0, size));
      REQUIRE(error_of(file) == name + ": " + cut);
    }
  }
  SECTION("with a byte too many") {
    CHECK(error_with(bytes + '0') ==
          "is damaged (its SHA-256 does not fit); use a copy of it, or start a new run");
  }
  SECTION("with any bit flipped") {
    for (std::size_t at = 0; at < bytes.size(); ++at) {
      INFO(at);
      std::string changed = bytes;
      changed[at] = static_cast<char>(changed[at] ^ (1 << (at % 8)));
      write_file(file, changed);
      REQUIRE(error_of(file) != "no error");
    }
  }
  SECTION("another kind of file") {
    CHECK(error_with("{\"name\": \"run\"}") ==
          "is no checkpoint; must be one that a run has saved");
    CHECK(error_with("X" + bytes.substr(1)) ==
          "is no checkpoint; must be one that a run has saved");
  }
  SECTION("another version") {
    std::string changed = bytes;
    changed[8] = 1;
    CHECK(error_with(sign(changed)) ==
          "is of version 1; must be of version 5, go on with the program that wrote it");
  }
}

TEST_CASE("A forged header cannot make it read or allocate beyond the file", "[checkpoint]") {
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "checkpoint.bin";
  save_checkpoint(file, example());
  const std::string bytes = read_file(file);
  const std::string header = bytes.substr(header_at, get(bytes, header_size_at));
  const auto refused = [&](const std::string& changed) {
    write_file(file, changed);
    return error_of(file).starts_with(file.string() + ": is damaged (its header");
  };
  write_file(file, with_header(bytes, header));
  REQUIRE(error_of(file) == "no error");

  for (const std::uint64_t size :
       {std::uint64_t{header.size() - 1}, std::uint64_t{header.size() + 1}, std::uint64_t{0},
        std::uint64_t{bytes.size()}, std::uint64_t{1} << 40, ~std::uint64_t{0}}) {
    INFO(size);
    std::string changed = bytes;
    put(changed, header_size_at, size);
    CHECK(refused(sign(changed)));
  }
  // Sums of bytes that overflow, sizes that lie, kinds that differ.
  for (const char* sizes : {"[4,0,3]", "[2,0,3]", "[3,0]", "[3,0,3,1]", "[1099511627776,0,3]",
                            "[4611686018427387904,3,0,3]", "[18446744073709551615]", "[-1,0,3]",
                            "[3.5,0,3]", "[null]", "{}", "3", "[\"3\",0,3]"}) {
    INFO(sizes);
    CHECK(refused(with_header(bytes, replaced(header, "[3, 0, 3]", sizes))));
  }
  for (const auto& [from, to] :
       {std::pair{"\"epoch\": 7", "\"epoch\":1e10"}, std::pair{"\"epoch\": 7", "\"epoch\":\"7\""},
        std::pair{"\"epoch\": 7,", ""}, std::pair{"1e-300", "\"now\""},
        std::pair{"1e-300", "\"nan!\""}, std::pair{"1e-300", "null"},
        std::pair{"\"plateau\": {", "\"plateau\":[{"}, std::pair{"\"running\"", "\"walking\""},
        std::pair{"\"c0ffee\"", "3"}, std::pair{"\"config\"", "\"confit\""}}) {
    INFO(from << " -> " << to);
    CHECK(refused(with_header(bytes, replaced(header, from, to))));
  }
  CHECK(refused(with_header(bytes, std::string(100000, '['))));
  CHECK(refused(with_header(bytes, "")));
  CHECK(refused(with_header(bytes, "[]")));
}

/// Saves in another process that may write no file beyond `limit` bytes; returns how it ended.
int save_with_limit(const fs::path& file, const Checkpoint& checkpoint, rlim_t limit, bool killed) {
  const pid_t child = fork();
  if (child == 0) {
    const rlimit no_core{0, 0};
    const rlimit size{limit, limit};
    setrlimit(RLIMIT_CORE, &no_core);
    setrlimit(RLIMIT_FSIZE, &size);
    std::signal(SIGXFSZ, killed ? SIG_DFL : SIG_IGN);
    try {
      save_checkpoint(file, checkpoint);
    } catch (const OutputError&) {
      _exit(3);
    } catch (...) {
      _exit(4);
    }
    _exit(0);
  }
  REQUIRE(child > 0);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  return status;
}

TEST_CASE("A save that does not end leaves the older checkpoint", "[checkpoint]") {
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "checkpoint.bin";
  save_checkpoint(file, example());
  Checkpoint larger = example();
  larger.epoch = 8;
  larger.model.moments[0].assign(100000, 1.0F);

  SECTION("killed in the middle of writing") {
    const int status = save_with_limit(file, larger, 65536, true);
    CHECK(WIFSIGNALED(status));
    CHECK(WTERMSIG(status) == SIGXFSZ);
  }
  SECTION("without room to write") {
    const int status = save_with_limit(file, larger, 65536, false);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 3);
    CHECK(std::distance(fs::directory_iterator(folder.path()), {}) == 1);
  }
  check_same(load_checkpoint(file), example());
  save_checkpoint(file, larger);
  check_same(load_checkpoint(file), larger);
}

TEST_CASE("A checkpoint that cannot be written is an output error", "[checkpoint]") {
  const TemporaryFolder folder;
  CHECK_THROWS_AS(save_checkpoint(folder.path() / "none" / "checkpoint.bin", example()),
                  OutputError);
}

}  // namespace
}  // namespace stpt
