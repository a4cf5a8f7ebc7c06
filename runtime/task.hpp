// Tasks: a codelet says what kind of work it is, submit() adds one piece of it to the graph.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/runtime.hpp"
#include "runtime/tensor.hpp"

namespace stpt::runtime {

/// What a task body sees on the worker that runs it.
struct TaskContext {
  WorkerKind kind = WorkerKind::cpu;
  /// Local addresses, in the order of the submitted uses.
  std::span<void* const> buffers;
  /// The worker's cudaStream_t on a CUDA worker, nullptr on a CPU worker. Work is enqueued, not
  /// waited for.
  void* stream = nullptr;
  int worker = 0;  ///< its number, as in Runtime::workers()

  template <class T>
  [[nodiscard]] T* buffer(std::size_t index) const {
    return static_cast<T*>(buffers[index]);
  }
};

/// May throw: the exception becomes the run's failure.
using TaskBody = std::function<void(const TaskContext&)>;

struct Use;
struct TaskOptions;

/// Kind of work with its name (in traces), performance model and the workers that can do it; where
/// there are GPUs and they can, GPUs alone do. Must outlive its tasks; one static object per kind.
class Codelet {
 public:
  Codelet(const std::string& name, std::vector<WorkerKind> where);
  ~Codelet();
  Codelet(const Codelet&) = delete;
  Codelet& operator=(const Codelet&) = delete;

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] bool runs_on_gpu() const { return runs_on_gpu_; }

 private:
  friend void submit(const Codelet&, std::span<const Use>, TaskBody, const TaskOptions&);
  struct Impl;
  std::string name_;
  bool runs_on_gpu_ = false;
  std::unique_ptr<Impl> impl_;
};

struct Use {
  const Tensor& tensor;
  Access access;
};

struct TaskOptions {
  int worker = -1;   ///< StarPU worker that must run it; -1: the scheduler chooses
  int priority = 0;  ///< larger goes first
  /// Tells apart sizes of one codelet in its performance model; 0: by the bytes of its tensors.
  std::uint32_t footprint = 0;
  const char* name = nullptr;  ///< in traces instead of the codelet's; must outlive the task
  /// StarPU worker that is going to read what this task writes, if it is known: the tensors are on
  /// their way there as soon as they are written, and not only when the reading task has nothing
  /// else left to wait for.
  int prefetch_for = -1;
};

/// Adds a task; returns at once. Order with other tasks follows from the tensors alone, as if each
/// task ran when it was submitted. After a failure the body is not called any more. Throws
/// std::logic_error for a worker that is not there or an empty tensor, std::runtime_error where no
/// worker, or not the chosen one, can run it.
void submit(const Codelet& codelet, std::span<const Use> uses, TaskBody body,
            const TaskOptions& options = {});

inline void submit(const Codelet& codelet, std::initializer_list<Use> uses, TaskBody body,
                   const TaskOptions& options = {}) {
  submit(codelet, std::span<const Use>(uses.begin(), uses.size()), std::move(body), options);
}

}  // namespace stpt::runtime
