#include "runtime/runtime.hpp"

#include <starpu_mpi.h>
#ifdef STPT_HAS_CUDA
#include <cuda_runtime_api.h>
#endif

#include <algorithm>
#include <array>
#include <cstdlib>
#include <list>
#include <map>
#include <optional>
#include <stdexcept>

#include "runtime/cluster.hpp"
#include "runtime/environment.hpp"
#include "runtime/gpu.hpp"
#include "runtime/machine.hpp"
#include "runtime/tensor.hpp"

namespace stpt::runtime {
namespace {

Runtime* live = nullptr;

/// Sets an environment variable for as long as it lives.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    setenv(name, value.c_str(), 1);
  }
  ~Variable() {
    if (before_) {
      setenv(name_, before_->c_str(), 1);
    } else {
      unsetenv(name_);
    }
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

/// The cores that workers may have, and how many workers StarPU is asked for.
struct CpuPlan {
  int cores = 1;
  bool shared = false;         ///< by more ranks than there are of them
  std::optional<int> workers;  ///< one per core where nobody says
  int least = 0;               ///< fewer of them will not do
};

CpuPlan plan_cpu(const RuntimeOptions& options, const Environment& asked) {
  const Cluster& cluster = Cluster::current();
  CpuPlan plan;
  plan.cores = Machine::detect().cores;
  const auto quota = cores_by_quota();
  if (quota) plan.cores = std::min(plan.cores, std::max(1, *quota / cluster.ranks_on_host()));
  plan.shared =
      cluster.ranks_on_host() > plan.cores && !cluster.has_own_cores() && may_use_all_cores();
  const int gpus = static_cast<int>(options.gpus.size());
  plan.workers = asked.cpu_workers;
  if (options.cpu_workers > 0) plan.workers = options.cpu_workers;
  // StarPU itself takes all cores, which is right where nothing else needs or limits them. Beyond a
  // quota, workers that spin would have the threads throttled that drive GPUs.
  if (!plan.workers && (gpus > 0 || cluster.size() > 1 || quota)) {
    plan.workers = default_cpu_workers({.cores = plan.shared ? 1 : plan.cores,
                                        .gpus = gpus,
                                        .workers_per_gpu = options.workers_per_gpu,
                                        .has_messages = cluster.size() > 1,
                                        .most_cpu_workers = Runtime::most_cpu_workers(),
                                        .most_workers = STARPU_NMAXWORKERS});
  }
  // Fewer than nobody asked for will do: STARPU_RESERVE_NCPU takes some.
  plan.least = options.cpu_workers > 0 ? options.cpu_workers
                                       : std::min(plan.workers.value_or(plan.cores), 1);
  return plan;
}

void check(const RuntimeOptions& options) {
  if (options.cpu_workers > Runtime::most_cpu_workers()) {
    throw std::invalid_argument(std::to_string(options.cpu_workers) +
                                " CPU workers, but this StarPU was built for at most " +
                                std::to_string(Runtime::most_cpu_workers()) +
                                " (configure --enable-maxcpus)");
  }
  if (const std::string problem = scheduler_problem(options.scheduler); !problem.empty())
    throw std::invalid_argument("the scheduler " + problem);
  if (const std::string problem = reserve_problem(options); !problem.empty())
    throw std::invalid_argument("STARPU_RESERVE_NCPU: " + problem);
}

/// What StarPU is told, which prefers its environment to what a program asks for.
std::list<Variable> environment_for(const RuntimeOptions& options, const CpuPlan& plan) {
  const Cluster& cluster = Cluster::current();
  const int gpus = static_cast<int>(options.gpus.size());
  std::list<Variable> environment;
  if (plan.workers) environment.emplace_back("STARPU_NCPU", std::to_string(*plan.workers));
  // StarPU would bind several workers to one core, with a warning for each.
  const bool crowded = plan.workers.value_or(0) + gpus > plan.cores || plan.shared;
  if (crowded) environment.emplace_back("STARPU_WORKERS_NOBIND", "1");
  if (crowded || plan.cores <= 4) environment.emplace_back("STARPU_MPI_NOBIND", "1");
  if (!options.scheduler.empty()) environment.emplace_back("STARPU_SCHED", options.scheduler);
  environment.emplace_back("STARPU_NCUDA", std::to_string(gpus));
  if (gpus > 0) {
    keep_streams_apart();
    std::string numbers;
    for (const int gpu : options.gpus) numbers += std::to_string(gpu) + " ";
    environment.emplace_back("STARPU_WORKERS_CUDAID", numbers);
    environment.emplace_back("STARPU_NWORKER_PER_CUDA", std::to_string(options.workers_per_gpu));
    // What GPUs do is pinned; the scheduler has the batches that cores load.
    if (options.scheduler.empty() && std::getenv("STARPU_SCHED") == nullptr)
      environment.emplace_back("STARPU_SCHED", "prio");
  }
  // It would tell at each start where the GPUs are, or that it does not know; and that a rank has
  // one core alone, which is its share.
  const bool has_share_of_one = cluster.has_own_cores() && plan.cores == 1;
  if ((gpus > 0 || has_share_of_one) && std::getenv("STARPU_SILENT") == nullptr)
    environment.emplace_back("STARPU_SILENT", "1");
  return environment;
}

}  // namespace

int planned_cpu_workers(const RuntimeOptions& options) {
  const Environment asked = Environment::read();
  const CpuPlan plan = plan_cpu(options, asked);
  return std::max(0, plan.workers.value_or(plan.cores) - asked.reserved_cpu_workers);
}

std::string reserve_problem(const RuntimeOptions& options) {
  const Environment asked = Environment::read();
  const CpuPlan plan = plan_cpu(options, asked);
  const int workers = plan.workers.value_or(plan.cores);
  const int reserved = asked.reserved_cpu_workers;
  const int left = std::max(0, workers - reserved);
  if (reserved == 0 || left >= plan.least) return "";
  return "is " + std::to_string(reserved) + ", which leaves " + std::to_string(left) + " of " +
         std::to_string(workers) + " CPU workers; must leave at least " +
         std::to_string(plan.least);
}

int default_cpu_workers(const CpuWorkerLimits& limits) {
  int workers = limits.cores - limits.gpus;  // a thread drives each GPU
  // Where cores are few, sharing one costs less than giving one up.
  if (limits.cores > 4) workers -= (limits.has_messages ? 1 : 0) + (limits.gpus > 0 ? 1 : 0);
  if (limits.gpus > 0) workers = std::min(workers, 16 * limits.gpus);
  // Workers of GPUs take their places first.
  return std::max(1, std::min({workers, limits.most_cpu_workers,
                               limits.most_workers - limits.gpus * limits.workers_per_gpu}));
}

std::vector<int> in_turns(const std::vector<Worker>& workers) {
  std::map<int, int> seen;  // workers met so far of each GPU
  std::vector<std::array<int, 3>> order;
  for (const Worker& worker : workers) {
    if (worker.kind == WorkerKind::cuda)
      order.push_back({seen[worker.gpu]++, worker.gpu, worker.id});
  }
  std::ranges::sort(order);
  std::vector<int> ids;
  for (const auto& [turn, gpu, id] : order) ids.push_back(id);
  return ids;
}

void Runtime::StarPu::start(bool with_messages) {
  starpu_conf conf;
  starpu_conf_init(&conf);
  conf.will_use_mpi = with_messages ? 1 : 0;
  // Models, vectors and caches work on whole cache lines.
  starpu_malloc_set_align(tensor_alignment);
  // Where StarPU does not know the machine's buses yet it measures them here, and resets the GPUs
  // (cudaDeviceReset): what was planned or allocated on one before a Runtime lived would be gone.
  if (const int error = starpu_init(&conf); error != 0) {
    throw std::runtime_error(
        error == -ENODEV ? "StarPU found no worker: check STARPU_NCPU and STARPU_RESERVE_NCPU"
                         : "StarPU did not start (error " + std::to_string(-error) + ")");
  }
  started_ = true;
}

Runtime::StarPu::~StarPu() {
  if (started_) starpu_shutdown();
}

Runtime::Runtime(const RuntimeOptions& options) {
  if (live != nullptr) throw std::logic_error("Runtime: one is alive already");
  check(options);
  keep_hwloc_from_displays();
  const CpuPlan plan = plan_cpu(options, Environment::read());
  const bool with_messages = Cluster::current().size() > 1;
  const std::list<Variable> environment = environment_for(options, plan);
  starpu_.start(with_messages);
  list_workers();
  if (count(WorkerKind::cpu) < plan.least) {
    throw std::runtime_error(
        "StarPU started " + std::to_string(count(WorkerKind::cpu)) + " CPU workers instead of " +
        std::to_string(plan.workers.value_or(plan.cores)) + "; it was built for " +
        std::to_string(STARPU_NMAXWORKERS) + " workers in all, those of GPUs included");
  }
  const int gpu_workers = static_cast<int>(options.gpus.size()) * options.workers_per_gpu;
  if (count(WorkerKind::cuda) != gpu_workers) {
    throw std::runtime_error("StarPU started " + std::to_string(count(WorkerKind::cuda)) +
                             " GPU workers instead of " + std::to_string(gpu_workers) +
                             ": was it built for CUDA and for so many GPUs?");
  }
  // Of this rank's: CUDA's default would take memory of GPU 0, which may be another rank's.
  if (!options.gpus.empty()) use_gpu(options.gpus.front());
  if (with_messages) {
    if (const int error = starpu_mpi_init_comm(nullptr, nullptr, 0, MPI_COMM_WORLD); error != 0)
      throw std::runtime_error("StarPU-MPI did not start (error " + std::to_string(-error) + ")");
    has_messages_ = true;
  }
  live = this;
}

void Runtime::list_workers() {
  for (unsigned id = 0; id < starpu_worker_get_count(); ++id) {
    const auto type = starpu_worker_get_type(static_cast<int>(id));
    if (type != STARPU_CPU_WORKER && type != STARPU_CUDA_WORKER) continue;
    std::array<char, 64> name{};
    starpu_worker_get_name(static_cast<int>(id), name.data(), name.size());
    workers_.push_back(
        {static_cast<int>(id), type == STARPU_CPU_WORKER ? WorkerKind::cpu : WorkerKind::cuda,
         type == STARPU_CPU_WORKER ? -1 : starpu_worker_get_devid(static_cast<int>(id)),
         name.data()});
  }
  cuda_workers_ = in_turns(workers_);
}

/// By this thread, which plans, and by the cores: they allocate pinned memory.
void Runtime::use_gpu([[maybe_unused]] int gpu) {
#ifdef STPT_HAS_CUDA
  if (const cudaError_t error = cudaSetDevice(gpu); error != cudaSuccess) {
    throw std::runtime_error("GPU " + std::to_string(gpu) +
                             " cannot be used: " + cudaGetErrorString(error));
  }
  starpu_execute_on_each_worker([](void* number) { cudaSetDevice(*static_cast<int*>(number)); },
                                &gpu, STARPU_CPU);
#endif
}

Runtime::~Runtime() {
  starpu_task_wait_for_all();
  if (!failure_.failed() && !at_end_.empty()) {
    const auto release_all = [](void* releases) {
      for (const auto release : *static_cast<std::vector<void (*)()>*>(releases)) release();
    };
    starpu_execute_on_each_worker(release_all, &at_end_, STARPU_CUDA);
    release_all(&at_end_);
  }
  live = nullptr;
  if (has_messages_) starpu_mpi_shutdown();
}

Runtime& Runtime::current() {
  if (live == nullptr) throw std::logic_error("Runtime: none is alive");
  return *live;
}

bool Runtime::alive() noexcept { return live != nullptr; }

int Runtime::most_cpu_workers() { return STARPU_MAXCPUS; }

int Runtime::most_gpus() {
#ifdef STARPU_USE_CUDA
  return STARPU_MAXCUDADEVS;
#else
  return 0;
#endif
}

std::vector<std::string> Runtime::schedulers() {
  std::vector<std::string> names;
  for (starpu_sched_policy** policy = starpu_sched_get_predefined_policies(); *policy != nullptr;
       ++policy) {
    names.emplace_back((*policy)->policy_name);
  }
  return names;
}

int Runtime::count(WorkerKind kind) const {
  return static_cast<int>(
      std::count_if(workers_.begin(), workers_.end(),
                    [kind](const Worker& worker) { return worker.kind == kind; }));
}

int Runtime::worker_for(std::size_t piece) const {
  return cuda_workers_.empty() ? -1 : cuda_workers_[piece % cuda_workers_.size()];
}

std::size_t Runtime::computing_workers() const {
  return cuda_workers_.empty() ? workers_.size() : cuda_workers_.size();
}

std::string Runtime::scheduler() const { return starpu_sched_get_sched_policy()->policy_name; }

void Runtime::at_end(void (*release)()) {
  const std::scoped_lock lock(at_end_mutex_);
  if (std::ranges::find(at_end_, release) == at_end_.end()) at_end_.push_back(release);
}

void Runtime::wait_for_all() {
  starpu_task_wait_for_all();
  failure_.rethrow();
}

void Runtime::wait_until_at_most(int tasks) {
  starpu_task_wait_for_n_submitted(static_cast<unsigned>(std::max(tasks, 0)));
  failure_.rethrow();
}

IterationMark::IterationMark(std::int64_t number) {
  starpu_iteration_push(static_cast<unsigned long>(number));
}

IterationMark::~IterationMark() {
  starpu_iteration_pop();
  // StarPU 1.4 clears the level below, and the number would stay: another one, none, takes its
  // place.
  starpu_iteration_push(static_cast<unsigned long>(-1));
  starpu_iteration_pop();
}

WorkersPaused::WorkersPaused() { starpu_pause(); }

WorkersPaused::~WorkersPaused() { starpu_resume(); }

}  // namespace stpt::runtime
