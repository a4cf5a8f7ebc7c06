// Work that is enqueued again and again, captured into a CUDA graph and replayed: one launch in
// place of hundreds.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>

#include "codelets/kernel.hpp"

namespace stpt::codelets::cuda {

/// A graph holds the addresses that it was captured with, so it serves one set of them.
class GraphCache {
 public:
  /// Most sets of addresses remembered for one worker and one piece of work. In a steady state
  /// there are a few per replica; more means that memory moves about, and all of them go.
  static constexpr std::size_t most_sets = 128;
  /// Times that a capture may be broken off: a synchronisation of the device by any thread, as
  /// StarPU's or a library's, ends all that are under way there.
  static constexpr int most_attempts = 8;

  GraphCache();
  ~GraphCache();
  GraphCache(const GraphCache&) = delete;
  GraphCache& operator=(const GraphCache&) = delete;

  /// Runs what `enqueue` puts on the stream of `worker`. `work` tells apart what is enqueued;
  /// `pointers` are all addresses it uses. Their first run is a direct one: a graph costs more than
  /// it saves where they never come back, and whatever libraries make on first use is made then.
  /// The second captures the graph, which later ones replay; where that is broken off, it is a
  /// direct run again, and the next one captures. Throws what `enqueue` throws, and
  /// std::runtime_error. May be called by several threads at once, each with workers of its own.
  void run(int worker, std::size_t work, std::span<void* const> pointers, Stream stream,
           const std::function<void()>& enqueue);

  /// Graphs in the cache.
  [[nodiscard]] std::size_t size() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace stpt::codelets::cuda
