// Whether cuDNN has plans for whole networks on a GPU that this machine need not have.
#ifdef STPT_HAS_CUDA
#include <string>
#include <utility>

#include "codelets/conv2d.hpp"
#include "codelets/cudnn_cuda.hpp"
#include "models/zoo.hpp"
#include "tests/catch.hpp"

using namespace stpt;
using codelets::cudnn::Pass;
using runtime::DataType;

namespace {

constexpr const char* h200 =
    R"({"maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],)"
    R"("regsPerBlock":65536,"multiProcessorCount":132,"warpSize":32,)"
    R"("maxSharedMemoryPerBlock":49152,"maxSharedMemoryPerBlockOptin":232448,)"
    R"("reservedSharedMemoryPerBlock":1024,"maxRegistersPerSM":65536,"maxCtasPerSM":32,)"
    R"("maxThreadsPerBlock":1024,"maxThreadsPerSM":2048,"pciDeviceId":0,"isTccDriver":0,)"
    R"("supportCoopLaunch":1,"totalGlobalMem":150120890368,"smClockRateKHz":1980000,)"
    R"("memClockRateKHz":3201000,"l2CacheSize":62914560,"cudaDeviceId":0,"deviceVer":900,)"
    R"("driverVer":13000,"deviceName":"NVIDIA H200"})";

}  // namespace

TEST_CASE("cuDNN has fast plans for every convolution of known networks on an H200", "[cudnn]") {
  const std::pair<const char*, int> networks[] = {
      {"resnet50", 256}, {"resnet20", 128}, {"vgg16", 64}};
  std::size_t plans = 0;
  for (const auto& [name, batch] : networks) {
    const bool imagenet = std::string(name) != "resnet20";
    const models::Network network =
        models::make_network(name, {1, 3, imagenet ? 224 : 32, imagenet ? 224 : 32}, 10);
    for (const models::Layer& layer : network.layers) {
      if (layer.kind != models::LayerKind::convolution) continue;
      runtime::Shape src = network.activations[static_cast<std::size_t>(layer.inputs[0])];
      runtime::Shape dst = network.activations[static_cast<std::size_t>(layer.output)];
      src.n = dst.n = batch;
      for (const auto& [type, tf32] : {std::pair{DataType::float32, false},
                                       {DataType::float32, true},
                                       {DataType::bfloat16, false},
                                       {DataType::float16, false}}) {
        if (layer.inputs[0] == 0) src.c = codelets::conv2d_channels(3, type, codelets::Cuda{});
        const runtime::Shape weights{dst.c, src.c, layer.kernel_h, layer.kernel_w};
        for (const Pass pass : {Pass::forward, Pass::backward_data, Pass::backward_weights}) {
          const std::string what = std::string(name) + " " + layer.name + " " +
                                   runtime::to_string(type) + (tf32 ? ", tf32" : "") + " pass " +
                                   std::to_string(static_cast<int>(pass));
          INFO(what);
          codelets::cudnn::Choice choice;
          REQUIRE_NOTHROW(choice = codelets::cudnn::choice_on(
                              {pass, type, src, weights, dst, layer.stride, layer.padding, tf32},
                              h200, 90, what));
          INFO(choice.engine);
          CHECK(choice.workspace_bytes <= std::size_t{type == DataType::float32 ? 3U : 1U} << 30);
          // Of fewer channels cuDNN would make a copy of all images, 196 MiB.
          if (layer.inputs[0] == 0 && pass != Pass::backward_data && type != DataType::float32)
            CHECK(choice.workspace_bytes <= std::size_t{16} << 20);
          // Engine 0 is the reference, which is left where the limit bars all others.
          CHECK(choice.engine.substr(0, choice.engine.find("_k")) != "eng0");
          ++plans;
        }
      }
    }
  }
  CHECK(plans == (53 + 21 + 13) * 12);
}
#endif
