// The work of Program's constructor, step by step; used by program.cpp alone.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "codelets/batch_norm.hpp"
#include "codelets/conv2d.hpp"
#include "codelets/elementwise.hpp"
#include "codelets/fully_connected.hpp"
#include "codelets/pool2d.hpp"
#include "models/program.hpp"

namespace stpt::models {

class Lowering {
 public:
  Lowering(const Network& network, Mode mode, Program& program);

  void emit_operations();
  void cut(Grain grain);

 private:
  /// A layer with what is fused into it.
  struct Node {
    const Layer* layer;
    bool relu = false;
    std::optional<ActivationId> residual;
    ActivationId output;
    bool live = true;
  };
  /// Memory of the program's own: an activation, a gradient or what forward keeps for backward.
  struct Buffer {
    std::size_t bytes;
    int first = -1, last = -1;  ///< operations that touch it
    std::set<int> segments;
  };
  struct Argument {
    Resource resource = Resource::none;
    int index = 0;  ///< bucket; for activations: buffer
    std::size_t offset = 0;
    runtime::Access access = runtime::Access::read;
  };
  struct Emitted {
    std::string name;
    int block;
    bool backward;
    std::vector<Argument> arguments;
  };
  struct Gradient {
    int buffer;
    bool shared;  ///< read by several: must not be overwritten
  };
  struct Value {
    runtime::TensorSpec spec;
    Argument location;
    std::vector<Gradient> gradients;  ///< parts to be added
  };
  /// Weights as the device's ops want them, where that is not as parameters are kept, and their
  /// gradients likewise. Weights change at every step, so each task converts all that it needs in
  /// one launch before its first op, and all gradients in one launch behind its last.
  struct ConvertedWeights {
    std::vector<int> buckets;
    int weights = -1, gradients = -1;               ///< buffers
    std::size_t bytes = 0;                          ///< of each
    std::map<int, codelets::Reorders::Part> parts;  ///< of the parameters; from their buckets
    codelets::Reorders given;                       ///< gradients, to their buckets
  };
  /// What forward leaves for a node's backward.
  struct Kept {
    codelets::Conv2d conv;
    codelets::BatchNorm norm;
    codelets::FullyConnected fc;
    codelets::Pool2d pool;
    int mean = -1, inverse_stddev = -1, mask = -1, indices = -1;
    ActivationId residual = -1;
  };

  void merge_layers();
  void emit_forward(std::size_t node);
  void emit_loss();
  void emit_loss_backward();
  void emit_backward(std::size_t node);

  int new_buffer(std::size_t bytes);
  [[nodiscard]] Value& value(ActivationId id) { return values_[static_cast<std::size_t>(id)]; }
  /// Gives the activation its spec and memory.
  Value& define(ActivationId id, const runtime::TensorSpec& spec);
  /// The images as the ops want them: on GPUs in their data type and layout.
  void emit_input();
  /// Of these; more than the network's where only convolutions read them, which want more.
  [[nodiscard]] std::int64_t image_channels() const;
  /// The activation as `spec` has it, if it is not so in memory already.
  Argument as(ActivationId id, const runtime::TensorSpec& spec);
  /// The same in another layout.
  Argument in_layout(ActivationId id, runtime::Layout layout);
  /// One gradient from all parts; `writable` if it may be overwritten.
  Gradient total_gradient(ActivationId id, bool writable);
  [[nodiscard]] runtime::Shape batched(const runtime::Shape& shape) const;

  [[nodiscard]] const Parameter& weight_of(const Layer& layer) const;
  [[nodiscard]] Argument parameter(int index) const;
  /// The layer's weights, and where to put their gradient, as its ops want them.
  [[nodiscard]] runtime::TensorSpec weights_spec(const Layer& layer) const;
  Argument weights(const Layer& layer);
  Argument gradient_of_weights(const Layer& layer);
  /// Numbers what is converted together.
  [[nodiscard]] int conversion_of(const Layer& layer) const;
  ConvertedWeights& converted_weights(int conversion);
  /// Brings the gradients to where the optimizer looks for them.
  void emit_converted_gradients(int conversion);
  [[nodiscard]] Argument gradient_of(int parameter);
  [[nodiscard]] Argument gradient_bucket(int bucket);
  /// Whether a bucket has room that belongs to no parameter.
  [[nodiscard]] bool has_padding(int bucket) const;
  [[nodiscard]] bool on_gpu() const { return codelets::on_gpu(program_.options_.device); }
  [[nodiscard]] Argument running(int offset, runtime::Access access) const;
  [[nodiscard]] static Argument read(Argument argument);
  [[nodiscard]] static Argument read(int buffer);
  [[nodiscard]] static Argument write(int buffer);
  [[nodiscard]] static Argument update(int buffer);

  template <class Op>
  void emit(const Op& op, const std::string& name, std::vector<Argument> arguments);

  const Network& network_;
  Mode mode_;
  Program& program_;
  std::vector<Node> nodes_;
  std::vector<Value> values_;
  std::vector<Kept> kept_;
  std::vector<Buffer> buffers_;
  std::vector<Emitted> emitted_;
  int block_ = 0;
  bool backward_ = false;
  int logits_gradient_ = -1;  ///< buffer
  std::set<int> begun_;       ///< buckets of gradients that an op writes to
  std::set<int> given_;       ///< parameters whose gradient an op gives
  std::map<int, ConvertedWeights> converted_;
};

}  // namespace stpt::models
