#include "tests/emulated_cuda/convolution.hpp"

#include <vector>

namespace emulated_cuda {
namespace {

/// Visits a tensor's elements: visit(n, c, h, w, offset in memory).
template <typename Visit>
void for_each(const ConvolutionTensor& t, Visit visit) {
  for (std::int64_t n = 0; n < t.dims[0]; ++n)
    for (std::int64_t c = 0; c < t.dims[1]; ++c)
      for (std::int64_t h = 0; h < t.dims[2]; ++h)
        for (std::int64_t w = 0; w < t.dims[3]; ++w)
          visit(n, c, h, w,
                n * t.strides[0] + c * t.strides[1] + h * t.strides[2] + w * t.strides[3]);
}

/// A tensor as float32 in one order for all: activations n h w c, weights group r s c k, so that
/// the inner loops run over neighbours.
class Packed {
 public:
  explicit Packed(const ConvolutionTensor& tensor, std::int64_t groups = 0)
      : tensor_(tensor), groups_(groups), values_(static_cast<std::size_t>(tensor.elements())) {}

  void load_from(const void* memory, bool tf32) {
    for_each(tensor_, [&](auto n, auto c, auto h, auto w, auto offset) {
      const float value = load(tensor_.type, memory, offset);
      values_[index(n, c, h, w)] =
          tf32 && tensor_.type == Number::float32 ? round_to_tf32(value) : value;
    });
  }

  void store_to(void* memory, float alpha, float beta) const {
    for_each(tensor_, [&](auto n, auto c, auto h, auto w, auto offset) {
      float value = alpha * values_[index(n, c, h, w)];
      if (beta != 0) value += beta * load(tensor_.type, memory, offset);  // else it is not read
      store(tensor_.type, memory, offset, value);
    });
  }

  float* at(std::int64_t n, std::int64_t h, std::int64_t w, std::int64_t c) {
    return &values_[index(n, c, h, w)];
  }
  /// The first of a group's c x k values of one place of the filter.
  float* filter(std::int64_t group, std::int64_t r, std::int64_t s) {
    return &values_[index(group * (tensor_.dims[0] / groups_), 0, r, s)];
  }

 private:
  [[nodiscard]] std::size_t index(std::int64_t n, std::int64_t c, std::int64_t h,
                                  std::int64_t w) const {
    const auto& d = tensor_.dims;
    if (groups_ == 0) return static_cast<std::size_t>(((n * d[2] + h) * d[3] + w) * d[1] + c);
    const std::int64_t filters = d[0] / groups_;
    return static_cast<std::size_t>((((n / filters * d[2] + h) * d[3] + w) * d[1] + c) * filters +
                                    n % filters);
  }

  const ConvolutionTensor& tensor_;
  std::int64_t groups_;  ///< 0: activations
  std::vector<float> values_;
};

/// visit(channels of x, channels of y, filter) for every place that the filter touches.
template <typename Visit>
void for_each_place(const Convolution& c, std::int64_t groups, Packed& x, Packed& w, Packed& y,
                    Visit visit) {
  for (std::int64_t n = 0; n < c.y.dims[0]; ++n)
    for (std::int64_t p = 0; p < c.y.dims[2]; ++p)
      for (std::int64_t q = 0; q < c.y.dims[3]; ++q)
        for (std::int64_t r = 0; r < c.w.dims[2]; ++r)
          for (std::int64_t s = 0; s < c.w.dims[3]; ++s) {
            const std::int64_t i = p * c.stride[0] - c.pre_padding[0] + r * c.dilation[0];
            const std::int64_t j = q * c.stride[1] - c.pre_padding[1] + s * c.dilation[1];
            if (i < 0 || i >= c.x.dims[2] || j < 0 || j >= c.x.dims[3]) continue;
            for (std::int64_t g = 0; g < groups; ++g)
              visit(x.at(n, i, j, g * c.w.dims[1]), y.at(n, p, q, g * (c.y.dims[1] / groups)),
                    w.filter(g, r, s));
          }
}

/// Of one place: y += x w, x += y w or w += x y.
template <Direction direction>
void multiply(float* x, float* y, float* w, std::int64_t channels, std::int64_t filters) {
  for (std::int64_t c = 0; c < channels; ++c, w += filters) {
    float sum = 0;
    for (std::int64_t k = 0; k < filters; ++k) {
      if constexpr (direction == Direction::forward) y[k] += x[c] * w[k];
      if constexpr (direction == Direction::backward_filter) w[k] += x[c] * y[k];
      if constexpr (direction == Direction::backward_data) sum += y[k] * w[k];
    }
    if constexpr (direction == Direction::backward_data) x[c] += sum;
  }
}

}  // namespace

bool Convolution::shapes_fit() const {
  const std::int64_t channels = w.dims[1];
  if (x.dims[0] != y.dims[0] || w.dims[0] != y.dims[1] || channels < 1 ||
      x.dims[1] % channels != 0 || w.dims[0] % (x.dims[1] / channels) != 0)
    return false;
  for (std::size_t i = 0; i < 2; ++i) {
    const std::int64_t filter = (w.dims[2 + i] - 1) * dilation[i] + 1;
    const std::int64_t padded = x.dims[2 + i] + pre_padding[i] + post_padding[i];
    if (padded < filter || (padded - filter) / stride[i] + 1 != y.dims[2 + i]) return false;
  }
  return true;
}

void convolve(const Convolution& c, void* x_memory, void* w_memory, void* y_memory) {
  const std::int64_t groups = c.x.dims[1] / c.w.dims[1];
  const std::int64_t channels = c.w.dims[1], filters = c.w.dims[0] / groups;
  Packed x(c.x), w(c.w, groups), y(c.y);
  if (c.direction != Direction::backward_data) x.load_from(x_memory, c.tf32);
  if (c.direction != Direction::backward_filter) w.load_from(w_memory, c.tf32);
  if (c.direction != Direction::forward) y.load_from(y_memory, c.tf32);
  for_each_place(c, groups, x, w, y, [&](float* at_x, float* at_y, float* at_w) {
    switch (c.direction) {
      case Direction::forward:
        return multiply<Direction::forward>(at_x, at_y, at_w, channels, filters);
      case Direction::backward_data:
        return multiply<Direction::backward_data>(at_x, at_y, at_w, channels, filters);
      case Direction::backward_filter:
        return multiply<Direction::backward_filter>(at_x, at_y, at_w, channels, filters);
    }
  });
  if (c.direction == Direction::forward) y.store_to(y_memory, c.alpha, c.beta);
  if (c.direction == Direction::backward_data) x.store_to(x_memory, c.alpha, c.beta);
  if (c.direction == Direction::backward_filter) w.store_to(w_memory, c.alpha, c.beta);
}

}  // namespace emulated_cuda
