// A network's ops on a GPU, each alone: the floating-point operations and bytes that it cannot do
// without, and the time it takes.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "codelets/batch_norm.hpp"
#include "codelets/buffers.hpp"
#include "codelets/channel_shuffle.hpp"
#include "codelets/conv2d.hpp"
#include "codelets/cuda_graph.hpp"
#include "codelets/cudnn_cuda.hpp"
#include "codelets/layer_norm.hpp"
#include "codelets/multiply.hpp"
#include "codelets/optimizer.hpp"
#include "codelets/pad2d.hpp"
#include "codelets/pool2d.hpp"
#include "models/optimizer.hpp"
#include "runtime/random.hpp"
#include "tests/bench/gpu_bench.hpp"

namespace stpt::bench {
namespace {

using codelets::Cuda;
using codelets::KernelPtr;
using runtime::DataType;
using runtime::Layout;
using runtime::TensorSpec;

/// Tensors smaller than this in all are there several times, and used in turn, or a cache would
/// keep what memory has to be asked for in training.
constexpr std::size_t more_than_caches = 512UL << 20U;
constexpr std::size_t most_sets = 16;

class Event {
 public:
  Event() { codelets::cuda::check(cudaEventCreate(&event_), "making an event"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(const OwnStream& stream) {
    codelets::cuda::check(cudaEventRecord(event_, stream.native()), "recording an event");
  }
  /// Waits for this one.
  [[nodiscard]] double seconds_since(const Event& start) const {
    codelets::cuda::check(cudaEventSynchronize(event_), "waiting for an event");
    float milliseconds = 0;
    codelets::cuda::check(cudaEventElapsedTime(&milliseconds, start.event_, event_),
                          "reading a time");
    return static_cast<double>(milliseconds) * 1e-3;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

/// Numbers of random sign and a magnitude in [0.5, 2): bits that any of the types can have, and
/// that a GPU needs its usual power for.
std::vector<std::byte> random_numbers(DataType type, std::size_t bytes) {
  // The mantissa's bits, and the exponent of 0.5.
  const unsigned mantissa = type == DataType::float32 ? 23 : type == DataType::bfloat16 ? 7 : 10;
  const std::uint32_t half = type == DataType::float16 ? 14 : 126;
  const std::size_t size = runtime::size_of(type);
  runtime::Random random(3, static_cast<std::uint64_t>(type));
  std::vector<std::byte> result(bytes);
  for (std::size_t at = 0; at + size <= bytes; at += size) {
    const std::uint32_t sign = random.below(2) << (8 * size - 1);
    const std::uint32_t magnitude = (half << mantissa) + random.below(2U << mantissa);
    const std::uint32_t bits = sign | magnitude;
    std::memcpy(&result[at], &bits, size);  // little-endian
  }
  return result;
}

/// Times ops, and prints a line for each.
class Bench {
 public:
  Bench(const Options& options) : options_(options) {
    for (const DataType type : {DataType::float32, options.type}) {
      const DeviceMemory& memory = numbers_.try_emplace(type, tile).first->second;
      codelets::cuda::check(cudaMemcpy(memory.address(), random_numbers(type, tile).data(), tile,
                                       cudaMemcpyHostToDevice),
                            "copying to the GPU");
    }
  }

  /// What an op costs whatever does it.
  struct Cost {
    double flops = 0;
    double bytes = 0;
    int count = 1;  ///< how often the network has it
  };
  struct Buffer {
    std::size_t bytes = 0;
    DataType type = DataType::float32;
  };

  /// `enqueue` takes the addresses of `buffers`, and the stream.
  void time(const char* what, const std::string& shape, const Cost& cost,
            const std::vector<Buffer>& buffers,
            const std::function<void(std::span<void* const>, codelets::Stream)>& enqueue) {
    std::size_t bytes = 0;
    for (const Buffer& buffer : buffers) bytes += buffer.bytes;
    const std::size_t sets = std::clamp<std::size_t>(
        (more_than_caches + bytes - 1) / std::max<std::size_t>(bytes, 1), 1, most_sets);
    std::vector<DeviceMemory> memory;
    std::vector<std::vector<void*>> addresses(sets);
    for (std::vector<void*>& set : addresses) {
      for (const Buffer& buffer : buffers) {
        memory.emplace_back(std::max<std::size_t>(buffer.bytes, 1));
        set.push_back(memory.back().address());
        fill(memory.back(), buffer);
      }
    }
    const auto run = [&](int count) {
      for (int i = 0; i < count; ++i)
        enqueue(addresses[static_cast<std::size_t>(i) % sets], stream_.native());
    };
    const auto seconds_of = [&](const auto& work) {
      Event start, end;
      start.record(stream_);
      work();
      end.record(stream_);
      return end.seconds_since(start);
    };
    run(1);  // whatever is made on first use
    constexpr double round_seconds = 0.01;
    const double one = seconds_of([&] { run(2); }) / 2;
    const int count = static_cast<int>(std::clamp(round_seconds / one, 1.0, 1000.0));
    // As one graph, as in training: of a short op the host may take longer to launch it.
    codelets::cuda::GraphCache graphs;
    const auto replay = [&] { graphs.run(0, 0, {}, stream_.native(), [&] { run(count); }); };
    replay();  // directly
    replay();  // captured
    std::vector<double> seconds;
    for (int round = 0; round < options_.rounds; ++round)
      seconds.push_back(seconds_of(replay) / count);
    std::sort(seconds.begin(), seconds.end());
    JsonLine()
        .add("op", what)
        .add("shape", shape)
        .add("count", cost.count)
        .add("seconds", seconds[seconds.size() / 2])
        .add("seconds_minimum", seconds.front())
        .add("seconds_maximum", seconds.back())
        .add("flops", cost.flops)
        .add("bytes", cost.bytes);
  }

  /// The same for a planned kernel; null addresses for buffers of 0 bytes.
  void time(const char* what, const std::string& shape, const Cost& cost,
            std::vector<Buffer> buffers, const KernelPtr& kernel) {
    const std::size_t arguments = buffers.size();
    buffers.push_back({kernel->workspace_bytes()});
    std::vector<void*> given(arguments);
    time(what, shape, cost, buffers,
         [&](std::span<void* const> addresses, codelets::Stream stream) {
           for (std::size_t i = 0; i < arguments; ++i)
             given[i] = buffers[i].bytes == 0 ? nullptr : addresses[i];
           kernel->run(given, addresses.back(), stream);
         });
  }

 private:
  static constexpr std::size_t tile = 16UL << 20U;

  void fill(const DeviceMemory& memory, const Buffer& buffer) const {
    const DeviceMemory& numbers = numbers_.at(buffer.type);
    for (std::size_t done = 0; done < buffer.bytes; done += tile) {
      codelets::cuda::check(
          cudaMemcpy(static_cast<std::byte*>(memory.address()) + done, numbers.address(),
                     std::min(tile, buffer.bytes - done), cudaMemcpyDeviceToDevice),
          "copying on the GPU");
    }
    // The stream that reads it does not wait for what is still under way.
    codelets::cuda::check(cudaDeviceSynchronize(), "copying on the GPU");
  }

  const Options& options_;
  std::map<DataType, DeviceMemory> numbers_;  ///< to fill buffers with
  OwnStream stream_;
};

Bench::Buffer buffer(const TensorSpec& spec) { return {spec.bytes(), spec.type}; }
Bench::Buffer floats(std::int64_t count) {
  return {static_cast<std::size_t>(count) * sizeof(float), DataType::float32};
}
double bytes(const TensorSpec& spec) { return static_cast<double>(spec.bytes()); }

void convolutions(Bench& bench, const Options& options, const models::Network& network,
                  const auto& spec_of) {
  struct Convolutions {
    codelets::Conv2d conv;
    std::int64_t channels;  ///< of the network; those of the images may be more
    int count = 0;
  };
  using Geometry =
      std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, codelets::Window, int>;
  std::map<Geometry, Convolutions> distinct;
  for (const models::Layer& layer : network.layers) {
    if (layer.kind != models::LayerKind::convolution) continue;
    codelets::Conv2d conv{spec_of(layer.inputs[0]), spec_of(layer.output), layer.window, false,
                          layer.groups};
    const Geometry geometry{conv.src.shape.c, conv.src.shape.h, conv.src.shape.w,
                            conv.dst.shape.c, conv.window,      conv.groups};
    const std::int64_t channels = network.activations[static_cast<std::size_t>(layer.inputs[0])].c;
    ++distinct.try_emplace(geometry, Convolutions{conv, channels}).first->second.count;
  }
  for (auto& [geometry, found] : distinct) {
    auto& [conv, channels, count] = found;
    conv.dst.layout = Layout::any;
    codelets::choose_layout(conv, Cuda{options.tf32});
    const TensorSpec weights = codelets::conv2d_weights(conv.weights(), options.type, Cuda{});
    const std::string shape =
        std::to_string(channels) + "x" + std::to_string(conv.src.shape.h) + "x" +
        std::to_string(conv.src.shape.w) + " to " + std::to_string(conv.dst.shape.c) + ", " +
        std::to_string(conv.window.kernel.h) + "x" + std::to_string(conv.window.kernel.w) + "/" +
        to_string(conv.window.stride) +
        (conv.groups > 1 ? ", " + std::to_string(conv.groups) + " groups" : "");
    const Bench::Cost cost{2.0 * static_cast<double>(conv.dst.shape.elements() * channels /
                                                     conv.groups * conv.weights().spatial()),
                           bytes(conv.src) + bytes(conv.dst) + bytes(weights), count};
    const codelets::Device device = options.device();
    bench.time("convolution forward", shape, cost,
               {buffer(conv.src), buffer(weights), buffer(conv.dst)},
               codelets::plan(codelets::Conv2dForward{conv}, device));
    if (channels != network.input().c) {  // nobody needs the gradient of the images
      bench.time("convolution backward data", shape, cost,
                 {buffer(weights), buffer(conv.dst), buffer(conv.src)},
                 codelets::plan(codelets::Conv2dBackwardData{conv}, device));
    }
    bench.time("convolution backward weights", shape, cost,
               {buffer(conv.src), buffer(conv.dst), buffer(weights)},
               codelets::plan(codelets::Conv2dBackwardWeights{conv}, device));
  }
}

/// Some of MobileNetV2's and EfficientNet-B0's depthwise convolutions, ConvNeXt-T's, and a scale as
/// it has them, by this program's kernels or by cuDNN: whether ours pay.
void depthwise_convolutions(Bench& bench, const Options& options, bool by_cudnn) {
  struct Layer {
    const char* name;
    int channels, side, kernel, stride;
  };
  for (const auto& [name, channels, side, kernel, stride] : {Layer{"depthwise", 32, 112, 3, 1},
                                                             {"depthwise", 144, 56, 3, 2},
                                                             {"depthwise", 240, 28, 5, 1},
                                                             {"depthwise", 672, 14, 5, 2},
                                                             {"depthwise", 960, 7, 3, 1},
                                                             {"depthwise 7x7", 96, 56, 7, 1},
                                                             {"depthwise 7x7", 384, 14, 7, 1},
                                                             {"scale", 96, 56, 1, 1}}) {
    codelets::Conv2d conv;
    conv.src = {{options.batch, channels, side, side}, options.type, Layout::nhwc};
    conv.window = {kernel, stride, kernel / 2};
    conv.dst = {codelets::conv2d_output(conv.src.shape, channels, conv.window, channels),
                options.type, Layout::nhwc};
    conv.groups = channels;
    const TensorSpec weights = codelets::conv2d_weights(conv.weights(), options.type, Cuda{});
    const std::string shape = conv.src.shape.to_string() + ", " + std::to_string(kernel) + "x" +
                              std::to_string(kernel) + "/" + std::to_string(stride);
    const Bench::Cost cost{2.0 * static_cast<double>(conv.dst.shape.elements() * kernel * kernel),
                           bytes(conv.src) + bytes(conv.dst) + bytes(weights)};
    using codelets::cudnn::Pass;
    const auto time = [&](const char* direction, Pass pass,
                          const std::vector<Bench::Buffer>& buffers, const auto& op) {
      const std::string what = std::string(name) + " " + direction + (by_cudnn ? " by cuDNN" : "");
      const codelets::cudnn::Convolution same{pass,           options.type,   conv.src.shape,
                                              conv.weights(), conv.dst.shape, conv.window,
                                              options.tf32};
      bench.time(
          what.c_str(), shape, cost, buffers,
          by_cudnn ? codelets::cudnn::plan(same, what + " " + shape) : codelets::plan(op, Cuda{}));
    };
    const Bench::Buffer src = buffer(conv.src), dst = buffer(conv.dst), filters = buffer(weights);
    time("forward", Pass::forward, {src, filters, dst}, codelets::Conv2dForward{conv});
    time("backward data", Pass::backward_data, {filters, dst, src},
         codelets::Conv2dBackwardData{conv});
    time("backward weights", Pass::backward_weights, {src, dst, filters},
         codelets::Conv2dBackwardWeights{conv});
  }
}

/// As ConvNeXt-T has it. A pixel's channels stay in a cache from their statistics to their results.
void layer_norm(Bench& bench, const Options& options) {
  for (const auto& [channels, side] : {std::pair{96, 56}, {384, 14}}) {
    const codelets::LayerNorm norm{
        {{options.batch, channels, side, side}, options.type, Layout::nhwc}};
    const TensorSpec& x = norm.x;
    const Bench::Buffer tensor = buffer(x), of_channels = floats(channels),
                        of_pixels = floats(x.shape.n * x.shape.spatial());
    const auto statistics = 2 * static_cast<double>(of_pixels.bytes);
    bench.time("layer norm forward", x.shape.to_string(), {0, 2 * bytes(x) + statistics},
               {tensor, of_channels, of_channels, tensor, of_pixels, of_pixels},
               codelets::plan(codelets::LayerNormForward{norm}, Cuda{}));
    bench.time(
        "layer norm backward", x.shape.to_string(), {0, 3 * bytes(x) + statistics},
        {tensor, of_channels, of_pixels, of_pixels, tensor, tensor, of_channels, of_channels},
        codelets::plan(codelets::LayerNormBackward{norm}, Cuda{}));
  }
}

/// As EfficientNet-B0's squeeze-and-excitation has it.
void multiplied_channels(Bench& bench, const Options& options) {
  for (const auto& [channels, side] : {std::pair{32, 112}, {240, 28}, {1152, 7}}) {
    const TensorSpec x{{options.batch, channels, side, side}, options.type, Layout::nhwc};
    const TensorSpec factors = codelets::multiply_factors(x);
    const Bench::Buffer tensor = buffer(x), numbers = buffer(factors);
    bench.time("multiply by channel forward", x.shape.to_string(),
               {0, 2 * bytes(x) + bytes(factors)}, {tensor, numbers, tensor},
               codelets::plan(codelets::MultiplyForward{x}, Cuda{}));
    bench.time("multiply by channel backward", x.shape.to_string(),
               {0, 3 * bytes(x) + 2 * bytes(factors)}, {tensor, numbers, tensor, tensor, numbers},
               codelets::plan(codelets::MultiplyBackward{x}, Cuda{}));
  }
}

/// As ShuffleNetV2 has it, with channels that make no vectors and that do.
void channel_shuffles(Bench& bench, const Options& options) {
  for (const auto& [channels, side] : {std::pair{116, 28}, {232, 14}}) {
    const codelets::ChannelShuffle shuffle{
        {{options.batch, channels, side, side}, options.type, Layout::nhwc}, 2};
    bench.time("channel shuffle", shuffle.x.shape.to_string(), {0, 2 * bytes(shuffle.x)},
               {buffer(shuffle.x), buffer(shuffle.x)}, codelets::plan(shuffle, Cuda{}));
  }
}

/// A row and a column of zeros, as networks from TensorFlow have them before a stride of 2.
void pad(Bench& bench, const Options& options) {
  codelets::Pad2d pad;
  pad.src = pad.dst = {{options.batch, 96, 112, 112}, options.type, Layout::nhwc};
  ++pad.dst.shape.h;
  ++pad.dst.shape.w;
  const Bench::Cost cost{0, bytes(pad.src) + bytes(pad.dst)};
  bench.time("pad forward", pad.src.shape.to_string(), cost, {buffer(pad.src), buffer(pad.dst)},
             codelets::plan(codelets::Pad2dForward{pad}, Cuda{}));
  bench.time("pad backward", pad.src.shape.to_string(), cost, {buffer(pad.dst), buffer(pad.src)},
             codelets::plan(codelets::Pad2dBackward{pad}, Cuda{}));
}

/// Statistics take a pass of their own over x, and over d_y and x in backward: tensors of training
/// are larger than caches. A norm before an addition does that, too, as in a residual network; its
/// gradient comes in two parts, whose sum it leaves for the other summand, and reads in the second
/// pass.
void batch_norm(Bench& bench, const std::string& what, const codelets::BatchNorm& norm, int count) {
  if (count == 0) return;
  const TensorSpec& x = norm.x;
  const Bench::Buffer tensor = buffer(x), channels = floats(x.shape.c);
  const codelets::BatchNormForward forward{norm};
  const codelets::BatchNormBackward backward{norm, norm.residual};
  const Bench::Buffer mask{codelets::batch_norm_mask_bytes(norm, Cuda{})};
  std::vector<Bench::Buffer> buffers = {tensor};
  if (norm.residual) buffers.push_back(tensor);
  buffers.insert(buffers.end(),
                 {channels, channels, channels, channels, tensor, channels, channels, mask});
  const double forward_tensors = norm.residual ? 4 : 3, backward_tensors = norm.residual ? 7 : 5;
  const auto mask_bytes = static_cast<double>(mask.bytes);
  bench.time((what + " forward").c_str(), x.shape.to_string(),
             {0, forward_tensors * bytes(x) + mask_bytes, count}, buffers,
             codelets::plan(forward, Cuda{}));
  buffers = {tensor, mask, channels, channels, channels, channels, tensor};
  if (norm.residual) buffers.push_back(tensor);  // the gradient's other part
  buffers.push_back(tensor);
  if (norm.residual) buffers.push_back(tensor);
  buffers.insert(buffers.end(), {channels, channels});
  bench.time((what + " backward").c_str(), x.shape.to_string(),
             {0, backward_tensors * bytes(x) + mask_bytes, count}, buffers,
             codelets::plan(backward, Cuda{}));
}

void normalisations(Bench& bench, const models::Network& network, const auto& spec_of) {
  struct Norms {
    TensorSpec x;
    int residual = 0, plain = 0;
  };
  std::map<std::pair<std::int64_t, std::int64_t>, Norms> distinct;
  const auto norms_like = [&](const TensorSpec& x) -> Norms& {
    return distinct.try_emplace({x.shape.spatial(), x.shape.c}, Norms{x}).first->second;
  };
  for (const models::Layer& layer : network.layers) {
    if (layer.kind == models::LayerKind::batch_norm) ++norms_like(spec_of(layer.output)).plain;
    if (layer.kind != models::LayerKind::add) continue;
    Norms& norms = norms_like(spec_of(layer.output));
    --norms.plain;
    ++norms.residual;
  }
  for (const auto& [key, norms] : distinct) {
    const TensorSpec& x = norms.x;
    batch_norm(bench, "batch norm, ReLU", {.x = x, .relu = true}, norms.plain);
    batch_norm(bench, "batch norm, add, ReLU", {.x = x, .relu = true, .residual = true},
               norms.residual);
  }
}

/// As EfficientNet-B0 has it.
void batch_norm_with_silu(Bench& bench, const Options& options) {
  for (const auto& [channels, side] : {std::pair{96, 112}, {240, 28}, {1152, 7}}) {
    codelets::BatchNorm norm{
        .x = {{options.batch, channels, side, side}, options.type, Layout::nhwc}};
    norm.function = codelets::Activation::silu;
    batch_norm(bench, "batch norm, SiLU", norm, 1);
  }
}

void pools(Bench& bench, const models::Network& network, const auto& spec_of) {
  for (const models::Layer& layer : network.layers) {
    const TensorSpec x = spec_of(layer.inputs[0]), y = spec_of(layer.output);
    const bool max = layer.kind == models::LayerKind::max_pool;
    if (!max && layer.kind != models::LayerKind::average_pool) continue;
    codelets::Pool2d pool;
    pool.kind = max ? codelets::PoolKind::max : codelets::PoolKind::average;
    pool.src = x;
    pool.dst = y;
    pool.window = layer.window;
    pool.count_padding = layer.count_padding;
    pool.ceil_mode = layer.ceil_mode;
    const std::size_t indices = codelets::pool2d_indices_bytes(pool, Cuda{});
    const Bench::Cost cost{0, bytes(x) + bytes(y) + static_cast<double>(indices)};
    const std::string kind = max ? "max pool" : "average pool";
    const KernelPtr forward = codelets::plan(codelets::Pool2dForward{pool}, Cuda{}),
                    backward = codelets::plan(codelets::Pool2dBackward{pool}, Cuda{});
    // One after the other on the same memory, so that backward's indices are forward's.
    const std::vector<Bench::Buffer> buffers = {
        buffer(x),
        buffer(y),
        {indices},
        {std::max(forward->workspace_bytes(), backward->workspace_bytes())}};
    bench.time((kind + " forward and backward").c_str(), x.shape.to_string(), {0, 2 * cost.bytes},
               buffers, [&](std::span<void* const> at, codelets::Stream stream) {
                 void* const index = indices == 0 ? nullptr : at[2];
                 forward->run(std::array{at[0], at[1], index}, at[3], stream);
                 backward->run(std::array{at[1], index, at[0]}, at[3], stream);
               });
  }
}

void update(Bench& bench, const models::Network& network, const char* what,
            codelets::UpdateRule rule) {
  const codelets::OptimizerSettings settings{.rule = rule};
  const models::Optimizer optimizer(network, settings, false);
  std::vector<Bench::Buffer> buffers;  // weights, moments and gradient of each bucket
  std::size_t read = 0, written = 0;   // floats
  for (const std::size_t elements : network.buckets) {
    const std::size_t moments = codelets::moment_elements(rule, elements);
    for (const std::size_t count : {elements, moments, elements})
      buffers.push_back(floats(static_cast<std::int64_t>(count)));
    read += 2 * elements + moments;
    written += elements + moments;
  }
  bench.time(what, std::to_string(network.buckets.size()) + " buckets",
             {0, static_cast<double>((read + written) * sizeof(float))}, buffers,
             [&](std::span<void* const> at, codelets::Stream stream) {
               std::vector<codelets::UpdatedBucket> buckets;
               for (std::size_t bucket = 0; bucket < network.buckets.size(); ++bucket) {
                 const auto part = [&](std::size_t i) {
                   return static_cast<float*>(at[3 * bucket + i]);
                 };
                 buckets.push_back(optimizer.updated(bucket, part(0), part(1), part(2)));
               }
               codelets::optimizer_step(buckets, 1, 1e-6f, settings, Cuda{}, stream);
             });
}

/// What memory gives at best.
void copy(Bench& bench, int batch) {
  const std::size_t size = static_cast<std::size_t>(batch) << 22U;  // 1 GiB for 256 images
  bench.time("copy", std::to_string(size >> 20U) + " MiB", {0, 2.0 * static_cast<double>(size)},
             {{size}, {size}}, [&](std::span<void* const> at, codelets::Stream stream) {
               codelets::copy(size, at[1], at[0], Cuda{}, stream);
             });
}

}  // namespace

int bench_operations(const Options& options) {
  const models::Network network = options.network();
  const auto spec_of = [&](models::ActivationId id) {
    TensorSpec spec{network.activations[static_cast<std::size_t>(id)], options.type, Layout::nhwc};
    spec.shape.n = options.batch;
    if (id == 0) spec.shape.c = codelets::conv2d_channels(spec.shape.c, options.type, Cuda{});
    return spec;
  };
  Bench bench(options);
  copy(bench, options.batch);
  normalisations(bench, network, spec_of);
  pools(bench, network, spec_of);
  update(bench, network, "SGD step", codelets::UpdateRule::velocity);
  update(bench, network, "AdamW step", codelets::UpdateRule::adamw);
  batch_norm_with_silu(bench, options);
  layer_norm(bench, options);
  multiplied_channels(bench, options);
  channel_shuffles(bench, options);
  pad(bench, options);
  depthwise_convolutions(bench, options, false);
  convolutions(bench, options, network, spec_of);  // they take the longest
  depthwise_convolutions(bench, options, true);
  return 0;
}

}  // namespace stpt::bench
