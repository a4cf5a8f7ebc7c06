// Whether cuDNN has plans for whole networks on a GPU that this machine need not have.
#ifdef STPT_HAS_CUDA
#include <algorithm>
#include <iterator>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "codelets/conv2d.hpp"
#include "codelets/cudnn_cuda.hpp"
#include "models/zoo.hpp"
#include "tests/catch.hpp"
#include "tests/codelets/conv2d_testing.hpp"

using namespace stpt;
using codelets::cudnn::Choice;
using codelets::cudnn::Convolution;
using codelets::cudnn::Pass;
using runtime::DataType;

namespace {

constexpr models::ActivationId network_input = 0;

constexpr const char* h200 =
    R"({"maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],)"
    R"("regsPerBlock":65536,"multiProcessorCount":132,"warpSize":32,)"
    R"("maxSharedMemoryPerBlock":49152,"maxSharedMemoryPerBlockOptin":232448,)"
    R"("reservedSharedMemoryPerBlock":1024,"maxRegistersPerSM":65536,"maxCtasPerSM":32,)"
    R"("maxThreadsPerBlock":1024,"maxThreadsPerSM":2048,"pciDeviceId":0,"isTccDriver":0,)"
    R"("supportCoopLaunch":1,"totalGlobalMem":150120890368,"smClockRateKHz":1980000,)"
    R"("memClockRateKHz":3201000,"l2CacheSize":62914560,"cudaDeviceId":0,"deviceVer":900,)"
    R"("driverVer":13000,"deviceName":"NVIDIA H200"})";

/// "eng67", without its knobs.
std::string engine_of(const Choice& choice) {
  return choice.engine.substr(0, choice.engine.find("_k"));
}

/// Engine 0 is the reference, which is left where the limit bars all others.
bool is_reference(const Choice& choice) { return engine_of(choice) == "eng0"; }

struct Arithmetic {
  DataType type;
  bool tf32;
};
constexpr Arithmetic arithmetics[] = {{DataType::float32, false},
                                      {DataType::float32, true},
                                      {DataType::bfloat16, false},
                                      {DataType::float16, false}};

/// Depthwise convolutions as MobileNet has them, with the pointwise ones between them.
models::Network depthwise() {
  models::NetworkBuilder net("depthwise", {1, 3, 224, 224}, 10);
  models::ActivationId x = net.convolution("conv", net.input(), 32, 3, 2, 1);
  for (const auto& [filters, stride] :
       {std::pair{64, 1}, {128, 2}, {256, 2}, {512, 2}, {512, 1}, {1024, 2}}) {
    const std::string name = std::to_string(filters) + "/" + std::to_string(stride);
    const auto channels = static_cast<int>(net.shape(x).c);
    x = net.convolution("depthwise " + name, x, channels, 3, stride, 1, {.groups = channels});
    x = net.convolution("pointwise " + name, x, filters, 1, 1, 0);
  }
  return net.build(net.fully_connected("fc", net.global_average_pool(x), 10));
}

/// Calls visit(convolution, whether it is of the images, choice) for each convolution
/// of the network, data type and pass.
template <class Visit>
void for_each_choice(const models::Network& network, int batch, Visit visit) {
  for (const models::Layer& layer : network.layers) {
    if (layer.kind != models::LayerKind::convolution) continue;
    const bool of_images = layer.inputs[0] == network_input;
    runtime::Shape src = network.activations[static_cast<std::size_t>(layer.inputs[0])];
    runtime::Shape dst = network.activations[static_cast<std::size_t>(layer.output)];
    src.n = dst.n = batch;
    for (const auto& [type, tf32] : arithmetics) {
      if (of_images) src.c = codelets::conv2d_channels(3, type, codelets::Cuda{});
      const auto& [kernel, stride, padding, dilation] = layer.window;
      const runtime::Shape weights{dst.c, src.c / layer.groups, kernel.h, kernel.w};
      for (const Pass pass : {Pass::forward, Pass::backward_data, Pass::backward_weights}) {
        const std::string what = network.name + " " + layer.name + " " + runtime::to_string(type) +
                                 (tf32 ? ", tf32" : "") + " pass " +
                                 std::to_string(static_cast<int>(pass));
        INFO(what);
        const Convolution convolution{pass, type, src, weights, dst, layer.window, tf32};
        Choice choice;
        REQUIRE_NOTHROW(choice = codelets::cudnn::choice_on(convolution, h200, 90, what));
        INFO(choice.engine);
        CHECK(choice.workspace_bytes <= std::size_t{type == DataType::float32 ? 3U : 1U} << 30);
        visit(convolution, of_images, choice);
      }
    }
  }
}

}  // namespace

