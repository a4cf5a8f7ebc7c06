#include "codelets/channel_shuffle.hpp"

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "codelets/cpu.hpp"

namespace stpt::codelets {
namespace {

/// An image is blocks of channels, and in each block pixel after pixel.
class Shuffle final : public Kernel {
 public:
  explicit Shuffle(const ChannelShuffle& op)
      : images_(op.x.shape.n),
        pixels_(op.x.shape.spatial()),
        width_(runtime::channel_block(op.x.layout, op.x.shape.c)) {
    const std::int64_t channels = op.x.shape.c, of_group = channels / op.groups;
    image_ = op.x.stored_elements() / images_;
    for (std::int64_t to = 0; to < image_ / pixels_; ++to) {
      const std::int64_t from = to % op.groups * of_group + to / op.groups;
      from_.push_back(to < channels ? from / width_ * width_ * pixels_ + from % width_ : padding);
    }
  }

  void run(std::span<void* const> args, void*, Stream) const override {
    const auto* x = static_cast<const float*>(args[0]);
    auto* y = static_cast<float*>(args[1]);
    for (std::int64_t image = 0; image < images_; ++image, x += image_) {
      for (auto from = from_.begin(); from != from_.end(); from += width_, y += pixels_ * width_) {
        if (width_ == 1) {
          std::copy_n(x + *from, pixels_, y);
        } else {
          copy_block(x, &*from, y);
        }
      }
    }
  }

 private:
  static constexpr std::int64_t padding = -1;

  void copy_block(const float* image, const std::int64_t* from, float* block) const {
    for (std::int64_t i = 0; i < width_; ++i) {
      if (from[i] == padding) {
        for (std::int64_t pixel = 0; pixel < pixels_; ++pixel) block[pixel * width_ + i] = 0;
      } else {
        const float* source = image + from[i];
        for (std::int64_t pixel = 0; pixel < pixels_; ++pixel)
          block[pixel * width_ + i] = source[pixel * width_];
      }
    }
  }

  std::int64_t images_, pixels_, width_;
  std::int64_t image_;              ///< elements of one, with padding
  std::vector<std::int64_t> from_;  ///< [channel of y], where its first pixel lies in an image of x
};

}  // namespace

void require_valid(const ChannelShuffle& shuffle) {
  if (shuffle.groups >= 1 && shuffle.x.shape.c % shuffle.groups == 0) return;
  throw std::invalid_argument("channel shuffle: " + std::to_string(shuffle.groups) +
                              " groups do not divide the channels of " +
                              shuffle.x.shape.to_string());
}

ChannelShuffle inverse(const ChannelShuffle& shuffle) {
  return {shuffle.x, static_cast<int>(shuffle.x.shape.c) / shuffle.groups};
}

KernelPtr plan(const ChannelShuffle& op, Cpu) {
  cpu::require_plain("ChannelShuffle", op.x);
  require_valid(op);
  return std::make_unique<Shuffle>(op);
}

}  // namespace stpt::codelets
