// Speed of batch norm on the CPU, against a plain copy of a tensor of the same size.
// GB/s counts every tensor once for each time the kernel passes over it, without what a cache saves
// (and without the read that precedes a write).

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "codelets/batch_norm.hpp"

namespace {

using namespace stpt;
using runtime::Layout;
using runtime::Shape;
using runtime::TensorSpec;

struct Free {
  void operator()(float* memory) const { std::free(memory); }
};
using Buffer = std::unique_ptr<float[], Free>;

Buffer buffer(std::size_t count) {
  const std::size_t bytes = (count * sizeof(float) + 63) / 64 * 64;
  Buffer result(static_cast<float*>(std::aligned_alloc(64, bytes)));
  if (!result) throw std::bad_alloc();
  for (std::size_t i = 0; i < count; ++i)
    result[i] = static_cast<float>(i * 2654435761u % 4096) / 2048.0f - 1.0f;
  return result;
}

/// Median seconds of one call.
template <typename F>
double time_of(F f) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> seconds;
  const auto begin = Clock::now();
  do {
    const auto start = Clock::now();
    f();
    seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  } while (seconds.size() < 20 || Clock::now() - begin < std::chrono::milliseconds(300));
  std::nth_element(seconds.begin(), seconds.begin() + static_cast<long>(seconds.size() / 2),
                   seconds.end());
  return seconds[seconds.size() / 2];
}

void report(const std::string& what, double seconds, int passes, std::size_t bytes) {
  std::printf("  %-28s %9.1f us  %6.1f GB/s (%d passes)\n", what.c_str(), seconds * 1e6,
              passes * static_cast<double>(bytes) / seconds * 1e-9, passes);
}

void bench(const TensorSpec& spec) {
  const auto count = static_cast<std::size_t>(spec.stored_elements());
  const auto channels = static_cast<std::size_t>(spec.shape.c);
  const Buffer x = buffer(count), y = buffer(count), residual = buffer(count), d_y = buffer(count),
               d_y2 = buffer(count), d_x = buffer(count), d_residual = buffer(count);
  std::vector<Buffer> parameters;
  for (int i = 0; i < 8; ++i) parameters.push_back(buffer(channels));
  float* gamma = parameters[0].get();
  float* beta = parameters[1].get();
  float* running_mean = parameters[2].get();
  float* running_variance = parameters[3].get();
  float* mean = parameters[4].get();
  float* inverse = parameters[5].get();
  float* d_gamma = parameters[6].get();
  float* d_beta = parameters[7].get();
  std::fill_n(running_variance, channels, 1.0f);

  std::printf("%s, %.2f MB\n", spec.to_string().c_str(), static_cast<double>(spec.bytes()) * 1e-6);
  report("copy", time_of([&] { std::memcpy(d_x.get(), x.get(), spec.bytes()); }), 2, spec.bytes());

  using codelets::Activation;
  const auto norm_of = [&](bool relu, bool with_residual, std::optional<Activation> function = {}) {
    codelets::BatchNorm norm{spec, relu, with_residual};
    norm.function = function;
    return norm;
  };
  const auto forward = [&](const std::string& what, const codelets::BatchNorm& norm,
                           codelets::BatchNormMode mode, int passes) {
    const auto kernel = plan(codelets::BatchNormForward{norm, mode}, codelets::Cpu{});
    std::vector<void*> args{x.get()};
    if (norm.residual) args.push_back(residual.get());
    for (float* argument : {gamma, beta, running_mean, running_variance, y.get(), mean, inverse})
      args.push_back(argument);
    report(what, time_of([&] { kernel->run(args, nullptr, nullptr); }), passes, spec.bytes());
  };
  using enum codelets::BatchNormMode;
  forward("forward inference relu", norm_of(true, false), inference, 2);
  forward("forward relu", norm_of(true, false), training, 3);
  forward("forward relu+residual", norm_of(true, true), training, 4);

  const auto backward = [&](const std::string& what, const codelets::BatchNorm& norm, bool two,
                            int passes) {
    const auto kernel = plan(codelets::BatchNormBackward{norm, two}, codelets::Cpu{});
    std::vector<void*> args{x.get(), y.get(), gamma, beta, mean, inverse, d_y.get()};
    if (two) args.push_back(d_y2.get());
    args.push_back(d_x.get());
    if (norm.residual) args.push_back(d_residual.get());
    args.push_back(d_gamma);
    args.push_back(d_beta);
    report(what, time_of([&] { kernel->run(args, nullptr, nullptr); }), passes, spec.bytes());
  };
  backward("backward", norm_of(false, false), false, 5);
  backward("backward relu", norm_of(true, false), false, 5);
  backward("backward relu+residual", norm_of(true, true), false, 7);
  backward("backward relu+residual, two", norm_of(true, true), true, 8);

  // Other activations, within batch norm and by an op of their own.
  const auto alone = [&](const std::string& what, const auto& op, std::vector<void*> args,
                         int passes) {
    const auto kernel = plan(op, codelets::Cpu{});
    args.push_back(d_x.get());
    report(what, time_of([&] { kernel->run(args, nullptr, nullptr); }), passes, spec.bytes());
  };
  for (const Activation function : {Activation::relu6, Activation::hard_swish, Activation::silu}) {
    const std::string name(to_string(function));
    forward("forward " + name, norm_of(false, false, function), training, 3);
    alone("forward " + name + " alone", codelets::ActivationForward{spec, function}, {x.get()}, 2);
    backward("backward " + name, norm_of(false, false, function), false, 5);
    alone("backward " + name + " alone", codelets::ActivationBackward{spec, function},
          {x.get(), d_y.get()}, 3);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string choice = argc > 1 ? argv[1] : "nchw16c";
  Layout layout = Layout::nchw16c;
  for (const Layout l : {Layout::nchw, Layout::nhwc, Layout::nchw8c, Layout::nchw16c})
    if (choice == to_string(l)) layout = l;
  for (const Shape shape : {Shape{64, 16, 32, 32}, Shape{64, 32, 16, 16}, Shape{64, 64, 8, 8}})
    bench({shape, runtime::DataType::float32, layout});
}
