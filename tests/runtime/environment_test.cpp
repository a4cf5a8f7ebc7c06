#include "runtime/environment.hpp"

#include <chrono>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

#include "runtime/runtime.hpp"
#include "tests/catch.hpp"
#include "tests/data/testing.hpp"
#include "tests/gpu.hpp"
#include "tests/runtime/runtime_testing.hpp"

namespace stpt::runtime {
namespace {

using testing::contains;
using testing::WithEnvironment;

std::string refusal(const std::string& variable, const std::string& value) {
  const WithEnvironment environment(variable, value);
  return testing::message_of<std::invalid_argument>([] { (void)Environment::read(); });
}

TEST_CASE("numbers in StarPU's environment are read", "[environment]") {
  const WithEnvironment gpus("STARPU_NCUDA", "8"), streams("STARPU_NWORKER_PER_CUDA", "4");
  const WithEnvironment older("STARPU_NCPUS", "3");
  CHECK(Environment::read().gpus == 8);
  CHECK(Environment::read().workers_per_gpu == 4);
  CHECK(Environment::read().cpu_workers == 3);
  const WithEnvironment newer("STARPU_NCPU", "0");  // GPUs may do without
  CHECK(Environment::read().cpu_workers == 0);
}

TEST_CASE("what StarPU would abort for is refused", "[environment]") {
  const std::string most = std::to_string(Runtime::most_cpu_workers());
  for (const char* variable : {"STARPU_NCPU", "STARPU_NCPUS", "STARPU_RESERVE_NCPU"}) {
    for (const char* value : {"abc", "1.5", "1,2", "1e3", "-1", "", " 2", "2 ", "99999999999"}) {
      CAPTURE(variable, value);
      CHECK(refusal(variable, value) == std::string(variable) + ": is \"" + value +
                                            "\"; must be a whole number from 0 to " + most +
                                            ", or not set");
    }
    CHECK(contains(refusal(variable, std::to_string(Runtime::most_cpu_workers() + 1)), most));
    CHECK(refusal(variable, most).empty());
  }
  for (const char* variable : {"STARPU_NCUDA", "STARPU_NWORKER_PER_CUDA"}) {
    for (const char* value : {"x", "-1", "1.5", ""}) {
      CAPTURE(variable, value);
      CHECK(contains(refusal(variable, value), std::string(variable) + ": is \"" + value + "\"; "));
    }
  }
  CHECK(refusal("STARPU_NCUDA", "0").empty());
  CHECK(contains(refusal("STARPU_NWORKER_PER_CUDA", "0"), "whole number from 1 to "));
  CHECK(contains(refusal("STARPU_CALIBRATE", "yes"), "whole number from 0 to 2"));
  CHECK(contains(refusal("STARPU_FXT_TRACE", "yes"), "whole number from 0 to 1"));
}

TEST_CASE("workers are left of which some are reserved", "[environment]") {
  const WithEnvironment workers("STARPU_NCPU", "2");
  const auto problem = [](const char* reserved, int cpu_workers) {
    const WithEnvironment environment("STARPU_RESERVE_NCPU", reserved);
    return reserve_problem({.cpu_workers = cpu_workers, .scheduler = {}});
  };
  CHECK(problem("0", 0).empty());
  CHECK(problem("1", 0).empty());
  CHECK(problem("2", 0) == "is 2, which leaves 0 of 2 CPU workers; must leave at least 1");
  CHECK(problem("3", 0) == "is 3, which leaves 0 of 2 CPU workers; must leave at least 1");
  // What the options ask for is no default.
  CHECK(problem("1", 4) == "is 1, which leaves 3 of 4 CPU workers; must leave at least 4");
  const WithEnvironment reserved("STARPU_RESERVE_NCPU", "2");
  CHECK_THROWS_AS(Runtime({.cpu_workers = 0, .scheduler = {}}), std::invalid_argument);
  CHECK_FALSE(Runtime::alive());
}

TEST_CASE("a scheduler in StarPU's environment is one that it has", "[environment]") {
  CHECK(refusal("STARPU_SCHED", "dmda").empty());
  CHECK(refusal("STARPU_SCHED", "").empty());  // to StarPU as if it were not set
  const std::string problem = refusal("STARPU_SCHED", "swift");
  CHECK(contains(problem, "STARPU_SCHED: is \"swift\"; this StarPU has "));
  CHECK(contains(problem, "lws, "));
  const WithEnvironment library("STARPU_SCHED_LIB", "/opt/schedulers.so");
  CHECK(refusal("STARPU_SCHED", "swift").empty());
}

TEST_CASE("StarPU has a folder to write to", "[environment]") {
  const data::testing::TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "file";
  std::ofstream(file) << "no folder";
  CHECK(refusal("STARPU_PERF_MODEL_DIR", (folder.path() / "new").string()).empty());
  CHECK(std::filesystem::is_directory(folder.path() / "new/bus"));
  CHECK(std::filesystem::is_empty(folder.path() / "new/bus"));
  const std::string problem = "STARPU_PERF_MODEL_DIR: StarPU cannot write to ";
  CHECK(contains(refusal("STARPU_PERF_MODEL_DIR", file.string()),
                 problem + file.string() + "/bus (Not a directory)"));
  CHECK(contains(refusal("XDG_CACHE_HOME", file.string()),
                 problem + file.string() + "/.starpu/sampling/bus (Not a directory)"));
  // Where there is one that nobody can write to, as there is of a read-only file system.
  CHECK(contains(refusal("STARPU_PERF_MODEL_DIR", "/proc"), problem + "/proc/bus ("));
}

TEST_CASE("StarPU needs to write nothing where it has measured the machine", "[environment]") {
  const data::testing::TemporaryFolder folder;
  const WithEnvironment host("STARPU_HOSTNAME", "node7.cluster");
  const std::filesystem::path bus = folder.path() / "bus";
  std::filesystem::create_directory(bus);
  const auto touched = [&] {
    const std::filesystem::file_time_type past{};
    std::filesystem::last_write_time(bus, past);
    CHECK(refusal("STARPU_PERF_MODEL_DIR", folder.path().string()).empty());
    return std::filesystem::last_write_time(bus) != past;
  };
  std::ofstream(bus / "node8.config") << "of another machine";
  CHECK(touched());
  std::ofstream(bus / "node7.config") << "of this one";
  CHECK_FALSE(touched());
}

TEST_CASE("what StarPU has measured is not empty", "[environment]") {
  const data::testing::TemporaryFolder folder;
  const WithEnvironment host("STARPU_HOSTNAME", "node7.cluster");
  const std::filesystem::path bus = folder.path() / "bus";
  std::filesystem::create_directory(bus);
  const auto refused = [&] { return refusal("STARPU_PERF_MODEL_DIR", folder.path().string()); };
  const auto make = [&](const std::string& name, std::chrono::minutes age) {
    std::ofstream(bus / name).flush();
    const auto now = std::filesystem::file_time_type::clock::now();
    std::filesystem::last_write_time(bus / name, now - age);
  };
  make("node8.config", std::chrono::minutes(5));  // another machine's
  make("node7.config", std::chrono::minutes(0));  // being written
  CHECK(refused().empty());
  make("node7.config", std::chrono::minutes(5));
  CHECK(contains(refused(), (bus / "node7.config").string() + ": is empty"));
  std::ofstream(bus / "node7.config") << "measured";
  CHECK(refused().empty());
  make("node7.affinity", std::chrono::minutes(5));
  CHECK(contains(refused(), (bus / "node7.affinity").string() + ": is empty"));
}

TEST_CASE("a trace has a folder to be written to", "[environment]") {
  const data::testing::TemporaryFolder folder;
  const WithEnvironment other("STARPU_FXT_PREFIX", "/proc");
  CHECK(refusal("STARPU_FXT_TRACE", "0").empty());
  CHECK(contains(refusal("STARPU_FXT_TRACE", "1"),
                 "STARPU_FXT_PREFIX: StarPU cannot write to /proc ("));
  const WithEnvironment traced("STARPU_FXT_TRACE", "1");
  CHECK(refusal("STARPU_FXT_PREFIX", (folder.path() / "new").string()).empty());
  CHECK(std::filesystem::is_empty(folder.path() / "new"));
}

TEST_CASE("a runtime does not start in an environment that cannot be", "[environment]") {
  const WithEnvironment environment("STARPU_NCPU", "two");
  CHECK_THROWS_AS(Runtime({.cpu_workers = 1, .scheduler = {}}), std::invalid_argument);
  CHECK_FALSE(Runtime::alive());
}

}  // namespace
}  // namespace stpt::runtime
