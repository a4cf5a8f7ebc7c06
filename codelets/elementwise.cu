#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

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

// Activations: function(x), and its gradient times d_y.

struct Relu6 {
  __device__ float operator()(float x) const { return x < 0 ? 0 : x > 6 ? 6 : x; }
  __device__ float operator()(float x, float d_y) const { return x > 0 && x < 6 ? d_y : 0; }
};

struct LeakyRelu {
  float slope;
  __device__ float operator()(float x) const { return x > 0 ? x : slope * x; }
  __device__ float operator()(float x, float d_y) const { return x > 0 ? d_y : slope * d_y; }
};

struct Elu {
  __device__ float operator()(float x) const { return x > 0 ? x : expm1f(x); }
  __device__ float operator()(float x, float d_y) const { return x > 0 ? d_y : d_y * expf(x); }
};

struct HardSigmoid {
  __device__ float operator()(float x) const { return x <= -3 ? 0 : x >= 3 ? 1 : (x + 3) / 6; }
  __device__ float operator()(float x, float d_y) const { return x > -3 && x < 3 ? d_y / 6 : 0; }
};

struct HardSwish {
  __device__ float operator()(float x) const { return x * HardSigmoid{}(x); }
  __device__ float operator()(float x, float d_y) const {
    return x <= -3 ? 0 : x >= 3 ? d_y : d_y * (x / 3 + 0.5f);
  }
};

struct Sigmoid {
  __device__ float operator()(float x) const { return 1 / (1 + expf(-x)); }
  __device__ float operator()(float x, float d_y) const {
    const float y = (*this)(x);
    return d_y * y * (1 - y);
  }
};

struct Silu {
  __device__ float operator()(float x) const { return x / (1 + expf(-x)); }
  __device__ float operator()(float x, float d_y) const {
    const float sigmoid = Sigmoid{}(x);
    return d_y * sigmoid * (1 + x * (1 - sigmoid));
  }
};

struct Mish {
  /// tanh(log(1 + exp(x))); in float32 x is its own softplus from 20 on.
  static __device__ float gate(float x) { return tanhf(x > 20 ? x : log1pf(expf(x))); }
  __device__ float operator()(float x) const { return x * gate(x); }
  __device__ float operator()(float x, float d_y) const {
    const float y = gate(x);
    return d_y * (y + x * (1 - y * y) * Sigmoid{}(x));
  }
};

struct Tanh {
  __device__ float operator()(float x) const { return tanhf(x); }
  __device__ float operator()(float x, float d_y) const {
    const float y = tanhf(x);
    return d_y * (1 - y * y);
  }
};

/// x times the normal distribution's function, whose derivative is its density.
struct Gelu {
  static __device__ float distribution(float x) {
    constexpr float sqrt_half = 0.707106781f;
    return 0.5f * (1 + erff(x * sqrt_half));
  }
  __device__ float operator()(float x) const { return x * distribution(x); }
  __device__ float operator()(float x, float d_y) const {
    constexpr float inverse_sqrt_2_pi = 0.398942280f;
    return d_y * (distribution(x) + x * inverse_sqrt_2_pi * expf(-0.5f * x * x));
  }
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
  switch (op.function) {
    case Activation::relu6:
      return planned(Relu6{});
    case Activation::leaky_relu:
      return planned(LeakyRelu{op.slope});
    case Activation::elu:
      return planned(Elu{});
    case Activation::silu:
      return planned(Silu{});
    case Activation::mish:
      return planned(Mish{});
    case Activation::gelu:
      return planned(Gelu{});
    case Activation::hard_swish:
      return planned(HardSwish{});
    case Activation::hard_sigmoid:
      return planned(HardSigmoid{});
    case Activation::sigmoid:
      return planned(Sigmoid{});
    case Activation::tanh:
      return planned(Tanh{});
  }
  throw std::logic_error("plan: unknown activation");
}

}  // namespace

KernelPtr plan(const ReluForward& op, Cuda) { return plan_map<1>("ReluForward", op.x, Rectify{}); }
KernelPtr plan(const ReluBackward& op, Cuda) { return plan_map<2>("ReluBackward", op.x, Pass{}); }
KernelPtr plan(const Add& op, Cuda) { return plan_map<2>("Add", op.x, Sum{op.relu}); }
KernelPtr plan(const ActivationForward& op, Cuda) { return plan_activation<1>(" forward", op); }
KernelPtr plan(const ActivationBackward& op, Cuda) { return plan_activation<2>(" backward", op); }

}  // namespace stpt::codelets
