// Whole programs on a GPU against the same network on cores, which other tests hold against
// references in double.
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "models/zoo.hpp"
#include "tests/gpu.hpp"
#include "tests/models/program_testing.hpp"
#include "tests/models/resnet50_golden.hpp"

using namespace stpt;
using namespace stpt::testing;
using codelets::Cuda;
using runtime::DataType;

namespace {

Outcome on_cores(const Problem& problem, Mode mode, int steps = 1,
                 const Optimizer* optimizer = nullptr) {
  runtime::Runtime runtime({.cpu_workers = 1, .scheduler = ""});
  return execute(problem, mode, Grain::step, How::tasks, optimizer, steps);
}

/// float32 differs from cores in the order of sums alone. Half precision rounds every activation
/// once (2^-9 or 2^-12 of it), which moves a loss by about that per layer; a gradient moves by more
/// where it switches a ReLU or another element wins a pooling window. A wrong kernel or layout is
/// wrong in the first digit.
struct Limits {
  DataType type;
  double loss, gradient;
  float loss_scale = 1;  ///< without it float16 loses small gradients
};
constexpr Limits limits[] = {{DataType::float32, 1e-5, 1e-4},
                             {DataType::bfloat16, 0.08, 0.35},
                             {DataType::float16, 0.01, 0.12, 1024}};

/// Starting a runtime takes far longer than a small program.
runtime::Runtime gpu_runtime() {
  return runtime::Runtime({.cpu_workers = 1, .scheduler = "", .gpus = {0}});
}

Outcome on_gpu(Problem problem, Mode mode, const Limits& limit, Grain grain, int steps = 1,
               const Optimizer* optimizer = nullptr) {
  problem.network.data_type = limit.type;
  return execute(problem, mode, LoweringOptions{grain, Cuda{}, limit.loss_scale}, How::tasks,
                 optimizer, steps);
}

/// Every kind of layer that the zoo has, in small.
std::vector<Problem> problems() {
  std::vector<Problem> result;
  result.emplace_back(models::make_network("mlp", {1, 1, 6, 5}, 10), 5, 1U);
  result.emplace_back(with_a_bucket_per_block(models::make_network("lenet5", {1, 1, 28, 28}, 10)),
                      3, 2U);
  result.emplace_back(models::make_network("plain_cnn", {1, 3, 16, 16}, 10), 4, 3U);
  result.emplace_back(with_a_bucket_per_block(models::make_network("resnet8", {1, 3, 8, 8}, 10)), 4,
                      4U);
  // Images that a convolution and another layer read, and such with channels for more than one
  // vector.
  models::NetworkBuilder mixed("mixed", {1, 3, 8, 8}, 10);
  const models::ActivationId left =
      mixed.convolution("conv", mixed.input(), 3, 3, 1, 1, {.bias = true});
  result.emplace_back(mixed.build(mixed.fully_connected("fc", mixed.add(left, mixed.input()), 10)),
                      4, 5U);
  models::NetworkBuilder wide("wide", {1, 12, 7, 7}, 10);
  const models::ActivationId first =
      wide.convolution("conv1", wide.input(), 8, 3, 2, 1, {.bias = true});
  const models::ActivationId second =
      wide.convolution("conv2", wide.input(), 8, 1, 2, 0, {.bias = true});
  result.emplace_back(wide.build(wide.fully_connected("fc", wide.add(first, second), 10)), 4, 6U);
  // Groups, of the images, too, which then get no channels more.
  models::NetworkBuilder grouped("grouped", {1, 6, 8, 8}, 10);
  models::ActivationId x =
      grouped.convolution("conv1", grouped.input(), 12, 3, 1, 1, {.groups = 3});
  x = grouped.relu(grouped.batch_norm("bn1", x));
  x = grouped.convolution("conv2", x, 12, 3, 2, 1, {.bias = true, .groups = 12});
  result.emplace_back(grouped.build(grouped.fully_connected("fc", x, 10)), 4, 7U);
  // Group norm, rectified, with a sum and another reader, and of dense layers.
  models::NetworkBuilder in_groups("in_groups", {1, 3, 9, 9}, 10);
  x = in_groups.convolution("conv1", in_groups.input(), 16, 3, 1, 1);
  x = in_groups.relu(in_groups.group_norm("gn1", x, 4));
  const models::ActivationId branch =
      in_groups.group_norm("gn2", in_groups.convolution("conv2", x, 16, 3, 1, 1), 1);
  x = in_groups.fully_connected("fc1", in_groups.relu(in_groups.add(branch, x)), 24);
  x = in_groups.relu(in_groups.group_norm("gn3", x, 3));
  result.emplace_back(in_groups.build(in_groups.fully_connected("fc2", x, 10)), 4, 12U);
  // Normalisations with activations, of which one has two readers.
  models::NetworkBuilder fused("fused", {1, 3, 9, 9}, 10);
  x = fused.batch_norm("bn1", fused.convolution("conv1", fused.input(), 16, 3, 1, 1));
  x = fused.activation(x, codelets::Activation::silu);
  const models::ActivationId gate =
      fused.activation(fused.convolution("conv2", fused.global_average_pool(x), 16, 1, 1, 0),
                       codelets::Activation::sigmoid);
  x = fused.batch_norm("bn2", fused.convolution("conv3", fused.multiply(x, gate), 24, 3, 2, 1));
  x = fused.activation(x, codelets::Activation::hard_swish);
  x = fused.group_norm("gn", fused.convolution("conv4", x, 13, 1, 1, 0), 1);
  x = fused.activation(x, codelets::Activation::leaky_relu, 0.3f);
  x = fused.batch_norm("bn3", fused.convolution("conv5", x, 8, 3, 1, 1));
  x = fused.activation(x, codelets::Activation::relu6);
  result.emplace_back(fused.build(fused.fully_connected("fc", x, 10)), 4, 13U);
  models::NetworkBuilder active("active", {1, 3, 8, 8}, 10);
  x = active.convolution("conv", active.activation(active.input(), codelets::Activation::tanh), 19,
                         3, 1, 1, {.bias = true});
  models::ActivationId sum = x;
  for (const auto& [function, word] : codelets::named_activations)
    sum = active.add(sum, active.activation(x, function, 0.3f));
  x = active.activation(active.fully_connected("fc", sum, 10), codelets::Activation::gelu);
  result.emplace_back(active.build(x), 4, 9U);
  models::NetworkBuilder mobile("mobile", {1, 3, 16, 16}, 10);
  x = mobile.relu(mobile.batch_norm("bn", mobile.convolution("conv", mobile.input(), 8, 3, 2, 1)));
  for (const auto& [kernel, stride, filters] : {std::tuple{3, 1, 16}, {5, 2, 24}}) {
    const std::string name = std::to_string(kernel);
    const auto channels = static_cast<int>(mobile.shape(x).c);
    const auto deep = mobile.convolution("depthwise" + name, x, channels, kernel, stride,
                                         kernel / 2, {.groups = channels});
    x = mobile.relu(mobile.batch_norm("bn" + name, deep));
    x = mobile.convolution("pointwise" + name, x, filters, 1, 1, 0);
  }
  result.emplace_back(mobile.build(mobile.fully_connected("fc", mobile.global_average_pool(x), 10)),
                      4, 9U);
  models::NetworkBuilder dense("dense", {1, 3, 8, 8}, 10);
  x = dense.convolution("conv1", dense.input(), 16, 3, 1, 1);
  x = dense.concat({x, dense.relu(dense.batch_norm("bn", x)), dense.input()});
  result.emplace_back(dense.build(dense.fully_connected("fc", dense.relu(x), 10)), 4, 8U);
  models::NetworkBuilder apart("apart", {1, 3, 8, 8}, 10);
  x = apart.convolution("conv1", apart.input(), 24, 3, 1, 1);
  x = apart.concat({apart.relu(apart.slice(x, 8, 16)), apart.slice(x, 3, 7), apart.slice(x, 5, 4)});
  result.emplace_back(apart.build(apart.fully_connected("fc", x, 10)), 4, 11U);
  models::NetworkBuilder shuffled("shuffled", {1, 6, 8, 8}, 10);
  x = shuffled.convolution("conv1", shuffled.channel_shuffle(shuffled.input(), 2), 24, 3, 1, 1);
  x = shuffled.add(shuffled.channel_shuffle(x, 3), x);
  result.emplace_back(shuffled.build(shuffled.fully_connected("fc", shuffled.relu(x), 10)), 4, 14U);
  // Layer norm as ConvNeXt has it, and of a row that is no vectors.
  models::NetworkBuilder pixels("pixels", {1, 3, 9, 9}, 10);
  x = pixels.layer_norm("ln1", pixels.convolution("conv1", pixels.input(), 16, 2, 2, 0));
  models::ActivationId y =
      pixels.convolution("conv2", x, 16, 7, 1, 3, {.bias = true, .groups = 16});
  y = pixels.fully_connected_pixels("fc1", pixels.layer_norm("ln2", y), 32);
  y = pixels.activation(y, codelets::Activation::gelu);
  y = pixels.scale("factor", pixels.fully_connected_pixels("fc2", y, 16), {.initial = 0.5f});
  x = pixels.relu(
      pixels.layer_norm("ln3", pixels.convolution("conv3", pixels.add(x, y), 13, 1, 1, 0)));
  result.emplace_back(pixels.build(pixels.fully_connected("fc", x, 10)), 4, 15U);
  models::NetworkBuilder products("products", {1, 3, 7, 7}, 10);
  x = products.convolution("conv", products.affine(products.input(), 2, -1), 19, 3, 1, 1);
  x = products.multiply(products.affine(x, 0.5f, 1), products.relu(x));
  result.emplace_back(products.build(products.fully_connected("fc", x, 10)), 4, 16U);
  models::NetworkBuilder padded("padded", {1, 3, 8, 8}, 10);
  x = padded.convolution("conv", padded.pad(padded.input(), 0, 1), 24, 3, 2, 0);
  x = padded.max_pool(padded.pad(padded.relu(x), {1, 0}, {0, 1}), 2, 2);
  result.emplace_back(padded.build(padded.fully_connected("fc", x, 10)), 4, 17U);
  models::NetworkBuilder dropped("dropped", {1, 3, 7, 7}, 10);
  x = dropped.convolution("conv", dropped.dropout(dropped.input(), 0.2), 9, 3, 1, 1);
  x = dropped.add(dropped.dropout(dropped.relu(x), 0.5, codelets::Dropped::channels), x);
  x = dropped.relu(dropped.fully_connected("fc1", x, 24));
  result.emplace_back(dropped.build(dropped.fully_connected("fc2", dropped.dropout(x, 0.4), 10)), 4,
                      9U);
  models::NetworkBuilder windows("windows", {1, 3, 11, 10}, 10);
  x = windows.convolution("conv1", windows.input(), 16, {1, 7}, {2, 1}, {0, 3});
  x = windows.relu(windows.convolution("conv2", x, 16, {7, 1}, 1, {3, 0}, {.bias = true}));
  const auto dilated = windows.convolution("conv3", x, 16, 3, 1, 2, {.dilation = 2});
  const auto deep =
      windows.convolution("conv4", x, 16, 3, 1, {2, 3}, {.groups = 16, .dilation = {2, 3}});
  x = windows.concat(
      {windows.max_pool(dilated, 3, 2, 0, {.ceil_mode = true}),
       windows.average_pool(deep, {3, 4}, 2, {0, 1}, {.count_padding = true, .ceil_mode = true})});
  x = windows.relu(windows.fully_connected("fc1", x, 24, false));
  result.emplace_back(windows.build(windows.fully_connected("fc2", x, 10, false)), 4, 11U);
  models::NetworkBuilder weighed("weighed", {1, 3, 7, 7}, 10);
  x = weighed.relu(weighed.convolution("conv", weighed.input(), 24, 3, 1, 1));
  x = weighed.multiply(x, weighed.convolution("factors", weighed.global_average_pool(x), 24, 1, 1,
                                              0, {.bias = true}));
  result.emplace_back(weighed.build(weighed.fully_connected("fc", x, 10)), 4, 10U);
  return result;
}

/// |a - b| / |b| over all elements.
double distance(std::span<const float> a, std::span<const float> b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += d * d;
    norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return std::sqrt(difference / (norm + 1e-30));
}

void check_close(const Problem& problem, Mode mode, const Outcome& gpu, const Outcome& cores,
                 const Limits& limit) {
  if (mode != Mode::calibration) {
    for (std::size_t i = 0; i < cores.scores.size(); ++i) {
      // So written, a NaN fails.
      REQUIRE(std::abs(gpu.scores[i].loss - cores.scores[i].loss) <=
              static_cast<float>(limit.loss) * (1 + cores.scores[i].loss));
    }
  }
  if (problem.network.has_batch_norm())
    REQUIRE(distance(gpu.values.running[0], cores.values.running[0]) <= limit.gradient);
  if (mode != Mode::train) return;
  for (const models::Parameter& parameter : problem.network.parameters) {
    INFO(parameter.name);
    std::vector<float> unscaled;
    for (const float value : gpu.gradient(parameter)) unscaled.push_back(value / limit.loss_scale);
    CHECK(distance(unscaled, cores.gradient(parameter)) <= limit.gradient);
  }
}

}  // namespace

