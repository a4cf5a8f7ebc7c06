#include "codelets/multiply.hpp"

#include <algorithm>
#include <memory>

#include "codelets/cpu.hpp"

// The CPU implementation. Padding needs no care: zeros times zeros are zeros.

namespace stpt::codelets {
namespace {

/// An image is blocks of channels, and in each block pixel after pixel.
class Blocks {
 public:
  Blocks(const char* op, const TensorSpec& x) {
    cpu::require_plain(op, x);
    pixels_ = x.shape.spatial();
    width_ = runtime::channel_block(x.layout, x.shape.c);
    count_ = x.stored_elements() / (pixels_ * width_);
  }

  /// Calls visit(first factor, first value, width, pixels) for each block of each image.
  template <class Visit>
  void for_each(Visit visit) const {
    for (std::int64_t block = 0; block < count_; ++block)
      visit(block * width_, block * width_ * pixels_, width_, pixels_);
  }

 private:
  std::int64_t pixels_, width_, count_;
};

class Multiply final : public Kernel {
 public:
  explicit Multiply(const MultiplyForward& op) : blocks_("MultiplyForward", op.x) {}

  void run(std::span<void* const> args, void*, Stream) const override {
    const auto* x = static_cast<const float*>(args[0]);
    const auto* factors = static_cast<const float*>(args[1]);
    auto* y = static_cast<float*>(args[2]);
    blocks_.for_each(
        [&](std::int64_t factor, std::int64_t at, std::int64_t width, std::int64_t pixels) {
          for (std::int64_t pixel = 0; pixel < pixels; ++pixel, at += width) {
            for (std::int64_t i = 0; i < width; ++i) y[at + i] = x[at + i] * factors[factor + i];
          }
        });
  }

 private:
  Blocks blocks_;
};

class MultiplyGradient final : public Kernel {
 public:
  explicit MultiplyGradient(const MultiplyBackward& op) : blocks_("MultiplyBackward", op.x) {}

  void run(std::span<void* const> args, void*, Stream) const override {
    const auto* x = static_cast<const float*>(args[0]);
    const auto* factors = static_cast<const float*>(args[1]);
    const auto* d_y = static_cast<const float*>(args[2]);
    auto* d_x = static_cast<float*>(args[3]);
    auto* d_factors = static_cast<float*>(args[4]);
    blocks_.for_each(
        [&](std::int64_t factor, std::int64_t at, std::int64_t width, std::int64_t pixels) {
          float* const sums = d_factors + factor;
          std::fill_n(sums, width, 0.0f);
          for (std::int64_t pixel = 0; pixel < pixels; ++pixel, at += width) {
            for (std::int64_t i = 0; i < width; ++i) sums[i] += d_y[at + i] * x[at + i];
            if (d_x == nullptr) continue;
            for (std::int64_t i = 0; i < width; ++i)
              d_x[at + i] = d_y[at + i] * factors[factor + i];
          }
        });
  }

 private:
  Blocks blocks_;
};

}  // namespace

TensorSpec multiply_factors(const TensorSpec& x) {
  return {{x.shape.n, x.shape.c, 1, 1}, x.type, x.layout};
}

KernelPtr plan(const MultiplyForward& op, Cpu) { return std::make_unique<Multiply>(op); }
KernelPtr plan(const MultiplyBackward& op, Cpu) { return std::make_unique<MultiplyGradient>(op); }

}  // namespace stpt::codelets
