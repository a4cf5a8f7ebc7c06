// Normalisations by their definition.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "tests/codelets/elementwise_testing.hpp"
#include "tests/codelets/kernel_testing.hpp"

namespace stpt::testing {

using Doubles = std::vector<double>;

inline Doubles to_double(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

/// The definition, in double, on nchw values.
struct NormReference {
  Shape shape;
  int groups = 0;  ///< of an image's channels; 0: a channel of all images is normalised together
  bool relu = false, residual = false;
  std::optional<Activation> function{};  ///< instead of the ReLU
  double slope = 0.01;
  double epsilon = 1e-5;
  Doubles x{}, r{}, gamma{}, beta{};

  Doubles mean{}, variance{}, y{};                   // forward; statistics of each set
  Doubles before{};                                  // the activation
  Doubles d_x{}, d_residual{}, d_gamma{}, d_beta{};  // backward

  /// visit(place, channel, set of values that are normalised together)
  template <typename Visit>
  void for_each(Visit visit) const {
    std::size_t i = 0;
    for (std::int64_t n = 0; n < shape.n; ++n)
      for (std::int64_t c = 0; c < shape.c; ++c)
        for (std::int64_t s = 0; s < shape.spatial(); ++s)
          visit(i++, static_cast<std::size_t>(c),
                static_cast<std::size_t>(groups == 0 ? c : n * groups + c * groups / shape.c));
  }
  [[nodiscard]] std::size_t channels() const { return static_cast<std::size_t>(shape.c); }
  [[nodiscard]] std::size_t sets() const {
    return static_cast<std::size_t>(groups == 0 ? shape.c : shape.n * groups);
  }
  [[nodiscard]] double count() const { return static_cast<double>(x.size() / sets()); }

  void compute_statistics() {
    mean.assign(sets(), 0);
    variance.assign(sets(), 0);
    for_each([&](std::size_t i, std::size_t, std::size_t set) { mean[set] += x[i] / count(); });
    for_each([&](std::size_t i, std::size_t, std::size_t set) {
      variance[set] += (x[i] - mean[set]) * (x[i] - mean[set]) / count();
    });
  }

  [[nodiscard]] double normalised(std::size_t i, std::size_t set) const {
    return (x[i] - mean[set]) / std::sqrt(variance[set] + epsilon);
  }

  [[nodiscard]] double activated(double value) const {
    if (function) return activate(*function, slope, value);
    return relu ? std::max(value, 0.0) : value;
  }
  /// By differences, which err by about 1e-10 but at kinks.
  [[nodiscard]] double derivative(double value) const {
    constexpr double step = 1e-6;
    if (!function) return relu && value <= 0 ? 0 : 1;
    return (activated(value + step) - activated(value - step)) / (2 * step);
  }

  void normalise() {
    y.resize(x.size());
    before.resize(x.size());
    for_each([&](std::size_t i, std::size_t c, std::size_t set) {
      before[i] = gamma[c] * normalised(i, set) + beta[c];
      if (residual) before[i] += r[i];
      y[i] = activated(before[i]);
    });
  }

  void forward() {
    compute_statistics();
    normalise();
  }

  void backward(const Doubles& d_y) {
    d_x.resize(x.size());
    d_residual.resize(x.size());
    d_gamma.assign(channels(), 0);
    d_beta.assign(channels(), 0);
    Doubles sum(sets()), product(sets());  // of the normalised values' gradients
    for_each([&](std::size_t i, std::size_t c, std::size_t set) {
      d_residual[i] = d_y[i] * derivative(before[i]);
      d_gamma[c] += d_residual[i] * normalised(i, set);
      d_beta[c] += d_residual[i];
      sum[set] += gamma[c] * d_residual[i];
      product[set] += gamma[c] * d_residual[i] * normalised(i, set);
    });
    for_each([&](std::size_t i, std::size_t c, std::size_t set) {
      d_x[i] = (gamma[c] * d_residual[i] - sum[set] / count() -
                normalised(i, set) * product[set] / count()) /
               std::sqrt(variance[set] + epsilon);
    });
  }

  /// The tolerance for d_x, which is what remains when most of g has been subtracted, so that its
  /// error is relative to what was there before (scale); and the saved mean is rounded by up to
  /// 6e-8 of itself, which counts in standard deviations (shift).
  [[nodiscard]] Tolerance d_x_tolerance() const {
    double scale = 0, shift = 0;
    for_each([&](std::size_t, std::size_t c, std::size_t set) {
      const double stddev = std::sqrt(variance[set] + epsilon);
      scale = std::max(scale, std::abs(gamma[c]) / stddev);
      shift = std::max(shift, 6e-8 * std::abs(mean[set]) / stddev);
    });
    return {2e-6, (2e-6 + shift) * scale};
  }
};

/// The gradient of sum(d_y * y) with respect to one of the reference's inputs, by differences. In
/// double, a step of 1e-6 has errors of about 1e-10 (rounding) and 1e-12 (curvature), which leaves
/// those of the kernel; no value may be as near to the kink of the ReLU as the step.
inline Doubles numerical_gradient(NormReference reference, Doubles NormReference::*member,
                                  const std::vector<float>& d_y) {
  const auto value = [&] {
    reference.forward();
    double sum = 0;
    for (std::size_t i = 0; i < d_y.size(); ++i)
      sum += static_cast<double>(d_y[i]) * reference.y[i];
    return sum;
  };
  constexpr double step = 1e-6;
  Doubles gradient;
  for (double& at : reference.*member) {
    const double before = at;
    at = before + step;
    const double above = value();
    at = before - step;
    const double below = value();
    at = before;
    gradient.push_back((above - below) / (2 * step));
  }
  return gradient;
}

/// Where a result of backward goes.
enum class Place { own, d_y, d_y2, none };

/// The tensor of a place, of these; nullptr for none.
template <class AnyTensor>
AnyTensor* tensor_at(Place place, AnyTensor& own, AnyTensor& d_y, AnyTensor& d_y2) {
  switch (place) {
    case Place::own:
      return &own;
    case Place::d_y:
      return &d_y;
    case Place::d_y2:
      return &d_y2;
    case Place::none:
      break;
  }
  return nullptr;
}

/// Into the tensor's own place, from where it was written.
inline void copy_to_own(const Tensor& from, Tensor& own) {
  if (&from == &own) return;
  REQUIRE(from.guard_intact());
  std::copy(from.stored().begin(), from.stored().end(), own.stored().begin());
}

/// visit(d_x's, d_residual's) for the places that the two may have.
template <class Visit>
void for_each_pair_of_places(bool two_parts, Visit visit) {
  for (const Place d_x : {Place::own, Place::d_y, Place::d_y2}) {
    for (const Place d_residual : {Place::own, Place::d_y, Place::d_y2, Place::none}) {
      if (d_x == d_residual && d_x != Place::own) continue;
      if (!two_parts && (d_x == Place::d_y2 || d_residual == Place::d_y2)) continue;
      visit(d_x, d_residual);
    }
  }
}

}  // namespace stpt::testing
