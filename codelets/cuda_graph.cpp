#include "codelets/cuda_graph.hpp"

#include <algorithm>
#include <map>
#include <mutex>
#include <stdexcept>
#include <utility>
#include <vector>

#include "codelets/cuda.hpp"

namespace stpt::codelets::cuda {
namespace {

struct DestroyGraph {
  void operator()(cudaGraph_t graph) const { cudaGraphDestroy(graph); }
};
using Graph = std::unique_ptr<CUgraph_st, DestroyGraph>;

struct DestroyExecutable {
  void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
};
using Executable = std::unique_ptr<CUgraphExec_st, DestroyExecutable>;

/// Ends the capture in any case: a stream that is left capturing is of no more use.
class Capture {
 public:
  explicit Capture(cudaStream_t stream) : stream_(stream) {
    // Other threads, StarPU's among them, go on using CUDA meanwhile.
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capturing a graph");
  }
  ~Capture() {
    if (ended_) return;
    cudaGraph_t graph = nullptr;
    cudaStreamEndCapture(stream_, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();  // that it was broken off is known
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  /// A call that captures forbid has ended it, as another thread's may.
  [[nodiscard]] bool broken() const {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(stream_, &status), "capturing a graph");
    return status == cudaStreamCaptureStatusInvalidated;
  }

  /// Null if it has been broken off by now.
  [[nodiscard]] Graph end() {
    ended_ = true;
    cudaGraph_t graph = nullptr;
    const cudaError_t status = cudaStreamEndCapture(stream_, &graph);
    if (status == cudaErrorStreamCaptureInvalidated) {
      cudaGetLastError();  // the next call shall not report it
      return nullptr;
    }
    check(status, "capturing a graph");
    return Graph(graph);
  }

 private:
  cudaStream_t stream_;
  bool ended_ = false;
};

/// Null where the capture was broken.
Executable capture(cudaStream_t stream, const std::function<void()>& enqueue) {
  Capture capture(stream);
  try {
    enqueue();
  } catch (...) {
    if (capture.broken()) return nullptr;
    throw;
  }
  const Graph graph = capture.end();
  if (!graph) return nullptr;
  cudaGraphExec_t executable = nullptr;
  check(cudaGraphInstantiate(&executable, graph.get(), 0), "instantiating a graph");
  return Executable(executable);
}

struct Captured {
  Executable graph;  ///< null if there is none yet
  int attempts = 0;  ///< to capture it
};

/// One worker's graphs of one piece of work, by their addresses, from the first time that these are
/// met. Used by the worker's thread alone.
using Graphs = std::map<std::vector<void*>, Captured>;

}  // namespace

struct GraphCache::Impl {
  Graphs& of(int worker, std::size_t work) {
    const std::scoped_lock lock(mutex);
    return graphs[{worker, work}];  // stays where it is when others are added
  }

  mutable std::mutex mutex;
  std::map<std::pair<int, std::size_t>, Graphs> graphs;
};

GraphCache::GraphCache() : impl_(std::make_unique<Impl>()) {}
GraphCache::~GraphCache() = default;

void GraphCache::run(int worker, std::size_t work, std::span<void* const> pointers, Stream stream,
                     const std::function<void()>& enqueue) {
  Graphs& graphs = impl_->of(worker, work);
  const cudaStream_t own = native(stream);
  const std::vector<void*> key(pointers.begin(), pointers.end());
  const auto found = graphs.find(key);
  if (found == graphs.end()) {
    enqueue();
    if (graphs.size() == most_sets) graphs.clear();  // one that still runs goes when it ends
    graphs.try_emplace(key);
    return;
  }
  auto& [graph, attempts] = found->second;
  if (!graph) {
    if (attempts == most_attempts)
      throw std::runtime_error("capturing a graph: broken off by calls of other threads each time");
    ++attempts;
    graph = capture(own, enqueue);
  }
  if (graph)
    check(cudaGraphLaunch(graph.get(), own), "launching a graph");
  else
    enqueue();  // and the next time a graph
}

std::size_t GraphCache::size() const {
  const std::scoped_lock lock(impl_->mutex);
  std::size_t count = 0;
  for (const auto& [kind, graphs] : impl_->graphs) {
    count += static_cast<std::size_t>(std::ranges::count_if(
        graphs, [](const auto& entry) { return entry.second.graph != nullptr; }));
  }
  return count;
}

}  // namespace stpt::codelets::cuda
