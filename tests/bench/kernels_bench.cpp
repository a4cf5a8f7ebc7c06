// Speed of the convolutions of ResNet-20 (batch 64, 32x32 images) on one core, in GFLOP/s: forward,
// backward data and backward weights, reorders of weights and tensors included.
//
//   kernels_bench [batch]
#include <time.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <new>
#include <span>
#include <vector>

#include "codelets/conv2d.hpp"

namespace {

using namespace stpt;
using codelets::Conv2d;
using codelets::Cpu;
using codelets::Kernel;
using runtime::Layout;
using runtime::Shape;

/// 64-byte aligned floats. Not zero: denormals and zeros would flatter or spoil the figures.
class Buffer {
 public:
  explicit Buffer(std::size_t bytes)
      : memory_(static_cast<float*>(std::aligned_alloc(64, (bytes + 127) / 64 * 64))) {
    if (!memory_) throw std::bad_alloc();
    for (std::size_t i = 0; i < bytes / sizeof(float); ++i) {
      memory_.get()[i] = static_cast<float>(i * 7919 % 1024) / 1024 - 0.5f;
    }
  }
  void* pointer() { return memory_.get(); }

 private:
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  std::unique_ptr<float, Free> memory_;
};

/// Processor time of this thread: what else runs on the machine does not count.
double now() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

/// Median seconds of a run.
double seconds(const Kernel& kernel, std::initializer_list<void*> args) {
  Buffer workspace(kernel.workspace_bytes());
  const std::span<void* const> span(args.begin(), args.size());
  std::vector<double> times;
  double total = 0;
  for (int i = 0; i < 3 || (total < 0.3 && i < 20000); ++i) {
    const double start = now();
    kernel.run(span, workspace.pointer(), nullptr);
    const double time = now() - start;
    if (i == 0) continue;  // warm the caches and the code
    times.push_back(time);
    total += time;
  }
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

struct Times {
  double forward = 0, backward_data = 0, backward_weights = 0;
};

Times measure(const Conv2d& conv) {
  const auto weights = static_cast<std::size_t>(conv.weights().elements());
  Buffer src(conv.src.bytes()), dst(conv.dst.bytes()), w(weights * sizeof(float));
  Times t;
  t.forward = seconds(*codelets::plan(codelets::Conv2dForward{conv}, Cpu{}),
                      {src.pointer(), w.pointer(), dst.pointer()});
  t.backward_data = seconds(*codelets::plan(codelets::Conv2dBackwardData{conv}, Cpu{}),
                            {w.pointer(), dst.pointer(), src.pointer()});
  t.backward_weights = seconds(*codelets::plan(codelets::Conv2dBackwardWeights{conv}, Cpu{}),
                               {src.pointer(), dst.pointer(), w.pointer()});
  return t;
}

}  // namespace

int main(int argc, char** argv) {
  const int batch = argc > 1 ? std::atoi(argv[1]) : 64;
  if (batch < 1) {
    std::fprintf(stderr, "usage: kernels_bench [batch]\n");
    return 2;
  }
  struct Layer {
    std::int64_t channels, size, filters;
    int kernel, stride, count;  ///< how often ResNet-20 has it
  };
  const std::vector<Layer> layers = {
      {3, 32, 16, 3, 1, 1},  {16, 32, 16, 3, 1, 6}, {16, 32, 32, 3, 2, 1}, {16, 32, 32, 1, 2, 1},
      {32, 16, 32, 3, 1, 5}, {32, 16, 64, 3, 2, 1}, {32, 16, 64, 1, 2, 1}, {64, 8, 64, 3, 1, 5},
  };
  std::printf("batch %d; ms and GFLOP/s of one run\n", batch);
  std::printf("%-28s %5s %18s %18s %18s\n", "convolution", "count", "forward", "backward data",
              "backward weights");
  Times sum;
  double flops_sum = 0;
  for (const Layer& layer : layers) {
    Conv2d conv;
    conv.src = {{batch, layer.channels, layer.size, layer.size},
                runtime::DataType::float32,
                layer.channels == 3 ? Layout::nchw : Layout::nchw16c};
    conv.window = {layer.kernel, layer.stride, layer.kernel / 2};
    conv.dst = {codelets::conv2d_output(conv.src.shape, layer.filters, conv.window),
                runtime::DataType::float32, Layout::any};
    codelets::choose_layout(conv, Cpu{});
    const Times t = measure(conv);
    const double flops = 2.0 * static_cast<double>(conv.dst.shape.elements() * layer.channels *
                                                   layer.kernel * layer.kernel);
    char name[64];
    std::snprintf(name, sizeof name, "%2dx%-2d %2d->%-2d %dx%d/%d %s", static_cast<int>(layer.size),
                  static_cast<int>(layer.size), static_cast<int>(layer.channels),
                  static_cast<int>(layer.filters), layer.kernel, layer.kernel, layer.stride,
                  runtime::to_string(conv.dst.layout));
    std::printf("%-28s %5d", name, layer.count);
    for (const double time : {t.forward, t.backward_data, t.backward_weights}) {
      std::printf("   %7.3f %7.1f", time * 1e3, flops / time * 1e-9);
    }
    std::printf("\n");
    sum.forward += layer.count * t.forward;
    // Nobody needs the gradient of the images.
    if (layer.channels != 3) sum.backward_data += layer.count * t.backward_data;
    sum.backward_weights += layer.count * t.backward_weights;
    flops_sum += layer.count * flops;
  }
  std::printf("%-28s %5s", "all of ResNet-20", "");
  for (const double time : {sum.forward, sum.backward_data, sum.backward_weights}) {
    std::printf("   %7.3f %7.1f", time * 1e3, flops_sum / time * 1e-9);
  }

  // What a run costs beyond its arithmetic: the smallest convolution there is.
  Conv2d tiny;
  tiny.src = tiny.dst = {{1, 16, 1, 1}, runtime::DataType::float32, Layout::nchw16c};
  const Times t = measure(tiny);
  std::printf("\n1x1 convolution of 1x16x1x1: %.2f, %.2f, %.2f us a run\n", t.forward * 1e6,
              t.backward_data * 1e6, t.backward_weights * 1e6);
  return 0;
}
