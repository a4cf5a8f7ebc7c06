#include "codelets/concat.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "codelets/cpu.hpp"

namespace stpt::codelets {
namespace {

using runtime::Layout;
using runtime::Shape;

/// Every part but the last ends where a block of channels does.
bool keeps_blocks(const Concat& concat, Layout layout) {
  if (layout == Layout::nchw || layout == Layout::nhwc) return true;
  return std::all_of(concat.parts.begin(), concat.parts.end() - 1, [layout](const auto& part) {
    return part.shape.c % runtime::channel_block(layout, part.shape.c) == 0;
  });
}

/// The whole's memory is stretches of the parts in turn: an image's, or in nhwc a pixel's channels.
class Stretches {
 public:
  Stretches(const char* op, const Concat& concat) {
    const std::string what = describe_op(op, concat);
    for (const TensorSpec& part : concat.parts) cpu::require_plain(what + ": part", part);
    cpu::require_plain(what + ": whole", concat.whole);
    require_consistent(what, concat);
    const Shape& shape = concat.whole.shape;
    count_ = static_cast<std::size_t>(
        concat.whole.layout == Layout::nhwc ? shape.n * shape.spatial() : shape.n);
    for (const TensorSpec& part : concat.parts) bytes_.push_back(part.bytes() / count_);
  }

  /// Calls visit(part, offset in it, offset in the whole, bytes) for each.
  template <class Visit>
  void for_each(Visit visit) const {
    std::size_t at = 0;
    for (std::size_t stretch = 0; stretch < count_; ++stretch) {
      for (std::size_t part = 0; part < bytes_.size(); at += bytes_[part++])
        visit(part, stretch * bytes_[part], at, bytes_[part]);
    }
  }

  [[nodiscard]] std::size_t parts() const { return bytes_.size(); }

 private:
  std::size_t count_;               ///< of each part
  std::vector<std::size_t> bytes_;  ///< [part], of one
};

class Join final : public Kernel {
 public:
  explicit Join(const ConcatForward& op) : stretches_("concat forward", op.concat) {}
  void run(std::span<void* const> args, void*, Stream) const override {
    auto* whole = static_cast<std::byte*>(args[stretches_.parts()]);
    stretches_.for_each([&](std::size_t part, std::size_t from, std::size_t to, std::size_t bytes) {
      if (args[part] != nullptr) {
        std::memcpy(whole + to, static_cast<const std::byte*>(args[part]) + from, bytes);
      } else {
        std::memset(whole + to, 0, bytes);
      }
    });
  }

 private:
  Stretches stretches_;
};

class TakeApart final : public Kernel {
 public:
  explicit TakeApart(const ConcatBackward& op) : stretches_("concat backward", op.concat) {}
  void run(std::span<void* const> args, void*, Stream) const override {
    const auto* whole = static_cast<const std::byte*>(args[0]);
    stretches_.for_each([&](std::size_t part, std::size_t to, std::size_t from, std::size_t bytes) {
      if (args[1 + part] != nullptr)
        std::memcpy(static_cast<std::byte*>(args[1 + part]) + to, whole + from, bytes);
    });
  }

 private:
  Stretches stretches_;
};

}  // namespace

std::string describe_op(const char* op, const Concat& concat) {
  return std::string(op) + " of " + std::to_string(concat.parts.size()) + " parts to " +
         concat.whole.to_string();
}

Shape concat_output(std::span<const Shape> parts) {
  if (parts.empty()) throw std::invalid_argument("concat: there must be a part");
  Shape whole = parts.front();
  whole.c = 0;
  for (const Shape& part : parts) {
    const Shape alike{whole.n, part.c, whole.h, whole.w};
    if (part != alike) {
      throw std::invalid_argument("concat: cannot join " + parts.front().to_string() + " and " +
                                  part.to_string() + ": only channels may differ");
    }
    whole.c += part.c;
  }
  return whole;
}

void require_consistent(const std::string& what, const Concat& concat) {
  std::vector<Shape> shapes;
  for (const TensorSpec& part : concat.parts) {
    shapes.push_back(part.shape);
    const TensorSpec alike{part.shape, concat.whole.type, concat.whole.layout};
    if (part != alike)
      throw std::invalid_argument(what + ": part " + part.to_string() + " must be " +
                                  alike.to_string());
  }
  const Shape expected = concat_output(shapes);
  if (concat.whole.shape != expected)
    throw std::invalid_argument(what + ": the whole must be " + expected.to_string());
  if (!keeps_blocks(concat, concat.whole.layout))
    throw std::invalid_argument(what + ": parts must have whole blocks of channels; nchw has none");
}

void choose_layout(Concat& concat, Cpu) {
  Layout layout = concat.parts.at(0).layout;
  if (!keeps_blocks(concat, layout)) layout = Layout::nchw;
  for (TensorSpec& part : concat.parts) part.layout = layout;
  concat.whole.layout = layout;
}

KernelPtr plan(const ConcatForward& op, Cpu) { return std::make_unique<Join>(op); }
KernelPtr plan(const ConcatBackward& op, Cpu) { return std::make_unique<TakeApart>(op); }

}  // namespace stpt::codelets
