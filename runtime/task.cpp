#include "runtime/task.hpp"

#include <starpu.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <new>
#include <stdexcept>

#include "runtime/starpu_access.hpp"

namespace stpt::runtime {

/// What travels with a task as its cl_arg.
struct Payload {
  const Codelet* codelet;
  TaskBody body;
  std::size_t buffers;
  std::uint32_t footprint;
  int prefetch_for;
  std::vector<starpu_data_handle_t> prefetched;
};

namespace {

constexpr std::size_t inline_buffers = 16;

void run_body(void* descriptors[], void* argument, WorkerKind kind, void* stream) noexcept {
  const auto& payload = *static_cast<const Payload*>(argument);
  Runtime& runtime = Runtime::current();
  auto& failure = runtime.failure();
  if (failure.failed()) return;
  const auto start = std::chrono::steady_clock::now();
  try {
    std::array<void*, inline_buffers> few;
    std::vector<void*> many;
    std::span<void*> pointers(few.data(), std::min(payload.buffers, inline_buffers));
    if (payload.buffers > inline_buffers) {
      many.resize(payload.buffers);
      pointers = many;
    }
    for (std::size_t i = 0; i < payload.buffers; ++i) {
      pointers[i] = reinterpret_cast<void*>(STARPU_VECTOR_GET_PTR(descriptors[i]));
    }
    payload.body({kind, pointers, stream, starpu_worker_get_id()});
  } catch (const std::exception& error) {
    failure.record(payload.codelet->name() + ": " + error.what(), std::current_exception());
  } catch (...) {
    failure.record(payload.codelet->name() + ": unknown exception");
  }
  const std::chrono::nanoseconds elapsed = std::chrono::steady_clock::now() - start;
  runtime.count_busy(elapsed.count());
}

void run_on_cpu(void* descriptors[], void* argument) {
  run_body(descriptors, argument, WorkerKind::cpu, nullptr);
}

#ifdef STARPU_USE_CUDA
/// Enqueues only (STARPU_CUDA_ASYNC): the task ends when the stream has come so far.
void run_on_gpu(void* descriptors[], void* argument) {
  run_body(descriptors, argument, WorkerKind::cuda, starpu_cuda_get_local_stream());
}
#endif

std::uint32_t footprint_of(starpu_task* task) {
  return static_cast<const Payload*>(task->cl_arg)->footprint;
}

/// As an epilogue: the outputs are free to be read, and nobody has unregistered them yet.
void prefetch_outputs(void* argument) {
  const auto& payload = *static_cast<const Payload*>(argument);
  const unsigned node = starpu_worker_get_memory_node(static_cast<unsigned>(payload.prefetch_for));
  constexpr unsigned asynchronous = 1;
  for (starpu_data_handle_t handle : payload.prefetched)
    starpu_data_prefetch_on_node(handle, node, asynchronous);
}

void delete_payload(void* argument) { delete static_cast<Payload*>(argument); }

}  // namespace

struct Codelet::Impl {
  starpu_codelet codelet;
  starpu_perfmodel model{};
};

Codelet::Codelet(const std::string& name, std::vector<WorkerKind> where)
    : name_(name), impl_(std::make_unique<Impl>()) {
  auto& codelet = impl_->codelet;
  starpu_codelet_init(&codelet);
  codelet.name = name_.c_str();
  codelet.nbuffers = STARPU_VARIABLE_NBUFFERS;
  for (const WorkerKind kind : where) {
    if (kind == WorkerKind::cpu) codelet.cpu_funcs[0] = run_on_cpu;
#ifdef STARPU_USE_CUDA
    if (kind == WorkerKind::cuda) {
      codelet.cuda_funcs[0] = run_on_gpu;
      codelet.cuda_flags[0] = STARPU_CUDA_ASYNC;
    }
#endif
  }
  runs_on_gpu_ = std::ranges::find(where, WorkerKind::cuda) != where.end();
  impl_->model.type = STARPU_HISTORY_BASED;
  impl_->model.symbol = name_.c_str();
  impl_->model.footprint = footprint_of;
  codelet.model = &impl_->model;
}

Codelet::~Codelet() {
  // StarPU keeps a list of the models in use, and forgets it at its end.
  if (Runtime::alive()) starpu_perfmodel_deinit(&impl_->model);
}

/// Of one that is not submitted.
struct DestroyTask {
  void operator()(starpu_task* task) const {
    task->destroy = 0;
    starpu_task_destroy(task);
  }
};

void submit(const Codelet& codelet, std::span<const Use> uses, TaskBody body,
            const TaskOptions& options) {
  const auto workers = Runtime::current().workers().size();
  for (const int worker : {options.worker, options.prefetch_for}) {
    if (worker >= 0 && static_cast<std::size_t>(worker) >= workers)
      throw std::logic_error(codelet.name() + ": there is no worker " + std::to_string(worker));
  }
  for (const Use& use : uses) {
    if (!use.tensor) throw std::logic_error(codelet.name() + ": a tensor without memory");
  }
  std::unique_ptr<starpu_task, DestroyTask> task(starpu_task_create());
  task->cl = &codelet.impl_->codelet;
  task->nbuffers = static_cast<int>(uses.size());
  starpu_data_handle_t* handles = task->handles;
  starpu_data_access_mode* modes = task->modes;
  if (uses.size() > STARPU_NMAXBUFS) {
    // StarPU frees these two with free().
    task->dyn_handles =
        static_cast<starpu_data_handle_t*>(std::malloc(uses.size() * sizeof(*handles)));
    task->dyn_modes =
        static_cast<starpu_data_access_mode*>(std::malloc(uses.size() * sizeof(*modes)));
    if (task->dyn_handles == nullptr || task->dyn_modes == nullptr) throw std::bad_alloc();
    handles = task->dyn_handles;
    modes = task->dyn_modes;
  }
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < uses.size(); ++i) {
    handles[i] = uses[i].tensor.handle();
    modes[i] = to_starpu(uses[i].access);
    bytes += uses[i].tensor.bytes();
  }
  const std::uint32_t footprint =
      options.footprint != 0 ? options.footprint : static_cast<std::uint32_t>(bytes);
  auto payload = std::make_unique<Payload>(
      Payload{&codelet, std::move(body), uses.size(), footprint, options.prefetch_for, {}});
  if (options.prefetch_for >= 0) {
    for (const Use& use : uses) {
      if (use.access == Access::write || use.access == Access::read_write)
        payload->prefetched.push_back(use.tensor.handle());
    }
    task->epilogue_callback_func = prefetch_outputs;
    task->epilogue_callback_arg = payload.get();
  }
  task->cl_arg = payload.get();
  task->cl_arg_size = 0;
  task->callback_func = delete_payload;
  task->callback_arg = payload.get();
  task->priority = options.priority;
  task->name = options.name;
  // What a GPU can do is done by GPUs alone where there are any: they round differently from cores,
  // and the results must not depend on who was free.
  if (codelet.runs_on_gpu() && Runtime::current().count(WorkerKind::cuda) > 0)
    task->where = STARPU_CUDA;
  if (options.worker >= 0) {
    task->execute_on_a_specific_worker = 1;
    task->workerid = static_cast<unsigned>(options.worker);
  }
  if (const int error = starpu_task_submit(task.get()); error != 0) {
    throw std::runtime_error(codelet.name() + (options.worker < 0
                                                   ? ": no worker of this machine can run it"
                                                   : ": the chosen worker cannot run it"));
  }
  task.release();     // StarPU destroys it
  payload.release();  // delete_payload owns it now
}

}  // namespace stpt::runtime
