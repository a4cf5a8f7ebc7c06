// A network as a graph of layers with shapes and parameters, independent of device, batch size and
// data layout.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "codelets/dropout.hpp"
#include "codelets/elementwise.hpp"
#include "codelets/window.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::models {

using codelets::PerAxis;
using runtime::Shape;

/// Index of a layer's output (or the network's input) in Network::activations.
using ActivationId = int;

enum class LayerKind {
  convolution,
  batch_norm,
  group_norm,
  layer_norm,
  relu,
  activation,  ///< another one
  add,
  max_pool,
  average_pool,  ///< global pooling is this with the kernel as large as the input
  fully_connected,
  concat,
  slice,  ///< of the channels
  channel_shuffle,
  dropout,
  multiply,
  affine,
  pad,
};

/// Shapes as the ops want them: convolution k x c / groups x kh x kw, fully connected k x inputs,
/// vectors 1 x c.
struct Parameter {
  std::string name;  ///< "<layer>.weight", "<layer>.bias", or a scale's own
  Shape shape;
  std::vector<std::int64_t> dimensions;  ///< of the same numbers in PyTorch's state_dict
  std::optional<float> initial;          ///< of all elements; if none they are drawn (He et al.)
  std::int64_t fan_in = 1;
  bool decay = false;      ///< weight decay applies (not to biases, normalisations and scales)
  int bucket = 0;          ///< index in Network::buckets
  std::size_t offset = 0;  ///< in elements, inside the bucket
};

struct Layer {
  LayerKind kind;
  std::string name;
  std::vector<ActivationId> inputs;
  ActivationId output = 0;
  int block = 0;
  codelets::Window window;     ///< of a convolution or pool
  bool count_padding = false;  ///< of an average_pool: Pool2d's
  bool ceil_mode = false;      ///< of a pool: Pool2d's
  int groups = 1;         ///< of a convolution's channels and filters, or another layer's channels
  int first_channel = 0;  ///< of a slice
  double rate = 0;        ///< of a dropout
  codelets::Dropped dropped{};                   ///< by a dropout
  float epsilon = 0;                             ///< of a normalisation
  float momentum = 0;                            ///< of a BatchNorm
  codelets::Activation function{};               ///< of an activation
  float slope = codelets::default_slope;         ///< of leaky_relu
  float factor = 1, offset = 0;                  ///< of an affine
  PerAxis before = 0;                            ///< of a pad: Pad2d's
  int weight = -1;                               ///< parameter index; of a normalisation gamma
  int bias = -1;                                 ///< parameter index or -1; of a normalisation beta
  int running_mean = -1, running_variance = -1;  ///< BatchNorm: offsets in the running statistics
};

/// Neighbouring blocks share a parameter bucket until it has so many elements (512 KiB). Each
/// bucket costs a step handles, and tasks and messages where there are several workers or ranks; a
/// large one sets off late, and one owner has all of it.
inline constexpr std::size_t least_bucket = std::size_t{1} << 17U;

struct Network {
  std::string name;
  int classes = 0;
  runtime::DataType data_type = runtime::DataType::float32;
  std::vector<Shape> activations;  ///< shapes for batch 1; activations[0] is the input
  std::vector<Layer> layers;       ///< in an order that computes inputs first
  std::vector<Parameter> parameters;
  /// Names of the stretches of layers, by Layer::block. Grain::block makes a segment of the forward
  /// and one of the backward part of each.
  std::vector<std::string> blocks;
  /// Elements, with padding, of the stretches of memory in which parameters lie, in the layers'
  /// order.
  std::vector<std::size_t> buckets;
  std::size_t running_statistics = 0;  ///< elements, with padding
  ActivationId logits = 0;

  [[nodiscard]] Shape input() const { return activations.front(); }
  [[nodiscard]] const Shape& shape(ActivationId id) const {
    return activations.at(static_cast<std::size_t>(id));
  }
  [[nodiscard]] const Parameter& parameter(int index) const {
    return parameters[static_cast<std::size_t>(index)];
  }
  /// Trainable numbers, padding not counted.
  [[nodiscard]] std::int64_t parameter_count() const;
  /// Floating-point operations of a forward pass for one image: 2 per multiply-add of convolutions
  /// and fully connected layers (He et al. count multiply-adds, half of this).
  [[nodiscard]] double flops_per_image() const;
  [[nodiscard]] bool has_batch_norm() const { return running_statistics > 0; }
  [[nodiscard]] bool has_dropout() const;

  /// Parameter::initial, else He et al. 2015, "Delving deep into rectifiers", eq. 10: weights ~
  /// N(0, 2/fan_in). By bucket. Depends on the seed and the parameter's index alone.
  [[nodiscard]] std::vector<std::vector<float>> initial_parameters(std::uint64_t seed) const;
  /// Means 0, variances 1.
  [[nodiscard]] std::vector<float> initial_running_statistics() const;
};

/// Places the parameters in buckets, as NetworkBuilder::build() does. `least` is in elements.
void make_buckets(Network& network, std::size_t least = least_bucket);

/// A layer that does not fit: what() names the network, the layer and the shapes.
class LayerError : public std::invalid_argument {
 public:
  /// `place` is what precedes the problem in what().
  LayerError(const std::string& place, const std::string& problem)
      : std::invalid_argument(place + problem), problem_(problem) {}
  /// Without the names, for who knows them better.
  [[nodiscard]] const std::string& problem() const { return problem_; }

