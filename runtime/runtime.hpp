// The StarPU runtime: started by the constructor, stopped by the destructor.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/failure.hpp"

namespace stpt::runtime {

enum class WorkerKind { cpu, cuda };

struct Worker {
  int id = 0;  ///< StarPU's number, for TaskOptions::worker
  WorkerKind kind = WorkerKind::cpu;
  int gpu = -1;  ///< CUDA's number of its device; -1 on a core
  std::string name;
};

struct RuntimeOptions {
  /// 0: STARPU_NCPU, else default_cpu_workers(); the ranks of one host share its cores. More than
  /// there are cores share them, and are bound to none.
  int cpu_workers = 0;
  std::string scheduler;       ///< empty: STARPU_SCHED, else lws, with GPUs prio
  std::vector<int> gpus = {};  ///< CUDA's numbers of those to use
  int workers_per_gpu = 1;     ///< each with a stream of its own
};

/// What is wrong with STARPU_RESERVE_NCPU where a Runtime is to have these options, as in `is 2,
/// which leaves ...`; empty if nothing is.
[[nodiscard]] std::string reserve_problem(const RuntimeOptions& options);

/// What the number of CPU workers depends on where nobody gives one.
struct CpuWorkerLimits {
  int cores = 1;  ///< that this process may use
  int gpus = 0;
  int workers_per_gpu = 1;
  bool has_messages = false;  ///< StarPU-MPI's thread runs beside them
  int most_cpu_workers = 1;   ///< what StarPU was built for
  int most_workers = 1;       ///< the same, workers of GPUs included
};

/// One per core; of more than four cores, StarPU-MPI's thread has one, and with GPUs the submitting
/// thread. The thread that drives a GPU has one. Beside GPUs they load batches only: at most 16 for
/// each GPU. At most what StarPU was built for, and one at least.
[[nodiscard]] int default_cpu_workers(const CpuWorkerLimits& limits);

/// How many workers on cores a Runtime with these options is to have. Throws as
/// Environment::read().
[[nodiscard]] int planned_cpu_workers(const RuntimeOptions& options);

/// The CUDA workers in the order in which work is dealt out: the first worker of every GPU, then
/// the second of every GPU, and so on. Piece k of some work belongs to number k mod their count, so
/// on GPU k mod G.
[[nodiscard]] std::vector<int> in_turns(const std::vector<Worker>& workers);

/// At most one at a time, on every rank of the Cluster. Tensors and tasks need a live Runtime, and
/// must be gone before it is.
class Runtime {
 public:
  /// Throws std::invalid_argument if this StarPU knows no such scheduler or was built for fewer CPU
  /// workers, or if its environment asks for what cannot be (Environment::read), and
  /// std::runtime_error if it does not start.
  explicit Runtime(const RuntimeOptions& options = {});
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  /// The live one; throws std::logic_error if there is none.
  [[nodiscard]] static Runtime& current();
  /// Whether there is one.
  [[nodiscard]] static bool alive() noexcept;
  /// What the installed StarPU was built for.
  [[nodiscard]] static int most_cpu_workers();
  [[nodiscard]] static int most_gpus();
  [[nodiscard]] static std::vector<std::string> schedulers();

  [[nodiscard]] const std::vector<Worker>& workers() const { return workers_; }
  [[nodiscard]] int count(WorkerKind kind) const;
  /// StarPU's number of the worker that piece `piece` of some work is pinned to; -1 where there are
  /// no GPUs: the scheduler chooses.
  [[nodiscard]] int worker_for(std::size_t piece) const;
  /// Workers that compute: those of the GPUs where there are any, else those of the cores.
  [[nodiscard]] std::size_t computing_workers() const;
  [[nodiscard]] std::string scheduler() const;

  /// Waits for all submitted tasks. Throws TaskError if one failed.
  void wait_for_all();
  /// Waits until at most `tasks` submitted tasks are unfinished: bounds the steps in flight. Throws
  /// TaskError.
  void wait_until_at_most(int tasks);

  /// Has `release` called before this runtime ends, by each GPU's worker and then by the thread of
  /// the destructor: what threads keep of CUDA's libraries must go while the workers' streams are
  /// there. Not after a failure, when a GPU may be lost. Each function once, in the order in which
  /// they came. May be called from tasks.
  void at_end(void (*release)());

  Failure& failure() { return failure_; }

  /// Time spent in task bodies since the start, summed over the workers.
  [[nodiscard]] double busy_seconds() const {
    return static_cast<double>(busy_nanoseconds_.load(std::memory_order_relaxed)) * 1e-9;
  }
  /// Adds to it.
  void count_busy(std::int64_t nanoseconds) noexcept {
    busy_nanoseconds_.fetch_add(nanoseconds, std::memory_order_relaxed);
  }

 private:
  /// StarPU from a start() that worked.
  class StarPu {
   public:
    StarPu() = default;
    ~StarPu();
    StarPu(const StarPu&) = delete;
    StarPu& operator=(const StarPu&) = delete;
    /// Throws std::runtime_error.
    void start(bool with_messages);

   private:
    bool started_ = false;
  };

  void list_workers();
  void use_gpu(int gpu);

  StarPu starpu_;  ///< goes last
  std::vector<Worker> workers_;
  std::vector<int> cuda_workers_;  ///< in turns
  Failure failure_;
  std::atomic<std::int64_t> busy_nanoseconds_ = 0;
  bool has_messages_ = false;  ///< StarPU-MPI runs
  std::mutex at_end_mutex_;
  std::vector<void (*)()> at_end_;
};

/// Marks the tasks submitted during its life as iteration `number` in StarPU's traces.
class IterationMark {
 public:
  explicit IterationMark(std::int64_t number);
  ~IterationMark();
  IterationMark(const IterationMark&) = delete;
  IterationMark& operator=(const IterationMark&) = delete;
};

/// Workers sleep during its life; without tasks they would poll, and take cycles from what is
/// measured beside them.
class WorkersPaused {
 public:
  WorkersPaused();
  ~WorkersPaused();
  WorkersPaused(const WorkersPaused&) = delete;
  WorkersPaused& operator=(const WorkersPaused&) = delete;
};

}  // namespace stpt::runtime
