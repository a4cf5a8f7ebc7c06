#include "tests/emulated_cuda/state.hpp"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>

namespace emulated_cuda {
namespace {

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* value = std::getenv(name);
  if (!value || !*value) return otherwise;
  char* end = nullptr;
  const std::uint64_t number = std::strtoull(value, &end, 10);
  if (*end == '\0') return number;
  std::fprintf(stderr, "emulated CUDA: %s=%s: a number is expected\n", name, value);
  std::abort();
}

Settings read_settings() {
  Settings result;
  const std::uint64_t devices = from_environment("STPT_EMULATED_GPUS", 0);
  if (devices > max_devices) {
    std::fprintf(stderr, "emulated CUDA: STPT_EMULATED_GPUS: at most %d\n", max_devices);
    std::abort();
  }
  result.devices = static_cast<int>(devices);
  result.bytes_per_device = from_environment("STPT_EMULATED_GPU_MIB", 4096) << 20;
  result.peer_access = from_environment("STPT_EMULATED_PEER_ACCESS", 1) != 0;
  return result;
}

/// What tests make fail.
struct Failures {
  std::atomic<std::int64_t> mallocs_left{0};  ///< 1: the next one fails
  std::array<std::atomic<bool>, max_devices> lost{};
  int device_to_lose = -1;
  std::atomic<std::int64_t> kernels_left{0};

  Failures()
      : mallocs_left(static_cast<std::int64_t>(from_environment("STPT_EMULATED_FAIL_MALLOC", 0))) {
    const char* value = std::getenv("STPT_EMULATED_LOSE_DEVICE");
    if (!value || !*value) return;
    long long kernels = 0;
    if (std::sscanf(value, "%d:%lld", &device_to_lose, &kernels) != 2 || device_to_lose < 0 ||
        device_to_lose >= max_devices) {
      std::fprintf(stderr, "emulated CUDA: STPT_EMULATED_LOSE_DEVICE: device:kernels\n");
      std::abort();
    }
    kernels_left = kernels;
  }
};

/// What is pretended, and from which graph launch on.
struct Pretence {
  std::atomic<std::uint64_t> microseconds{0};
  std::atomic<std::uint64_t> first_launch{0};

  Pretence() {
    const char* value = std::getenv("STPT_EMULATED_PRETEND");
    if (!value || !*value) return;
    unsigned long long time = 0, first = 0;
    if (std::sscanf(value, "%llu:%llu", &time, &first) != 2) {
      std::fprintf(stderr, "emulated CUDA: STPT_EMULATED_PRETEND: microseconds:launches\n");
      std::abort();
    }
    microseconds = time;
    first_launch = first;
  }
};

std::atomic<bool>& deferred() {
  static std::atomic<bool> deferred = from_environment("STPT_EMULATED_DEFER", 0) != 0;
  return deferred;
}

std::array<std::atomic<cudaError_t>, max_devices>& faults() {
  static std::array<std::atomic<cudaError_t>, max_devices> faults{};
  return faults;
}

/// What the libraries' fastest kernels want on each device.
struct WantedWorkspace {
  std::array<std::atomic<std::size_t>, max_devices> bytes;
  WantedWorkspace() {
    for (auto& of_device : bytes) of_device = 4096;
  }
};

std::atomic<std::size_t>& wanted_workspace_on(int device) {
  static WantedWorkspace wanted;
  return wanted.bytes[static_cast<std::size_t>(device)];
}

Pretence& pretence() {
  static Pretence pretence;
  return pretence;
}

Failures& failures() {
  static Failures failures;
  return failures;
}

std::string& complaint() {
  thread_local std::string text;
  return text;
}

}  // namespace

const Settings& settings() {
  static const Settings settings = read_settings();
  return settings;
}

int& current_device() {
  thread_local int device = 0;
  return device;
}

bool valid_device(int device) { return device >= 0 && device < settings().devices; }

bool lost(int device) {
  return valid_device(device) && failures().lost[static_cast<std::size_t>(device)];
}

std::chrono::microseconds pretended() {
  const bool begun = counters().graph_launches >= pretence().first_launch;
  return std::chrono::microseconds(begun ? pretence().microseconds.load() : 0);
}

