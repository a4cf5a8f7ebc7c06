#include "stpt/evaluator.hpp"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "runtime/cluster.hpp"
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

Evaluator::Evaluator(const models::Network& network, models::Mode mode,
                     const models::LoweringOptions& options, const data::Loader& loader,
                     std::vector<std::uint32_t> images, int batch)
    : loader_(loader), images_(std::move(images)) {
  const auto most = static_cast<std::size_t>(batch);
  batches_ = (images_.size() + most - 1) / most;
  const std::size_t size = images_.size() / batches_;
  shapes_.push_back(make_shape(network, mode, options, static_cast<int>(size)));
  if (images_.size() % batches_ != 0)
    shapes_.push_back(make_shape(network, mode, options, static_cast<int>(size) + 1));
}

Evaluator::Shape Evaluator::make_shape(const models::Network& network, models::Mode mode,
                                       const models::LoweringOptions& options, int size) const {
  Shape shape;
  const int parts = loader_.parts(size);
  shape.program = std::make_unique<models::Program>(network, size, mode, options, parts);
  const runtime::Runtime& runtime = runtime::Runtime::current();
  const bool on_gpu = codelets::on_gpu(options.device);
  const std::size_t in_flight = batches_in_flight(runtime.computing_workers(), on_gpu);
  // A GPU's worker has a lane of its own.
  const std::size_t lanes = on_gpu ? runtime.computing_workers() : in_flight;
  for (std::size_t i = 0; i < in_flight; ++i)
    shape.ring.emplace_back(size, network.input(), "evaluation." + std::to_string(i), parts);
  shape.scores.resize(in_flight);
  for (std::size_t i = 0; i < lanes; ++i) shape.lanes.push_back(shape.program->make_lane());
  return shape;
}

std::size_t Evaluator::batches_in_flight(std::size_t workers, bool on_gpu) {
  // On GPUs a multiple of their workers, so that a batch's memory always meets the same one.
  return on_gpu ? 2 * workers : workers + 1;
}

Evaluator::Range Evaluator::batches_of(int part, int parts) const {
  const auto number = static_cast<std::size_t>(part), all = static_cast<std::size_t>(parts);
  return {number * batches_ / all, (number + 1) * batches_ / all};
}

std::size_t Evaluator::first_image(std::size_t batch) const {
  return batch * (images_.size() / batches_) + std::min(batch, images_.size() % batches_);
}

std::size_t Evaluator::images(int part, int parts) const {
  const Range range = batches_of(part, parts);
  return first_image(range.last) - first_image(range.first);
}

std::vector<Evaluation> Evaluator::evaluate(std::span<const EvaluatedModel> models, int part,
                                            int parts) {
  static const runtime::Codelet gather("gather scores", {runtime::WorkerKind::cpu});
  // Shared with the tasks that write there, which may be under way where this is left by a throw.
  const auto results = std::make_shared<std::vector<Evaluation>>(models.size());
  for (Evaluation& result : *results) result.samples.resize(images(part, parts));
  const std::size_t larger = images_.size() % batches_;  // so many batches have one more
  const Range range = batches_of(part, parts);
  const std::size_t start = first_image(range.first);
  for (std::size_t number = range.first; number < range.last; ++number) {
    Shape& shape = shapes_[number < larger ? 1 : 0];
    const std::size_t first = first_image(number);
    const std::size_t size = first_image(number + 1) - first;
    const data::Batch& batch = shape.ring[number % shape.ring.size()];
    auto& scores = shape.scores[number % shape.ring.size()];
    while (scores.size() < models.size())
      scores.emplace_back(runtime::bytes_spec(size * sizeof(SampleScore)), "scores");
    loader_.submit(batch, std::span(images_).subspan(first, size), 0,
                   runtime::Runtime::current().worker_for(number * models.size()));
    for (std::size_t model = 0; model < models.size(); ++model) {
      const runtime::Tensor& score = scores[model];
      models::ProgramInputs inputs;
      inputs.images = batch.images;
      inputs.labels = &batch.labels;
      inputs.scores = &score;
      inputs.parameters = models[model].parameters;
      inputs.running = models[model].running;
      const std::size_t piece = model + number * models.size();
      inputs.lane = &shape.lanes[piece % shape.lanes.size()];
      shape.program->submit(inputs, runtime::Runtime::current().worker_for(piece));
      runtime::submit(
          gather, {{score, Access::read}},
          [results, model, offset = first - start, size](const runtime::TaskContext& task) {
            std::copy_n(task.buffer<SampleScore>(0), size,
                        (*results)[model].samples.data() + offset);
          });
    }
  }
  runtime::Runtime::current().wait_for_all();
  return std::move(*results);
}

TestResult Evaluator::evaluate_on_all_ranks(const EvaluatedModel& model) {
  runtime::Cluster& cluster = runtime::Cluster::current();
  const Evaluation part = evaluate({&model, 1}, cluster.rank(), cluster.size()).front();
  Evaluation all;
  for (const auto& samples : cluster.all_gather(part.samples))
    all.samples.insert(all.samples.end(), samples.begin(), samples.end());
  return {std::ssize(all.samples), all.top1(), all.top5(), all.loss()};
}

}  // namespace stpt
