#include "data/sampler.hpp"

#include <stdexcept>
#include <utility>

#include "data/dataset.hpp"
#include "runtime/random.hpp"

namespace stpt::data {

Sampler::Sampler(std::vector<std::uint32_t> indices, std::uint64_t seed)
    : indices_(std::move(indices)), seed_(seed) {}

std::vector<std::uint32_t> Sampler::order(std::uint64_t epoch) const {
  std::vector<std::uint32_t> order = indices_;
  runtime::shuffle(order, seed_, runtime::stream_id("order", epoch));
  return order;
}

std::size_t Sampler::iterations(std::size_t workers, std::size_t batch_per_worker) const {
  // Divided twice rather than once by the product, which might overflow.
  const std::size_t count =
      workers == 0 || batch_per_worker == 0 ? 0 : size() / workers / batch_per_worker;
  if (count == 0) {
    throw DataError("training: " + std::to_string(workers) + " workers with batches of " +
                    std::to_string(batch_per_worker) + " need more than the " +
                    std::to_string(size()) +
                    " training images there are; lower workers or batch_per_worker");
  }
  return count;
}

std::span<const std::uint32_t> global_batch(std::span<const std::uint32_t> order,
                                            std::size_t iteration, std::size_t workers,
                                            std::size_t batch_per_worker) {
  const std::size_t batch = workers * batch_per_worker;
  if ((iteration + 1) * batch > order.size()) {
    throw std::out_of_range("global_batch: iteration " + std::to_string(iteration) + " of " +
                            std::to_string(batch) + " images, but the epoch has " +
                            std::to_string(order.size()));
  }
  return order.subspan(iteration * batch, batch);
}

std::span<const std::uint32_t> worker_batch(std::span<const std::uint32_t> order,
                                            std::size_t iteration, std::size_t worker,
                                            std::size_t workers, std::size_t batch_per_worker) {
  if (worker >= workers) {
    throw std::out_of_range("worker_batch: worker " + std::to_string(worker) + " of " +
                            std::to_string(workers));
  }
  return global_batch(order, iteration, workers, batch_per_worker)
      .subspan(worker * batch_per_worker, batch_per_worker);
}

}  // namespace stpt::data
