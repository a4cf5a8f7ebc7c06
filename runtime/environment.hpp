// What StarPU's environment variables ask for.
#pragma once

#include <optional>
#include <string>

namespace stpt::runtime {

struct Environment {
  std::optional<int> cpu_workers;      ///< STARPU_NCPU, else STARPU_NCPUS, its older name
  int reserved_cpu_workers = 0;        ///< STARPU_RESERVE_NCPU: StarPU starts so many fewer
  std::optional<int> gpus;             ///< STARPU_NCUDA
  std::optional<int> workers_per_gpu;  ///< STARPU_NWORKER_PER_CUDA

  /// Throws std::invalid_argument, which names the variable, where one of these, STARPU_SCHED,
  /// STARPU_CALIBRATE or STARPU_FXT_TRACE has a value that StarPU would abort for, or take for
  /// another one, and where a folder that StarPU is to write to cannot be written to
  /// (STARPU_PERF_MODEL_DIR, STARPU_FXT_PREFIX for traces), which this makes.
  [[nodiscard]] static Environment read();
};

/// What is wrong with a scheduler's name, as in `is "x"; this StarPU has ...`; empty if nothing is.
[[nodiscard]] std::string scheduler_problem(const std::string& name);

}  // namespace stpt::runtime
