// Streams, events, captures, graphs and launches of the emulated runtime.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tests/emulated_cuda/state.hpp"

namespace emulated_cuda {
namespace {

using Clock = std::chrono::steady_clock;

/// What is being captured, from one stream and those that it forked to. Operations of all of them
/// are kept in the order of the calls, which is one that their dependencies allow.
struct Capture {
  cudaStreamCaptureMode mode{};
  std::thread::id thread;
  cudaStream_t origin{};
  unsigned long long id = 0;
  bool invalid = false;
  std::vector<Operation> operations;
  struct Member {
    std::size_t operations = 0;
    bool joined = false;  ///< back into another stream, with all of its operations
  };
  std::unordered_map<cudaStream_t, Member> members;
};

}  // namespace
}  // namespace emulated_cuda

struct CUstream_st {
  int device = 0;
  unsigned flags = 0;
  int priority = 0;
  std::shared_ptr<emulated_cuda::Capture> capture;
  std::mutex running;
};

struct CUevent_st {
  unsigned flags = 0;
  int device = 0;
  bool recorded = false;
  emulated_cuda::Clock::time_point time;
  // Where it was recorded last, if that was captured:
  std::shared_ptr<emulated_cuda::Capture> capture;
  cudaStream_t stream{};
  std::size_t operations = 0;
};

struct CUgraph_st {
  std::vector<emulated_cuda::Operation> operations;
};

struct CUgraphExec_st {
  std::vector<emulated_cuda::Operation> operations;
};

namespace emulated_cuda {
namespace {

/// The live objects behind CUDA's handles.
template <typename T>
class Handles {
 public:
  T* add(std::unique_ptr<T> object) {
    std::lock_guard lock(mutex_);
    T* handle = object.get();
    objects_.emplace(handle, std::move(object));
    return handle;
  }
  [[nodiscard]] bool contains(T* handle) const {
    std::lock_guard lock(mutex_);
    return objects_.contains(handle);
  }
  bool remove(T* handle) {
    std::lock_guard lock(mutex_);
    return objects_.erase(handle) > 0;
  }
  template <typename Condition>
  void remove_if(Condition condition) {
    std::lock_guard lock(mutex_);
    std::erase_if(objects_, [&](const auto& entry) { return condition(*entry.second); });
  }
  template <typename Visit>
  void for_each(Visit visit) {
    std::lock_guard lock(mutex_);
    for (auto& [handle, object] : objects_) visit(*object);
  }

 private:
  mutable std::mutex mutex_;
  std::unordered_map<T*, std::unique_ptr<T>> objects_;
};

/// Never destroyed: objects of other libraries may hold handles until the very end.
struct Objects {
  Handles<CUstream_st> streams;
  Handles<CUevent_st> events;
  Handles<CUgraph_st> graphs;
  Handles<CUgraphExec_st> executables;
  std::array<CUstream_st, max_devices> legacy;  ///< the default streams
  std::mutex captures_mutex;                    ///< of all captures, and who takes part in them
  std::vector<std::shared_ptr<Capture>> captures;
  unsigned long long captures_begun = 0;

