#include "models/optimizer.hpp"

#include <cstdint>

namespace stpt::models {

using runtime::Access;
using runtime::Codelet;
using runtime::Tensor;
using runtime::WorkerKind;

Optimizer::Optimizer(const Network& network, const codelets::OptimizerSettings& settings,
                     bool decay_all)
    : settings_(settings), elements_(network.buckets), ranges_(network.buckets.size()) {
  for (const Parameter& parameter : network.parameters) {
    auto& ranges = ranges_[static_cast<std::size_t>(parameter.bucket)];
    const auto count = static_cast<std::size_t>(parameter.shape.elements());
    const bool decay = parameter.decay || decay_all;
    // Neighbours of one kind are updated in one go; the padding between them stays zero.
    if (!ranges.empty() && ranges.back().decay == decay) {
      ranges.back().count = parameter.offset + count - ranges.back().offset;
    } else {
      ranges.push_back({parameter.offset, count, decay});
    }
  }
}

void Optimizer::step(ModelState& state, std::size_t bucket, const Tensor& gradient,
                     float gradient_scale, float learning_rate, int worker, int priority) const {
  static const Codelet codelet("update", {WorkerKind::cpu, WorkerKind::cuda});
  if (ranges_[bucket].empty()) return;
  runtime::submit(codelet,
                  {{state.parameters[bucket], Access::read_write},
                   {state.moments[bucket], Access::read_write},
                   {gradient, Access::read}},
                  [this, bucket, gradient_scale, learning_rate](const runtime::TaskContext& task) {
                    const auto here = updated(bucket, task.buffer<float>(0), task.buffer<float>(1),
                                              task.buffer<float>(2));
                    step_here({&here, 1}, gradient_scale, learning_rate, task);
                  },
                  {.worker = worker,
                   .priority = priority,
                   .footprint = static_cast<std::uint32_t>(gradient.bytes())});
}

void Optimizer::step_here(std::span<const codelets::UpdatedBucket> buckets, float gradient_scale,
                          float learning_rate, const runtime::TaskContext& task) const {
  codelets::on_device(task.kind, [&](auto device) {
    codelets::optimizer_step(buckets, gradient_scale, learning_rate, settings_, device,
                             task.stream);
  });
}

}  // namespace stpt::models
