// What hardware there is, read by hwloc.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace stpt::runtime {

struct Machine {
  std::string processor;  ///< model name, empty if unknown
  /// Physical cores that this process may use: those it is not bound away from, and no more than
  /// its control groups give time for.
  int cores = 1;
  std::uint64_t memory_bytes = 0;  ///< installed
  /// Free for new allocations now, limits of control groups included.
  std::uint64_t available_bytes = 0;

  [[nodiscard]] static Machine detect();
  [[nodiscard]] std::string to_string() const;  ///< "2 cores, Intel Xeon, 23.4 GiB"
};

/// hwloc, which StarPU starts, too, looks for GPUs by asking X displays: where names resolve slowly
/// that takes seconds at each start. To be called before either starts; HWLOC_COMPONENTS from
/// outside wins.
void keep_hwloc_from_displays();

/// Binds this process, and threads it starts later, to part `part` of `parts` equal parts of the
/// cores, in the machine's order. Returns false and does nothing where there are fewer cores than
/// parts, or where the launcher has bound the process already.
bool take_share_of_cores(int part, int parts);

/// Nothing binds this process: it may use every core of the host.
[[nodiscard]] bool may_use_all_cores();

/// As many cores as the control groups of this process give time for (cpu.max, cpu.cfs_quota_us),
/// rounded up; whoever is in the same groups shares it. Nothing where they do not limit it. `list`
/// and `root` are where the kernel tells.
[[nodiscard]] std::optional<int> cores_by_quota(
    const std::filesystem::path& list = "/proc/self/cgroup",
    const std::filesystem::path& root = "/sys/fs/cgroup");

/// Resident memory of this process in bytes.
[[nodiscard]] std::uint64_t resident_bytes();

}  // namespace stpt::runtime
