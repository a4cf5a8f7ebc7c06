#include "codelets/pool2d.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "codelets/cpu.hpp"
#include "codelets/onednn.hpp"

namespace stpt::codelets {

namespace {

using dnnl::pooling_backward;
using dnnl::pooling_forward;
using onednn::MemoryDesc;
using onednn::Program;
using runtime::Layout;
using runtime::Shape;

void require_consistent(const char* op, const Pool2d& pool) {
  cpu::require_plain(std::string(op) + ": src", pool.src);
  cpu::require_plain(std::string(op) + ": dst", pool.dst);
  const Shape expected = pool2d_output(pool.src.shape, pool.window, pool.ceil_mode);
  if (pool.dst.shape != expected || pool.dst.layout != pool.src.layout) {
    onednn::fail(describe_op(op, pool),
                 "dst must be " + expected.to_string() + " " + runtime::to_string(pool.src.layout));
  }
}

/// oneDNN's maximum passes over a NaN, which would hide that a run diverges: makes every maximum
/// whose window holds one NaN.
void spread_nan(const Pool2d& pool, std::span<const float> src, std::span<float> dst) {
  // Almost always there is none, and this loop is all that is done.
  int found = 0;
  for (const float x : src) found |= x != x;
  if (found == 0) return;

  const auto offset = [](const runtime::TensorSpec& spec, std::int64_t n, std::int64_t c,
                         std::int64_t h, std::int64_t w) {
    const Shape& s = spec.shape;
    const std::int64_t block = runtime::channel_block(spec.layout, s.c);
    const std::int64_t blocks = (s.c + block - 1) / block;
    return static_cast<std::size_t>((((n * blocks + c / block) * s.h + h) * s.w + w) * block +
                                    c % block);
  };
  const Shape &in = pool.src.shape, &out = pool.dst.shape;
  const auto& [kernel, stride, padding, dilation] = pool.window;
  const auto window_has_nan = [&](std::int64_t n, std::int64_t c, std::int64_t y, std::int64_t x) {
    const std::int64_t top = y * stride.h - padding.h, left = x * stride.w - padding.w;
    for (auto h = std::max<std::int64_t>(top, 0); h < std::min(top + kernel.h, in.h); ++h) {
      for (auto w = std::max<std::int64_t>(left, 0); w < std::min(left + kernel.w, in.w); ++w) {
        if (std::isnan(src[offset(pool.src, n, c, h, w)])) return true;
      }
    }
    return false;
  };
  for (std::int64_t n = 0; n < out.n; ++n) {
    for (std::int64_t c = 0; c < out.c; ++c) {
      for (std::int64_t y = 0; y < out.h; ++y) {
        for (std::int64_t x = 0; x < out.w; ++x) {
          if (window_has_nan(n, c, y, x)) {
            dst[offset(pool.dst, n, c, y, x)] = std::numeric_limits<float>::quiet_NaN();
          }
        }
      }
    }
  }
}

/// What each place of dst is to be multiplied by because oneDNN counts all of a window that reaches
/// beyond the padding; empty where none does.
std::vector<float> corrections(const Pool2d& pool) {
  const Shape &in = pool.src.shape, &out = pool.dst.shape;
  if (pool.kind == PoolKind::max || !pool.count_padding || out == slide(pool.window, in)) return {};
  const auto factor = [](std::int64_t at, std::int64_t src, int kernel, int stride, int padding) {
    const std::int64_t counted = std::min<std::int64_t>(kernel, src + 2 * padding - at * stride);
    return static_cast<float>(kernel) / static_cast<float>(counted);
  };
  const auto& [kernel, stride, padding, dilation] = pool.window;
  std::vector<float> factors;
  for (std::int64_t y = 0; y < out.h; ++y) {
    for (std::int64_t x = 0; x < out.w; ++x)
      factors.push_back(factor(y, in.h, kernel.h, stride.h, padding.h) *
                        factor(x, in.w, kernel.w, stride.w, padding.w));
  }
  return factors;
}

/// Each element of dst times its place's factor; `to` may be `from`.
void correct(const TensorSpec& dst, std::span<const float> factors, const float* from, float* to) {
  const auto block = static_cast<std::size_t>(runtime::channel_block(dst.layout, dst.shape.c));
  const auto count = static_cast<std::size_t>(dst.stored_elements());
  for (std::size_t i = 0; i < count; ++i) to[i] = from[i] * factors[i / block % factors.size()];
}

struct Descriptors {
  pooling_forward::primitive_desc forward;
  pooling_backward::primitive_desc backward;
};

/// What oneDNN is asked for: a forward pass of some kind, or a backward pass, which has none.
template <typename Pass, typename... Kind>
typename Pass::desc pass_in(const Pool2d& pool, Layout layout, Kind... kind) {
  const auto& [kernel, stride, padding, dilation] = pool.window;
  const Shape &in = pool.src.shape, &out = pool.dst.shape;
  // Behind the source as much as the last window needs.
  const auto behind = [](std::int64_t src, std::int64_t dst, int size, int step, int before) {
    return std::max<std::int64_t>(before, (dst - 1) * step + size - before - src);
  };
  const dnnl::memory::dims before{padding.h, padding.w},
      after{behind(in.h, out.h, kernel.h, stride.h, padding.h),
            behind(in.w, out.w, kernel.w, stride.w, padding.w)};
  const auto algorithm = pool.kind == PoolKind::max ? dnnl::algorithm::pooling_max
                         : pool.count_padding       ? dnnl::algorithm::pooling_avg_include_padding
                                                    : dnnl::algorithm::pooling_avg_exclude_padding;
  const MemoryDesc src = onednn::describe(in, layout), dst = onednn::describe(out, layout);
  return {kind..., algorithm, src, dst, {stride.h, stride.w}, {kernel.h, kernel.w}, before, after};
}

pooling_forward::primitive_desc forward_in(const Pool2d& pool, Layout layout,
                                           dnnl::prop_kind kind) {
  return {pass_in<pooling_forward>(pool, layout, kind), onednn::user_scratchpad(), onednn::engine(),
          /*allow_empty=*/true};
}

pooling_backward::primitive_desc backward_in(const Pool2d& pool, Layout layout,
                                             const pooling_forward::primitive_desc& forward) {
  return {pass_in<pooling_backward>(pool, layout), onednn::user_scratchpad(), onednn::engine(),
          forward, /*allow_empty=*/true};
}

/// Forward and backward in one layout, because they share the winners' positions, whose order
/// depends on it. Mostly the layout of the tensors.
Descriptors describe(const Pool2d& pool) {
  std::vector<Layout> candidates = {pool.src.layout};
  candidates.insert(candidates.end(), onednn::layouts.begin(), onednn::layouts.end());
  Descriptors best;
  int least = 0;
  for (const Layout layout : candidates) {
    auto forward = forward_in(pool, layout, dnnl::prop_kind::forward_training);
    if (!forward) continue;
    auto backward = backward_in(pool, layout, forward);
    if (!backward) continue;
    const int reorders = layout == pool.src.layout ? 0 : 2;
    const int price = onednn::cost(forward.impl_info_str(), reorders) +
                      onednn::cost(backward.impl_info_str(), reorders);
    if (!best.forward || price < least) least = price, best = {forward, backward};
  }
  if (!best.forward) onednn::fail(describe_op("pool2d", pool), "oneDNN has no implementation");
  return best;
}

}  // namespace

std::string describe_op(const char* op, const Pool2d& pool) {
  return std::string(op) + (pool.kind == PoolKind::max ? " max " : " average ") +
         pool.src.to_string() + " -> " + pool.dst.to_string() + ", " + to_string(pool.window) +
         (pool.count_padding ? ", count_padding" : "") + (pool.ceil_mode ? ", ceil_mode" : "");
}

Shape pool2d_output(const Shape& src, const Window& window, bool ceil_mode) {
  const std::string what =
      "pool2d of " + src.to_string() + ", " + to_string(window) + (ceil_mode ? ", ceil_mode" : "");
  const auto& [kernel, stride, padding, dilation] = window;
  if (kernel.smallest() < 1 || stride.smallest() < 1)
    onednn::fail(what, "kernel and stride must be at least 1");
  // Otherwise a window could lie in the padding alone, which has neither a maximum nor an average.
  if (padding.smallest() < 0 || padding.h >= kernel.h || padding.w >= kernel.w)
    onednn::fail(what, "the padding must be at least 0 and smaller than the kernel");
  if (dilation != 1) onednn::fail(what, "a pool has no dilation");
  const Shape dst = slide(window, src, ceil_mode);
  if (dst.h < 1 || dst.w < 1)
    onednn::fail(what, "the window must not be larger than " + describe_padded(window, src));
  return dst;
}

std::size_t pool2d_indices_bytes(const Pool2d& pool, Cpu) {
  require_consistent("pool2d", pool);
  return onednn::explained(describe_op("pool2d", pool),
                           [&] { return describe(pool).forward.workspace_desc().get_size(); });
}

KernelPtr plan(const Pool2dForward& op, Cpu) {
  const Pool2d& pool = op.pool;
  require_consistent("pool2d forward", pool);
  const std::string name = describe_op("pool2d forward", pool);
  return onednn::explained(name, [&]() -> KernelPtr {
    auto pd = describe(pool).forward;
    if (!op.training) {
      const Layout layout = onednn::layout_of(pd.src_desc());
      if (const auto inference = forward_in(pool, layout, dnnl::prop_kind::forward_inference)) {
        pd = inference;
      }
    }
    auto program = std::make_unique<Program>(name, 3);
    const auto src_at = Program::argument(0), dst_at = Program::argument(1);
    const auto indices_at = Program::argument(2);
    const MemoryDesc src = onednn::describe(pool.src), dst = onednn::describe(pool.dst);

    const auto result = program->write_as(dst_at, dst, pd.dst_desc());
    std::vector<Program::Operand> operands = {
        {DNNL_ARG_SRC, pd.src_desc(), program->read_as(src_at, src, pd.src_desc())},
        {DNNL_ARG_DST, pd.dst_desc(), result}};
    if (const MemoryDesc indices = pd.workspace_desc(); indices.get_size() > 0)
      operands.push_back({DNNL_ARG_WORKSPACE, indices, indices_at});
    program->add(pd, pooling_forward(pd), operands);
    program->write_back(result, pd.dst_desc(), dst_at, dst);
    if (pool.kind == PoolKind::max) {
      const auto src_count = static_cast<std::size_t>(pool.src.stored_elements());
      const auto dst_count = static_cast<std::size_t>(pool.dst.stored_elements());
      program->finish_with([pool, src_count, dst_count](std::span<void* const> args) {
        spread_nan(pool, {static_cast<const float*>(args[0]), src_count},
                   {static_cast<float*>(args[1]), dst_count});
      });
    } else if (auto factors = corrections(pool); !factors.empty()) {
      program->finish_with([dst = pool.dst, factors](std::span<void* const> args) {
        auto* const averages = static_cast<float*>(args[1]);
        correct(dst, factors, averages, averages);
      });
    }
    return program;
  });
}

KernelPtr plan(const Pool2dBackward& op, Cpu) {
  const Pool2d& pool = op.pool;
  require_consistent("pool2d backward", pool);
  const std::string name = describe_op("pool2d backward", pool);
  return onednn::explained(name, [&]() -> KernelPtr {
    const auto pd = describe(pool).backward;
    auto program = std::make_unique<Program>(name, 3);
    auto d_dst_at = Program::argument(0);
    const auto indices_at = Program::argument(1), d_src_at = Program::argument(2);
    const MemoryDesc d_src = onednn::describe(pool.src), d_dst = onednn::describe(pool.dst);
    if (auto factors = corrections(pool); !factors.empty()) {
      d_dst_at = program->temporary(d_dst);
      program->prepare_with([dst = pool.dst, factors, at = d_dst_at.at](std::span<void* const> args,
                                                                        std::byte* workspace) {
        correct(dst, factors, static_cast<const float*>(args[0]),
                reinterpret_cast<float*>(workspace + at));
      });
    }

    const auto result = program->write_as(d_src_at, d_src, pd.diff_src_desc());
    std::vector<Program::Operand> operands = {
        {DNNL_ARG_DIFF_DST, pd.diff_dst_desc(),
         program->read_as(d_dst_at, d_dst, pd.diff_dst_desc())},
        {DNNL_ARG_DIFF_SRC, pd.diff_src_desc(), result}};
    if (const MemoryDesc indices = pd.workspace_desc(); indices.get_size() > 0)
      operands.push_back({DNNL_ARG_WORKSPACE, indices, indices_at});
    program->add(pd, pooling_backward(pd), operands);
    program->write_back(result, pd.diff_src_desc(), d_src_at, d_src);
    return program;
  });
}

}  // namespace stpt::codelets
