#include "runtime/environment.hpp"

#include <starpu.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <vector>

#include "runtime/cluster.hpp"
#include "runtime/file_descriptor.hpp"
#include "runtime/runtime.hpp"

namespace stpt::runtime {
namespace {

std::optional<int> number(const char* variable, int low, int high) {
  const char* const value = std::getenv(variable);
  if (value == nullptr) return std::nullopt;
  const std::string_view text = value;
  int result = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), result);
  if (error == std::errc() && end == text.data() + text.size() && low <= result && result <= high)
    return result;
  throw std::invalid_argument(std::string(variable) + ": is \"" + value +
                              "\"; must be a whole number from " + std::to_string(low) + " to " +
                              std::to_string(high) + ", or not set");
}

/// Where StarPU keeps what it has measured. It aborts if it cannot write there.
std::filesystem::path measurements() {
  if (const char* const folder = std::getenv("STARPU_PERF_MODEL_DIR")) return folder;
  for (const char* variable : {"XDG_CACHE_HOME", "STARPU_HOME", "HOME", "TMPDIR", "TEMP", "TMP"}) {
    if (const char* const home = std::getenv(variable))
      return std::filesystem::path(home) / ".starpu/sampling";
  }
  return "/tmp/.starpu/sampling";
}

/// Sees that files can be written into the folder, which this makes; `variable` names it, and is
/// set to another one where they cannot.
void require_writable(const std::filesystem::path& folder, const std::string& variable,
                      const std::string& purpose) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (!error) {
    std::string file = (folder / ".written-XXXXXX").string();
    const FileDescriptor made(mkstemp(file.data()));
    if (made) {
      unlink(file.c_str());
      return;
    }
    error = {errno, std::generic_category()};
  }
  throw std::invalid_argument(variable + ": StarPU cannot write to " + folder.string() + " (" +
                              error.message() + "), where it keeps " + purpose +
                              "; must be set to a folder that can be written to");
}

/// What StarPU calls this machine in the names of files.
std::string measured_host() {
  const char* const named = std::getenv("STARPU_HOSTNAME");
  const std::string host = named != nullptr ? named : Cluster::current().host();
  return host.substr(0, host.find('.'));
}

/// Whether StarPU has measured this machine before, and so has nothing to write.
bool measured(const std::filesystem::path& folder) {
  std::error_code error;
  return std::filesystem::exists(folder / (measured_host() + ".config"), error);
}

/// Throws where what StarPU measured is empty, as a full disk leaves it: StarPU would abort. Not
/// while another process may be writing it.
void refuse_empty_measurements(const std::filesystem::path& folder) {
  const auto recently = std::filesystem::file_time_type::clock::now() - std::chrono::minutes(1);
  for (const char* kind : {".config", ".affinity", ".latency", ".bandwidth"}) {
    const std::filesystem::path file = folder / (measured_host() + kind);
    std::error_code error;
    if (std::filesystem::file_size(file, error) != 0 || error) continue;
    if (std::filesystem::last_write_time(file, error) > recently || error) continue;
    throw std::invalid_argument(file.string() +
                                ": is empty, as a full disk leaves it; must be removed for StarPU "
                                "to measure this machine again");
  }
}

void check_folders() {
  const std::filesystem::path kept = measurements() / "bus";
  refuse_empty_measurements(kept);
  if (!measured(kept)) require_writable(kept, "STARPU_PERF_MODEL_DIR", "what it measures");
  if (number("STARPU_FXT_TRACE", 0, 1).value_or(0) == 0) return;
  const char* const traces = std::getenv("STARPU_FXT_PREFIX");
  require_writable(traces != nullptr ? traces : "/tmp", "STARPU_FXT_PREFIX", "traces");
}

}  // namespace

Environment Environment::read() {
  constexpr int most_gpus = 4096;  // no machine has more; how many there are is checked later
  Environment environment;
  environment.cpu_workers = number("STARPU_NCPUS", 0, Runtime::most_cpu_workers());
  if (const auto newer = number("STARPU_NCPU", 0, Runtime::most_cpu_workers()))
    environment.cpu_workers = newer;
  environment.reserved_cpu_workers =
      number("STARPU_RESERVE_NCPU", 0, Runtime::most_cpu_workers()).value_or(0);
  environment.gpus = number("STARPU_NCUDA", 0, most_gpus);
  environment.workers_per_gpu = number("STARPU_NWORKER_PER_CUDA", 1, STARPU_NMAXWORKERS - 1);
  // A library of schedulers has names of its own.
  const char* const scheduler = std::getenv("STARPU_SCHED");
  if (scheduler != nullptr && std::getenv("STARPU_SCHED_LIB") == nullptr) {
    const std::string problem = scheduler_problem(scheduler);
    if (!problem.empty()) throw std::invalid_argument("STARPU_SCHED: " + problem);
  }
  (void)number("STARPU_CALIBRATE", 0, 2);
  check_folders();
  return environment;
}

std::string scheduler_problem(const std::string& name) {
  const std::vector<std::string> known = Runtime::schedulers();
  if (name.empty() || std::ranges::find(known, name) != known.end()) return "";
  std::string names;
  for (const std::string& other : known) {
    if (!other.starts_with("modular-")) names += other + ", ";
  }
  return "is \"" + name + "\"; this StarPU has " + names + "modular-...";
}

}  // namespace stpt::runtime
