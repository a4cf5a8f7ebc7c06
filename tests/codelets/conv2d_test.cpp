#include "codelets/conv2d.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "tests/codelets/conv2d_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using namespace stpt::testing::conv2d;
using codelets::Cpu;

namespace {

/// The three ops of one convolution, on poisoned outputs.
class Runner {
 public:
  explicit Runner(const Conv2d& conv, bool with_relu = false)
      : conv_(conv),
        forward_(codelets::plan(codelets::Conv2dForward{conv, with_relu}, Cpu{})),
        backward_data_(codelets::plan(codelets::Conv2dBackwardData{conv}, Cpu{})),
        backward_weights_(codelets::plan(codelets::Conv2dBackwardWeights{conv}, Cpu{})) {}

  Tensor forward(std::span<const float> src, std::span<const float> weights,
                 std::span<const float> bias) const {
    Tensor x(conv_.src, src), y(conv_.dst);
    Flat w(weights), b(bias);
    if (conv_.bias) {
      run_kernel(*forward_, {x.pointer(), w.pointer(), b.pointer(), y.pointer()});
    } else {
      run_kernel(*forward_, {x.pointer(), w.pointer(), y.pointer()});
    }
    return y;
  }

  Tensor backward_data(std::span<const float> weights, std::span<const float> d_dst) const {
    Tensor d_y(conv_.dst, d_dst), d_x(conv_.src);
    Flat w(weights);
    run_kernel(*backward_data_, {w.pointer(), d_y.pointer(), d_x.pointer()});
    return d_x;
  }

  struct WeightGradients {
    Flat weights, bias;
  };

  WeightGradients backward_weights(std::span<const float> src, std::span<const float> d_dst) const {
    Tensor x(conv_.src, src), d_y(conv_.dst, d_dst);
    WeightGradients d{Flat(conv_.weights().elements()), Flat(conv_.dst.shape.c)};
    if (conv_.bias) {
      run_kernel(*backward_weights_,
                 {x.pointer(), d_y.pointer(), d.weights.pointer(), d.bias.pointer()});
    } else {
      run_kernel(*backward_weights_, {x.pointer(), d_y.pointer(), d.weights.pointer()});
    }
    return d;
  }

  const codelets::Kernel& forward_kernel() const { return *forward_; }
  const codelets::Kernel& backward_data_kernel() const { return *backward_data_; }
  const codelets::Kernel& backward_weights_kernel() const { return *backward_weights_; }

 private:
  Conv2d conv_;
  codelets::KernelPtr forward_, backward_data_, backward_weights_;
};

// Float sums of up to some thousand products: the rounding error grows with the square root of
// their number, a few units of 6e-8 of the largest sum.
constexpr Tolerance rounding{1e-5, 1e-6};

void check_against_definition(const Case& c, const Reference& expected, const Conv2d& conv) {
  INFO(to_string(c) << ", " << conv.src.to_string() << " -> " << conv.dst.to_string());
  const Runner runner(conv);
  require_tensor("dst", runner.forward(expected.src, expected.weights, expected.bias), expected.dst,
                 rounding);
  require_tensor("d_src", runner.backward_data(expected.weights, expected.d_dst), expected.d_src,
                 rounding);
  const auto d = runner.backward_weights(expected.src, expected.d_dst);
  require_flat("d_weights", d.weights, expected.d_weights, rounding);
  if (c.bias) require_flat("d_bias", d.bias, expected.d_bias, rounding);

  const Runner with_relu(conv, true);
  require_tensor("dst with relu", with_relu.forward(expected.src, expected.weights, expected.bias),
                 relu(expected.dst), rounding);
}

}  // namespace

TEST_CASE("conv2d agrees with its definition in every layout", "[conv2d]") {
  for (const Case& c : small_cases) {
    const Reference expected(c);
    for (const Layout src : all_layouts) {
      for (const Layout dst : all_layouts) {
        check_against_definition(c, expected, make_conv(c, src, dst));
      }
    }
  }
}

TEST_CASE("conv2d agrees with its definition in the layout it chooses", "[conv2d]") {
  const std::vector<Case> larger = {
      {{4, 64, 8, 8}, 64, {3, 1, 1}, false}, {{3, 32, 15, 17}, 64, {3, 2, 1}, false},
      {{2, 3, 33, 31}, 16, {7, 2, 3}, true}, {{2, 32, 16, 16}, 64, {1, 2, 0}, false},
      {{5, 48, 9, 9}, 40, {3, 1, 1}, true},
  };
  for (const auto& cases : {small_cases, larger}) {
    for (const Case& c : cases) {
      const Reference expected(c);
      for (const Layout src : all_layouts) {
        Conv2d conv = make_conv(c, src, Layout::any);
        codelets::choose_layout(conv, Cpu{});
        REQUIRE(conv.dst.layout != Layout::any);
        REQUIRE(conv.src.layout == src);
        check_against_definition(c, expected, conv);
      }
    }
  }
}

