#include "codelets/pool2d.hpp"

#include <limits>
#include <string>
#include <vector>

#include "tests/codelets/pool2d_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using namespace stpt::testing::pool2d;
using codelets::Cpu;

namespace {

/// Forward and backward of one pooling, on poisoned outputs.
class Runner {
 public:
  explicit Runner(const Pool2d& pool)
      : pool_(pool),
        indices_(codelets::pool2d_indices_bytes(pool, Cpu{})),
        forward_(codelets::plan(codelets::Pool2dForward{pool, true}, Cpu{})),
        inference_(codelets::plan(codelets::Pool2dForward{pool, false}, Cpu{})),
        backward_(codelets::plan(codelets::Pool2dBackward{pool}, Cpu{})) {}

  Tensor forward(std::span<const float> src) {
    Tensor x(pool_.src, src), y(pool_.dst);
    indices_.poison();
    run_kernel(*forward_, {x.pointer(), y.pointer(), indices()});
    REQUIRE(indices_.guard_intact());
    return y;
  }

  Tensor inference(std::span<const float> src) const {
    Tensor x(pool_.src, src), y(pool_.dst);
    run_kernel(*inference_, {x.pointer(), y.pointer(), nullptr});
    return y;
  }

  /// Of the last forward().
  Tensor backward(std::span<const float> d_dst) {
    Tensor d_y(pool_.dst, d_dst), d_x(pool_.src);
    run_kernel(*backward_, {d_y.pointer(), indices(), d_x.pointer()});
    return d_x;
  }

  const codelets::Kernel& forward_kernel() const { return *forward_; }
  const codelets::Kernel& backward_kernel() const { return *backward_; }

 private:
  void* indices() { return indices_.bytes() > 0 ? indices_.pointer() : nullptr; }

  Pool2d pool_;
  AlignedBuffer indices_;
  codelets::KernelPtr forward_, inference_, backward_;
};

constexpr Tolerance rounding{1e-6, 1e-6};

void check(const Pool2d& pool, std::span<const float> src) {
  INFO(to_string(pool));
  const auto d_dst = random_values(pool.dst.shape.elements(), 2);
  const Expected expected(pool, src, d_dst);
  Runner runner(pool);
  require_tensor("dst", runner.forward(src), expected.dst, rounding);
  require_tensor("d_src", runner.backward(d_dst), expected.d_src, rounding);
  require_tensor("dst in inference", runner.inference(src), expected.dst, rounding);
}

}  // namespace

TEST_CASE("pool2d agrees with its definition in every layout", "[pool2d]") {
  for (const Pool2d& pool : cases()) {
    for (const Layout layout : all_layouts) {
      check(in_layout(pool, layout), spaced_values(pool.src.shape.elements(), 1, 0.01f));
    }
  }
}

TEST_CASE("pool2d takes the first of equal maxima", "[pool2d]") {
  // After a ReLU many windows hold only zeros; a negative window beside padding must not yield 0.
  for (const Pool2d& pool : cases()) {
    if (pool.kind != PoolKind::max) continue;
    auto rectified = random_values(pool.src.shape.elements(), 5, -3, 1);
    for (float& value : rectified) value = value > 0 ? value : 0;
    const auto negative = random_values(pool.src.shape.elements(), 6, -3, -2);
    for (const Layout layout : all_layouts) {
      check(in_layout(pool, layout), rectified);
      check(in_layout(pool, layout), negative);
    }
  }
}

TEST_CASE("pool2d shows a NaN in its source", "[pool2d]") {
  for (const Pool2d& pool : cases()) {
    for (const Layout layout : all_layouts) {
      INFO(to_string(in_layout(pool, layout)));
      auto src = random_values(pool.src.shape.elements(), 1);
      const auto d_dst = random_values(pool.dst.shape.elements(), 2);
      src[0] = std::numeric_limits<float>::quiet_NaN();
      auto expected = Expected(pool, src, d_dst).dst;
      if (pool.kind == PoolKind::max) {
        // The windows that hold the first element are those that a 1 there and 0 elsewhere reaches.
        std::vector<float> mark(src.size());
        mark[0] = 1;
        const auto reached = Expected(pool, mark, d_dst).dst;
        src[0] = -1;
        expected = Expected(pool, src, d_dst).dst;
        src[0] = std::numeric_limits<float>::quiet_NaN();
        for (std::size_t i = 0; i < expected.size(); ++i) {
          if (reached[i] > 0) expected[i] = std::numeric_limits<double>::quiet_NaN();
        }
      }
      Runner runner(in_layout(pool, layout));
      require_tensor("dst", runner.forward(src), expected, rounding);
      require_tensor("dst in inference", runner.inference(src), expected, rounding);
    }
  }
}

TEST_CASE("pool2d gradients are those of forward", "[pool2d]") {
  for (const Pool2d& pool : cases()) {
    for (const Layout layout : {Layout::nchw, Layout::nchw16c}) {
      Runner runner(in_layout(pool, layout));
      INFO(to_string(pool));
      // Values 0.1 apart and a step of 0.04: no maximum changes place, and pooling is linear there.
      const auto src = spaced_values(pool.src.shape.elements(), 3, 0.1f);
      const auto d_dst = random_values(pool.dst.shape.elements(), 4);
      runner.forward(src);
      const auto gradient = runner.backward(d_dst).values();
      // Outputs up to 100 (1000 values) rounded to 4e-6, over the step of 0.08.
      require_gradient(
          "src", [&](auto x) { return functional(d_dst, runner.inference(x).values()); }, src,
          gradient, 0.04f, {1e-3, 1e-3}, 20);
    }
  }
}

