// A network lowered for one batch size on one kind of device: a list of planned kernels, cut into
// segments. A segment is what one task runs.
//
// Lowering: (1) batch norm + add + ReLU, convolution + ReLU and fully connected + ReLU are merged
// into one op; (2) layouts are chosen by the convolutions and kept by what follows; (3) backward
// ops are appended in reverse order; (4) the list is cut by `fusion`; (5) buffers that live inside
// one segment go to its scratch memory, the others are gathered into groups that the same segments
// use, each group one StarPU handle.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "codelets/kernel.hpp"
#include "models/network.hpp"
#include "models/optimizer.hpp"
#include "runtime/task.hpp"
#include "runtime/tensor.hpp"

namespace stpt::codelets::cuda {
class GraphCache;
}

namespace stpt::models {

/// How many ops one task runs: each op alone, a block's forward or backward part, or the whole
/// step.
enum class Grain { op, block, step };

/// What a network is lowered for.
struct LoweringOptions {
  Grain grain = Grain::step;
  codelets::Device device = codelets::Cpu{};
  /// Mode::train: gradients come out times this, which keeps small ones from vanishing in float16.
  float loss_scale = 1;
  float label_smoothing = 0;  ///< Mode::train: of the loss (codelets::SoftmaxCrossEntropy)
};

enum class Mode {
  train,             ///< forward, loss, backward; updates running statistics
  batch_statistics,  ///< forward and loss; BatchNorm uses this batch's statistics
  inference,         ///< forward and loss; BatchNorm uses the running statistics
  calibration,       ///< forward; running statistics become exactly this batch's
};

/// What a segment's task gets a handle for.
enum class Resource : std::uint8_t {
  images,       ///< part `index` of the batch, n x c x h x w float32 nchw
  labels,       ///< batch int32
  scores,       ///< batch codelets::SampleScore
  parameters,   ///< bucket `index` of the ModelState
  gradients,    ///< bucket `index` of the worker's gradients
  running,      ///< the worker's running statistics
  activations,  ///< group `index` of the lane
  scratch,      ///< memory of the task's duration
  none,         ///< a null pointer
};

/// Memory for the activations that pass between segments. One chain of segments uses a lane at a
/// time; the tensors' dependencies see to that.
using Lane = std::vector<runtime::Tensor>;

/// Gives the address of a resource.
using Memory = std::function<void*(Resource, int index)>;

/// The tensors that one execution of a program works on.
struct ProgramInputs {
  std::span<const runtime::Tensor> images;  ///< parts of equal size
  const runtime::Tensor* labels = nullptr;
  const runtime::Tensor* scores = nullptr;  ///< written
  const std::vector<runtime::Tensor>* parameters = nullptr;
  /// Written, with Home::host; train only. What lies between the parameters stays.
  const std::vector<runtime::Tensor>* gradients = nullptr;
  const runtime::Tensor* running = nullptr;
  const Lane* lane = nullptr;
};

/// An update that a training step makes at its end, in its own task.
struct UpdateInStep {
  const Optimizer& optimizer;  ///< outlives the task
  const std::vector<runtime::Tensor>& velocity;
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
  [[nodiscard]] std::size_t segments() const { return segments_.size(); }
  [[nodiscard]] std::size_t operations() const { return operations_.size(); }
  /// Of one lane, and of one task's scratch memory.
  [[nodiscard]] std::size_t lane_bytes() const;
  [[nodiscard]] std::size_t scratch_bytes() const { return scratch_bytes_; }

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
  [[nodiscard]] std::span<const std::size_t> group_bytes() const { return group_bytes_; }

 private:
  friend class Lowering;
  friend class Segmentation;

  /// Where an op's argument lies: in the segment's handle number `binding`, `offset` bytes in.
  struct Operand {
    int binding = -1;  ///< -1: null
    std::size_t offset = 0;
  };
  struct Operation {
    codelets::KernelPtr kernel;
    std::vector<Operand> operands;
  };
  struct Binding {
    Resource resource;
    int index;
    runtime::Access access;
  };
  struct Segment {
    std::string name;
    std::size_t first = 0, last = 0;  ///< operations [first, last)
    std::vector<Binding> bindings;
    int scratch_binding = -1;
    std::size_t workspace_offset = 0;  ///< in the scratch memory
    std::uint32_t footprint = 0;
  };

  [[nodiscard]] const runtime::Tensor& resolve(const Binding& binding,
                                               const ProgramInputs& inputs) const;
  void run_segment(const Segment& segment, std::span<void* const> buffers,
                   codelets::Stream stream) const;
  void run_task(const Segment& segment, const runtime::TaskContext& task) const;
  /// The buckets' memory, `buffers` being those of the bindings and behind them the velocities.
  [[nodiscard]] std::vector<codelets::SgdBucket> updated_buckets(
      const Segment& segment, const Optimizer& optimizer, std::span<void* const> buffers) const;

  int batch_;
  Mode mode_;
  LoweringOptions options_;
  int image_parts_;
  std::vector<Operation> operations_;
  std::vector<Segment> segments_;
  std::vector<std::size_t> group_bytes_;
  std::size_t scratch_bytes_ = 0;
  runtime::Tensor scratch_;
  std::shared_ptr<codelets::cuda::GraphCache> graphs_;  ///< on GPUs
};

}  // namespace stpt::models