bool deferring() { return deferred() && pretence().microseconds == 0; }

void fail_device(int device, cudaError_t error) {
  if (valid_device(device)) faults()[static_cast<std::size_t>(device)] = error;
}

cudaError_t& last_error() {
  thread_local cudaError_t error = cudaSuccess;
  return error;
}

cudaError_t record(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) last_error() = error;
  return error;
}

cudaError_t complain(cudaError_t error, const std::string& what) {
  std::fprintf(stderr, "emulated CUDA: %s\n", what.c_str());
  complaint() = what;
  return record(error);
}

cudaError_t check_device(int device) {
  if (settings().devices == 0) return cudaErrorNoDevice;
  if (!valid_device(device)) return cudaSuccess;
  return lost(device) ? cudaErrorLaunchFailure : faults()[static_cast<std::size_t>(device)].load();
}

Counters& counters() {
  static Counters counters;
  return counters;
}

void count_kernel(int device) {
  ++counters().kernels_run;
  if (failures().device_to_lose == device && --failures().kernels_left == 0)
    failures().lost[static_cast<std::size_t>(device)] = true;
}

std::size_t wanted_workspace() { return wanted_workspace_on(current_device()); }

void count_library_call() { ++counters().library_calls; }

void count_handles(int more) { counters().handles += static_cast<std::uint64_t>(more); }

// ---- Memory -----------------------------------------------------------------------------------

namespace {

/// Behind each allocation, to see who writes past its end; the address sanitizer sees that itself.
#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t guard_bytes = 0;
#else
constexpr std::size_t guard_bytes = 256;
#endif
constexpr int guard_value = 0x5a;

bool guard_intact(const std::byte* guard) {
  for (std::size_t i = 0; i < guard_bytes; ++i) {
    if (guard[i] != std::byte{guard_value}) return false;
  }
  return true;
}

bool injected_failure() {
  auto& left = failures().mallocs_left;
  if (left <= 0 || --left != 0) return false;
  std::fprintf(stderr, "emulated CUDA: this allocation fails, as asked for\n");
  return true;
}

}  // namespace

Memory& Memory::instance() {
  static Memory& memory = *new Memory;  // lives as long as the last static object that frees
  return memory;
}

std::size_t Memory::used(int device) const {
  std::shared_lock lock(mutex_);
  std::size_t bytes = 0;
  for (const auto& [begin, allocation] : allocations_) {
    if (allocation.device == device) bytes += allocation.bytes;
  }
  return bytes;
}

void* Memory::allocate(int device, std::size_t bytes) {
  if (device != host) {
    ++counters().mallocs;
    const std::size_t capacity = settings().bytes_per_device;
    if (injected_failure() || bytes > capacity || used(device) > capacity - bytes) return nullptr;
  }
  std::unique_ptr<std::byte, Free> memory(static_cast<std::byte*>(
      ::operator new (bytes + guard_bytes, std::align_val_t{alignment}, std::nothrow)));
  if (!memory) return nullptr;
  std::memset(memory.get(), 0xff, bytes);  // a NaN in every float
  std::memset(memory.get() + bytes, guard_value, guard_bytes);
  std::byte* begin = memory.get();
  std::unique_lock lock(mutex_);
  allocations_.emplace(begin, Allocation{bytes, device, std::move(memory)});
  return begin;
}

void Memory::pin(void* pointer, std::size_t bytes) {
  std::unique_lock lock(mutex_);
  allocations_.emplace(static_cast<const std::byte*>(pointer), Allocation{bytes, host, nullptr});
}

cudaError_t Memory::release(void* pointer, bool of_host, bool registered) {
  std::unique_lock lock(mutex_);
  const auto found = allocations_.find(static_cast<const std::byte*>(pointer));
  const bool right = found != allocations_.end() && (found->second.device == host) == of_host &&
                     !found->second.memory == registered;
  if (!right) {
    lock.unlock();
    return complain(cudaErrorInvalidValue,
                    "a pointer is freed that was not allocated so: " + describe(pointer));
  }
  const Allocation& allocation = found->second;
  const bool intact = registered || guard_intact(found->first + allocation.bytes);
  const std::size_t bytes = allocation.bytes;
  allocations_.erase(found);
  if (intact) return cudaSuccess;
  return complain(cudaErrorIllegalAddress, "something wrote past the end of an allocation of " +
                                               std::to_string(bytes) + " bytes");
}