TEST_CASE("pool2d agrees with PyTorch", "[pool2d][golden]") {
  const GoldenFile file = load_golden("pool2d.bin");
  for (const std::string& name : golden_cases(file)) {
    const auto values = [&](const char* tensor) { return file.at(name + "/" + tensor).values; };
    for (const Layout layout : all_layouts) {
      const Pool2d pool = golden_case(file, name, layout);
      REQUIRE(pool.dst.shape == golden_shape(file.at(name + "/dst")));
      Runner runner(pool);
      require_tensor(name + "/dst", runner.forward(values("src")), values("dst"), rounding);
      require_tensor(name + "/d_src", runner.backward(values("d_dst")), values("d_src"), rounding);
    }
  }
}

TEST_CASE("pool2d gives the same bits in every thread", "[pool2d]") {
  for (const Layout layout : all_layouts) {
    const Pool2d pool = make_pool(PoolKind::max, {4, 20, 16, 16}, {3, 2, 1}, layout);
    const Runner runner(pool);
    Tensor x(pool.src, random_values(pool.src.shape.elements(), 1));
    Tensor d_y(pool.dst, random_values(pool.dst.shape.elements(), 2));
    struct Outputs {
      Tensor y, d_x;
      AlignedBuffer indices;
    };
    const auto outputs = [&] {
      return Outputs{Tensor(pool.dst), Tensor(pool.src),
                     AlignedBuffer(codelets::pool2d_indices_bytes(pool, Cpu{}))};
    };
    Outputs alone = outputs(), one = outputs(), two = outputs();
    run_kernel(runner.forward_kernel(), {x.pointer(), alone.y.pointer(), alone.indices.pointer()});
    run_kernel(runner.backward_kernel(),
               {d_y.pointer(), alone.indices.pointer(), alone.d_x.pointer()});
    run_in_two_threads(runner.forward_kernel(),
                       {x.pointer(), one.y.pointer(), one.indices.pointer()},
                       {x.pointer(), two.y.pointer(), two.indices.pointer()});
    run_in_two_threads(runner.backward_kernel(),
                       {d_y.pointer(), one.indices.pointer(), one.d_x.pointer()},
                       {d_y.pointer(), two.indices.pointer(), two.d_x.pointer()});
    for (const Outputs* threaded : {&one, &two}) {
      REQUIRE(same_bits(threaded->y.stored(), alone.y.stored()));
      REQUIRE(same_bits(threaded->d_x.stored(), alone.d_x.stored()));
    }
  }
}

TEST_CASE("pool2d says what is wrong with a description", "[pool2d]") {
  require_complaint(
      [] {
        (void)codelets::pool2d_output({1, 1, 4, 9}, {5});
      },
      {"must not be larger than the padded source, 4x9"});
  for (const codelets::Window& window : {codelets::Window{{1, 0}}, codelets::Window{2, {1, 0}}}) {
    require_complaint(
        [&] {
          (void)codelets::pool2d_output({1, 1, 4, 4}, window);
        },
        {"kernel and stride must be at least 1"});
  }
  for (const codelets::PerAxis padding : {codelets::PerAxis{0, -1}, codelets::PerAxis{2, 0}}) {
    require_complaint(
        [&] {
          (void)codelets::pool2d_output({1, 1, 4, 4}, {{2, 3}, 1, padding});
        },
        {"the padding must be at least 0 and smaller than the kernel"});
  }
  REQUIRE(
      to_string(make_pool(PoolKind::average, {1, 1, 4, 4}, {3, 2, 1}, Layout::nchw, true, true)) ==
      "pool2d average 1x1x4x4 float32 nchw -> 1x1x3x3 float32 nchw, kernel 3x3, stride 2, "
      "padding 1, count_padding, ceil_mode");
  require_complaint(
      [] {
        (void)codelets::pool2d_output({1, 1, 4, 4}, {2, 1, 2});
      },
      {"smaller than the kernel"});
  require_complaint(
      [] {
        (void)codelets::pool2d_output({1, 1, 4, 4}, {{3, 2}, 1, {0, 2}});
      },
      {"kernel 3x2, stride 1, padding 0x2: the padding must be at least 0 and smaller than the "
       "kernel"});
  require_complaint(
      [] {
        (void)codelets::pool2d_output({1, 1, 4, 4}, {2, 1, 0, 2});
      },
      {"dilation 2: a pool has no dilation"});
  require_complaint(
      [] {
        (void)codelets::pool2d_output({1, 1, 4, 4}, {{4, 6}, 2, 0}, true);
      },
      {"kernel 4x6, stride 2, padding 0, ceil_mode: the window must not be larger than"});
  Pool2d pool = make_pool(PoolKind::max, {2, 3, 6, 6}, {2, 2, 0});
  pool.dst.layout = Layout::nhwc;
  REQUIRE_THROWS_WITH(codelets::plan(codelets::Pool2dForward{pool}, Cpu{}),
                      Catch::Matchers::EndsWith("dst must be 2x3x3x3 nchw"));
  pool = make_pool(PoolKind::max, {2, 3, 6, 6}, {2, 2, 0});
  pool.dst.type = DataType::bfloat16;
  REQUIRE_THROWS_AS(codelets::plan(codelets::Pool2dBackward{pool}, Cpu{}), std::invalid_argument);
}
