#include "codelets/group_norm.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "tests/codelets/group_norm_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using namespace stpt::testing::group_norm;

namespace {

// As for batch norm: results are compared relative to the largest value of their tensor, and go
// through fewer than ten roundings of 6e-8 after the sums; those add a few.
constexpr Tolerance usual{2e-6, 1e-7};

struct Case {
  Shape shape;
  int groups;
};

void require_message(const GroupNorm& norm, const std::string& part) {
  const auto require_from = [&](const auto& op) {
    std::string message;
    try {
      (void)plan(op, Cpu{});
    } catch (const std::invalid_argument& error) {
      message = error.what();
    }
    INFO(message);
    REQUIRE(message.find(part) != std::string::npos);
  };
  require_from(GroupNormForward{norm});
  require_from(GroupNormBackward{norm});
}

}  // namespace

TEST_CASE("group norm matches PyTorch in every layout", "[group_norm]") {
  const GoldenFile golden = load_golden("group_norm.bin");
  for (const std::string& name : golden_cases(golden)) {
    const auto tensor = [&](const std::string& part) { return golden.at(name + "/" + part); };
    const auto values = [&](const std::string& part) { return tensor(part).values; };
    const auto flags = values("flags");
    const bool residual = flags[1] != 0;
    const Inputs in{values("x"), residual ? values("residual") : std::vector<float>{},
                    values("gamma"), values("beta")};
    for (const Layout layout : all_layouts) {
      INFO(name << " " << to_string(layout));
      const GroupNorm norm{spec_of(golden_shape(tensor("x")), layout), static_cast<int>(flags[2]),
                           flags[0] != 0, residual, values("epsilon")[0]};
      // The saved mean is float32: rounding it to 6e-8 of 1000 moves a standard deviation of 2, and
      // with it every result, by up to 2e-5.
      const Tolerance tolerance = name == "far_mean" ? Tolerance{4e-5, 1e-7} : usual;
      ForwardResult forward = run_forward(norm, in);
      require_tensor("y", forward.y, values("y"), tolerance);
      BackwardResult backward = run_backward(norm, in, forward, values("d_y"));
      require_tensor("d_x", backward.d_x, values("d_x"), tolerance);
      if (residual)
        require_tensor("d_residual", backward.d_residual, values("d_residual"), tolerance);
      require_flat("d_gamma", backward.d_gamma, values("d_gamma"), tolerance);
      require_flat("d_beta", backward.d_beta, values("d_beta"), tolerance);
    }
  }
}

