#include "data/loader.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "runtime/random.hpp"
#include "runtime/task.hpp"

namespace stpt::data {
namespace {

// Before the steps of its own iteration: what they wait for comes first.
constexpr int load_priority = 1;

}  // namespace

struct Loader::Source {
  std::shared_ptr<const Dataset> dataset;
  Normalization normalization;
  std::optional<Augmentation> augmentation;
  std::uint64_t seed;
};

struct Loader::Facts {
  std::vector<std::int32_t> labels;
  std::vector<runtime::PhiloxKey> keys;

  /// For write(), with those for `first` before it.
  static std::vector<runtime::Use> uses(const Batch& batch, std::vector<runtime::Use> first = {}) {
    first.push_back({batch.labels, runtime::Access::write});
    if (batch.keys) first.push_back({batch.keys, runtime::Access::write});
    return first;
  }
  /// To the task's buffers from this one on.
  void write(const runtime::TaskContext& task, std::size_t buffer) const {
    std::ranges::copy(labels, task.buffer<std::int32_t>(buffer));
    if (!keys.empty()) std::ranges::copy(keys, task.buffer<runtime::PhiloxKey>(buffer + 1));
  }
};

Batch::Batch(int size, const runtime::Shape& image, const std::string& name, int parts,
             bool with_keys)
    : labels(runtime::vector_spec(static_cast<std::size_t>(size), runtime::DataType::int32),
             name + ".labels", runtime::Home::host) {
  if (with_keys) {
    keys = runtime::Tensor(
        runtime::bytes_spec(static_cast<std::size_t>(size) * sizeof(runtime::PhiloxKey)),
        name + ".keys", runtime::Home::host);
  }
  if (parts < 1 || size % parts != 0)
    throw std::logic_error("Batch: the parts must be of equal size");
  const runtime::TensorSpec spec{
      {size / parts, image.c, image.h, image.w}, runtime::DataType::float32, runtime::Layout::nchw};
  for (int part = 0; part < parts; ++part) {
    images.emplace_back(spec, name + ".images." + std::to_string(part), runtime::Home::host);
  }
}

std::shared_ptr<const runtime::Tensor> gather_pixels(const Dataset& dataset) {
  const std::size_t image = dataset.image_bytes();
  auto pixels = std::make_shared<runtime::Tensor>(runtime::bytes_spec(dataset.size() * image),
                                                  "pixels", runtime::Home::host);
  const runtime::HostView view(*pixels, runtime::Access::write);
  for (std::size_t i = 0; i < dataset.size(); ++i)
    dataset.read(i, view.as<std::uint8_t>().subspan(i * image, image));
  return pixels;
}

Loader::Loader(std::shared_ptr<const Dataset> dataset, Normalization normalization,
               std::optional<Augmentation> augmentation, std::uint64_t seed,
               codelets::Device device, std::shared_ptr<const runtime::Tensor> pixels)
    : source_(std::make_shared<const Source>(
          Source{std::move(dataset), std::move(normalization), augmentation, seed})),
      device_(device),
      pixels_(std::move(pixels)) {
  if (pixels_ &&
      (!codelets::on_gpu(device_) || (augmentation && augmentation->random_resized_crop)))
    throw std::logic_error("Loader: a GPU cannot make these batches");
}

const Dataset& Loader::dataset() const { return *source_->dataset; }

int Loader::parts(int batch) const {
  if (!codelets::on_gpu(device_) || pixels_) return 1;
  constexpr int least = 16;
  int parts = std::max(1, batch / least);
  while (batch % parts != 0) --parts;
  return parts;
}

void Loader::submit(const Batch& batch, std::span<const std::uint32_t> indices, std::uint64_t epoch,
                    int worker) const {
  const auto room =
      static_cast<std::size_t>(batch.images.front().spec().shape.n) * batch.images.size();
  if (indices.size() != room) {
    throw std::logic_error("Loader: the batch has room for " + std::to_string(room) +
                           " images, not " + std::to_string(indices.size()));
  }
  Facts facts;
  for (const std::uint32_t index : indices) {
    facts.labels.push_back(dataset().label(index));
    if (!batch.keys) continue;
    runtime::Random random(source_->seed, runtime::stream_id("keys", epoch), index);
    const std::uint32_t first = random.next();
    facts.keys.push_back({first, random.next()});
  }
  if (pixels_) {
    submit_to_gpu(batch, indices, epoch, std::move(facts), worker);
  } else {
    submit_to_cores(batch, indices, epoch, std::move(facts), worker);
  }
}

void Loader::submit_to_cores(const Batch& batch, std::span<const std::uint32_t> indices,
                             std::uint64_t epoch, Facts facts, int worker) const {
  static const runtime::Codelet codelet("load batch", {runtime::WorkerKind::cpu});
  const runtime::Shape shape = batch.images.front().spec().shape;
  const auto size = static_cast<std::size_t>(shape.n);
  for (std::size_t part = 0; part < batch.images.size(); ++part) {
    const runtime::Tensor& images = batch.images[part];
    std::vector<runtime::Use> uses{{images, runtime::Access::write}};
    if (part == 0) uses = Facts::uses(batch, std::move(uses));
    const auto chosen = indices.subspan(part * size, size);
    runtime::submit(
        codelet, uses,
        [source = source_, epoch, shape, chosen = std::vector(chosen.begin(), chosen.end()),
         facts = part == 0 ? std::move(facts) : Facts()](const runtime::TaskContext& task) {
          load_images(*source->dataset, chosen, shape,
                      source->augmentation ? &*source->augmentation : nullptr,
                      source->normalization, source->seed, epoch, task.buffer<float>(0));
          if (task.buffers.size() > 1) facts.write(task, 1);
        },
        {.priority = load_priority,
         .footprint = static_cast<std::uint32_t>(images.bytes()),
         .prefetch_for = worker});
  }
}

void Loader::submit_to_gpu(const Batch& batch, std::span<const std::uint32_t> indices,
                           std::uint64_t epoch, Facts facts, int worker) const {
  static const runtime::Codelet codelet("load batch on GPU", {runtime::WorkerKind::cuda});
  static const runtime::Codelet facts_codelet("load labels", {runtime::WorkerKind::cpu});
  const runtime::Shape stored = dataset().image_shape(), shape = batch.images[0].spec().shape;
  const Augmentation* augmentation = source_->augmentation ? &*source_->augmentation : nullptr;
  std::vector<codelets::ImageCut> cuts;
  for (const std::uint32_t index : indices)
    cuts.push_back(image_cut(stored, shape, augmentation, source_->seed, epoch, index));
  runtime::submit(
      codelet, {{*pixels_, runtime::Access::read}, {batch.images[0], runtime::Access::write}},
      [cuts = std::move(cuts), scales = pixel_scales(source_->normalization), stored,
       shape](const runtime::TaskContext& task) {
        if constexpr (codelets::has_cuda) {
          codelets::load_images(cuts, scales, stored, shape, task.buffer<std::uint8_t>(0),
                                task.buffer<float>(1), codelets::Cuda{}, task.stream);
        }
      },
      {.worker = worker, .priority = load_priority});
  runtime::submit(
      facts_codelet, Facts::uses(batch),
      [facts = std::move(facts)](const runtime::TaskContext& task) { facts.write(task, 0); },
      {.priority = load_priority, .prefetch_for = worker});
}

}  // namespace stpt::data