TEST_CASE("A GPU computes what cores compute", "[cuda]") {
  NEEDS_GPUS(1);
  const std::vector<Problem> all = problems();
  struct Case {
    const Problem& problem;
    Mode mode;
    Outcome cores;
  };
  std::vector<Case> cases;
  for (const Problem& problem : all) {
    for (const Mode mode :
         {Mode::train, Mode::batch_statistics, Mode::inference, Mode::calibration}) {
      cases.push_back({problem, mode, on_cores(problem, mode)});
    }
  }
  const runtime::Runtime runtime = gpu_runtime();
  for (const auto& [problem, mode, cores] : cases) {
    for (const Limits& limit : limits) {
      for (const Grain grain : {Grain::op, Grain::step}) {
        INFO(problem.network.name << ", mode " << static_cast<int>(mode) << ", "
                                  << runtime::to_string(limit.type) << ", grain "
                                  << static_cast<int>(grain));
        check_close(problem, mode, on_gpu(problem, mode, limit, grain), cores, limit);
      }
    }
  }
}

TEST_CASE("Padding between parameters stays 0 on a GPU", "[cuda]") {
  NEEDS_GPUS(1);
  const Problem problem = std::move(problems().back());
  const runtime::Runtime runtime = gpu_runtime();
  for (const Grain grain : {Grain::op, Grain::block, Grain::step}) {
    const Outcome gpu = on_gpu(problem, Mode::train, limits[0], grain);
    for (std::size_t bucket = 0; bucket < gpu.gradients.size(); ++bucket) {
      std::vector<float> rest = gpu.gradients[bucket];
      for (const models::Parameter& parameter : problem.network.parameters) {
        if (parameter.bucket != static_cast<int>(bucket)) continue;
        std::fill_n(rest.begin() + static_cast<std::ptrdiff_t>(parameter.offset),
                    parameter.shape.elements(), 0.0f);
      }
      REQUIRE(rest == std::vector<float>(rest.size(), 0.0f));
    }
  }
}

