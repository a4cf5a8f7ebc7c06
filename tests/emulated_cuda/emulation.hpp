// The emulated CUDA: libraries with the names of the real ones that compute in host memory, so that
// a machine without a GPU runs the whole CUDA path. This header is what they offer beyond CUDA's
// own functions: counts and failures for tests, the way onto streams for the other libraries and
// for device code.
//
// The environment, read once:
//   STPT_EMULATED_GPUS          number of devices; unset or 0: cudaErrorNoDevice
//   STPT_EMULATED_GPU_MIB       memory of each, default 4096
//   STPT_EMULATED_PEER_ACCESS   0: devices cannot access each other's memory
//   STPT_EMULATED_FAIL_MALLOC   k: the k-th cudaMalloc finds no memory
//   STPT_EMULATED_LOSE_DEVICE   d:k: device d is lost at its k-th kernel
//   STPT_EMULATED_PRETEND       t:k: from the k-th graph launch on kernels compute nothing and take
//                               no time, and graphs take their streams t microseconds
//   STPT_EMULATED_DEFER         1: work runs as late as possible
//
// Work runs at once on the calling thread, or is recorded where its stream captures. Only pretended
// graphs take time, so that one sees what the host adds to them. Deferred work runs when somebody
// waits for it or asks for the second time whether it is done, and only the stream concerned and
// those that it waits for get on: what lacks a wait, on the host or between streams, sees old
// memory; what reuses or frees memory too early spoils it. Misuse is refused with an error and
// explained on stderr.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

extern "C" {

struct EmulatedCudaCounts {
  std::uint64_t mallocs;           ///< calls of cudaMalloc and cudaMallocAsync
  std::uint64_t frees;             ///< and of cudaFree and cudaFreeAsync, but of nullptr
  std::uint64_t kernel_launches;   ///< direct ones, neither captured nor replayed
  std::uint64_t kernels_run;       ///< all that ran
  std::uint64_t library_calls;     ///< of cuDNN and cuBLASLt that ran
  std::uint64_t captures;          ///< ended well
  std::uint64_t instantiations;    ///< of graphs
  std::uint64_t graph_launches;    ///<
  std::uint64_t synchronisations;  ///< host waits: device, stream, event, and synchronous copies
  std::uint64_t host_to_device, host_to_device_bytes;
  std::uint64_t device_to_host, device_to_host_bytes;
  std::uint64_t on_device, on_device_bytes;  ///< copies within one device
  std::uint64_t peer, peer_bytes;            ///< copies between two
  std::uint64_t unpinned;                    ///< asynchronous copies from or to pageable memory
  std::uint64_t bytes_in_use;                ///< device memory allocated now, of all devices
  std::uint64_t handles;                     ///< of cuDNN and cuBLASLt that there are now
};

/// Counts since the start of the process.
void emulated_cuda_counts(EmulatedCudaCounts* counts);
/// The k-th cudaMalloc from now on, of any thread, finds no memory; 0 takes it back.
void emulated_cuda_fail_malloc(std::uint64_t k);
/// Every call on this device fails with cudaErrorLaunchFailure, as after a fault that only a new
/// process recovers from; or (lost = 0) it works again.
void emulated_cuda_lose_device(int device, int lost);
/// Graphs and kernels are pretended from now on (STPT_EMULATED_PRETEND); 0 takes it back.
void emulated_cuda_pretend(std::uint64_t microseconds);
/// Work is deferred from now on (STPT_EMULATED_DEFER), or (0) no more; then all of it runs first.
void emulated_cuda_defer(int deferred);
/// What cuDNN and cuBLASLt name first for this device from now on takes a workspace of so many
/// bytes (4096 at the start); their second choice takes half of it (cuDNN) or none (cuBLASLt).
void emulated_cuda_want_workspace(int device, std::uint64_t bytes);
/// Why the calling thread's last misuse was refused; empty if there was none.
const char* emulated_cuda_last_complaint(void);

}  // extern "C"

namespace emulated_cuda {

/// Says on stderr what was wrong, and gives `error` back.
cudaError_t complain(cudaError_t error, const std::string& what);

/// What a stream runs.
using Operation = std::function<cudaError_t()>;

/// Runs the operation, or records it where the stream captures.
cudaError_t enqueue(cudaStream_t stream, Operation operation);

/// The stream's device; nullptr: the calling thread's.
int device_of(cudaStream_t stream);

/// Complains unless `device` can access all of these bytes: its own memory, or pinned host memory.
cudaError_t check_access(int device, const void* pointer, std::size_t bytes,
                         const std::string& what);

/// Bytes of a workspace that the libraries' fastest kernels want on the calling thread's device.
std::size_t wanted_workspace();

/// To be called by a library's operation when it runs.
void count_library_call();

/// So many more handles of a library; negative: fewer.
void count_handles(int more);

// ---- Kernels ----------------------------------------------------------------------------------

/// A kernel's argument in memory.
struct Argument {
  const void* address;
  std::size_t bytes;
  bool is_pointer;
};

/// A kernel with its arguments.
class KernelCall {
 public:
  virtual ~KernelCall() = default;
  virtual void run_thread() const = 0;  ///< with threadIdx and the like set
  [[nodiscard]] virtual std::vector<Argument> arguments() const = 0;
};

cudaError_t launch(const cudaLaunchConfig_t& config, std::shared_ptr<const KernelCall> call);

/// Waits for all threads of the block; `line` tells which call it is.
void synchronize_block(unsigned line);
/// Exchanges values (of at most 8 bytes) with all lanes of the warp; returns that of `source_lane`,
/// of the caller itself if there is no such lane.
std::uint64_t exchange_in_warp(unsigned mask, std::uint64_t value, int source_lane, unsigned line);
/// The caller's place in its warp.
int lane();

}  // namespace emulated_cuda
