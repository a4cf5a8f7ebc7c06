#include "codelets/batch_norm.hpp"

#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/codelets/batch_norm_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using namespace stpt::testing::batch_norm;

namespace {

// Results are compared relative to the largest value of their tensor. A result goes through fewer
// than ten roundings of 6e-8 after the sums, and the sums (in double from 256 rows on) add a few:
// 2e-6 leaves a factor of three or more everywhere.
constexpr Tolerance usual{2e-6, 1e-7};

std::string message_of(const auto& op) {
  try {
    (void)plan(op, Cpu{});
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("batch norm matches PyTorch in every layout", "[batch_norm]") {
  const GoldenFile golden = load_golden("batch_norm.bin");
  for (const std::string& name : golden_cases(golden)) {
    const auto tensor = [&](const std::string& part) { return golden.at(name + "/" + part); };
    const auto values = [&](const std::string& part) { return tensor(part).values; };
    const bool residual = values("flags")[1] != 0;
    const Inputs in{values("x"),
                    residual ? values("residual") : std::vector<float>{},
                    values("gamma"),
                    values("beta"),
                    values("running_mean"),
                    values("running_variance")};
    for (const Layout layout : all_layouts) {
      INFO(name << " " << to_string(layout));
      BatchNorm norm{spec_of(golden_shape(tensor("x")), layout), values("flags")[0] != 0, residual,
                     values("settings")[0], values("settings")[1]};
      norm.function = named_activation(name);
      // The saved mean is float32: rounding it to 6e-8 of 1000 moves a standard deviation of 2, and
      // with it every result, by up to 2e-5.
      const Tolerance tolerance = name == "far_mean" ? Tolerance{4e-5, 1e-7} : usual;

      ForwardResult forward = run_forward(norm, BatchNormMode::training, in);
      require_tensor("y", forward.y, values("y"), tolerance);
      require_flat("mean", forward.mean, values("mean"), usual);
      require_flat("inverse_stddev", forward.inverse_stddev, values("inverse_stddev"), usual);
      require_flat("running_mean", forward.running_mean, values("running_mean_after"), usual);
      require_flat("running_variance", forward.running_variance, values("running_variance_after"),
                   usual);

      BackwardResult backward = run_backward(norm, in, forward, values("d_y"));
      require_tensor("d_x", backward.d_x, values("d_x"), tolerance);
      if (residual)
        require_tensor("d_residual", backward.d_residual, values("d_residual"), tolerance);
      require_flat("d_gamma", backward.d_gamma, values("d_gamma"), tolerance);
      require_flat("d_beta", backward.d_beta, values("d_beta"), tolerance);

      ForwardResult inference = run_forward(norm, BatchNormMode::inference, in);
      require_tensor("y of inference", inference.y, values("y_inference"), tolerance);
      REQUIRE(inference.running_mean.values() == in.running_mean);
      REQUIRE(inference.running_variance.values() == in.running_variance);
    }
  }
}

TEST_CASE("batch norm matches the definition in double", "[batch_norm]") {
  // Images of more than one chunk, with and without an incomplete row; many small images in a
  // chunk, and an incomplete last chunk; batch 1; one value an image; channels around the blocks.
  const std::array shapes = {Shape{2, 20, 17, 19}, Shape{1, 3, 80, 64}, Shape{70, 19, 3, 3},
                             Shape{37, 16, 4, 4},  Shape{1, 33, 2, 1},  Shape{300, 5, 1, 1},
                             Shape{3, 8, 5, 7}};
  for (const Shape& shape : shapes) {
    for (const bool relu : {false, true}) {
      for (const bool residual : {false, true}) {
        const Inputs in = random_inputs(shape, residual, 7);
        const std::vector<float> d_y = random_values(shape.elements(), 20);
        const std::vector<float> d_y2 = random_values(shape.elements(), 21);
        NormReference reference = reference_of({spec_of(shape), relu, residual}, in);
        reference.forward();
        for (const bool two_parts : {false, true}) {
          Doubles gradient = to_double(d_y);
          if (two_parts)
            for (std::size_t i = 0; i < gradient.size(); ++i)
              gradient[i] = static_cast<double>(d_y[i] + d_y2[i]);
          reference.backward(gradient);
          for (const Layout layout : all_layouts) {
            const BatchNorm norm{spec_of(shape, layout), relu, residual};
            INFO(norm.x.to_string() << (relu ? " relu" : "") << (residual ? " residual" : "")
                                    << (two_parts ? " two parts" : ""));
            ForwardResult forward = run_forward(norm, BatchNormMode::training, in);
            require_tensor("y", forward.y, reference.y, usual);
            require_flat("mean", forward.mean, reference.mean, usual);
            BackwardResult backward = run_backward(norm, in, forward, d_y,
                                                   two_parts ? std::optional(d_y2) : std::nullopt);
            require_tensor("d_x", backward.d_x, reference.d_x, reference.d_x_tolerance());
            if (residual)
              require_tensor("d_residual", backward.d_residual, reference.d_residual, usual);
            require_flat("d_gamma", backward.d_gamma, reference.d_gamma, usual);
            require_flat("d_beta", backward.d_beta, reference.d_beta, usual);
          }
        }
      }
    }
  }
}

TEST_CASE("batch norm's activations match their definitions in double", "[batch_norm]") {
  for (const auto& [function, word] : codelets::named_activations) {
    if (!codelets::fuses_with_normalisations(function)) continue;
    for (const Shape& shape : {Shape{3, 19, 17, 5}, Shape{70, 8, 3, 3}}) {
      for (const bool two_parts : {false, true}) {
        Inputs in = random_inputs(shape, false, 7);
        for (float& gamma : in.gamma) gamma *= 4;  // beyond all kinks
        const std::vector<float> d_y = random_values(shape.elements(), 20);
        std::optional<std::vector<float>> d_y2;
        Doubles gradient = to_double(d_y);
        if (two_parts) {
          d_y2 = random_values(shape.elements(), 21);
          for (std::size_t i = 0; i < gradient.size(); ++i)
            gradient[i] = static_cast<double>(d_y[i] + (*d_y2)[i]);
        }
        for (const Layout layout : all_layouts) {
          BatchNorm norm{spec_of(shape, layout)};
          norm.function = function;
          norm.slope = 0.2f;
          INFO(norm.x.to_string() << " " << word << (two_parts ? " two parts" : ""));
          NormReference reference = reference_of(norm, in);
          reference.forward();
          reference.backward(gradient);
          ForwardResult forward = run_forward(norm, BatchNormMode::training, in);
          REQUIRE(forward.y.padding_is_zero());
          require_tensor("y", forward.y, reference.y, usual);
          BackwardResult backward = run_backward(norm, in, forward, d_y, d_y2);
          REQUIRE(backward.d_x.padding_is_zero());
          require_tensor("d_x", backward.d_x, reference.d_x, reference.d_x_tolerance());
          require_flat("d_gamma", backward.d_gamma, reference.d_gamma, usual);
          require_flat("d_beta", backward.d_beta, reference.d_beta, usual);
        }
      }
    }
  }
}

TEST_CASE("batch norm with an activation is the two one after the other", "[batch_norm]") {
  // On values from one end of float32 to the other: in inference mode mean and deviation are given.
  const Shape shape{1, 8, 40, 20};
  Inputs in = random_inputs(shape, false, 7);
  const std::size_t count = in.x.size();
  for (std::size_t i = 0; i < count; ++i) {
    const double place = static_cast<double>(i) / static_cast<double>(count);
    in.x[i] = static_cast<float>(i % 2 == 0 ? 12 * place - 6 : std::exp(170 * place - 85));
    if (i % 4 == 3) in.x[i] = -in.x[i];
  }
  in.x[0] = std::numeric_limits<float>::quiet_NaN();
  in.x[1] = std::numeric_limits<float>::infinity();
  in.gamma.assign(8, 1);
  in.beta.assign(8, 0);
  in.running_mean.assign(8, 0);
  in.running_variance.assign(8, 1 - 1e-5f);
  for (const auto& [function, word] : codelets::named_activations) {
    if (!codelets::fuses_with_normalisations(function)) continue;
    BatchNorm norm{spec_of(shape, Layout::nchw8c)};
    const std::vector<float> z = run_forward(norm, BatchNormMode::inference, in).y.values();
    norm.function = function;
    const std::vector<float> y = run_forward(norm, BatchNormMode::inference, in).y.values();
    for (std::size_t i = 0; i < count; ++i) {
      const double expected = activate(function, 0.01, static_cast<double>(z[i]));
      INFO(word << "(" << z[i] << ") is " << y[i] << ", expected " << expected);
      if (std::isnan(z[i])) {
        REQUIRE(std::isnan(y[i]));
      } else {
        // exp errs by less than 2e-7, and is infinite from 88.4 on, where 88.4 exp(-88.4) = 4e-37.
        REQUIRE(
            (static_cast<double>(y[i]) == expected ||
             std::abs(static_cast<double>(y[i]) - expected) <= 5e-7 * std::abs(expected) + 4e-37));
      }
    }
  }
}

TEST_CASE("batch norm's gradient is that of its definition", "[batch_norm]") {
  const Shape shape{3, 5, 3, 2};
  for (const bool relu : {false, true}) {
    const bool residual = true;
    const BatchNorm norm{spec_of(shape, Layout::nchw8c), relu, residual};
    const Inputs in = random_inputs(shape, residual, 40);
    const std::vector<float> d_y = random_values(shape.elements(), 50);
    ForwardResult forward = run_forward(norm, BatchNormMode::training, in);
    BackwardResult backward = run_backward(norm, in, forward, d_y);

    const auto numerical = [&](Doubles NormReference::*member) {
      return numerical_gradient(reference_of(norm, in), member, d_y);
    };
    INFO((relu ? "relu" : "no relu"));
    require_tensor("d_x", backward.d_x, numerical(&NormReference::x), usual);
    require_tensor("d_residual", backward.d_residual, numerical(&NormReference::r), usual);
    require_flat("d_gamma", backward.d_gamma, numerical(&NormReference::gamma), usual);
    require_flat("d_beta", backward.d_beta, numerical(&NormReference::beta), usual);
  }
}

TEST_CASE("batch norm's variance does not suffer from a far mean", "[batch_norm]") {
  // The naive E[x^2] - E[x]^2 would lose 1e8 * 6e-8 = 6 of a variance of about 1 here. The mean
  // also jumps from image to image.
  const Shape shape{9, 17, 20, 15};
  Inputs in = random_inputs(shape, false, 60);
  for (std::size_t i = 0; i < in.x.size(); ++i)
    in.x[i] +=
        10000 + static_cast<float>(i / static_cast<std::size_t>(shape.c * shape.spatial()) % 3);
  NormReference reference = reference_of({spec_of(shape)}, in);
  reference.compute_statistics();
  std::vector<float> inverse;
  for (const double variance : reference.variance)
    inverse.push_back(static_cast<float>(1 / std::sqrt(variance + reference.epsilon)));
  for (const Layout layout : all_layouts) {
    ForwardResult forward = run_forward({spec_of(shape, layout)}, BatchNormMode::training, in);
    require_flat("mean", forward.mean, reference.mean, {1e-7, 0});
    require_flat("inverse_stddev", forward.inverse_stddev, inverse, {1e-6, 0});
  }
}

TEST_CASE("batch norm with a constant channel gives beta", "[batch_norm]") {
  const Shape shape{4, 3, 5, 5};
  Inputs in = random_inputs(shape, false, 70);
  std::fill(in.x.begin(), in.x.end(), 0.1f);
  for (const Layout layout : all_layouts) {
    ForwardResult forward = run_forward({spec_of(shape, layout)}, BatchNormMode::training, in);
    // The mean is exact but for one rounding, 1e-8, over sqrt(epsilon) = 3e-3.
    std::vector<float> expected;
    for (std::int64_t i = 0; i < shape.elements(); ++i)
      expected.push_back(in.beta[static_cast<std::size_t>(i / shape.spatial() % shape.c)]);
    require_tensor("y", forward.y, expected, {0, 1e-5});
    require_flat("inverse_stddev", forward.inverse_stddev,
                 std::vector<double>(3, 1 / std::sqrt(1e-5)), {1e-5, 0});
  }
}

TEST_CASE("batch norm's backward cuts exactly what forward has cut", "[batch_norm]") {
  // With d_y = 1, d_beta counts the values that passed. x comes from a grid, so that many values
  // are near the threshold.
  const Shape shape{8, 18, 9, 9};
  Inputs in = random_inputs(shape, false, 80);
  for (float& x : in.x) x = std::round(x * 8) / 8;
  for (const Layout layout : all_layouts) {
    const BatchNorm norm{spec_of(shape, layout), true};
    ForwardResult first = run_forward(norm, BatchNormMode::training, in);
    // beta such that the value at x = 1 is zero but for rounding
    const std::vector<float> mean = first.mean.values(), inverse = first.inverse_stddev.values();
    for (std::size_t c = 0; c < in.beta.size(); ++c)
      in.beta[c] = -in.gamma[c] * inverse[c] * (1 - mean[c]);
    ForwardResult forward = run_forward(norm, BatchNormMode::training, in);
    BackwardResult backward = run_backward(
        norm, in, forward, std::vector<float>(static_cast<std::size_t>(shape.elements()), 1));
    std::vector<float> passed(static_cast<std::size_t>(shape.c));
    const std::vector<float> y = forward.y.values();
    for (std::size_t i = 0; i < y.size(); ++i)
      if (y[i] > 0)
        ++passed[i / static_cast<std::size_t>(shape.spatial()) % static_cast<std::size_t>(shape.c)];
    INFO(to_string(layout));
    REQUIRE(backward.d_beta.values() == passed);
  }
}

TEST_CASE("batch norm's backward may write over its gradients", "[batch_norm]") {
  const Shape shape{3, 19, 5, 5};
  for (const Layout layout : all_layouts) {
    for (const bool relu : {false, true}) {
      for (const bool residual : {false, true}) {
        for (const bool two_parts : {false, true}) {
          const BatchNorm norm{spec_of(shape, layout), relu, residual};
          const Inputs in = random_inputs(shape, residual, 90);
          const std::vector<float> d_y = random_values(shape.elements(), 91);
          std::optional<std::vector<float>> d_y2;
          if (two_parts) d_y2 = random_values(shape.elements(), 92);
          ForwardResult forward = run_forward(norm, BatchNormMode::training, in);
          const BackwardResult apart = run_backward(norm, in, forward, d_y, d_y2);
          for_each_pair_of_places(two_parts, [&](Place d_x, Place d_residual) {
            const BackwardResult over = run_backward(norm, in, forward, d_y, d_y2, d_x, d_residual);
            INFO(norm.x.to_string()
                 << " relu " << relu << " residual " << residual << " two " << two_parts
                 << " places " << static_cast<int>(d_x) << " " << static_cast<int>(d_residual));
            REQUIRE(same_bits(over.d_x.stored(), apart.d_x.stored()));
            if (residual && d_residual != Place::none)
              REQUIRE(same_bits(over.d_residual.stored(), apart.d_residual.stored()));
            REQUIRE(over.d_gamma.values() == apart.d_gamma.values());
            REQUIRE(over.d_beta.values() == apart.d_beta.values());
          });
        }
      }
    }
  }
}

TEST_CASE("batch norm on batch statistics leaves running statistics alone", "[batch_norm]") {
  const Shape shape{3, 17, 4, 5};
  const BatchNorm norm{spec_of(shape, Layout::nchw16c), true};
  const Inputs in = random_inputs(shape, false, 100);
  ForwardResult training = run_forward(norm, BatchNormMode::training, in);
  ForwardResult batch = run_forward(norm, BatchNormMode::batch_statistics, in);
  REQUIRE(same_bits(batch.y.stored(), training.y.stored()));
  REQUIRE(batch.running_mean.values() == in.running_mean);
  REQUIRE(training.running_mean.values() != in.running_mean);
}

TEST_CASE("batch norm with a momentum of 1 forgets even NaN", "[batch_norm]") {
  BatchNorm norm{spec_of({3, 17, 4, 5}, Layout::nchw16c)};
  norm.momentum = 1;
  Inputs in = random_inputs(norm.x.shape, false, 120);
  ForwardResult usual_one = run_forward(norm, BatchNormMode::training, in);
  in.running_mean.assign(17, std::numeric_limits<float>::quiet_NaN());
  in.running_variance.assign(17, std::numeric_limits<float>::infinity());
  ForwardResult forward = run_forward(norm, BatchNormMode::training, in);
  REQUIRE(forward.running_mean.values() == usual_one.running_mean.values());
  REQUIRE(forward.running_variance.values() == usual_one.running_variance.values());
}

TEST_CASE("batch norm keeps NaN and infinity in their channel", "[batch_norm]") {
  const Shape shape{2, 18, 3, 3};
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const Layout layout : all_layouts) {
      const BatchNorm norm{spec_of(shape, layout), true};
      Inputs in = random_inputs(shape, false, 110);
      in.x[9 * 4 + 2] = bad;  // channel 4
      ForwardResult forward = run_forward(norm, BatchNormMode::training, in);
      REQUIRE(forward.y.padding_is_zero());
      const std::vector<float> y = forward.y.values();
      for (std::size_t i = 0; i < y.size(); ++i) {
        INFO(norm.x.to_string() << " [" << i << "]");
        REQUIRE(std::isnan(y[i]) == (i / 9 % 18 == 4));
      }
    }
  }
}

TEST_CASE("batch norm is repeatable, also in two threads", "[batch_norm]") {
  const Shape shape{5, 20, 17, 19};
  const BatchNorm norm{spec_of(shape, Layout::nchw16c), true};
  const Inputs in = random_inputs(shape, false, 120);
  const auto kernel = plan(BatchNormForward{norm, BatchNormMode::batch_statistics}, Cpu{});
  Tensor x(norm.x, in.x), first(norm.x), second(norm.x);
  Flat gamma(in.gamma), beta(in.beta);
  run_in_two_threads(*kernel,
                     {x.pointer(), gamma.pointer(), beta.pointer(), nullptr, nullptr,
                      first.pointer(), nullptr, nullptr},
                     {x.pointer(), gamma.pointer(), beta.pointer(), nullptr, nullptr,
                      second.pointer(), nullptr, nullptr});
  REQUIRE(same_bits(first.stored(), second.stored()));
}

TEST_CASE("batch norm says what it cannot plan", "[batch_norm]") {
  BatchNorm norm{spec_of({4, 3, 2, 2})};
  norm.x.type = DataType::bfloat16;
  for (const std::string& message :
       {message_of(BatchNormForward{norm}), message_of(BatchNormBackward{norm})}) {
    INFO(message);
    REQUIRE(contains(message, "BatchNorm"));
    REQUIRE(contains(message, "4x3x2x2 bfloat16 nchw"));
    REQUIRE(contains(message, "float32"));
  }
  norm.x = spec_of({4, 3, 2, 2}, Layout::any);
  REQUIRE(contains(message_of(BatchNormForward{norm}), "layout"));
  norm.x = spec_of({1, 3, 1, 1});
  REQUIRE(contains(message_of(BatchNormForward{norm}), "more than one value"));
  REQUIRE(contains(message_of(BatchNormBackward{norm}), "more than one value"));
  REQUIRE_NOTHROW(plan(BatchNormForward{norm, BatchNormMode::inference}, Cpu{}));
  norm.x = spec_of({0, 3, 2, 2});
  REQUIRE(contains(message_of(BatchNormForward{norm}), "at least 1"));
  norm.x = spec_of({4, 3, 2, 2});
  norm.epsilon = -1e-5f;
  REQUIRE(contains(message_of(BatchNormForward{norm}), "epsilon must not be negative"));
  norm = {spec_of({4, 3, 2, 2})};
  norm.function = Activation::tanh;
  REQUIRE(contains(message_of(BatchNormForward{norm}), "tanh cannot be fused into it"));
  norm.function = Activation::silu;
  norm.residual = true;
  REQUIRE(contains(message_of(BatchNormBackward{norm}), "silu cannot be fused into it"));
}
