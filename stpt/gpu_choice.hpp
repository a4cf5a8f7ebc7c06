// Which GPUs a rank trains on, and how many pieces of work share one.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/gpu.hpp"

namespace stpt {

struct GpuChoice {
  std::vector<runtime::Gpu> gpus;  ///< empty: cores train
  int workers_per_gpu = 1;         ///< StarPU workers, each with a stream and activations
  /// What was asked for and could not be had, in one clause; empty if all is as asked.
  std::string shortage;

  [[nodiscard]] std::vector<int> numbers() const;
  [[nodiscard]] std::string to_string() const;  ///< "2 GPUs (NVIDIA H200)"; empty without
};

/// The share of GPUs of this rank, number `part` of the host's `parts` ranks: disjoint ones while
/// there are as many as ranks, else one that it shares. `asked` is STARPU_NCUDA, all if it is not
/// set. `most` is what the program can use: 0 if it was built without CUDA.
[[nodiscard]] GpuChoice choose_gpus(std::span<const runtime::Gpu> found, std::optional<int> asked,
                                    int most, int part, int parts);

/// Streams whose small kernels one GPU can usefully run at a time.
inline constexpr std::size_t most_workers_per_gpu = 8;

/// How many workers each of `gpus` GPUs gets: enough for `pieces` pieces of work at once, at most
/// 8, and at most as many as fit into memory, but one at least.
[[nodiscard]] int workers_per_gpu(std::size_t pieces, std::size_t gpus,
                                  std::uint64_t available_bytes, std::uint64_t bytes_per_worker);

}  // namespace stpt
