#include "data/loader.hpp"

#include <algorithm>
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

Batch::Batch(int size, const runtime::Shape& image, const std::string& name, int parts)
    : labels(runtime::vector_spec(static_cast<std::size_t>(size), runtime::DataType::int32),
             name + ".labels", runtime::Home::host) {
  if (parts < 1 || size % parts != 0)
    throw std::logic_error("Batch: the parts must be of equal size");
  const runtime::TensorSpec spec{
      {size / parts, image.c, image.h, image.w}, runtime::DataType::float32, runtime::Layout::nchw};
  for (int part = 0; part < parts; ++part) {
    images.emplace_back(spec, name + ".images." + std::to_string(part), runtime::Home::host);
  }
}

int batch_parts(int size, const codelets::Device& device) {
  if (!codelets::on_gpu(device)) return 1;
  constexpr int least = 16;
  int parts = std::max(1, size / least);
  while (size % parts != 0) --parts;
  return parts;
}

Loader::Loader(std::shared_ptr<const Dataset> dataset, Normalization normalization,
               std::optional<Augmentation> augmentation, std::uint64_t seed)
    : dataset_(dataset),
      source_(std::make_shared<const Source>(
          Source{std::move(dataset), std::move(normalization), augmentation, seed})) {}

void Loader::submit(const Batch& batch, std::span<const std::uint32_t> indices,
                    std::uint64_t epoch) const {
  static const runtime::Codelet codelet("load batch", {runtime::WorkerKind::cpu});
  const runtime::Shape shape = batch.images.front().spec().shape;
  const auto size = static_cast<std::size_t>(shape.n);
  if (indices.size() != size * batch.images.size()) {
    throw std::logic_error("Loader: the batch has room for " +
                           std::to_string(size * batch.images.size()) + " images, not " +
                           std::to_string(indices.size()));
  }
  std::vector<std::int32_t> labels(indices.size());
  std::ranges::transform(indices, labels.begin(),
                         [this](std::uint32_t index) { return dataset_->label(index); });
  // Before the steps of its own iteration: what they wait for comes first.
  constexpr int priority = 1;
  for (std::size_t part = 0; part < batch.images.size(); ++part) {
    const runtime::Tensor& images = batch.images[part];
    std::vector<runtime::Use> uses{{images, runtime::Access::write}};
    if (part == 0) uses.push_back({batch.labels, runtime::Access::write});
    const auto chosen = indices.subspan(part * size, size);
    runtime::submit(
        codelet, uses,
        [source = source_, epoch, shape, chosen = std::vector(chosen.begin(), chosen.end()),
         labels = part == 0 ? std::move(labels)
                            : std::vector<std::int32_t>()](const runtime::TaskContext& task) {
          load_images(*source->dataset, chosen, shape,
                      source->augmentation ? &*source->augmentation : nullptr,
                      source->normalization, source->seed, epoch, task.buffer<float>(0));
          if (task.buffers.size() > 1) std::ranges::copy(labels, task.buffer<std::int32_t>(1));
        },
        {.worker = -1,
         .priority = priority,
         .footprint = static_cast<std::uint32_t>(images.bytes()),
         .name = nullptr});
  }
}

}  // namespace stpt::data
