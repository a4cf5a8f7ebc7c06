#include "codelets/layer_norm.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "tests/codelets/layer_norm_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using namespace stpt::testing::layer_norm;
using codelets::Cpu;
using codelets::LayerNorm;
using codelets::LayerNormBackward;
using codelets::LayerNormForward;

namespace {

constexpr Layout layouts[] = {Layout::nhwc, Layout::nchw8c, Layout::nchw16c};

struct Results {
  Tensor y, d_x;
  Flat mean, inverse_stddev, d_gamma, d_beta;
};

/// Runs both ops on poisoned outputs.
Results run(const Values& values, Layout layout, bool d_x_over_d_y = false) {
  const LayerNorm norm{spec_of(values.shape, layout), values.epsilon};
  const std::int64_t pixels = values.shape.n * values.shape.spatial();
  Tensor x(norm.x, values.x), d_y(norm.x, values.d_y);
  Flat gamma(values.gamma), beta(values.beta);
  Results out{Tensor(norm.x), Tensor(norm.x),       Flat(pixels),
              Flat(pixels),   Flat(values.shape.c), Flat(values.shape.c)};
  run_kernel(*plan(LayerNormForward{norm}, Cpu{}),
             {x.pointer(), gamma.pointer(), beta.pointer(), out.y.pointer(), out.mean.pointer(),
              out.inverse_stddev.pointer()});
  Tensor& d_x = d_x_over_d_y ? d_y : out.d_x;
  run_kernel(*plan(LayerNormBackward{norm}, Cpu{}),
             {x.pointer(), gamma.pointer(), out.mean.pointer(), out.inverse_stddev.pointer(),
              d_y.pointer(), d_x.pointer(), out.d_gamma.pointer(), out.d_beta.pointer()});
  copy_to_own(d_x, out.d_x);
  return out;
}

void check(const Values& values, Layout layout) {
  INFO(spec_of(values.shape, layout).to_string());
  Results results = run(values, layout);
  require_tensor("y", results.y, values.y, values.of_y);
  require_tensor("d_x", results.d_x, values.d_x, values.of_d_x);
  require_flat("d_gamma", results.d_gamma, values.d_gamma, values.of_y);
  require_flat("d_beta", results.d_beta, values.d_beta, usual);
  const Results over = run(values, layout, true);
  REQUIRE(same_bits(over.d_x.stored(), results.d_x.stored()));
}

}  // namespace

TEST_CASE("layer norm agrees with its definition in double", "[layer_norm]") {
  unsigned seed = 1;
  for (const Shape& shape : shapes()) {
    const Values values = values_of(shape, seed += 4);
    for (const Layout layout : layouts) check(values, layout);
    if (shape.spatial() == 1) check(values, Layout::nchw);
  }
}

TEST_CASE("layer norm agrees with PyTorch", "[layer_norm][golden]") {
  for (const Values& values : golden()) {
    for (const Layout layout : layouts) check(values, layout);
  }
}

TEST_CASE("layer norm's gradient is that of its definition", "[layer_norm]") {
  const Shape shape{2, 6, 3, 2};
  const Values values = values_of(shape, 40);
  Results results = run(values, Layout::nchw8c);
  const auto numerical = [&](Doubles NormReference::*member) {
    return numerical_gradient(reference_of(values), member, in_rows(shape, values.d_y));
  };
  require_tensor("d_x", results.d_x, in_rows(shape, numerical(&NormReference::x), true), usual);
  require_flat("d_gamma", results.d_gamma, numerical(&NormReference::gamma), usual);
  require_flat("d_beta", results.d_beta, numerical(&NormReference::beta), usual);
}

TEST_CASE("layer norm's variance does not suffer from a far mean", "[layer_norm]") {
  // The naive E[x^2] - E[x]^2 would lose 1e8 * 6e-8 = 6 of a variance of about 2 here.
  Values values = values_of({2, 90, 3, 3}, 60);
  for (float& x : values.x) x += 10000;
  NormReference reference = reference_of(values);
  reference.compute_statistics();
  Doubles inverse;
  for (const double variance : reference.variance)
    inverse.push_back(1 / std::sqrt(variance + reference.epsilon));
  for (const Layout layout : layouts) {
    Results results = run(values, layout);
    require_flat("mean", results.mean, reference.mean, {1e-7, 0});
    require_flat("inverse_stddev", results.inverse_stddev, inverse, {1e-6, 0});
  }
}

TEST_CASE("layer norm of equal numbers is beta", "[layer_norm]") {
  Values values = values_of({1, 20, 3, 3}, 70);
  values.x.assign(values.x.size(), 0.1f);
  for (const Layout layout : layouts) {
    Results results = run(by_definition(values), layout);
    const std::vector<float> y = results.y.values();
    // What rounding leaves of the difference to the mean, over a stddev of sqrt(1e-5).
    for (std::size_t i = 0; i < y.size(); ++i) REQUIRE(std::abs(y[i] - values.beta[i / 9]) < 1e-5f);
  }
}

TEST_CASE("layer norm keeps NaN and infinity in their pixel", "[layer_norm]") {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Values values = values_of({2, 18, 3, 3}, 80);
    values.x[9 * 4 + 2] = bad;  // channel 4, pixel 2 of image 0
    for (const Layout layout : layouts) {
      Results results = run(values, layout);
      REQUIRE(results.y.padding_is_zero());
      const std::vector<float> y = results.y.values();
      for (std::size_t i = 0; i < y.size(); ++i) {
        INFO(to_string(layout) << " [" << i << "]");
        REQUIRE(std::isnan(y[i]) == (i < 18 * 9 && i % 9 == 2));
      }
    }
  }
}

TEST_CASE("LayerNorm says what it cannot plan", "[layer_norm]") {
  const auto require_refused = [](const LayerNorm& norm, const char* part) {
    require_complaint([&] { (void)plan(LayerNormForward{norm}, Cpu{}); }, {part});
    require_complaint([&] { (void)plan(LayerNormBackward{norm}, Cpu{}); }, {part});
  };
  LayerNorm norm{spec_of({2, 4, 3, 3}, Layout::nhwc)};
  norm.epsilon = -1;
  require_refused(norm, "layer norm of 2x4x3x3: epsilon must not be negative");
  norm.epsilon = std::numeric_limits<float>::quiet_NaN();
  require_refused(norm, "epsilon must not be negative");
  require_refused({spec_of({2, 1, 3, 3}, Layout::nhwc)}, "more than one channel");
  require_refused({spec_of({2, 4, 3, 3}, Layout::nchw)}, "must be nhwc, nchw8c or nchw16c");
  require_refused({spec_of({2, 4, 3, 3}, Layout::any)}, "layout must be chosen");
  LayerNorm half{spec_of({2, 4, 3, 3}, Layout::nhwc)};
  half.x.type = DataType::bfloat16;
  require_refused(half, "float32 only");
}
