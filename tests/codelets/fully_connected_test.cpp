#include "codelets/fully_connected.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "tests/codelets/fully_connected_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using namespace stpt::testing::fully_connected;
using codelets::Cpu;

namespace {

/// The three ops of one layer, on poisoned outputs.
class Runner {
 public:
  explicit Runner(const FullyConnected& fc, bool relu = false)
      : fc_(fc),
        forward_(codelets::plan(codelets::FullyConnectedForward{fc, relu}, Cpu{})),
        backward_data_(codelets::plan(codelets::FullyConnectedBackwardData{fc}, Cpu{})),
        backward_weights_(codelets::plan(codelets::FullyConnectedBackwardWeights{fc}, Cpu{})) {}

  Tensor forward(std::span<const float> src, std::span<const float> weights,
                 std::span<const float> bias) const {
    Tensor x(fc_.src, src), y(fc_.dst);
    Flat w(weights), b(bias);
    if (fc_.bias) {
      run_kernel(*forward_, {x.pointer(), w.pointer(), b.pointer(), y.pointer()});
    } else {
      run_kernel(*forward_, {x.pointer(), w.pointer(), y.pointer()});
    }
    return y;
  }

  Tensor backward_data(std::span<const float> weights, std::span<const float> d_dst) const {
    Tensor d_y(fc_.dst, d_dst), d_x(fc_.src);
    Flat w(weights);
    run_kernel(*backward_data_, {w.pointer(), d_y.pointer(), d_x.pointer()});
    return d_x;
  }

  struct WeightGradients {
    Flat weights, bias;
  };

  WeightGradients backward_weights(std::span<const float> src, std::span<const float> d_dst) const {
    Tensor x(fc_.src, src), d_y(fc_.dst, d_dst);
    WeightGradients d{Flat(inputs_of(fc_) * fc_.dst.shape.c), Flat(fc_.dst.shape.c)};
    if (fc_.bias) {
      run_kernel(*backward_weights_,
                 {x.pointer(), d_y.pointer(), d.weights.pointer(), d.bias.pointer()});
    } else {
      run_kernel(*backward_weights_, {x.pointer(), d_y.pointer(), d.weights.pointer()});
    }
    return d;
  }

  const codelets::Kernel& forward_kernel() const { return *forward_; }
  const codelets::Kernel& backward_weights_kernel() const { return *backward_weights_; }

 private:
  FullyConnected fc_;
  codelets::KernelPtr forward_, backward_data_, backward_weights_;
};

// Sums of up to some thousand products in float.
constexpr Tolerance rounding{1e-5, 1e-6};

}  // namespace

TEST_CASE("fully connected agrees with its definition in every layout", "[fully_connected]") {
  for (const auto& [src, outputs, bias] : cases) {
    const Reference expected(make_fc(src, outputs, Layout::nchw, bias));
    for (const Layout layout : all_layouts) {
      const FullyConnected fc = make_fc(src, outputs, layout, bias);
      INFO(fc.src.to_string() << " -> " << outputs);
      const Runner runner(fc);
      require_tensor("dst", runner.forward(expected.src, expected.weights, expected.bias),
                     expected.dst, rounding);
      require_tensor("d_src", runner.backward_data(expected.weights, expected.d_dst),
                     expected.d_src, rounding);
      const auto d = runner.backward_weights(expected.src, expected.d_dst);
      require_flat("d_weights", d.weights, expected.d_weights, rounding);
      if (bias) require_flat("d_bias", d.bias, expected.d_bias, rounding);

      std::vector<double> rectified = expected.dst;
      for (double& value : rectified) value = value > 0 ? value : 0;
      require_tensor("dst with relu",
                     Runner(fc, true).forward(expected.src, expected.weights, expected.bias),
                     rectified, rounding);
    }
  }
}

TEST_CASE("fully connected gradients are those of forward", "[fully_connected]") {
  for (const auto& [layout, with_bias] : {std::pair{Layout::nchw, true},
                                          {Layout::nhwc, true},
                                          {Layout::nchw8c, true},
                                          {Layout::nchw16c, true},
                                          {Layout::nchw, false},
                                          {Layout::nchw16c, false}}) {
    const FullyConnected fc = make_fc({3, 9, 2, 3}, 11, layout, with_bias);
    const Runner runner(fc);
    const auto src = random_values(fc.src.shape.elements(), 11);
    const auto weights = random_values(inputs_of(fc) * 11, 12);
    const auto bias = random_values(11, 13);
    const auto d_dst = random_values(fc.dst.shape.elements(), 14);
    const auto loss = [&](std::span<const float> x, std::span<const float> w,
                          std::span<const float> b) {
      return functional(d_dst, runner.forward(x, w, b).values());
    };
    // Linear in each argument: only the rounding of outputs of size 10 is left with a step of 1.
    const Tolerance tolerance{1e-4, 1e-4};
    require_gradient(
        "src", [&](auto x) { return loss(x, weights, bias); }, src,
        runner.backward_data(weights, d_dst).values(), 1, tolerance);
    const auto d = runner.backward_weights(src, d_dst);
    require_gradient(
        "weights", [&](auto w) { return loss(src, w, bias); }, weights, d.weights.values(), 1,
        tolerance);
    if (!with_bias) continue;
    require_gradient(
        "bias", [&](auto b) { return loss(src, weights, b); }, bias, d.bias.values(), 1, tolerance);
  }
}