  Objects() {
    for (std::size_t i = 0; i < legacy.size(); ++i) legacy[i].device = static_cast<int>(i);
  }
};

Objects& objects() {
  static Objects& objects = *new Objects;
  return objects;
}

std::unique_lock<std::mutex> lock_captures() { return std::unique_lock(objects().captures_mutex); }

bool is_legacy(const CUstream_st* stream) {
  return stream >= objects().legacy.data() && stream < objects().legacy.data() + max_devices;
}

/// Null for a handle of no stream.
CUstream_st* resolve(cudaStream_t handle) {
  if (!handle || handle == cudaStreamLegacy)
    return &objects().legacy[static_cast<std::size_t>(current_device())];
  return objects().streams.contains(handle) ? handle : nullptr;
}

cudaError_t no_stream() {
  return complain(cudaErrorInvalidResourceHandle, "a stream that does not exist, or no more");
}

cudaError_t no_event() {
  return complain(cudaErrorInvalidResourceHandle, "an event that does not exist, or no more");
}

cudaError_t no_graph() {
  return complain(cudaErrorInvalidValue, "a graph that does not exist, or no more");
}

/// Runs `body(stream)` for a usable stream.
template <typename Body>
cudaError_t with_stream(cudaStream_t handle, Body body) {
  return api([&] {
    CUstream_st* stream = resolve(handle);
    if (!stream) return no_stream();
    const cudaError_t usable = check_device(stream->device);
    return usable == cudaSuccess ? body(*stream) : usable;
  });
}

cudaStreamCaptureMode& thread_mode() {
  thread_local cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  return mode;
}

/// Whether the calling thread's unsafe calls are against the rules of `capture`.
bool forbids_unsafe_calls(const Capture& capture) {
  if (thread_mode() == cudaStreamCaptureModeRelaxed || capture.mode == cudaStreamCaptureModeRelaxed)
    return false;
  if (capture.thread == std::this_thread::get_id()) return true;
  return thread_mode() == cudaStreamCaptureModeGlobal &&
         capture.mode == cudaStreamCaptureModeGlobal;
}

/// The default stream waits for all others but non-blocking ones: captured ones cannot be waited
/// for.
cudaError_t check_legacy(const CUstream_st& stream) {
  if (!is_legacy(&stream)) return cudaSuccess;
  bool spoilt = false;
  for (const auto& capture : objects().captures) {
    if (capture->origin->device != stream.device ||
        (capture->origin->flags & cudaStreamNonBlocking) != 0)
      continue;
    capture->invalid = spoilt = true;
  }
  if (!spoilt) return cudaSuccess;
  return complain(cudaErrorStreamCaptureImplicit,
                  "the default stream is used while a blocking stream captures");
}

/// Spoils the stream's capture.
cudaError_t refuse_captured(CUstream_st& stream, const char* function) {
  stream.capture->invalid = true;
  return complain(cudaErrorStreamCaptureUnsupported,
                  std::string(function) + " on a stream that captures");
}

/// All has happened that is not captured.
cudaError_t happened(cudaEvent_t event, const char* function) {
  return api_outside_capture(function, [&] {
    if (!objects().events.contains(event)) return no_event();
    const auto lock = lock_captures();
    if (!event->capture) return cudaSuccess;
    event->capture->invalid = true;
    return complain(cudaErrorCapturedEvent, "a captured event is asked whether it has happened");
  });
}

bool captures(const CUstream_st& stream) {
  const auto lock = lock_captures();
  return stream.capture != nullptr;
}

cudaError_t run_all(const std::vector<Operation>& operations) {
  for (const Operation& operation : operations) {
    const cudaError_t error = operation();
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t enqueue_on(CUstream_st& stream, Operation operation) {
  {
    const auto lock = lock_captures();
    if (const auto& capture = stream.capture) {
      if (capture->invalid) return cudaErrorStreamCaptureInvalidated;
      capture->operations.push_back(std::move(operation));
      Capture::Member& member = capture->members[&stream];
      ++member.operations;
      member.joined = false;
      return cudaSuccess;
    }
    const cudaError_t allowed = check_legacy(stream);
    if (allowed != cudaSuccess) return allowed;
  }
  std::lock_guard running(stream.running);
  return operation();
}

void forget(const std::shared_ptr<Capture>& capture) {
  for (const auto& [stream, member] : capture->members) stream->capture.reset();
  std::erase(objects().captures, capture);
}

}  // namespace

cudaError_t check_not_capturing(const char* function) {
  const auto lock = lock_captures();
  bool forbidden = false;
  for (const auto& capture : objects().captures) {
    if (forbids_unsafe_calls(*capture)) capture->invalid = forbidden = true;
  }
  if (!forbidden) return cudaSuccess;
  return complain(cudaErrorStreamCaptureUnsupported,
                  std::string(function) + " must not be called during a capture");
}

cudaError_t enqueue(cudaStream_t handle, Operation operation) {
  return with_stream(handle,
                     [&](CUstream_st& stream) { return enqueue_on(stream, std::move(operation)); });
}

int device_of(cudaStream_t handle) {
  const CUstream_st* stream = resolve(handle);
  return stream ? stream->device : current_device();
}

void release_streams(int device) {
  objects().streams.remove_if([&](const CUstream_st& stream) { return stream.device == device; });
  objects().events.remove_if([&](const CUevent_st& event) { return event.device == device; });
}

// ---- Launching --------------------------------------------------------------------------------

namespace {

/// Pointers must be the device's own; in structs, where only bits can be seen, they must not be
/// another's.
cudaError_t check_argument(const Argument& argument, int device) {
  const Memory& memory = Memory::instance();
  if (argument.is_pointer) {
    const void* pointer = nullptr;
    std::memcpy(&pointer, argument.address, sizeof pointer);
    return pointer ? check_access(device, pointer, 1, "a kernel") : cudaSuccess;
  }
  for (std::size_t at = 0; at + sizeof(void*) <= argument.bytes; at += sizeof(void*)) {
    const void* word = nullptr;
    std::memcpy(&word, static_cast<const std::byte*>(argument.address) + at, sizeof word);
    const std::optional<Region> region = memory.find(word);
    if (region && region->device != host && region->device != device)
      return check_access(device, word, 1, "a kernel");
  }
  return cudaSuccess;
}

cudaError_t run_kernel(const dim3& grid, const dim3& block, const KernelCall& call, int device) {
  for (const Argument& argument : call.arguments()) {
    const cudaError_t error = check_argument(argument, device);
    if (error != cudaSuccess) return error;
  }
  count_kernel(device);
  if (lost(device)) return cudaErrorLaunchFailure;
  run_grid(grid, block, call);
  return cudaSuccess;
}

cudaError_t check_configuration(const cudaLaunchConfig_t& config) {
  const dim3 &grid = config.gridDim, &block = config.blockDim;
  const auto outside = [](const dim3& size, unsigned x, unsigned y, unsigned z) {
    return size.x < 1 || size.x > x || size.y < 1 || size.y > y || size.z < 1 || size.z > z;
  };
  if (outside(grid, 0x7fffffff, 65535, 65535) || outside(block, 1024, 1024, 64) ||
      block.x * block.y * block.z > 1024)
    return complain(cudaErrorInvalidConfiguration, "a kernel's grid or block has no valid size");
  if (config.dynamicSmemBytes != 0 || config.numAttrs != 0)
    return complain(cudaErrorNotSupported,
                    "dynamic shared memory and launch attributes are not emulated");
  return cudaSuccess;
}

}  // namespace

cudaError_t launch(const cudaLaunchConfig_t& config, std::shared_ptr<const KernelCall> call) {
  return with_stream(config.stream, [&](CUstream_st& stream) {
    const cudaError_t valid = check_configuration(config);
    if (valid != cudaSuccess) return valid;
    if (stream.device != current_device())
      return complain(cudaErrorInvalidResourceHandle,
                      "a kernel is launched on a stream of another than the current device");
    if (!captures(stream)) ++counters().kernel_launches;
    return enqueue_on(
        stream, [grid = config.gridDim, block = config.blockDim, call, device = stream.device] {
          return run_kernel(grid, block, *call, device);
        });
  });
}

}  // namespace emulated_cuda

using namespace emulated_cuda;

// Their parameters are named as in this project, not as in CUDA's headers.
extern "C" {

// ---- Streams ----------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  return api([&] {
    auto created = std::make_unique<CUstream_st>();
    created->device = current_device();
    created->flags = flags;
    created->priority = priority;
    *stream = objects().streams.add(std::move(created));
    return cudaSuccess;
  });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  return with_stream(handle, [&](CUstream_st& stream) {
    {
      const auto lock = lock_captures();
      if (stream.capture) return refuse_captured(stream, "cudaStreamDestroy");
    }
    return objects().streams.remove(handle) ? cudaSuccess : no_stream();
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  return with_stream(handle, [&](CUstream_st& stream) {
    ++counters().synchronisations;
    {
      const auto lock = lock_captures();
      if (stream.capture) return refuse_captured(stream, "cudaStreamSynchronize");
    }
    const cudaError_t allowed = check_not_capturing("cudaStreamSynchronize");
    if (allowed != cudaSuccess) return allowed;
    std::lock_guard wait(stream.running);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  return with_stream(handle, [](CUstream_st& stream) {
    const auto lock = lock_captures();
    return stream.capture ? refuse_captured(stream, "cudaStreamQuery") : cudaSuccess;
  });
}

cudaError_t cudaStreamGetFlags(cudaStream_t handle, unsigned* flags) {
  return with_stream(handle, [&](CUstream_st& stream) {
    *flags = stream.flags;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamGetPriority(cudaStream_t handle, int* priority) {
  return with_stream(handle, [&](CUstream_st& stream) {
    *priority = stream.priority;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamGetDevice(cudaStream_t handle, int* device) {
  return with_stream(handle, [&](CUstream_st& stream) {
    *device = stream.device;
    return cudaSuccess;
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* argument) {
  return enqueue(handle, [=] {
    function(argument);
    return cudaSuccess;
  });
}

// ---- Events -----------------------------------------------------------------------------------

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return api([&] {
    auto created = std::make_unique<CUevent_st>();
    created->flags = flags;
    created->device = current_device();
    *event = objects().events.add(std::move(created));
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return api([&] { return objects().events.remove(event) ? cudaSuccess : no_event(); });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
  return with_stream(handle, [&](CUstream_st& stream) {
    if (!objects().events.contains(event)) return no_event();
    if (event->device != stream.device)
      return complain(cudaErrorInvalidResourceHandle,
                      "an event is recorded on a stream of another device");
    const auto lock = lock_captures();
    event->recorded = true;
    event->time = Clock::now();
    event->capture = stream.capture;
    event->stream = &stream;
    if (!stream.capture) return check_legacy(stream);
    if (stream.capture->invalid) return cudaErrorStreamCaptureInvalidated;
    event->operations = stream.capture->members[&stream].operations;
    return cudaSuccess;
  });
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
  if (flags != cudaEventRecordDefault)
    return complain(cudaErrorNotSupported, "external events are not emulated");
  return cudaEventRecord(event, stream);
}

cudaError_t cudaEventQuery(cudaEvent_t event) { return happened(event, __func__); }

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  ++counters().synchronisations;
  return happened(event, __func__);
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  return api([&] {
    if (!objects().events.contains(start) || !objects().events.contains(end)) return no_event();
    const auto timed = [](cudaEvent_t event) {
      return event->recorded && !event->capture && !(event->flags & cudaEventDisableTiming);
    };
    if (!timed(start) || !timed(end))
      return complain(cudaErrorInvalidResourceHandle, "an event that keeps no time");
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
    return cudaSuccess;
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
  return with_stream(handle, [&](CUstream_st& stream) {
    if (!objects().events.contains(event)) return no_event();
    const auto lock = lock_captures();
    const std::shared_ptr<Capture>& capture = event->capture;
    if (!capture) {  // it has happened
      if (!stream.capture || !event->recorded) return cudaSuccess;
      stream.capture->invalid = true;
      return complain(cudaErrorStreamCaptureIsolation,
                      "a captured stream waits for an event from outside its capture");
    }
    if (stream.capture && stream.capture != capture) {
      stream.capture->invalid = capture->invalid = true;
      return complain(cudaErrorStreamCaptureMerge, "two captures would become one");
    }
    if (is_legacy(&stream) || std::find(objects().captures.begin(), objects().captures.end(),
                                        capture) == objects().captures.end())
      return complain(cudaErrorStreamCaptureImplicit, "a wait for an event of another capture");
    stream.capture = capture;
    capture->members.try_emplace(&stream);
    Capture::Member& waited_for = capture->members[event->stream];
    if (event->stream != &stream && waited_for.operations == event->operations)
      waited_for.joined = true;
    return cudaSuccess;
  });
}

// ---- Captures ---------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  return with_stream(handle, [&](CUstream_st& stream) {
    if (is_legacy(&stream))
      return complain(cudaErrorStreamCaptureUnsupported, "the default stream cannot capture");
    const auto lock = lock_captures();
    if (stream.capture) return refuse_captured(stream, "cudaStreamBeginCapture");
    auto capture = std::make_shared<Capture>();
    capture->mode = mode;
    capture->thread = std::this_thread::get_id();
    capture->origin = &stream;
    capture->id = ++objects().captures_begun;
    capture->members[&stream].joined = true;
    stream.capture = capture;
    objects().captures.push_back(capture);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  *graph = nullptr;
  return with_stream(handle, [&](CUstream_st& stream) {
    const auto lock = lock_captures();
    const std::shared_ptr<Capture> capture = stream.capture;
    if (!capture) return complain(cudaErrorIllegalState, "the stream captures nothing");
    if (capture->origin != &stream)
      return complain(cudaErrorStreamCaptureUnmatched, "another stream began this capture");
    if (capture->mode != cudaStreamCaptureModeRelaxed &&
        capture->thread != std::this_thread::get_id())
      return complain(cudaErrorStreamCaptureWrongThread, "another thread began this capture");
    forget(capture);
    if (capture->invalid) return cudaErrorStreamCaptureInvalidated;
    for (const auto& [member, state] : capture->members) {
      if (member != &stream && !state.joined)
        return complain(cudaErrorStreamCaptureUnjoined, "a forked stream was not joined again");
    }
    auto made = std::make_unique<CUgraph_st>();
    made->operations = std::move(capture->operations);
    *graph = objects().graphs.add(std::move(made));
    ++counters().captures;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t handle, cudaStreamCaptureStatus* status,
                                     unsigned long long* id, cudaGraph_t* graph,
                                     const cudaGraphNode_t** dependencies,
                                     const cudaGraphEdgeData** edges,
                                     std::size_t* dependency_count) {
  return with_stream(handle, [&](CUstream_st& stream) {
    if (graph || dependencies || edges || dependency_count)
      return complain(cudaErrorNotSupported, "a capture's graph and nodes are not emulated");
    const auto lock = lock_captures();
    const auto& capture = stream.capture;
    *status = !capture           ? cudaStreamCaptureStatusNone
              : capture->invalid ? cudaStreamCaptureStatusInvalidated
                                 : cudaStreamCaptureStatusActive;
    if (id && capture) *id = capture->id;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  return cudaStreamGetCaptureInfo(stream, status, nullptr, nullptr, nullptr, nullptr, nullptr);
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, thread_mode());
  return cudaSuccess;
}

// ---- Graphs -----------------------------------------------------------------------------------

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return api([&] { return objects().graphs.remove(graph) ? cudaSuccess : no_graph(); });
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, std::size_t* count) {
  return api([&] {
    if (!objects().graphs.contains(graph)) return no_graph();
    if (nodes) return complain(cudaErrorNotSupported, "a graph's nodes are only counted");
    *count = graph->operations.size();
    return cudaSuccess;
  });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {
  return api_outside_capture(__func__, [&] {
    if (!objects().graphs.contains(graph)) return no_graph();
    auto made = std::make_unique<CUgraphExec_st>();
    made->operations = graph->operations;
    *executable = objects().executables.add(std::move(made));
    ++counters().instantiations;
    return cudaSuccess;
  });
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph,
                                          unsigned long long flags) {
  return cudaGraphInstantiate(executable, graph, flags);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  return api([&] { return objects().executables.remove(executable) ? cudaSuccess : no_graph(); });
}

cudaError_t cudaGraphUpload(cudaGraphExec_t executable, cudaStream_t) {
  return api([&] { return objects().executables.contains(executable) ? cudaSuccess : no_graph(); });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t handle) {
  return with_stream(handle, [&](CUstream_st& stream) {
    if (!objects().executables.contains(executable)) return no_graph();
    ++counters().graph_launches;
    if (!captures(stream))
      return enqueue_on(stream, [=] { return run_all(executable->operations); });
    return enqueue_on(  // a captured child graph is a copy
        stream, [operations = executable->operations] { return run_all(operations); });
  });
}

}  // extern "C"
