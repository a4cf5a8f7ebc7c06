#include "runtime/runtime.hpp"

#include <starpu.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <stdexcept>

#include "runtime/tensor.hpp"

namespace stpt::runtime {
namespace {

Runtime* live = nullptr;

}  // namespace

Runtime::Runtime(const RuntimeOptions& options) {
  if (live != nullptr) throw std::logic_error("Runtime: one is alive already");
  starpu_conf conf;
  starpu_conf_init(&conf);
  if (options.cpu_workers > 0) {
    conf.ncpus = options.cpu_workers;
    conf.precedence_over_environment_variables = 1;
  }
  if (!options.scheduler.empty()) conf.sched_policy_name = options.scheduler.c_str();
  // Models, vectors and caches work on whole cache lines.
  starpu_malloc_set_align(tensor_alignment);
  if (const int error = starpu_init(&conf); error != 0) {
    throw std::runtime_error(error == -ENODEV
                                 ? "StarPU found no worker: check STARPU_NCPU and STARPU_NCUDA"
                                 : "StarPU did not start (error " + std::to_string(-error) + ")");
  }
  for (unsigned id = 0; id < starpu_worker_get_count(); ++id) {
    const auto type = starpu_worker_get_type(static_cast<int>(id));
    if (type != STARPU_CPU_WORKER && type != STARPU_CUDA_WORKER) continue;
    std::array<char, 64> name{};
    starpu_worker_get_name(static_cast<int>(id), name.data(), name.size());
    workers_.push_back({static_cast<int>(id),
                        type == STARPU_CPU_WORKER ? WorkerKind::cpu : WorkerKind::cuda, name.data()});
  }
  live = this;
}

Runtime::~Runtime() {
  starpu_task_wait_for_all();
  live = nullptr;
  starpu_shutdown();
}

Runtime& Runtime::current() {
  if (live == nullptr) throw std::logic_error("Runtime: none is alive");
  return *live;
}

int Runtime::count(WorkerKind kind) const {
  return static_cast<int>(std::count_if(workers_.begin(), workers_.end(),
                                        [kind](const Worker& worker) { return worker.kind == kind; }));
}

std::string Runtime::scheduler() const { return starpu_sched_get_sched_policy()->policy_name; }

void Runtime::wait_for_all() {
  starpu_task_wait_for_all();
  failure_.rethrow();
}

void Runtime::wait_until_at_most(int tasks) {
  starpu_task_wait_for_n_submitted(static_cast<unsigned>(std::max(tasks, 0)));
  failure_.rethrow();
}

IterationMark::IterationMark(std::int64_t number) { starpu_iteration_push(static_cast<unsigned long>(number)); }

IterationMark::~IterationMark() { starpu_iteration_pop(); }

}  // namespace stpt::runtime
