// A network that can be run for one batch size on one kind of device, by tasks.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "models/lowering.hpp"
#include "models/optimizer.hpp"
#include "runtime/task.hpp"
#include "runtime/tensor.hpp"

namespace stpt::codelets::cuda {
class GraphCache;
}

namespace stpt::models {

/// Memory for the activations that pass between segments. One chain of segments uses a lane at a
/// time; the tensors' dependencies see to that.
using Lane = std::vector<runtime::Tensor>;

/// How many are worth having on so many StarPU workers: enough that every core has a chain of tasks
/// and the next one is ready. A GPU's worker has one: its stream runs them one after the other.
[[nodiscard]] constexpr std::size_t lanes_in_flight(std::size_t workers, bool on_gpu) {
  return on_gpu ? workers : 2 * workers;
}

/// Gives the address of a resource.
using Memory = std::function<void*(Resource, int index)>;

/// The tensors that one execution of a program works on.
struct ProgramInputs {
  std::span<const runtime::Tensor> images;  ///< parts of equal size
  const runtime::Tensor* labels = nullptr;
  const runtime::Tensor* keys = nullptr;    ///< where a network with dropout trains
  const runtime::Tensor* scores = nullptr;  ///< written
  const std::vector<runtime::Tensor>* parameters = nullptr;
  /// Written, with Home::host; train only. What lies between the parameters stays; on GPUs it
  /// becomes 0.
  const std::vector<runtime::Tensor>* gradients = nullptr;
  const runtime::Tensor* running = nullptr;
  const Lane* lane = nullptr;
};

/// An update that a training step makes at its end, in its own task.
struct UpdateInStep {
  const Optimizer& optimizer;  ///< outlives the task
  const std::vector<runtime::Tensor>& moments;
  float gradient_scale, learning_rate;
};

class Program {
 public:
  /// Throws std::invalid_argument where an op cannot be planned (data type, shape). The program
  /// refers to nothing of `network` afterwards. Wait for its tasks before it goes. `image_parts`
  /// divides `batch`.
  Program(const Network& network, int batch, Mode mode, const LoweringOptions& options,
          int image_parts = 1);
  Program(const Program&) = delete;  // its tasks refer to it
  Program& operator=(const Program&) = delete;

  [[nodiscard]] int batch() const { return batch_; }
  [[nodiscard]] int image_parts() const { return image_parts_; }
  [[nodiscard]] bool on_gpu() const { return codelets::on_gpu(options_.device); }
  [[nodiscard]] float loss_scale() const { return options_.loss_scale; }
  [[nodiscard]] std::size_t segments() const { return lowered_.segments.size(); }
  [[nodiscard]] std::size_t operations() const { return lowered_.operations.size(); }
  /// Of one lane, and of one task's scratch memory.
  [[nodiscard]] std::size_t lane_bytes() const { return lowered_.lane_bytes(); }
  [[nodiscard]] std::size_t scratch_bytes() const { return lowered_.scratch_bytes; }

  [[nodiscard]] Lane make_lane() const;

  /// One task per segment. On GPUs `worker` is one of theirs, and a segment's kernels become one
  /// CUDA graph for each set of addresses. `update` is for programs of one segment, in Mode::train.
  void submit(const ProgramInputs& inputs, int worker = -1, int priority = 0,
              const UpdateInStep* update = nullptr) const;

  /// The same kernels on plain memory, without tasks: what the runtime's overhead is measured
  /// against. On cores, in the calling thread; the tensors of `inputs` are acquired for the
  /// duration; `scratch` has scratch_bytes(), aligned.
  void run_here(const ProgramInputs& inputs, std::span<std::byte> scratch) const;
  /// The same on memory of the program's device, enqueued on `stream`.
  void run_here(const Memory& memory, void* scratch, codelets::Stream stream) const;
  /// Of a group of activations that run_here asks for.
  [[nodiscard]] std::span<const std::size_t> group_bytes() const { return lowered_.group_bytes; }

 private:
  [[nodiscard]] const runtime::Tensor& resolve(const Lowered::Binding& binding,
                                               const ProgramInputs& inputs) const;
  void run_segment(const Lowered::Segment& segment, std::span<void* const> buffers,
                   codelets::Stream stream) const;
  void run_task(const Lowered::Segment& segment, const runtime::TaskContext& task) const;
  /// The buckets' memory, `buffers` being those of the bindings and behind them the moments.
  [[nodiscard]] std::vector<codelets::UpdatedBucket> updated_buckets(
      const Lowered::Segment& segment, const Optimizer& optimizer,
      std::span<void* const> buffers) const;

  int batch_;
  Mode mode_;
  LoweringOptions options_;
  int image_parts_;
  Lowered lowered_;
  runtime::Tensor scratch_;
  std::shared_ptr<codelets::cuda::GraphCache> graphs_;  ///< on GPUs
};

}  // namespace stpt::models