TEST_CASE("cuDNN has fast plans for every convolution of known networks on an H200", "[cudnn]") {
  std::size_t plans = 0;
  for (const auto& [name, batch] :
       {std::pair{"resnet20", 128}, {"resnet50", 256}, {"vgg16", 64}, {"resnext50_32x4d", 128}}) {
    const int side = std::string(name) == "resnet20" ? 32 : 224;
    const auto check = [&](const Convolution& convolution, bool of_images, const Choice& choice) {
      // Of fewer channels cuDNN would make a copy of all images, 196 MiB.
      if (of_images && convolution.pass != Pass::backward_data &&
          convolution.type != DataType::float32)
        CHECK(choice.workspace_bytes <= std::size_t{16} << 20);
      CHECK(!is_reference(choice));
      ++plans;
    };
    for_each_choice(models::make_network(name, {1, 3, side, side}, 10), batch, check);
  }
  CHECK(plans == (21 + 53 + 13 + 53) * 12);
}

TEST_CASE("cuDNN has fast plans for windows that are not square, or dilated, on an H200",
          "[cudnn]") {
  models::NetworkBuilder net("windows", {1, 3, 299, 299}, 10);
  models::ActivationId x = net.convolution("stem", net.input(), 192, 3, 16, 0);
  x = net.convolution("wide", x, 192, {1, 7}, 1, {0, 3});
  x = net.convolution("high", x, 192, {7, 1}, 1, {3, 0});
  x = net.convolution("dilated", x, 256, 3, 1, 2, {.dilation = 2});
  x = net.convolution("all", x, 256, {3, 5}, {2, 1}, {2, 4}, {.dilation = {2, 3}});
  for_each_choice(
      net.build(net.fully_connected("fc", net.global_average_pool(x), 10)), 64,
      [](const Convolution&, bool, const Choice& choice) { CHECK(!is_reference(choice)); });
}

TEST_CASE("GPU tests meet most engines that ResNets train with on an H200", "[cudnn]") {
  using Use = std::tuple<Pass, DataType, bool, std::string>;  // tf32 and engine last
  const auto use = [](const Convolution& convolution, const Choice& choice) {
    return Use{convolution.pass, convolution.type, convolution.tf32, engine_of(choice)};
  };
  std::set<Use> met;
  for (const testing::conv2d::Case& c : testing::conv2d::gpu_cases()) {
    const codelets::Conv2d conv = testing::conv2d::make_conv(c);
    for (const auto& [type, tf32] : arithmetics) {
      for (const Pass pass : {Pass::forward, Pass::backward_data, Pass::backward_weights}) {
        const Convolution convolution{
            pass, type, conv.src.shape, conv.weights(), conv.dst.shape, c.window, tf32};
        met.insert(use(convolution, codelets::cudnn::choice_on(convolution, h200, 90, "a case")));
      }
    }
  }
  std::set<Use> used, missing;
  for (const auto& [name, batch] : {std::pair{"resnet20", 128}, {"resnet50", 256}}) {
    const int side = std::string(name) == "resnet20" ? 32 : 224;
    for_each_choice(models::make_network(name, {1, 3, side, side}, 10), batch,
                    [&](const Convolution& convolution, bool of_images, const Choice& choice) {
                      if (of_images && convolution.pass == Pass::backward_data) return;  // no task
                      used.insert(use(convolution, choice));
                    });
  }
  std::ranges::set_difference(used, met, std::inserter(missing, missing.end()));
  // With cuDNN 9.19 one is, float32's for a layer of 30 GFLOPs; other versions choose others.
  INFO(missing.size() << " of " << used.size() << " are missing");
  CHECK(5 * missing.size() < used.size());
}

// That is why this program has kernels of its own for them.
TEST_CASE("cuDNN names its reference for depthwise convolutions on an H200", "[cudnn]") {
  std::size_t plans = 0, references = 0;
  for_each_choice(depthwise(), 256,
                  [&](const Convolution& convolution, bool, const Choice& choice) {
                    const bool is_depthwise = convolution.weights.c == 1;
                    if (!is_depthwise || convolution.type == DataType::float16 ||
                        convolution.pass == Pass::backward_weights)
                      return;
                    ++plans;
                    if (is_reference(choice)) ++references;
                  });
  REQUIRE(plans == 6 * 3 * 2);
  CHECK(references > plans * 3 / 4);
}
#endif