TEST_CASE("conv2d gradients are those of forward", "[conv2d]") {
  for (const Case& c : small_cases) {
    INFO(to_string(c));
    Conv2d conv = make_conv(c, Layout::nchw, Layout::any);
    codelets::choose_layout(conv, Cpu{});
    const Runner runner(conv);
    const auto src = random_values(c.src.elements(), 11);
    const auto weights = random_values(weight_count(c), 12);
    const auto bias = random_values(c.filters, 13);
    const auto d_dst = random_values(conv.dst.shape.elements(), 14);
    const auto loss = [&](std::span<const float> x, std::span<const float> w,
                          std::span<const float> b) {
      return functional(d_dst, runner.forward(x, w, b).values());
    };

    // Linear in each argument: a step of 1 leaves the rounding of outputs of size 10, times the
    // root of some hundred outputs.
    const float step = 1;
    const Tolerance tolerance{1e-4, 1e-4};
    require_gradient(
        "src", [&](auto x) { return loss(x, weights, bias); }, src,
        runner.backward_data(weights, d_dst).values(), step, tolerance);
    const auto d = runner.backward_weights(src, d_dst);
    require_gradient(
        "weights", [&](auto w) { return loss(src, w, bias); }, weights, d.weights.values(), step,
        tolerance);
    if (c.bias) {
      require_gradient(
          "bias", [&](auto b) { return loss(src, weights, b); }, bias, d.bias.values(), step,
          tolerance);
    }
  }
}

TEST_CASE("conv2d agrees with PyTorch", "[conv2d][golden]") {
  const GoldenFile file = load_golden("conv2d.bin");
  for (const std::string& name : golden_cases(file)) {
    const auto values = [&](const char* tensor) { return file.at(name + "/" + tensor).values; };
    const Case c = golden_case(file, name);
    for (const Layout layout : all_layouts) {
      Conv2d conv = make_conv(c, layout, Layout::any);
      codelets::choose_layout(conv, Cpu{});
      REQUIRE(conv.dst.shape == golden_shape(file.at(name + "/dst")));
      const Runner runner(conv);
      const auto bias = c.bias ? values("bias") : std::vector<float>{};
      require_tensor(name + "/dst", runner.forward(values("src"), values("weights"), bias),
                     values("dst"), rounding);
      require_tensor(name + "/d_src", runner.backward_data(values("weights"), values("d_dst")),
                     values("d_src"), rounding);
      const auto d = runner.backward_weights(values("src"), values("d_dst"));
      require_flat(name + "/d_weights", d.weights, values("d_weights"), rounding);
      if (c.bias) require_flat(name + "/d_bias", d.bias, values("d_bias"), rounding);
    }
  }
}

TEST_CASE("conv2d gives the same bits in every thread", "[conv2d]") {
  for (const Case& c :
       {Case{{4, 16, 16, 16}, 32, {3, 2, 1}, true}, Case{{4, 6, 14, 14}, 16, {5, 1, 0}, true}}) {
    Conv2d conv = make_conv(c, Layout::nchw, Layout::any);
    codelets::choose_layout(conv, Cpu{});
    const Runner runner(conv);
    const auto weights = random_values(weight_count(c), 22), bias = random_values(c.filters, 23);
    // Each thread has its own data; what one thread alone computes from them is expected.
    struct Data {
      Tensor x, d_y, y, d_x;
      Flat w, b, d_w, d_b;
    };
    const auto data = [&](unsigned seed) {
      return Data{Tensor(conv.src, random_values(c.src.elements(), seed)),
                  Tensor(conv.dst, random_values(conv.dst.shape.elements(), seed + 1)),
                  Tensor(conv.dst),
                  Tensor(conv.src),
                  Flat(weights),
                  Flat(bias),
                  Flat(weight_count(c)),
                  Flat(c.filters)};
    };
    Data one = data(31), two = data(41), alone = data(31), also_alone = data(41);
    for (Data* d : {&alone, &also_alone}) {
      run_kernel(runner.forward_kernel(),
                 {d->x.pointer(), d->w.pointer(), d->b.pointer(), d->y.pointer()});
      run_kernel(runner.backward_data_kernel(),
                 {d->w.pointer(), d->d_y.pointer(), d->d_x.pointer()});
      run_kernel(runner.backward_weights_kernel(),
                 {d->x.pointer(), d->d_y.pointer(), d->d_w.pointer(), d->d_b.pointer()});
    }
    run_in_two_threads(runner.forward_kernel(),
                       {one.x.pointer(), one.w.pointer(), one.b.pointer(), one.y.pointer()},
                       {two.x.pointer(), two.w.pointer(), two.b.pointer(), two.y.pointer()});
    run_in_two_threads(runner.backward_data_kernel(),
                       {one.w.pointer(), one.d_y.pointer(), one.d_x.pointer()},
                       {two.w.pointer(), two.d_y.pointer(), two.d_x.pointer()});
    run_in_two_threads(runner.backward_weights_kernel(),
                       {one.x.pointer(), one.d_y.pointer(), one.d_w.pointer(), one.d_b.pointer()},
                       {two.x.pointer(), two.d_y.pointer(), two.d_w.pointer(), two.d_b.pointer()});
    for (const auto& [threaded, expected] :
         {std::pair<Data*, Data*>{&one, &alone}, {&two, &also_alone}}) {
      REQUIRE(same_bits(threaded->y.stored(), expected->y.stored()));
      REQUIRE(same_bits(threaded->d_x.stored(), expected->d_x.stored()));
      REQUIRE(same_bits(threaded->d_w.values(), expected->d_w.values()));
      REQUIRE(same_bits(threaded->d_b.values(), expected->d_b.values()));
    }
  }
}

