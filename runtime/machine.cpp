#include "runtime/machine.hpp"

#include <hwloc.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <memory>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

namespace stpt::runtime {
namespace {

using Topology = std::unique_ptr<hwloc_topology, decltype(&hwloc_topology_destroy)>;

Topology load_topology() {
  keep_hwloc_from_displays();
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) throw std::runtime_error("hwloc: cannot create a topology");
  Topology topology(raw, &hwloc_topology_destroy);
  if (hwloc_topology_load(raw) != 0) throw std::runtime_error("hwloc: cannot read the topology");
  return topology;
}

/// The machine does not change, and to look at it takes milliseconds.
hwloc_topology_t machine_topology() {
  static const Topology loaded = load_topology();
  return loaded.get();
}

std::optional<std::uint64_t> read_number(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::uint64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;  // also "max" of control groups: no limit
}

/// Value of a line such as "MemAvailable:  123 kB", in bytes; 0 if there is none.
std::uint64_t memory_information(const std::string& key) {
  std::ifstream meminfo("/proc/meminfo");
  std::string line;
  while (std::getline(meminfo, line)) {
    std::istringstream fields(line);
    std::string name;
    std::uint64_t kibibytes = 0;
    if (fields >> name >> kibibytes && name == key + ":") return kibibytes * 1024;
  }
  return 0;
}

/// Bytes that the control group in this folder may still take, if it limits them.
std::optional<std::uint64_t> left_in(const std::filesystem::path& group, const char* limit_name,
                                     const char* used_name) {
  const auto limit = read_number(group / limit_name);
  const auto used = read_number(group / used_name);
  if (!limit || !used) return std::nullopt;
  // The kernel drops cached files before it refuses memory.
  std::uint64_t cache = 0, value = 0;
  std::ifstream statistics(group / "memory.stat");
  for (std::string key; statistics >> key >> value;) {
    if (key == "inactive_file" || key == "active_file") cache += value;
  }
  const std::uint64_t taken = *used - std::min(*used, cache);
  return *limit - std::min(*limit, taken);
}

/// Calls visit(folder, whether it is of version 2) for every control group of this process that may
/// limit what `controller` controls.
template <class Visit>
void for_each_group(const std::string& controller, const std::filesystem::path& list,
                    const std::filesystem::path& root, Visit visit) {
  std::ifstream groups(list);  // lines "number:controllers:/path", version 2 as "0::/path"
  for (std::string line; std::getline(groups, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool unified = controllers == ",,";
    if (!unified && controllers.find("," + controller + ",") == std::string::npos) continue;
    // Every group on the way to the root has a say.
    auto path = std::filesystem::path(line.substr(second + 1)).relative_path();
    for (bool more = true; more; path = path.parent_path()) {
      more = !path.empty();
      visit(unified ? root / path : root / controller / path, unified);
    }
  }
}

std::uint64_t available_memory() {
  std::uint64_t available = memory_information("MemAvailable");
  for_each_group("memory", "/proc/self/cgroup", "/sys/fs/cgroup",
                 [&](const std::filesystem::path& group, bool unified) {
                   const auto left =
                       unified ? left_in(group, "memory.max", "memory.current")
                               : left_in(group, "memory.limit_in_bytes", "memory.usage_in_bytes");
                   if (left) available = std::min(available, *left);
                 });
  return available;
}

using Bitmap = std::unique_ptr<hwloc_bitmap_s, decltype(&hwloc_bitmap_free)>;

Bitmap make_bitmap() { return {hwloc_bitmap_alloc(), &hwloc_bitmap_free}; }

/// Cores that the process is not bound away from (taskset, a batch system).
int usable_cores(hwloc_topology_t topology) {
  const Bitmap bound = make_bitmap();
  const bool known = bound && hwloc_get_cpubind(topology, bound.get(), HWLOC_CPUBIND_PROCESS) == 0;
  const int all = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE);
  int usable = 0;
  for (int i = 0; i < all; ++i) {
    const auto core = hwloc_get_obj_by_type(topology, HWLOC_OBJ_CORE, static_cast<unsigned>(i));
    if (!known || hwloc_bitmap_intersects(core->cpuset, bound.get())) ++usable;
  }
  return std::max(1, usable);
}

}  // namespace

void keep_hwloc_from_displays() { setenv("HWLOC_COMPONENTS", "-gl", 0); }

Machine Machine::detect() {
  Machine machine;
  machine.cores = usable_cores(machine_topology());
  if (const auto quota = cores_by_quota()) machine.cores = std::min(machine.cores, *quota);
  machine.memory_bytes = memory_information("MemTotal");
  if (const auto package = hwloc_get_obj_by_type(machine_topology(), HWLOC_OBJ_PACKAGE, 0)) {
    if (const char* model = hwloc_obj_get_info_by_name(package, "CPUModel"))
      machine.processor = model;
  }
  machine.available_bytes = available_memory();
  return machine;
}

std::optional<int> cores_by_quota(const std::filesystem::path& list,
                                  const std::filesystem::path& root) {
  std::optional<int> least;
  for_each_group("cpu", list, root, [&](const std::filesystem::path& group, bool unified) {
    std::optional<std::uint64_t> quota, period;  // microseconds of all cores together
    if (unified) {
      std::ifstream file(group / "cpu.max");  // "max 100000": no limit
      std::uint64_t first = 0, second = 0;
      if (file >> first >> second) quota = first, period = second;
    } else {
      std::ifstream file(group / "cpu.cfs_quota_us");
      std::int64_t value = 0;
      if (file >> value && value > 0) quota = static_cast<std::uint64_t>(value);  // -1: no limit
      period = read_number(group / "cpu.cfs_period_us");
    }
    if (!quota || !period || *quota == 0 || *period == 0) return;
    const auto cores =
        static_cast<int>(std::min<std::uint64_t>((*quota + *period - 1) / *period, 1'000'000));
    least = std::min(least.value_or(cores), cores);
  });
  return least;
}

std::string Machine::to_string() const {
  std::ostringstream text;
  text << cores << (cores == 1 ? " core" : " cores");
  if (!processor.empty()) text << ", " << processor;
  text << ", " << std::fixed << std::setprecision(1)
       << static_cast<double>(memory_bytes) / (1024.0 * 1024.0 * 1024.0) << " GiB";
  return text.str();
}

bool may_use_all_cores() {
  return usable_cores(machine_topology()) >=
         hwloc_get_nbobjs_by_type(machine_topology(), HWLOC_OBJ_CORE);
}

bool take_share_of_cores(int part, int parts) {
  const int cores = hwloc_get_nbobjs_by_type(machine_topology(), HWLOC_OBJ_CORE);
  if (parts <= 1 || cores < parts || !may_use_all_cores()) return false;
  const Bitmap share = make_bitmap();
  if (!share) return false;
  for (int i = part * cores / parts; i < (part + 1) * cores / parts; ++i) {
    const auto core =
        hwloc_get_obj_by_type(machine_topology(), HWLOC_OBJ_CORE, static_cast<unsigned>(i));
    hwloc_bitmap_or(share.get(), share.get(), core->cpuset);
  }
  return hwloc_set_cpubind(machine_topology(), share.get(), HWLOC_CPUBIND_PROCESS) == 0;
}

std::uint64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::uint64_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace stpt::runtime
