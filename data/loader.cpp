#include "data/loader.hpp"

#include <stdexcept>
#include <utility>

#include "runtime/task.hpp"

namespace stpt::data {

struct Loader::Source {
  std::shared_ptr<const Dataset> dataset;
  Normalization normalization;
  std::optional<Augmentation> augmentation;
  std::uint64_t seed;
};

Batch::Batch(int size, const runtime::Shape& image, const std::string& name)
    : images({{size, image.c, image.h, image.w}, runtime::DataType::float32, runtime::Layout::nchw},
             name + ".images", runtime::Home::host),
      labels(runtime::vector_spec(static_cast<std::size_t>(size), runtime::DataType::int32),
             name + ".labels", runtime::Home::host) {}

Loader::Loader(std::shared_ptr<const Dataset> dataset, Normalization normalization,
               std::optional<Augmentation> augmentation, std::uint64_t seed)
    : dataset_(dataset),
      source_(std::make_shared<const Source>(
          Source{std::move(dataset), std::move(normalization), augmentation, seed})) {}

void Loader::submit(const Batch& batch, std::span<const std::uint32_t> indices,
                    std::uint64_t epoch) const {
  static const runtime::Codelet codelet("load batch", {runtime::WorkerKind::cpu});
  if (static_cast<std::int64_t>(indices.size()) != batch.images.spec().shape.n) {
    throw std::logic_error("Loader: the batch has room for " +
                           std::to_string(batch.images.spec().shape.n) + " images, not " +
                           std::to_string(indices.size()));
  }
  // Before the steps of its own iteration: what they wait for comes first.
  constexpr int priority = 1;
  runtime::submit(
      codelet, {{batch.images, runtime::Access::write}, {batch.labels, runtime::Access::write}},
      [source = source_, epoch, shape = batch.images.spec().shape,
       chosen = std::vector<std::uint32_t>(indices.begin(), indices.end())](
          const runtime::TaskContext& task) {
        load_batch(*source->dataset, chosen, shape,
                   source->augmentation ? &*source->augmentation : nullptr, source->normalization,
                   source->seed, epoch, task.buffer<float>(0), task.buffer<std::int32_t>(1));
      },
      {.worker = -1,
       .priority = priority,
       .footprint = static_cast<std::uint32_t>(batch.images.bytes()),
       .name = nullptr});
}

}  // namespace stpt::data
