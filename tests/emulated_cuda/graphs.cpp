// Captures and graphs of the emulated runtime.
#include <algorithm>
#include <string>
#include <utility>

#include "tests/emulated_cuda/streams.hpp"

/// Destroyed with the last reference, of the user or of a graph.
struct CUuserObject_st {
  void* pointer;
  cudaHostFn_t destroy;
  CUuserObject_st(void* owned, cudaHostFn_t destroys) : pointer(owned), destroy(destroys) {}
  ~CUuserObject_st() { destroy(pointer); }
  CUuserObject_st(const CUuserObject_st&) = delete;
  CUuserObject_st& operator=(const CUuserObject_st&) = delete;
};

namespace emulated_cuda {
namespace {

/// The references that users hold.
struct UserReferences {
  std::shared_ptr<CUuserObject_st> object;
  unsigned count = 0;
};

struct UserObjects {
  std::mutex mutex;
  std::unordered_map<cudaUserObject_t, UserReferences> references;
};

UserObjects& user_objects() {
  static UserObjects& objects = *new UserObjects;
  return objects;
}

cudaError_t no_graph() {
  return complain(cudaErrorInvalidValue, "a graph that does not exist, or no more");
}

/// Also one that is being captured; null for no graph's handle.
CUgraph_st* find_graph(cudaGraph_t graph) {
  if (objects().graphs.contains(graph)) return graph;
  const auto lock = lock_captures();
  for (const auto& capture : objects().captures) {
    if (capture->graph.get() == graph) return graph;
  }
  return nullptr;
}

/// Takes `count` of the user's references away. The object is returned, so that it is destroyed
/// without the lock.
std::shared_ptr<CUuserObject_st> take_references(cudaUserObject_t handle, unsigned count) {
  std::lock_guard lock(user_objects().mutex);
  const auto found = user_objects().references.find(handle);
  if (found == user_objects().references.end() || found->second.count < count) return nullptr;
  std::shared_ptr<CUuserObject_st> object = found->second.object;
  found->second.count -= count;
  if (found->second.count == 0) user_objects().references.erase(found);
  return object;
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

cudaError_t run_all(const GraphContent& content) {
  for (const Operation& operation : content.operations) {
    const cudaError_t error = operation();
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
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

cudaError_t check_none_captures_on_device(const char* function) {
  const auto lock = lock_captures();
  bool forbidden = false;
  for (const auto& capture : objects().captures) {
    if (capture->origin->device == current_device()) capture->invalid = forbidden = true;
  }
  if (!forbidden) return cudaSuccess;
  return complain(
      cudaErrorStreamCaptureUnsupported,
      std::string(function) + " must not be called while a stream of the device captures");
}

}  // namespace emulated_cuda

using namespace emulated_cuda;

extern "C" {

// ---- Captures ---------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  return with_stream(handle, [&](CUstream_st& stream) {
    if (stream.legacy)
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
    *graph = objects().graphs.add(std::move(capture->graph));
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
    if (dependencies || edges || dependency_count)
      return complain(cudaErrorNotSupported, "a capture's nodes are not emulated");
    const auto lock = lock_captures();
    const auto& capture = stream.capture;
    *status = !capture           ? cudaStreamCaptureStatusNone
              : capture->invalid ? cudaStreamCaptureStatusInvalidated
                                 : cudaStreamCaptureStatusActive;
    if (id && capture) *id = capture->id;
    if (graph && capture) *graph = capture->graph.get();
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
    *count = graph->content.operations.size();
    return cudaSuccess;
  });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {
  return api_outside_capture(__func__, [&] {
    if (!objects().graphs.contains(graph)) return no_graph();
    auto made = std::make_unique<CUgraphExec_st>();
    made->content = std::make_shared<const GraphContent>(graph->content);
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
    if (const auto time = pretended(); time.count() > 0 && !captures(stream)) {
      stream.busy_until = std::max(stream.busy_until.load(), Clock::now()) + time;
      return cudaSuccess;
    }
    return enqueue_on(stream, [content = executable->content] { return run_all(*content); });
  });
}

// ---- User objects -----------------------------------------------------------------------------

cudaError_t cudaUserObjectCreate(cudaUserObject_t* object, void* pointer, cudaHostFn_t destroy,
                                 unsigned references, unsigned) {
  return api([&] {
    auto created = std::make_shared<CUuserObject_st>(pointer, destroy);
    *object = created.get();
    std::lock_guard lock(user_objects().mutex);
    user_objects().references[created.get()] = {created, references};
    return cudaSuccess;
  });
}

cudaError_t cudaUserObjectRelease(cudaUserObject_t object, unsigned count) {
  return api([&] {
    if (take_references(object, count)) return cudaSuccess;
    return complain(cudaErrorInvalidValue, "a user object is released too often");
  });
}

cudaError_t cudaGraphRetainUserObject(cudaGraph_t handle, cudaUserObject_t object, unsigned count,
                                      unsigned flags) {
  return api([&] {
    CUgraph_st* graph = find_graph(handle);
    if (!graph) return no_graph();
    const bool moves = (flags & cudaGraphUserObjectMove) != 0;
    std::shared_ptr<const void> retained = take_references(object, moves ? count : 0);
    if (!retained) return complain(cudaErrorInvalidValue, "the caller has no such reference");
    graph->content.retained.push_back(std::move(retained));
    return cudaSuccess;
  });
}

}  // extern "C"