 private:
  std::string problem_;
};

struct ConvolutionOptions {
  bool bias = false;
  int groups = 1;  ///< a filter sees the channels of its group alone
  PerAxis dilation = 1;
};

/// codelets::Pool2d's.
struct PoolOptions {
  bool count_padding = false;  ///< of an average
  bool ceil_mode = false;
};

/// codelets::BatchNorm's.
struct BatchNormOptions {
  float gamma = 1;  ///< that it starts with
  float epsilon = 1e-5f;
  float momentum = 0.1f;
};

/// codelets::GroupNorm's.
struct GroupNormOptions {
  float gamma = 1;
  float epsilon = 1e-5f;
};

struct ScaleOptions {
  float initial = 1;
  std::vector<std::int64_t> dimensions{};  ///< that PyTorch has them in; c x 1 x 1 if empty
};

/// Adds layers one by one; each returns its output. Layers that do not fit throw LayerError.
class NetworkBuilder {
 public:
  NetworkBuilder(std::string name, const Shape& input, int classes);

  /// Layers from here on belong to this block.
  void begin_block(const std::string& name);
  [[nodiscard]] ActivationId input() const { return 0; }
  ActivationId convolution(const std::string& name, ActivationId x, int filters, PerAxis kernel,
                           PerAxis stride, PerAxis padding, const ConvolutionOptions& options = {});
  ActivationId batch_norm(const std::string& name, ActivationId x,
                          const BatchNormOptions& options = {});
  ActivationId group_norm(const std::string& name, ActivationId x, int groups,
                          const GroupNormOptions& options = {});
  /// Across the channels of each pixel; codelets::LayerNorm.
  ActivationId layer_norm(const std::string& name, ActivationId x, float epsilon = 1e-5f);
  /// Each channel times a number of its own, which is learnt; `name` is the parameter's (Touvron et
  /// al. 2021, "Going deeper with image transformers", section 2).
  ActivationId scale(const std::string& name, ActivationId x, const ScaleOptions& options = {});
  ActivationId relu(ActivationId x);
  /// `slope` is that of leaky_relu, above 0.
  ActivationId activation(ActivationId x, codelets::Activation function,
                          float slope = codelets::default_slope);
  ActivationId add(ActivationId a, ActivationId b);
  /// Drops so many of its elements, channels or images while training: `rate` in [0, 1). Of images
  /// it is stochastic depth.
  ActivationId dropout(ActivationId x, double rate,
                       codelets::Dropped dropped = codelets::Dropped::elements);
  /// Each number of `x` times its own of the `factors`, or each channel times its own where these
  /// have one pixel.
  ActivationId multiply(ActivationId x, ActivationId factors);
  /// factor * x + offset
  ActivationId affine(ActivationId x, float factor, float offset);
  /// Joins the channels of images of one size.
  ActivationId concat(const std::vector<ActivationId>& parts);
  /// So many neighbouring channels, from `first` on.
  ActivationId slice(ActivationId x, int first, int channels);
  ActivationId channel_shuffle(ActivationId x, int groups);
  /// So many rows and columns of zeros, at least 0, before the image, above and to the left, and
  /// after it.
  ActivationId pad(ActivationId x, PerAxis before, PerAxis after);
  ActivationId max_pool(ActivationId x, PerAxis kernel, PerAxis stride, PerAxis padding = 0,
                        const PoolOptions& options = {});
  ActivationId average_pool(ActivationId x, PerAxis kernel, PerAxis stride, PerAxis padding = 0,
                            const PoolOptions& options = {});
  ActivationId global_average_pool(ActivationId x);
  /// Averages an image of at least size x size down to size x size by windows of one size, which
  /// overlap where they must. They are those of torch's adaptive pooling where `size` divides
  /// height and width and the two are equal. Smaller images stay as they are.
  ActivationId average_pool_to(ActivationId x, int size);
  ActivationId fully_connected(const std::string& name, ActivationId x, int outputs,
                               bool bias = true);
  /// The same to each pixel's channels: a 1x1 convolution, whose weights are a matrix.
  ActivationId fully_connected_pixels(const std::string& name, ActivationId x, int outputs,
                                      bool bias = true);
  [[nodiscard]] const Shape& shape(ActivationId x) const { return network_.shape(x); }
  [[nodiscard]] int classes() const { return network_.classes; }

  /// `logits` must be a vector of one element per class, and all other outputs be used.
  [[nodiscard]] Network build(ActivationId logits);

 private:
  Layer& append(LayerKind kind, const std::string& name, std::vector<ActivationId> inputs,
                const Shape& output);
  ActivationId pool(LayerKind kind, const std::string& name, ActivationId x,
                    const codelets::Window& window, const PoolOptions& options = {});
  void require_outputs(const std::string& name, int outputs) const;
  int parameter(Parameter parameter);
  /// The weights of a layer, drawn, and its bias if it has one.
  void add_weights(Layer& layer, const Shape& shape, std::vector<std::int64_t> dimensions,
                   bool bias);
  /// A layer that gives `x` a gamma and a beta for each channel.
  Layer& append_normalisation(LayerKind kind, const std::string& name, ActivationId x, float gamma,
                              float epsilon);

  Network network_;
  std::set<std::string> parameter_names_;
};

}  // namespace stpt::models
