#include "codelets/pad2d.hpp"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "codelets/cpu.hpp"

namespace stpt::codelets {
namespace {

/// Images are planes of rows of pixels, and pixels some channels that lie together.
class Planes {
 public:
  Planes(const char* op, const Pad2d& pad) : pad_(pad) {
    const std::string what = describe_op(op, pad);
    cpu::require_plain(op, pad.src);
    cpu::require_plain(op, pad.dst);
    require_consistent(what, pad);
    pixel_ = runtime::channel_block(pad.src.layout, pad.src.shape.c);
    count_ = pad.src.stored_elements() / (pad.src.shape.spatial() * pixel_);
    row_ = pad.src.shape.w * pixel_;
    wide_row_ = pad.dst.shape.w * pixel_;
    first_ = pad.before.w * pixel_;
  }

  /// visit(where a row of src begins in src, and in dst) for all rows of src.
  template <class Visit>
  void for_each_row(Visit visit) const {
    const std::int64_t height = pad_.src.shape.h, wide_height = pad_.dst.shape.h;
    for (std::int64_t plane = 0; plane < count_; ++plane) {
      for (std::int64_t y = 0; y < height; ++y)
        visit((plane * height + y) * row_,
              (plane * wide_height + y + pad_.before.h) * wide_row_ + first_);
    }
  }

  [[nodiscard]] std::int64_t row() const { return row_; }
  [[nodiscard]] std::int64_t elements() const { return pad_.dst.stored_elements(); }

 private:
  Pad2d pad_;
  std::int64_t pixel_ = 0, count_ = 0, row_ = 0, wide_row_ = 0;
  std::int64_t first_ = 0;  ///< in a row of dst that of src
};

class Forward final : public Kernel {
 public:
  explicit Forward(const Pad2dForward& op) : planes_("Pad2dForward", op.pad) {}
  void run(std::span<void* const> args, void*, Stream) const override {
    const auto* src = static_cast<const float*>(args[0]);
    auto* dst = static_cast<float*>(args[1]);
    float* end = dst;  // of what is written
    planes_.for_each_row([&](std::int64_t from, std::int64_t to) {
      std::fill(end, dst + to, 0.0f);
      end = std::copy_n(src + from, planes_.row(), dst + to);
    });
    std::fill(end, dst + planes_.elements(), 0.0f);
  }

 private:
  Planes planes_;
};

class Backward final : public Kernel {
 public:
  explicit Backward(const Pad2dBackward& op) : planes_("Pad2dBackward", op.pad) {}
  void run(std::span<void* const> args, void*, Stream) const override {
    const auto* d_dst = static_cast<const float*>(args[0]);
    auto* d_src = static_cast<float*>(args[1]);
    planes_.for_each_row([&](std::int64_t to, std::int64_t from) {
      std::copy_n(d_dst + from, planes_.row(), d_src + to);
    });
  }

 private:
  Planes planes_;
};

}  // namespace

std::string describe_op(const char* op, const Pad2d& pad) {
  return std::string(op) + " " + pad.src.to_string() + " to " + pad.dst.shape.to_string();
}

void require_consistent(const std::string& what, const Pad2d& pad) {
  const runtime::Shape &src = pad.src.shape, &dst = pad.dst.shape;
  if (pad.dst != TensorSpec{dst, pad.src.type, pad.src.layout} || dst.n != src.n || dst.c != src.c)
    throw std::invalid_argument(what + ": only height and width may differ");
  if (pad.before.h < 0 || pad.before.w < 0 || pad.before.h + src.h > dst.h ||
      pad.before.w + src.w > dst.w)
    throw std::invalid_argument(what + ": the image must lie within what it is padded to");
}

KernelPtr plan(const Pad2dForward& op, Cpu) { return std::make_unique<Forward>(op); }
KernelPtr plan(const Pad2dBackward& op, Cpu) { return std::make_unique<Backward>(op); }

}  // namespace stpt::codelets
