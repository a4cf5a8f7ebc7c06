// Scores models on a fixed list of images: the hold-out split to choose a learning rate, the test
// set to report.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "codelets/softmax_cross_entropy.hpp"
#include "data/loader.hpp"
#include "models/model_state.hpp"
#include "models/program.hpp"

namespace stpt {

struct Evaluation {
  std::vector<codelets::SampleScore> samples;  ///< in the order of the images

  [[nodiscard]] double top1() const;
  [[nodiscard]] double top5() const;
  [[nodiscard]] double loss() const;  ///< mean; NaN if one is
};

/// A model as evaluation reads it.
struct EvaluatedModel {
  const std::vector<runtime::Tensor>* parameters = nullptr;  ///< one per bucket
  const runtime::Tensor* running = nullptr;  ///< nullptr without BatchNorm or with batch statistics
};

/// How a model does on images.
struct TestResult {
  std::int64_t images = 0;
  double top1 = 0, top5 = 0, loss = 0;
};

class Evaluator {
 public:
  /// `mode`: inference or batch_statistics. The images are cut into batches of nearly equal size,
  /// at most `batch`.
  Evaluator(const models::Network& network, models::Mode mode,
            const models::LoweringOptions& options, const data::Loader& loader,
            std::vector<std::uint32_t> images, int batch);

  /// One pass over the images that scores all models on each batch; on GPUs model k is scored by
  /// the worker of piece k (runtime::Runtime::worker_for), and few models by all in turns. Of
  /// `parts` parts of about equal size only part `part`: ranks share the work. Waits for the
  /// result; throws runtime::TaskError.
  [[nodiscard]] std::vector<Evaluation> evaluate(std::span<const EvaluatedModel> models,
                                                 int part = 0, int parts = 1);

  /// The model on all images, which the ranks share; all of them call it and have the result.
  [[nodiscard]] TestResult evaluate_on_all_ranks(const EvaluatedModel& model);

  /// Batches that are loaded or scored at a time, of each size.
  [[nodiscard]] static std::size_t batches_in_flight(std::size_t workers, bool on_gpu);

  [[nodiscard]] std::size_t images() const { return images_.size(); }
  /// How many of them part `part` has.
  [[nodiscard]] std::size_t images(int part, int parts) const;

 private:
  /// Batches differ in size by at most one, hence two programs at most.
  struct Shape {
    std::unique_ptr<models::Program> program;
    std::vector<data::Batch> ring;  ///< number i takes [i mod size]
    /// [as in the ring][model]: used again, so that GPUs meet the same addresses.
    std::vector<std::vector<runtime::Tensor>> scores;
    std::vector<models::Lane> lanes;
  };
  [[nodiscard]] Shape make_shape(const models::Network& network, models::Mode mode,
                                 const models::LoweringOptions& options, int size) const;

  /// [first, last) in batches of the whole list, for a part of it.
  struct Range {
    std::size_t first, last;
  };
  [[nodiscard]] Range batches_of(int part, int parts) const;
  [[nodiscard]] std::size_t first_image(std::size_t batch) const;

  const data::Loader& loader_;
  std::vector<std::uint32_t> images_;
  std::size_t batches_;
  std::vector<Shape> shapes_;  ///< [0]: the smaller size, [1]: one more
};

}  // namespace stpt
