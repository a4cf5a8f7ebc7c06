// Activations on GPUs: function(x), and its gradient times d_y. In .cu files only.
#pragma once

#include <stdexcept>

#include "codelets/elementwise.hpp"

namespace stpt::codelets::activations {

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

/// visit(the function)
template <class Visit>
auto with_function(Activation function, float slope, Visit visit) {
  switch (function) {
    case Activation::relu6:
      return visit(Relu6{});
    case Activation::leaky_relu:
      return visit(LeakyRelu{slope});
    case Activation::elu:
      return visit(Elu{});
    case Activation::silu:
      return visit(Silu{});
    case Activation::mish:
      return visit(Mish{});
    case Activation::gelu:
      return visit(Gelu{});
    case Activation::hard_swish:
      return visit(HardSwish{});
    case Activation::hard_sigmoid:
      return visit(HardSigmoid{});
    case Activation::sigmoid:
      return visit(Sigmoid{});
    case Activation::tanh:
      return visit(Tanh{});
  }
  throw std::logic_error("an unknown activation");
}

}  // namespace stpt::codelets::activations