TEST_CASE("group norm matches the definition in double", "[group_norm]") {
  // Groups that are, that share and that cross blocks of 8 or 16 channels; images of more than one
  // chunk; one pixel; one channel a group; one group.
  const std::array cases = {Case{{2, 24, 17, 19}, 2}, Case{{1, 3, 80, 64}, 1},
                            Case{{5, 32, 4, 4}, 8},   Case{{3, 36, 3, 5}, 3},
                            Case{{4, 20, 1, 1}, 5},   Case{{2, 19, 4, 3}, 19},
                            Case{{3, 33, 5, 7}, 1}};
  for (const auto& [shape, groups] : cases) {
    for (const bool relu : {false, true}) {
      for (const bool residual : {false, true}) {
        const Inputs in = random_inputs(shape, residual, 7);
        const std::vector<float> d_y = random_values(shape.elements(), 20);
        const std::vector<float> d_y2 = random_values(shape.elements(), 21);
        NormReference reference = reference_of({spec_of(shape), groups, relu, residual}, in);
        reference.forward();
        for (const bool two_parts : {false, true}) {
          Doubles gradient = to_double(d_y);
          if (two_parts)
            for (std::size_t i = 0; i < gradient.size(); ++i)
              gradient[i] = static_cast<double>(d_y[i] + d_y2[i]);
          reference.backward(gradient);
          for (const Layout layout : all_layouts) {
            const GroupNorm norm{spec_of(shape, layout), groups, relu, residual};
            INFO(norm.x.to_string()
                 << " groups " << groups << (relu ? " relu" : "") << (residual ? " residual" : "")
                 << (two_parts ? " two parts" : ""));
            ForwardResult forward = run_forward(norm, in);
            require_tensor("y", forward.y, reference.y, usual);
            require_close("mean", of_groups(norm, forward.mean.values()), reference.mean, usual);
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

TEST_CASE("group norm's activations match their definitions in double", "[group_norm]") {
  const Shape shape{3, 18, 9, 5};
  Inputs in = random_inputs(shape, false, 7);
  for (float& gamma : in.gamma) gamma *= 4;  // beyond all kinks
  const std::vector<float> d_y = random_values(shape.elements(), 20);
  for (const auto& [function, word] : codelets::named_activations) {
    if (!codelets::fuses_with_normalisations(function)) continue;
    for (const Layout layout : all_layouts) {
      GroupNorm norm{spec_of(shape, layout), 3};
      norm.function = function;
      INFO(norm.x.to_string() << " " << word);
      NormReference reference = reference_of(norm, in);
      reference.forward();
      reference.backward(to_double(d_y));
      ForwardResult forward = run_forward(norm, in);
      require_tensor("y", forward.y, reference.y, usual);
      BackwardResult backward = run_backward(norm, in, forward, d_y);
      require_tensor("d_x", backward.d_x, reference.d_x, reference.d_x_tolerance());
      require_flat("d_gamma", backward.d_gamma, reference.d_gamma, usual);
      require_flat("d_beta", backward.d_beta, reference.d_beta, usual);
    }
  }
}

TEST_CASE("group norm's gradient is that of its definition", "[group_norm]") {
  const Shape shape{3, 6, 3, 2};
  for (const bool relu : {false, true}) {
    const GroupNorm norm{spec_of(shape, Layout::nchw8c), 2, relu, true};
    const Inputs in = random_inputs(shape, true, 40);
    const std::vector<float> d_y = random_values(shape.elements(), 50);
    ForwardResult forward = run_forward(norm, in);
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

TEST_CASE("group norm's variance does not suffer from a far mean", "[group_norm]") {
  // The naive E[x^2] - E[x]^2 would lose 1e8 * 6e-8 = 6 of a variance of about 1 here. The mean
  // also jumps from channel to channel.
  const Shape shape{3, 18, 20, 15};
  Inputs in = random_inputs(shape, false, 60);
  for (std::size_t i = 0; i < in.x.size(); ++i)
    in.x[i] += 10000 + static_cast<float>(i / static_cast<std::size_t>(shape.spatial()) % 3);
  NormReference reference = reference_of({spec_of(shape), 3}, in);
  reference.compute_statistics();
  Doubles inverse;
  for (const double variance : reference.variance)
    inverse.push_back(1 / std::sqrt(variance + reference.epsilon));
  for (const Layout layout : all_layouts) {
    const GroupNorm norm{spec_of(shape, layout), 3};
    ForwardResult forward = run_forward(norm, in);
    require_close("mean", of_groups(norm, forward.mean.values()), reference.mean, {1e-7, 0});
    require_close("inverse_stddev", of_groups(norm, forward.inverse_stddev.values()), inverse,
                  {1e-6, 0});
  }
}

TEST_CASE("group norm's backward cuts exactly what forward has cut", "[group_norm]") {
  // With d_y = 1, d_beta counts the values that passed. x comes from a grid, so that many values
  // are near the threshold.
  const Shape shape{1, 18, 9, 9};
  Inputs in = random_inputs(shape, false, 80);
  for (float& x : in.x) x = std::round(x * 8) / 8;
  for (const Layout layout : all_layouts) {
    const GroupNorm norm{spec_of(shape, layout), 3, true};
    ForwardResult first = run_forward(norm, in);
    // beta such that the value at x = 1 is zero but for rounding
    const std::vector<float> mean = first.mean.values(), inverse = first.inverse_stddev.values();
    for (std::size_t c = 0; c < in.beta.size(); ++c)
      in.beta[c] = -in.gamma[c] * inverse[c] * (1 - mean[c]);
    ForwardResult forward = run_forward(norm, in);
    BackwardResult backward = run_backward(
        norm, in, forward, std::vector<float>(static_cast<std::size_t>(shape.elements()), 1));
    std::vector<float> passed(static_cast<std::size_t>(shape.c));
    const std::vector<float> y = forward.y.values();
    for (std::size_t i = 0; i < y.size(); ++i)
      if (y[i] > 0) ++passed[i / static_cast<std::size_t>(shape.spatial())];
    INFO(to_string(layout));
    REQUIRE(backward.d_beta.values() == passed);
  }
}

TEST_CASE("group norm's backward may write over its gradients", "[group_norm]") {
  const Shape shape{3, 18, 5, 5};
  for (const Layout layout : all_layouts) {
    for (const bool relu : {false, true}) {
      for (const bool residual : {false, true}) {
        for (const bool two_parts : {false, true}) {
          const GroupNorm norm{spec_of(shape, layout), 6, relu, residual};
          const Inputs in = random_inputs(shape, residual, 90);
          const std::vector<float> d_y = random_values(shape.elements(), 91);
          std::optional<std::vector<float>> d_y2;
          if (two_parts) d_y2 = random_values(shape.elements(), 92);
          ForwardResult forward = run_forward(norm, in);
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

TEST_CASE("group norm keeps NaN and infinity in their group", "[group_norm]") {
  const Shape shape{2, 18, 3, 3};
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const Layout layout : all_layouts) {
      const GroupNorm norm{spec_of(shape, layout), 6, true};
      Inputs in = random_inputs(shape, false, 110);
      in.x[9 * 4 + 2] = bad;  // channel 4, in group 1 of image 0
      ForwardResult forward = run_forward(norm, in);
      REQUIRE(forward.y.padding_is_zero());
      const std::vector<float> y = forward.y.values();
      for (std::size_t i = 0; i < y.size(); ++i) {
        INFO(norm.x.to_string() << " [" << i << "]");
        REQUIRE(std::isnan(y[i]) == (i / 9 / 3 == 1));
      }
    }
  }
}

TEST_CASE("an image's group norm does not depend on the others", "[group_norm]") {
  const Shape all{4, 24, 6, 5}, one{1, 24, 6, 5};
  const Inputs in = random_inputs(all, false, 130);
  for (const Layout layout : all_layouts) {
    const std::vector<float> y = run_forward({spec_of(all, layout), 4}, in).y.values();
    const std::size_t size = y.size() / 4;
    for (std::size_t image = 0; image < 4; ++image) {
      Inputs alone = in;
      const auto begin = static_cast<std::ptrdiff_t>(image * size);
      alone.x.assign(in.x.begin() + begin,
                     in.x.begin() + begin + static_cast<std::ptrdiff_t>(size));
      INFO(to_string(layout) << " image " << image);
      REQUIRE(same_bits(run_forward({spec_of(one, layout), 4}, alone).y.values(),
                        std::span(y).subspan(image * size, size)));
    }
  }
}

TEST_CASE("group norm says what it cannot plan", "[group_norm]") {
  GroupNorm norm{spec_of({4, 6, 2, 2}), 4};
  require_message(norm, "4x6x2x2 in 4 groups: groups must divide the channels");
  norm.groups = 0;
  require_message(norm, "groups must divide the channels");
  norm = {spec_of({4, 6, 1, 1}), 6};
  require_message(norm, "more than one value of an image");
  norm = {spec_of({4, 6, 2, 2}), 3};
  norm.epsilon = -1;
  require_message(norm, "epsilon must not be negative");
  norm.epsilon = std::numeric_limits<float>::quiet_NaN();
  require_message(norm, "epsilon must not be negative");
  require_message({spec_of({4, 6, 2, 2}, Layout::any), 3}, "layout");
  norm = {spec_of({4, 6, 2, 2}), 3, true};
  norm.function = Activation::silu;
  require_message(norm, "silu cannot be fused into it");
  require_message({spec_of({0, 6, 2, 2}), 3}, "at least 1");
  norm = {spec_of({4, 6, 2, 2}), 3};
  norm.x.type = DataType::bfloat16;
  require_message(norm, "float32");
}
