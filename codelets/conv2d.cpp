#include "codelets/conv2d.hpp"

#include <cstddef>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "codelets/cpu.hpp"
#include "codelets/onednn.hpp"

namespace stpt::codelets {

namespace {

using dnnl::convolution_backward_data;
using dnnl::convolution_backward_weights;
using dnnl::convolution_forward;
using onednn::MemoryDesc;
using onednn::Program;
using runtime::Layout;
using runtime::Shape;

// Winograd (algorithm::convolution_auto may choose it) rounds differently and gains little at these
// sizes on one core.
constexpr dnnl::algorithm algorithm = dnnl::algorithm::convolution_direct;

void require_consistent(const char* op, const Conv2d& conv) {
  cpu::require_plain(std::string(op) + ": src", conv.src);
  cpu::require_float32(std::string(op) + ": dst", conv.dst);
  const Shape expected = conv2d_output(conv.src.shape, conv.dst.shape.c, conv.window, conv.groups);
  if (conv.dst.shape != expected)
    onednn::fail(describe_op(op, conv), "dst must be " + expected.to_string());
}

/// Layouts to compute in. They may differ from those of the tensors: the kernel then reorders.
struct Layouts {
  Layout src = Layout::any;
  Layout dst = Layout::any;
};

/// oneDNN has the groups as a dimension of their own. Without it kernels are found for more
/// layouts.
dnnl::memory::dims weight_dimensions(const Conv2d& conv) {
  const auto [k, c, h, w] = conv.weights();
  if (conv.groups == 1) return {k, c, h, w};
  return {conv.groups, k / conv.groups, c, h, w};
}

/// The shapes as oneDNN wants them. Weights are `any`: the kernel reorders the canonical ones.
struct Problem {
  explicit Problem(const Conv2d& conv)
      : src(conv.src.shape),
        dst(conv.dst.shape),
        strides{conv.window.stride.h, conv.window.stride.w},
        gaps{conv.window.dilation.h - 1, conv.window.dilation.w - 1},
        padding{conv.window.padding.h, conv.window.padding.w},
        weight_dims(weight_dimensions(conv)),
        weights(weight_dims, dnnl::memory::data_type::f32, dnnl::memory::format_tag::any),
        canonical_weights(
            weight_dims, dnnl::memory::data_type::f32,
            conv.groups == 1 ? dnnl::memory::format_tag::oihw : dnnl::memory::format_tag::goihw) {
    if (conv.bias) bias = {{dst.c}, dnnl::memory::data_type::f32, dnnl::memory::format_tag::a};
  }

  [[nodiscard]] convolution_forward::primitive_desc forward(Layouts in) const {
    return {{dnnl::prop_kind::forward_training, algorithm, onednn::describe(src, in.src), weights,
             bias, onednn::describe(dst, in.dst), strides, gaps, padding, padding},
            onednn::user_scratchpad(),
            onednn::engine(),
            /*allow_empty=*/true};
  }

  [[nodiscard]] convolution_backward_data::primitive_desc backward_data(Layouts in) const {
    return {{algorithm, onednn::describe(src, in.src), weights, onednn::describe(dst, in.dst),
             strides, gaps, padding, padding},
            onednn::user_scratchpad(),
            onednn::engine(),
            forward(in),
            /*allow_empty=*/true};
  }

  [[nodiscard]] convolution_backward_weights::primitive_desc backward_weights(Layouts in) const {
    return {{algorithm, onednn::describe(src, in.src), weights, bias, onednn::describe(dst, in.dst),
             strides, gaps, padding, padding},
            onednn::user_scratchpad(),
            onednn::engine(),
            forward(in),
            /*allow_empty=*/true};
  }

