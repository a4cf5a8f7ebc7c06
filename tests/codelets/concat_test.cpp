#include "codelets/concat.hpp"

#include <string>
#include <vector>

#include "tests/codelets/concat_testing.hpp"
#include "tests/codelets/kernel_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using namespace stpt::testing::concat;
using codelets::ConcatBackward;
using codelets::ConcatForward;
using codelets::Cpu;

namespace {

// Values are copied.
constexpr Tolerance exact{0, 0};

/// Runs both ops on poisoned outputs, with the parts in `layout`.
void check(const Case& c, const Values& values, Layout layout) {
  const Concat concat = make_concat(c, DataType::float32, layout);
  std::vector<Tensor> parts, gradients;
  std::vector<void*> forward_args, backward_args;
  Tensor whole(concat.whole), d_whole(concat.whole, values.d_whole);
  backward_args.push_back(d_whole.pointer());
  for (std::size_t i = 0; i < concat.parts.size(); ++i) {
    parts.emplace_back(concat.parts[i], values.parts[i]);
    gradients.emplace_back(concat.parts[i]);
  }
  for (std::size_t i = 0; i < concat.parts.size(); ++i) {
    forward_args.push_back(parts[i].pointer());
    backward_args.push_back(gradients[i].pointer());
  }
  forward_args.push_back(whole.pointer());
  run_kernel(*plan(ConcatForward{concat}, Cpu{}), forward_args);
  require_tensor("whole", whole, values.whole, exact);
  run_kernel(*plan(ConcatBackward{concat}, Cpu{}), backward_args);
  for (std::size_t i = 0; i < gradients.size(); ++i)
    require_tensor("d_part", gradients[i], values.d_parts[i], exact);
}

}  // namespace

TEST_CASE("concat agrees with its definition in every layout that it may have", "[concat]") {
  for (const Case& c : cases) {
    INFO(to_string(c));
    const Values values(c);
    for (const Layout layout : all_layouts) {
      if (fits(c, layout)) check(c, values, layout);
    }
  }
}

TEST_CASE("concat keeps the first part's layout where blocks of channels stay whole", "[concat]") {
  for (const Case& c : cases) {
    for (const Layout layout : all_layouts) {
      Concat concat = make_concat(c, DataType::float32, layout);
      concat.whole.layout = Layout::any;
      if (concat.parts.size() > 1) concat.parts[1].layout = Layout::nchw;
      codelets::choose_layout(concat, Cpu{});
      CHECK(concat.whole.layout == (fits(c, layout) ? layout : Layout::nchw));
      for (const TensorSpec& part : concat.parts) CHECK(part.layout == concat.whole.layout);
    }
  }
}

TEST_CASE("concat leaves gradients out that nobody needs", "[concat]") {
  const Case c{2, 3, 2, {3, 5}};
  const Values values(c);
  const Concat concat = make_concat(c, DataType::float32, Layout::nchw);
  Tensor d_whole(concat.whole, values.d_whole), d_part(concat.parts[1]);
  run_kernel(*plan(ConcatBackward{concat}, Cpu{}), {d_whole.pointer(), nullptr, d_part.pointer()});
  require_tensor("d_part", d_part, values.d_parts[1], exact);
}

TEST_CASE("concat has zeros where there is no part", "[concat]") {
  for (const Case& c : cases) {
    INFO(to_string(c));
    const Values values(c);
    for (const Layout layout : all_layouts) {
      if (!fits(c, layout)) continue;
      const Concat concat = make_concat(c, DataType::float32, layout);
      for (std::size_t left_out = 0; left_out < concat.parts.size(); ++left_out) {
        std::vector<Tensor> parts;
        for (std::size_t i = 0; i < concat.parts.size(); ++i)
          parts.emplace_back(concat.parts[i], values.parts[i]);
        std::vector<void*> arguments;
        for (std::size_t i = 0; i < parts.size(); ++i)
          arguments.push_back(i == left_out ? nullptr : parts[i].pointer());
        Tensor whole(concat.whole);
        arguments.push_back(whole.pointer());
        run_kernel(*plan(ConcatForward{concat}, Cpu{}), arguments);
        require_tensor("whole", whole, without_part(c, values, left_out), exact);
      }
    }
  }
}

TEST_CASE("concat agrees with PyTorch", "[concat][golden]") {
  for (const auto& [c, values] : golden_values()) {
    INFO(to_string(c));
    for (const Layout layout : all_layouts) {
      if (fits(c, layout)) check(c, values, layout);
    }
  }
}

TEST_CASE("concat says what is wrong with a description", "[concat]") {
  const Concat good = make_concat({2, 3, 2, {3, 5}}, DataType::float32, Layout::nchw);
  const auto complaint = [](const Concat& concat, std::initializer_list<std::string_view> parts) {
    require_complaint([&] { (void)plan(ConcatForward{concat}, Cpu{}); }, parts);
    require_complaint([&] { (void)plan(ConcatBackward{concat}, Cpu{}); }, parts);
  };
  Concat concat = good;
  concat.whole.shape.c = 9;
  complaint(concat, {"of 2 parts to 2x9x3x2 float32 nchw", "the whole must be 2x8x3x2"});
  concat = good;
  concat.parts[1].shape.h = 4;
  complaint(concat, {"cannot join 2x3x3x2 and 2x5x4x2: only channels may differ"});
  concat = good;
  concat.parts[1].layout = Layout::nhwc;
  complaint(concat, {"part 2x5x3x2 float32 nhwc must be 2x5x3x2 float32 nchw"});
  concat = good;
  concat.parts[0].type = DataType::float16;
  complaint(concat, {"float32 only"});
  concat = make_concat({2, 3, 2, {3, 5}}, DataType::float32, Layout::nchw8c);
  complaint(concat, {"whole blocks of channels"});
  concat = good;
  concat.parts.clear();
  complaint(concat, {"there must be a part"});
}