TEST_CASE("The same bits from run to run and at every grain on a GPU", "[cuda]") {
  NEEDS_GPUS(1);
  const Problem problem = std::move(problems().back());
  const Optimizer optimizer(problem.network, {}, false);
  for (const Limits& limit : limits) {
    // Five steps: directly, captured, replayed.
    const auto train = [&](Grain grain) {
      const runtime::Runtime runtime = gpu_runtime();
      return on_gpu(problem, Mode::train, limit, grain, 5, &optimizer);
    };
    const Outcome first = train(Grain::step);
    CHECK(same(first, train(Grain::step)));
    CHECK(same(first, train(Grain::block)));
    CHECK(same(first, train(Grain::op)));
  }
}

TEST_CASE("Steps on a GPU follow those on cores", "[cuda]") {
  NEEDS_GPUS(1);
  const Problem problem = std::move(problems().front());
  const Optimizer optimizer(problem.network, {.momentum = 0.9f, .weight_decay = 1e-3f}, false);
  const Outcome cores = on_cores(problem, Mode::train, 4, &optimizer);
  const runtime::Runtime runtime = gpu_runtime();
  const Outcome gpu = on_gpu(problem, Mode::train, limits[0], Grain::step, 4, &optimizer);
  // Roundings of 6e-8 in four steps of a network without normalisation.
  for (std::size_t bucket = 0; bucket < cores.values.parameters.size(); ++bucket) {
    CHECK(distance(gpu.values.parameters[bucket], cores.values.parameters[bucket]) <= 1e-5);
    CHECK(distance(gpu.values.moments[bucket], cores.values.moments[bucket]) <= 1e-4);
  }
}