  Shape src, dst;
  dnnl::memory::dims strides, gaps, padding, weight_dims;
  MemoryDesc weights, canonical_weights, bias;
};

/// Candidates in the order of preference: as the tensors are, as oneDNN would like best, the rest.
std::vector<Layouts> candidates(const Conv2d& conv, const Problem& problem) {
  std::vector<Layouts> result;
  if (conv.dst.layout != Layout::any) result.push_back({conv.src.layout, conv.dst.layout});
  if (const auto best = problem.forward({Layout::any, Layout::any})) {
    const Layouts liked{onednn::layout_of(best.src_desc()), onednn::layout_of(best.dst_desc())};
    if (liked.src != Layout::any && liked.dst != Layout::any) result.push_back(liked);
  }
  for (const Layout src : onednn::layouts) {
    for (const Layout dst : onednn::layouts) result.push_back({src, dst});
  }
  return result;
}

/// The cheapest descriptor that make(layouts) gives, and those layouts; of equals the first. `make`
/// gives an empty one where oneDNN has none.
template <typename Make>
auto cheapest(const Conv2d& conv, const Problem& problem, Make make) {
  std::pair<std::invoke_result_t<Make, const Layouts&>, Layouts> best;
  int least = std::numeric_limits<int>::max();
  const bool dst_is_free = conv.dst.layout == Layout::any;
  for (const Layouts& in : candidates(conv, problem)) {
    const int reorders = (in.src != conv.src.layout) + (!dst_is_free && in.dst != conv.dst.layout);
    // No implementation can make up for the reorders: spare the search.
    if (onednn::cost("jit", reorders) >= least) continue;
    const auto pd = make(in);
    if (!pd) continue;
    const int price = onednn::cost(pd.impl_info_str(), reorders);
    if (price < least) least = price, best = {pd, in};
  }
  if (!best.first) onednn::fail(describe_op("conv2d", conv), "oneDNN has no implementation");
  return best;
}

std::string describe_geometry(const Window& window, int groups) {
  std::string text = to_string(window);
  if (groups != 1) text += ", " + std::to_string(groups) + " groups";
  return text;
}

}  // namespace

std::string describe_op(const char* op, const Conv2d& conv) {
  return std::string(op) + " " + conv.src.to_string() + " -> " + conv.dst.to_string() + ", " +
         describe_geometry(conv.window, conv.groups);
}

Shape conv2d_output(const Shape& src, std::int64_t filters, const Window& window, int groups) {
  const std::string what =
      "conv2d of " + src.to_string() + ", " + describe_geometry(window, groups);
  if (filters < 1 || window.kernel.smallest() < 1 || window.stride.smallest() < 1)
    onednn::fail(what, "filters, kernel and stride must be at least 1");
  if (window.padding.smallest() < 0) onednn::fail(what, "the padding must not be negative");
  if (window.dilation.smallest() < 1) onednn::fail(what, "the dilation must be at least 1");
  const Shape places = slide(window, src);
  if (places.h < 1 || places.w < 1)
    onednn::fail(what, "the kernel must not be larger than " + describe_padded(window, src));
  if (groups < 1 || src.c % groups != 0 || filters % groups != 0) {
    onednn::fail(what, "the groups must divide the " + std::to_string(src.c) +
                           " channels and the " + std::to_string(filters) + " filters");
  }
  return {src.n, filters, places.h, places.w};
}

void choose_layout(Conv2d& conv, Cpu) {
  require_consistent("conv2d", conv);
  conv.dst.layout = Layout::any;
  onednn::explained(describe_op("conv2d", conv), [&] {
    const Problem problem(conv);
    conv.dst.layout =
        cheapest(conv, problem, [&](const Layouts& in) { return problem.forward(in); }).second.dst;
  });
}

std::int64_t conv2d_channels(std::int64_t channels, runtime::DataType, Cpu) { return channels; }

TensorSpec conv2d_weights(const Shape& weights, runtime::DataType, Cpu) {
  return {weights, runtime::DataType::float32, Layout::nchw};
}

KernelPtr plan(const Conv2dForward& op, Cpu) {
  const Conv2d& conv = op.conv;
  require_consistent("conv2d forward", conv);
  cpu::require_plain("conv2d forward: dst", conv.dst);
  const std::string name = describe_op("conv2d forward", conv);
  return onednn::explained(name, [&]() -> KernelPtr {
    const Problem problem(conv);
    const auto [pd, computed] =
        cheapest(conv, problem, [&](const Layouts& in) { return problem.forward(in); });
    auto program = std::make_unique<Program>(name, conv.bias ? 4 : 3);
    const auto src_at = Program::argument(0), weights_at = Program::argument(1);
    const auto bias_at = Program::argument(2), dst_at = Program::argument(conv.bias ? 3 : 2);
    const MemoryDesc src = onednn::describe(conv.src), dst = onednn::describe(conv.dst);

    const auto result = program->write_as(dst_at, dst, pd.dst_desc());
    std::vector<Program::Operand> operands = {
        {DNNL_ARG_SRC, pd.src_desc(), program->read_as(src_at, src, pd.src_desc())},
        {DNNL_ARG_WEIGHTS, pd.weights_desc(),
         program->read_as(weights_at, problem.canonical_weights, pd.weights_desc())},
        {DNNL_ARG_DST, pd.dst_desc(), result}};
    if (conv.bias) operands.push_back({DNNL_ARG_BIAS, pd.bias_desc(), bias_at});
    program->add(pd, convolution_forward(pd), operands);
    program->write_back(result, pd.dst_desc(), dst_at, dst);
    if (op.relu) {
      const auto count = static_cast<std::size_t>(conv.dst.stored_elements());
      program->finish_with([at = dst_at.at, count](std::span<void* const> args) {
        onednn::rectify({static_cast<float*>(args[at]), count});
      });
    }
    return program;
  });
}

KernelPtr plan(const Conv2dBackwardData& op, Cpu) {
  const Conv2d& conv = op.conv;
  require_consistent("conv2d backward data", conv);
  cpu::require_plain("conv2d backward data: d_dst", conv.dst);
  const std::string name = describe_op("conv2d backward data", conv);
  return onednn::explained(name, [&]() -> KernelPtr {
    const Problem problem(conv);
    const auto [pd, computed] =
        cheapest(conv, problem, [&](const Layouts& in) { return problem.backward_data(in); });
    auto program = std::make_unique<Program>(name, 3);
    const auto weights_at = Program::argument(0), d_dst_at = Program::argument(1);
    const auto d_src_at = Program::argument(2);
    const MemoryDesc d_src = onednn::describe(conv.src), d_dst = onednn::describe(conv.dst);

    const auto result = program->write_as(d_src_at, d_src, pd.diff_src_desc());
    program->add(pd, convolution_backward_data(pd),
                 {{DNNL_ARG_WEIGHTS, pd.weights_desc(),
                   program->read_as(weights_at, problem.canonical_weights, pd.weights_desc())},
                  {DNNL_ARG_DIFF_DST, pd.diff_dst_desc(),
                   program->read_as(d_dst_at, d_dst, pd.diff_dst_desc())},
                  {DNNL_ARG_DIFF_SRC, pd.diff_src_desc(), result}});
    program->write_back(result, pd.diff_src_desc(), d_src_at, d_src);
    return program;
  });
}

KernelPtr plan(const Conv2dBackwardWeights& op, Cpu) {
  const Conv2d& conv = op.conv;
  require_consistent("conv2d backward weights", conv);
  cpu::require_plain("conv2d backward weights: d_dst", conv.dst);
  const std::string name = describe_op("conv2d backward weights", conv);
  return onednn::explained(name, [&]() -> KernelPtr {
    const Problem problem(conv);
    const auto [pd, computed] =
        cheapest(conv, problem, [&](const Layouts& in) { return problem.backward_weights(in); });
    auto program = std::make_unique<Program>(name, conv.bias ? 4 : 3);
    const auto src_at = Program::argument(0), d_dst_at = Program::argument(1);
    const auto d_weights_at = Program::argument(2), d_bias_at = Program::argument(3);
    const MemoryDesc src = onednn::describe(conv.src), d_dst = onednn::describe(conv.dst);

    const auto result =
        program->write_as(d_weights_at, problem.canonical_weights, pd.diff_weights_desc());
    std::vector<Program::Operand> operands = {
        {DNNL_ARG_SRC, pd.src_desc(), program->read_as(src_at, src, pd.src_desc())},
        {DNNL_ARG_DIFF_DST, pd.diff_dst_desc(),
         program->read_as(d_dst_at, d_dst, pd.diff_dst_desc())},
        {DNNL_ARG_DIFF_WEIGHTS, pd.diff_weights_desc(), result}};
    if (conv.bias) operands.push_back({DNNL_ARG_DIFF_BIAS, pd.diff_bias_desc(), d_bias_at});
    program->add(pd, convolution_backward_weights(pd), operands);
    program->write_back(result, pd.diff_weights_desc(), d_weights_at, problem.canonical_weights);
    return program;
  });
}

}  // namespace stpt::codelets