TEST_CASE("fully connected agrees with PyTorch", "[fully_connected][golden]") {
  const GoldenFile file = load_golden("fully_connected.bin");
  for (const std::string& name : golden_cases(file)) {
    const auto values = [&](const char* tensor) { return file.at(name + "/" + tensor).values; };
    const Shape src = golden_shape(file.at(name + "/src"));
    const bool with_bias = file.contains(name + "/bias");
    const auto bias = with_bias ? values("bias") : std::vector<float>{};
    for (const Layout layout : all_layouts) {
      const FullyConnected fc =
          make_fc(src, golden_shape(file.at(name + "/dst")).c, layout, with_bias);
      const Runner runner(fc);
      require_tensor(name + "/dst", runner.forward(values("src"), values("weights"), bias),
                     values("dst"), rounding);
      require_tensor(name + "/d_src", runner.backward_data(values("weights"), values("d_dst")),
                     values("d_src"), rounding);
      const auto d = runner.backward_weights(values("src"), values("d_dst"));
      require_flat(name + "/d_weights", d.weights, values("d_weights"), rounding);
      if (with_bias) require_flat(name + "/d_bias", d.bias, values("d_bias"), rounding);
    }
  }
}

TEST_CASE("fully connected gives the same bits in every thread", "[fully_connected]") {
  const FullyConnected fc = make_fc({16, 24, 4, 4}, 50, Layout::nchw16c);
  const Runner runner(fc);
  Flat weights(random_values(inputs_of(fc) * 50, 2)), bias(random_values(50, 3));
  Tensor x(fc.src, random_values(fc.src.shape.elements(), 1));
  Tensor d_y(fc.dst, random_values(fc.dst.shape.elements(), 4));
  struct Outputs {
    Tensor y;
    Flat d_w, d_b;
  };
  const auto outputs = [&] { return Outputs{Tensor(fc.dst), Flat(inputs_of(fc) * 50), Flat(50)}; };
  Outputs alone = outputs(), one = outputs(), two = outputs();
  const auto& forward = runner.forward_kernel();
  const auto& backward = runner.backward_weights_kernel();
  run_kernel(forward, {x.pointer(), weights.pointer(), bias.pointer(), alone.y.pointer()});
  run_kernel(backward, {x.pointer(), d_y.pointer(), alone.d_w.pointer(), alone.d_b.pointer()});
  run_in_two_threads(forward, {x.pointer(), weights.pointer(), bias.pointer(), one.y.pointer()},
                     {x.pointer(), weights.pointer(), bias.pointer(), two.y.pointer()});
  run_in_two_threads(backward, {x.pointer(), d_y.pointer(), one.d_w.pointer(), one.d_b.pointer()},
                     {x.pointer(), d_y.pointer(), two.d_w.pointer(), two.d_b.pointer()});
  for (const Outputs* threaded : {&one, &two}) {
    REQUIRE(same_bits(threaded->y.stored(), alone.y.stored()));
    REQUIRE(same_bits(threaded->d_w.values(), alone.d_w.values()));
    REQUIRE(same_bits(threaded->d_b.values(), alone.d_b.values()));
  }
}

TEST_CASE("fully connected shows a NaN in its source", "[fully_connected]") {
  const FullyConnected fc = make_fc({2, 6, 1, 1}, 20);
  auto src = random_values(12, 1);
  src[0] = std::numeric_limits<float>::quiet_NaN();
  const auto y =
      Runner(fc, true).forward(src, random_values(120, 2), random_values(20, 3)).values();
  for (std::size_t i = 0; i < y.size(); ++i) REQUIRE(std::isnan(y[i]) == (i < 20));
}

TEST_CASE("fully connected says what is wrong with a description", "[fully_connected]") {
  FullyConnected fc = make_fc({4, 8, 2, 2}, 10);
  fc.src.type = DataType::float16;
  REQUIRE_THROWS_WITH(
      codelets::plan(codelets::FullyConnectedForward{fc}, Cpu{}),
      "fully connected forward: src 4x8x2x2 float16 nchw: the CPU computes in float32 "
      "only");
  fc = make_fc({4, 8, 2, 2}, 10);
  fc.dst.shape.n = 5;
  REQUIRE_THROWS_AS(codelets::plan(codelets::FullyConnectedBackwardData{fc}, Cpu{}),
                    std::invalid_argument);
  REQUIRE_THROWS_WITH(codelets::plan(codelets::FullyConnectedBackwardWeights{fc}, Cpu{}),
                      Catch::Matchers::EndsWith("dst must be 4x10x1x1 nchw"));
}