TEST_CASE("Gradients come out times the loss scale", "[cuda]") {
  NEEDS_GPUS(1);
  const Problem problem = std::move(problems().back());
  const Outcome cores = on_cores(problem, Mode::train);
  const runtime::Runtime runtime = gpu_runtime();
  for (Limits limit : limits) {
    limit.loss_scale = 256;
    check_close(problem, Mode::train, on_gpu(problem, Mode::train, limit, Grain::step), cores,
                limit);
  }
}

TEST_CASE("A step of ResNet-50 on a GPU computes what PyTorch computes", "[cuda]") {
  NEEDS_GPUS(1);
  const GoldenFile golden = load_golden("resnet50_step.bin");
  const Problem problem = resnet50_problem(golden);
  const runtime::Runtime runtime = gpu_runtime();
  check_resnet50(on_gpu(problem, Mode::train, limits[0], Grain::step), problem.network, golden,
                 float32_limits);
  // 53 layers of roundings of 2^-12 and 2^-9: what is left is the direction of most gradients.
  check_resnet50(on_gpu(problem, Mode::train, limits[2], Grain::step), problem.network, golden,
                 {0.02, 1, 0.5, 0.4}, limits[2].loss_scale);
  check_resnet50(on_gpu(problem, Mode::train, limits[1], Grain::step), problem.network, golden,
                 {0.1, 2, 0.5, 0.8}, limits[1].loss_scale);
}

TEST_CASE("Where a network's data type goes", "[cuda]") {
  NEEDS_GPUS(1);
  // Activations halve, parameters and their gradients stay.
  const runtime::Runtime runtime = gpu_runtime();
  models::Network network = models::make_network("resnet8", {1, 3, 16, 16}, 10);
  const Program whole(network, 64, Mode::train, {Grain::op, Cuda{}});
  network.data_type = DataType::bfloat16;
  const Program half(network, 64, Mode::train, {Grain::op, Cuda{}});
  CHECK(half.lane_bytes() < 0.6 * static_cast<double>(whole.lane_bytes()));
  // One more converts the fully connected layer's weights.
  CHECK(half.operations() == whole.operations() + 1);
}
