#include "stpt/gpu_choice.hpp"

#include <algorithm>

namespace stpt {
namespace {

std::string counted(std::size_t count) {
  return std::to_string(count) + (count == 1 ? " GPU" : " GPUs");
}

std::string shortage(std::span<const runtime::Gpu> found, int asked, int most) {
  if (most == 0) return "this program or its StarPU was built without CUDA";
  if (found.empty()) return "CUDA's driver shows none";
  if (static_cast<std::size_t>(most) < found.size() && most < asked)
    return "this StarPU was built for at most " + std::to_string(most);
  return "there " + std::string(found.size() == 1 ? "is " : "are ") + counted(found.size()) + " (" +
         found.front().name + ")";
}

}  // namespace

std::vector<int> GpuChoice::numbers() const {
  std::vector<int> result;
  for (const runtime::Gpu& gpu : gpus) result.push_back(gpu.number);
  return result;
}

std::string GpuChoice::to_string() const {
  return gpus.empty() ? "" : counted(gpus.size()) + " (" + gpus.front().name + ")";
}

GpuChoice choose_gpus(std::span<const runtime::Gpu> found, std::optional<int> asked, int most,
                      int part, int parts) {
  GpuChoice choice;
  const auto all = static_cast<std::size_t>(parts), own = static_cast<std::size_t>(part);
  for (std::size_t i = 0; i < found.size(); ++i) {
    const bool mine = found.size() >= all ? i % all == own : i == own % found.size();
    if (mine) choice.gpus.push_back(found[i]);
  }
  const auto limit = static_cast<std::size_t>(std::max(0, std::min(asked.value_or(most), most)));
  if (choice.gpus.size() > limit) choice.gpus.resize(limit);
  if (asked && *asked > std::ssize(choice.gpus)) {
    choice.shortage = "STARPU_NCUDA asks for " + counted(static_cast<std::size_t>(*asked)) + ", " +
                      shortage(found, *asked, most);
    if (parts > 1) choice.shortage += ", shared by " + std::to_string(parts) + " ranks";
  }
  return choice;
}

int workers_per_gpu(std::size_t pieces, std::size_t gpus, std::uint64_t available_bytes,
                    std::uint64_t bytes_per_worker) {
  const std::size_t wanted = (pieces + gpus - 1) / gpus;
  const std::size_t fit = available_bytes / std::max<std::uint64_t>(bytes_per_worker, 1);
  return static_cast<int>(std::clamp<std::size_t>(std::min(wanted, fit), 1, most_workers_per_gpu));
}

}  // namespace stpt
