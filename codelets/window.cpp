#include "codelets/window.hpp"

#include <cstdint>

namespace stpt::codelets {

std::string to_string(PerAxis numbers) {
  const std::string h = std::to_string(numbers.h);
  return numbers.h == numbers.w ? h : h + "x" + std::to_string(numbers.w);
}

std::string to_string(const Window& window) {
  std::string text = "kernel " + std::to_string(window.kernel.h) + "x" +
                     std::to_string(window.kernel.w) + ", stride " + to_string(window.stride) +
                     ", padding " + to_string(window.padding);
  if (window.dilation != 1) text += ", dilation " + to_string(window.dilation);
  return text;
}

std::string describe_padded(const Window& window, const runtime::Shape& src) {
  const auto size = [](std::int64_t h, std::int64_t w) {
    return std::to_string(h) + "x" + std::to_string(w);
  };
  std::string text =
      "the padded source, " + size(src.h + 2 * window.padding.h, src.w + 2 * window.padding.w);
  const PerAxis span = window.span();
  if (span != window.kernel) text += ", for it spans " + size(span.h, span.w);
  return text;
}

runtime::Shape slide(const Window& window, const runtime::Shape& src, bool ceil_mode) {
  const auto places = [ceil_mode](std::int64_t size, int span, int stride, int padding) {
    const std::int64_t room = size + 2 * padding - span + (ceil_mode ? stride - 1 : 0);
    if (room < 0) return std::int64_t{0};
    const std::int64_t last = room / stride;
    return ceil_mode && last * stride >= size + padding ? last : last + 1;
  };
  const PerAxis span = window.span();
  return {src.n, src.c, places(src.h, span.h, window.stride.h, window.padding.h),
          places(src.w, span.w, window.stride.w, window.padding.w)};
}

}  // namespace stpt::codelets