void Memory::release_all(int device) {
  std::unique_lock lock(mutex_);
  std::erase_if(allocations_, [&](const auto& entry) { return entry.second.device == device; });
}

std::optional<Region> Memory::find(const void* pointer) const {
  const auto* at = static_cast<const std::byte*>(pointer);
  std::shared_lock lock(mutex_);
  auto found = allocations_.upper_bound(at);
  if (found == allocations_.begin()) return std::nullopt;
  --found;
  const auto& [begin, allocation] = *found;
  if (at >= begin + allocation.bytes) return std::nullopt;
  return Region{begin, allocation.bytes, allocation.device};
}

std::string describe(const void* pointer) {
  std::ostringstream text;
  text << pointer;
  const std::optional<Region> region = Memory::instance().find(pointer);
  if (!region) {
    text << ", which is no device memory, or freed";
  } else {
    text << ", byte " << static_cast<const std::byte*>(pointer) - region->begin << " of "
         << region->bytes;
    if (region->device == host) {
      text << " of pinned host memory";
    } else {
      text << " on device " << region->device;
    }
  }
  return text.str();
}

cudaError_t check_access(int device, const void* pointer, std::size_t bytes,
                         const std::string& what) {
  const std::optional<Region> region = Memory::instance().find(pointer);
  const bool inside =
      region && (region->device == device || region->device == host) &&
      static_cast<std::size_t>(static_cast<const std::byte*>(pointer) - region->begin) + bytes <=
          region->bytes;
  if (inside) return cudaSuccess;
  return complain(cudaErrorIllegalAddress, what + " accesses " + std::to_string(bytes) +
                                               " bytes from device " + std::to_string(device) +
                                               " at " + describe(pointer));
}

}  // namespace emulated_cuda

// ---- For tests --------------------------------------------------------------------------------

using namespace emulated_cuda;

void emulated_cuda_counts(EmulatedCudaCounts* counts) {
  const Counters& c = counters();
  *counts = {.mallocs = c.mallocs,
             .frees = c.frees,
             .kernel_launches = c.kernel_launches,
             .kernels_run = c.kernels_run,
             .library_calls = c.library_calls,
             .captures = c.captures,
             .instantiations = c.instantiations,
             .graph_launches = c.graph_launches,
             .synchronisations = c.synchronisations,
             .host_to_device = c.host_to_device.calls,
             .host_to_device_bytes = c.host_to_device.bytes,
             .device_to_host = c.device_to_host.calls,
             .device_to_host_bytes = c.device_to_host.bytes,
             .on_device = c.on_device.calls,
             .on_device_bytes = c.on_device.bytes,
             .peer = c.peer.calls,
             .peer_bytes = c.peer.bytes,
             .unpinned = c.unpinned,
             .bytes_in_use = 0,
             .handles = c.handles};
  for (int device = 0; device < settings().devices; ++device)
    counts->bytes_in_use += Memory::instance().used(device);
}

void emulated_cuda_fail_malloc(std::uint64_t k) {
  failures().mallocs_left = static_cast<std::int64_t>(k);
}

void emulated_cuda_lose_device(int device, int is_lost) {
  if (!valid_device(device)) return;
  failures().lost[static_cast<std::size_t>(device)] = is_lost != 0;
  if (!is_lost) fail_device(device, cudaSuccess);
}

void emulated_cuda_pretend(std::uint64_t microseconds) {
  pretence().first_launch = 0;
  pretence().microseconds = microseconds;
}

void emulated_cuda_defer(int defer) {
  deferred() = defer != 0;
  if (deferring()) return;
  for (int device = 0; device < settings().devices; ++device) finish_device(device);
}

void emulated_cuda_want_workspace(int device, std::uint64_t bytes) {
  if (valid_device(device)) wanted_workspace_on(device) = bytes;
}

const char* emulated_cuda_last_complaint() { return complaint().c_str(); }
