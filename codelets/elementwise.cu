#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "codelets/activations.cuh"
#include "codelets/elementwise.hpp"
#include "codelets/launch.cuh"

// The CUDA implementation. Elementwise ops are bound by memory traffic: threads load and store 16
// bytes at once.

namespace stpt::codelets {
namespace {

std::int64_t checked_count(const std::string& what, const TensorSpec& spec) {
  cuda::require_plain(what, spec);
  return spec.shape.elements();
}

struct Rectify {
  __device__ float operator()(float x) const { return cuda::relu(x); }
};

struct Pass {  ///< the gradient where y > 0
  __device__ float operator()(float y, float d_y) const { return y > 0 ? d_y : 0; }
};

struct Sum {
  bool with_relu;
  __device__ float operator()(float a, float b) const {
    return with_relu ? cuda::relu(a + b) : a + b;
  }
};

struct Times {
  __device__ float operator()(float a, float b) const { return a * b; }
};

struct Straight {
  float factor, offset;
  __device__ float operator()(float x) const { return factor * x + offset; }
};

/// The last argument = function(the arguments before it).
template <class T, std::size_t sources, class Function>
class Map final : public Kernel {
 public:
  Map(std::string what, std::int64_t count, Function function)
      : what_(std::move(what)), count_(count), function_(function) {}
  void run(std::span<void* const> args, void*, Stream stream) const override {
    [&]<std::size_t... i>(std::index_sequence<i...>) {
      cuda::map(what_, stream, count_, function_, static_cast<T*>(args[sources]),
                static_cast<const T*>(args[i])...);
    }
    (std::make_index_sequence<sources>());
  }

 private:
  std::string what_;
  std::int64_t count_;
  Function function_;
};

template <std::size_t sources, class Function>
KernelPtr plan_map(const std::string& op, const TensorSpec& spec, Function function) {
  const std::string what = op + " " + spec.to_string();
  const std::int64_t count = checked_count(what, spec);
  return cuda::with_type(spec.type, what, [&](auto element) -> KernelPtr {
    return std::make_unique<Map<decltype(element), sources, Function>>(what, count, function);
  });
}

template <std::size_t sources, class Op>
KernelPtr plan_activation(const char* pass, const Op& op) {
  const auto planned = [&](auto function) {
    return plan_map<sources>(std::string(to_string(op.function)) + pass, op.x, function);
  };
  return activations::with_function(op.function, op.slope, planned);
}

}  // namespace

KernelPtr plan(const ReluForward& op, Cuda) { return plan_map<1>("ReluForward", op.x, Rectify{}); }
KernelPtr plan(const ReluBackward& op, Cuda) { return plan_map<2>("ReluBackward", op.x, Pass{}); }
KernelPtr plan(const Add& op, Cuda) { return plan_map<2>("Add", op.x, Sum{op.relu}); }
KernelPtr plan(const Product& op, Cuda) { return plan_map<2>("Product", op.x, Times{}); }
KernelPtr plan(const AffineMap& op, Cuda) {
  return plan_map<1>("AffineMap", op.x, Straight{op.factor, op.offset});
}
KernelPtr plan(const ActivationForward& op, Cuda) { return plan_activation<1>(" forward", op); }
KernelPtr plan(const ActivationBackward& op, Cuda) { return plan_activation<2>(" backward", op); }

}  // namespace stpt::codelets