TEST_CASE("conv2d planned in another thread gives the same bits", "[conv2d]") {
  const Case c{{3, 16, 9, 9}, 16, {3, 1, 1}, false};
  const Conv2d conv = make_conv(c, Layout::nchw16c, Layout::nchw16c);
  const Reference inputs(c);
  const Runner here(conv);
  const Tensor expected = here.forward(inputs.src, inputs.weights, inputs.bias);
  bool same = false;
  std::jthread([&] {
    const Runner there(conv);
    same = same_bits(there.forward(inputs.src, inputs.weights, inputs.bias).stored(),
                     expected.stored());
  }).join();
  REQUIRE(same);
}

TEST_CASE("conv2d shows a NaN in its source", "[conv2d]") {
  // A run that diverges must be seen: a fused ReLU must not turn NaN into 0.
  for (const Case& c : small_cases) {
    for (const bool with_relu : {false, true}) {
      INFO(to_string(c) << (with_relu ? ", relu" : ""));
      Conv2d conv = make_conv(c, Layout::nchw, Layout::any);
      codelets::choose_layout(conv, Cpu{});
      const auto src =
          std::vector<float>(static_cast<std::size_t>(c.src.elements()), std::nanf(""));
      const auto dst =
          Runner(conv, with_relu)
              .forward(src, random_values(weight_count(c), 1), random_values(c.filters, 2))
              .values();
      REQUIRE(std::any_of(dst.begin(), dst.end(), [](float y) { return std::isnan(y); }));
    }
  }
}

TEST_CASE("conv2d says what is wrong with a description", "[conv2d]") {
  const Case good{{2, 3, 5, 7}, 16, {3, 1, 1}, false};
  Conv2d conv = make_conv(good);
  conv.src.type = DataType::bfloat16;
  require_complaint([&] { (void)codelets::plan(codelets::Conv2dForward{conv}, Cpu{}); },
                    {"conv2d forward: src 2x3x5x7 bfloat16", "float32"});

  conv = make_conv(good);
  conv.dst.shape.h = 9;
  require_complaint([&] { (void)codelets::plan(codelets::Conv2dBackwardData{conv}, Cpu{}); },
                    {"conv2d backward data", "dst must be 2x16x5x7"});

  conv = make_conv(good, Layout::nchw, Layout::any);
  require_complaint([&] { (void)codelets::plan(codelets::Conv2dBackwardWeights{conv}, Cpu{}); },
                    {"the layout must be chosen first"});
  require_complaint(
      [] {
        (void)codelets::conv2d_output({1, 1, 3, 3}, 4, {5});
      },
      {"kernel 5x5", "3x3"});
  for (const codelets::Window& window :
       {codelets::Window{{1, 0}}, codelets::Window{3, {1, 0}}, codelets::Window{3, {0, 1}}}) {
    require_complaint(
        [&] {
          (void)codelets::conv2d_output({1, 1, 3, 3}, 4, window);
        },
        {"kernel and stride must be at least 1"});
  }
  require_complaint(
      [] {
        (void)codelets::conv2d_output({1, 1, 3, 9}, 4, {{9, 1}, 1, {2, 1}});
      },
      {"must not be larger than the padded source, 7x11"});
  require_complaint(
      [] {
        (void)codelets::conv2d_output({1, 1, 3, 3}, 4, {3, 1, {1, -1}});
      },
      {"padding must not be negative"});
  require_complaint(
      [] {
        (void)codelets::conv2d_output({1, 1, 3, 3}, 4, {3, 1, 1, {1, 0}});
      },
      {"dilation 1x0: the dilation must be at least 1"});
  require_complaint(
      [] {
        (void)codelets::conv2d_output({1, 1, 9, 3}, 4, {{3, 2}, {2, 1}, {0, 1}, {2, 5}});
      },
      {"conv2d of 1x1x9x3, kernel 3x2, stride 2x1, padding 0x1, dilation 2x5: the kernel must not "
       "be larger than the padded source, 9x5, for it spans 5x6"});
  for (const auto& [groups, filters] : {std::pair{0, 4}, {2, 5}, {4, 8}}) {
    require_complaint(
        [groups = groups, filters = filters] {
          (void)codelets::conv2d_output({1, 6, 3, 3}, filters, {3, 1, 1}, groups);
        },
        {std::to_string(groups) + " groups: the groups must divide the 6 channels and the " +
         std::to_string(filters) + " filters"});
  }

  const auto kernel = codelets::plan(codelets::Conv2dForward{make_conv(good)}, Cpu{});
  require_complaint([&] { run_kernel(*kernel, {nullptr}); }, {"1 arguments where 3 are needed"});
}
