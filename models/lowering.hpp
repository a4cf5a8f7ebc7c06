// A network lowered for one batch size on one kind of device: a list of planned kernels, cut into
// segments. A segment is what one task runs.
//
// (1) A ReLU is merged into the convolution, normalisation, fully connected layer or addition
// before it, some other activations into a normalisation, an addition into that of a summand; (2)
// layouts are chosen by the convolutions and kept by what follows, weights are converted to the
// network's data type; (3) backward ops are appended in reverse order; (4) the list is cut by
// `grain`; (5) buffers that live inside one segment go to its scratch memory, the others are
// gathered into groups that the same segments use, each group one StarPU handle.
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "codelets/kernel.hpp"
#include "models/network.hpp"
#include "runtime/tensor.hpp"

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
  keys,         ///< batch runtime::PhiloxKey, each the key of its image (codelets::Dropout)
  scores,       ///< batch codelets::SampleScore
  parameters,   ///< bucket `index` of the ModelState
  gradients,    ///< bucket `index` of the worker's gradients
  running,      ///< the worker's running statistics
  activations,  ///< group `index` of the lane
  scratch,      ///< memory of the task's duration
  none,         ///< a null pointer
};

/// What lower() makes of a network.
struct Lowered {
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
    std::uint32_t footprint = 0;       ///< TaskOptions::footprint
  };

  std::vector<Operation> operations;
  std::vector<Segment> segments;
  std::vector<std::size_t> group_bytes;  ///< of each group of activations
  std::size_t scratch_bytes = 0;         ///< of the segment that needs most

  /// Of all groups.
  [[nodiscard]] std::size_t lane_bytes() const {
    return std::accumulate(group_bytes.begin(), group_bytes.end(), std::size_t{0});
  }
};

/// What is lowered, and for what.
struct LoweringRequest {
  const Network& network;
  int batch;
  Mode mode;
  const LoweringOptions& options;
  int image_parts;  ///< in which the batch comes; divides it
};

/// Refers to nothing of the request afterwards. Throws std::invalid_argument where an op cannot be
/// planned (data type, shape).
[[nodiscard]] Lowered lower(const LoweringRequest& request);

}  // namespace stpt::models
