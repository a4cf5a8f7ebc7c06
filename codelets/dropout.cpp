#include "codelets/dropout.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "codelets/cpu.hpp"
#include "runtime/random.hpp"

namespace stpt::codelets {
namespace {

/// The words of an image's places, one after the other.
runtime::Random words_of(const runtime::PhiloxKey& key, std::uint32_t layer) {
  return {std::uint64_t{key[1]} << 32U | key[0], 0, layer};
}

class Drop final : public Kernel {
 public:
  explicit Drop(const Dropout& op) : op_(op) {
    cpu::require_plain("Dropout", op.x);
    require_consistent("Dropout " + op.x.to_string(), op);
  }

  void run(std::span<void* const> args, void*, Stream) const override {
    const auto* x = static_cast<const float*>(args[0]);
    const auto* keys = static_cast<const runtime::PhiloxKey*>(args[1]);
    auto* y = static_cast<float*>(args[2]);
    const auto& [n, channels, h, w] = op_.x.shape;
    const std::int64_t pixels = h * w;
    const std::int64_t block = runtime::channel_block(op_.x.layout, channels);
    const std::int64_t stored = op_.x.stored_elements() / n;
    const std::uint32_t threshold = op_.threshold();
    const float scale = op_.scale();
    for (std::int64_t image = 0; image < n; ++image, x += stored, y += stored) {
      runtime::Random words = words_of(keys[image], op_.layer);
      const auto factor = [&] { return words.next() >= threshold ? scale : 0; };
      if (op_.dropped == Dropped::images) {
        const float of_image = factor();
        for (std::int64_t i = 0; i < stored; ++i) y[i] = x[i] * of_image;  // keeps padding 0
        continue;
      }
      const bool whole_channels = op_.dropped == Dropped::channels;
      std::vector<float> of_channels;
      for (std::int64_t c = 0; whole_channels && c < channels; ++c) of_channels.push_back(factor());
      for (std::int64_t pixel = 0; pixel < pixels; ++pixel) {
        for (std::int64_t first = 0; first < channels; first += block) {
          const std::int64_t at = first * pixels + pixel * block;
          const std::int64_t count = std::min(block, channels - first);
          for (std::int64_t i = 0; i < count; ++i)
            y[at + i] =
                x[at + i] *
                (whole_channels ? of_channels[static_cast<std::size_t>(first + i)] : factor());
          std::fill(y + at + count, y + at + block, 0.0f);  // padding
        }
      }
    }
  }

 private:
  Dropout op_;
};

}  // namespace

std::uint32_t Dropout::threshold() const {
  // A rate next to 1 would round to 2^32.
  return static_cast<std::uint32_t>(
      std::min(std::round(rate * 0x1p32), double{std::numeric_limits<std::uint32_t>::max()}));
}

void require_consistent(const std::string& what, const Dropout& op) {
  if (!(op.rate >= 0 && op.rate < 1))
    throw std::invalid_argument(what + ": the rate must be at least 0 and below 1");
}

KernelPtr plan(const Dropout& op, Cpu) { return std::make_unique<Drop>(op); }

}  // namespace stpt::codelets
