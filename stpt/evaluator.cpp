#include "stpt/evaluator.hpp"

#include <algorithm>
#include <string>

#include "runtime/task.hpp"

namespace stpt {

using codelets::SampleScore;
using runtime::Access;

namespace {

double share_with_rank_below(const std::vector<SampleScore>& samples, int rank) {
  const auto right = std::count_if(samples.begin(), samples.end(),
                                   [rank](const SampleScore& s) { return s.rank < rank; });
  return static_cast<double>(right) / static_cast<double>(samples.size());
}

}  // namespace

double Evaluation::top1() const { return share_with_rank_below(samples, 1); }

double Evaluation::top5() const { return share_with_rank_below(samples, 5); }

double Evaluation::loss() const {
  double sum = 0;
  for (const SampleScore& sample : samples) sum += sample.loss;
  return sum / static_cast<double>(samples.size());
}

Evaluator::Evaluator(const models::Network& network, models::Mode mode, models::Grain grain,
                     const data::Loader& loader, std::vector<std::uint32_t> images, int batch)
    : loader_(loader), images_(std::move(images)) {
  const auto most = static_cast<std::size_t>(batch);
  batches_ = (images_.size() + most - 1) / most;
  const std::size_t size = images_.size() / batches_;
  shapes_.push_back(make_shape(network, mode, grain, static_cast<int>(size)));
  if (images_.size() % batches_ != 0)
    shapes_.push_back(make_shape(network, mode, grain, static_cast<int>(size) + 1));
}

Evaluator::Shape Evaluator::make_shape(const models::Network& network, models::Mode mode,
                                       models::Grain grain, int size) const {
  Shape shape;
  shape.program = std::make_unique<models::Program>(network, size, mode, grain);
  const std::size_t in_flight = runtime::Runtime::current().workers().size() + 1;
  for (std::size_t i = 0; i < in_flight; ++i) {
    shape.ring.emplace_back(size, network.input(), "evaluation." + std::to_string(i));
    shape.lanes.push_back(shape.program->make_lane());
  }
  return shape;
}

std::vector<Evaluation> Evaluator::evaluate(std::span<const EvaluatedModel> models) {
  static const runtime::Codelet gather("gather scores", {runtime::WorkerKind::cpu});
  std::vector<Evaluation> results(models.size());
  for (Evaluation& result : results) result.samples.resize(images_.size());
  const std::size_t small = images_.size() / batches_;
  const std::size_t larger = images_.size() % batches_;  // so many batches have one more
  // Declared after `results`: destruction waits for the tasks that write there.
  std::vector<runtime::Tensor> scores;
  std::size_t first = 0;
  for (std::size_t number = 0; number < batches_; ++number) {
    Shape& shape = shapes_[number < larger ? 1 : 0];
    const std::size_t size = small + (number < larger ? 1 : 0);
    const data::Batch& batch = shape.ring[shape.next_batch];
    shape.next_batch = (shape.next_batch + 1) % shape.ring.size();
    loader_.submit(batch, std::span(images_).subspan(first, size), 0);
    for (std::size_t model = 0; model < models.size(); ++model) {
      const auto& score =
          scores.emplace_back(runtime::bytes_spec(size * sizeof(SampleScore)), "scores");
      models::ProgramInputs inputs;
      inputs.images = &batch.images;
      inputs.labels = &batch.labels;
      inputs.scores = &score;
      inputs.parameters = &models[model].state->parameters;
      inputs.running = models[model].running;
      inputs.lane = &shape.lanes[shape.next_lane];
      shape.next_lane = (shape.next_lane + 1) % shape.lanes.size();
      shape.program->submit(inputs);
      runtime::submit(
          gather, {{score, Access::read}},
          [target = results[model].samples.data() + first, size](const runtime::TaskContext& task) {
            std::copy_n(task.buffer<SampleScore>(0), size, target);
          });
    }
    first += size;
  }
  runtime::Runtime::current().wait_for_all();
  return results;
}

}  // namespace stpt
