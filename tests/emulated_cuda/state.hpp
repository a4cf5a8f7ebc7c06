// What the files of the emulated runtime share: devices, errors, counts, memory.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <shared_mutex>
#include <string>

#include "tests/emulated_cuda/emulation.hpp"

namespace emulated_cuda {

inline constexpr int host = -1;  ///< as a device
inline constexpr int max_devices = 16;

// ---- Devices ----------------------------------------------------------------------------------

struct Settings {
  int devices = 0;
  std::size_t bytes_per_device = 0;
  bool peer_access = true;
};

/// From the environment.
const Settings& settings();

/// The calling thread's, as cudaSetDevice left it.
int& current_device();
bool valid_device(int device);
bool lost(int device);
/// Whether work is deferred; never where graphs are pretended.
bool deferring();
/// From now on the device refuses everything with this error, as after a fault in deferred work.
void fail_device(int device, cudaError_t error);
/// How long each graph takes while they are only pretended, and kernels, too; else 0.
std::chrono::microseconds pretended();

// ---- Errors -----------------------------------------------------------------------------------

/// What cudaGetLastError returns.
cudaError_t& last_error();

/// Keeps an error for cudaGetLastError, and gives it back.
cudaError_t record(cudaError_t error);

/// Success unless no device can be used.
cudaError_t check_device(int device);

/// Complains, and spoils the captures concerned, where the calling thread must not make such a call
/// while something is captured (CUDA's "potentially unsafe calls").
cudaError_t check_not_capturing(const char* function);
/// cudaErrorStreamCaptureUnsupported, and a spoilt capture, while a stream of the current device
/// captures: in whatever mode, and for whichever thread.
[[nodiscard]] cudaError_t check_none_captures_on_device(const char* function);

/// The frame of the runtime's functions.
template <typename Body>
cudaError_t api(Body body) {
  const cudaError_t usable = check_device(current_device());
  return record(usable == cudaSuccess ? body() : usable);
}

/// The frame of those that a capture forbids.
template <typename Body>
cudaError_t api_outside_capture(const char* function, Body body) {
  return api([&] {
    const cudaError_t allowed = check_not_capturing(function);
    return allowed == cudaSuccess ? body() : allowed;
  });
}

// ---- Counts -----------------------------------------------------------------------------------

struct Counters {
  std::atomic<std::uint64_t> mallocs = 0, frees = 0, kernel_launches = 0, kernels_run = 0,
                             library_calls = 0, handles = 0, captures = 0, instantiations = 0,
                             graph_launches = 0, synchronisations = 0, unpinned = 0;
  struct Copies {
    std::atomic<std::uint64_t> calls = 0, bytes = 0;
    void add(std::size_t more) { ++calls, bytes += more; }
  };
  Copies host_to_device, device_to_host, on_device, peer;
};

Counters& counters();

/// Counts one of the device's kernels, with which it may get lost.
void count_kernel(int device);

// ---- Memory -----------------------------------------------------------------------------------

/// What a pointer points into.
struct Region {
  const std::byte* begin;
  std::size_t bytes;
  int device;  ///< or host: pinned
};

/// All allocations of the runtime, and the host memory registered with it.
class Memory {
 public:
  static Memory& instance();

  /// nullptr if there is no room left.
  void* allocate(int device, std::size_t bytes);
  void pin(void* pointer, std::size_t bytes);  ///< cudaHostRegister
  /// Complains if `pointer` is not the start of such an allocation, or written past its end.
  cudaError_t release(void* pointer, bool of_host, bool registered = false);
  void release_all(int device);

  [[nodiscard]] std::optional<Region> find(const void* pointer) const;
  [[nodiscard]] std::size_t used(int device) const;

 private:
  static constexpr std::size_t alignment = 256;
  struct Free {
    void operator()(std::byte* memory) const {
      ::operator delete (memory, std::align_val_t{alignment});
    }
  };
  struct Allocation {
    std::size_t bytes;
    int device;
    std::unique_ptr<std::byte, Free> memory;  ///< null where only registered
  };
  using Allocations = std::map<const std::byte*, Allocation>;

  mutable std::shared_mutex mutex_;
  Allocations allocations_;
};

/// For messages: "0x…, byte 16 of 64 on device 1".
std::string describe(const void* pointer);

// ---- Streams ----------------------------------------------------------------------------------

/// Forgets the streams and events of a device.
void release_streams(int device);

/// Runs what was deferred: of all of the device's streams, or of one; after a fault its error.
cudaError_t finish_device(int device);
cudaError_t finish_stream(cudaStream_t stream);

/// Whether the stream captures.
bool captures(cudaStream_t stream);

// ---- Kernels ----------------------------------------------------------------------------------

/// Runs all threads of all blocks.
void run_grid(const dim3& grid, const dim3& block, const KernelCall& call);

}  // namespace emulated_cuda
