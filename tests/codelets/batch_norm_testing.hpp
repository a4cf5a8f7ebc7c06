// Batch norm by its definition, and by the CPU's kernels.
#pragma once

#include <cmath>
#include <optional>
#include <vector>

#include "codelets/batch_norm.hpp"
#include "tests/codelets/kernel_testing.hpp"

namespace stpt::testing::batch_norm {

using codelets::BatchNorm;
using codelets::BatchNormBackward;
using codelets::BatchNormForward;
using codelets::BatchNormMode;
using codelets::Cpu;

using Doubles = std::vector<double>;

inline Doubles to_double(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

/// The definition, in double, on nchw values.
struct Reference {
  Shape shape;
  bool relu = false, residual = false;
  double epsilon = 1e-5;
  Doubles x{}, r{}, gamma{}, beta{};

  Doubles mean{}, variance{}, y{};                   // forward
  Doubles d_x{}, d_residual{}, d_gamma{}, d_beta{};  // backward

  template <typename Visit>
  void for_each(Visit visit) const {
    std::size_t i = 0;
    for (std::int64_t n = 0; n < shape.n; ++n)
      for (std::int64_t c = 0; c < shape.c; ++c)
        for (std::int64_t s = 0; s < shape.spatial(); ++s) visit(i++, static_cast<std::size_t>(c));
  }
  [[nodiscard]] std::size_t channels() const { return static_cast<std::size_t>(shape.c); }
  [[nodiscard]] double count() const { return static_cast<double>(shape.n * shape.spatial()); }

  void compute_statistics() {
    mean.assign(channels(), 0);
    variance.assign(channels(), 0);
    for_each([&](std::size_t i, std::size_t c) { mean[c] += x[i] / count(); });
    for_each([&](std::size_t i, std::size_t c) {
      variance[c] += (x[i] - mean[c]) * (x[i] - mean[c]) / count();
    });
  }

  void normalise() {
    y.resize(x.size());
    for_each([&](std::size_t i, std::size_t c) {
      y[i] = gamma[c] * (x[i] - mean[c]) / std::sqrt(variance[c] + epsilon) + beta[c];
      if (residual) y[i] += r[i];
      if (relu && y[i] < 0) y[i] = 0;
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
    Doubles xhat(x.size());
    for_each([&](std::size_t i, std::size_t c) {
      xhat[i] = (x[i] - mean[c]) / std::sqrt(variance[c] + epsilon);
      d_residual[i] = relu && y[i] <= 0 ? 0 : d_y[i];
      d_gamma[c] += d_residual[i] * xhat[i];
      d_beta[c] += d_residual[i];
    });
    for_each([&](std::size_t i, std::size_t c) {
      d_x[i] = gamma[c] / std::sqrt(variance[c] + epsilon) *
               (d_residual[i] - d_beta[c] / count() - xhat[i] * d_gamma[c] / count());
    });
  }
};

struct ForwardResult {
  Tensor y;
  Flat mean, inverse_stddev, running_mean, running_variance;
};

/// What a forward run is given; plain nchw values.
struct Inputs {
  std::vector<float> x, residual, gamma, beta, running_mean, running_variance;
};

inline ForwardResult run_forward(const BatchNorm& norm, BatchNormMode mode, const Inputs& in) {
  const std::int64_t c = norm.x.shape.c;
  ForwardResult out{Tensor(norm.x), Flat(c), Flat(c), Flat(in.running_mean),
                    Flat(in.running_variance)};
  Tensor x(norm.x, in.x), residual(norm.x);
  if (norm.residual) residual.set(in.residual);
  Flat gamma(in.gamma), beta(in.beta);
  const bool training = mode == BatchNormMode::training;
  const bool running = mode != BatchNormMode::batch_statistics;
  std::vector<void*> args{x.pointer()};
  if (norm.residual) args.push_back(residual.pointer());
  for (void* arg :
       {gamma.pointer(), beta.pointer(), running ? out.running_mean.pointer() : nullptr,
        running ? out.running_variance.pointer() : nullptr, out.y.pointer(),
        training ? out.mean.pointer() : nullptr, training ? out.inverse_stddev.pointer() : nullptr})
    args.push_back(arg);
  run_kernel(*plan(BatchNormForward{norm, mode}, Cpu{}), args);
  return out;
}

/// Where a result of backward goes.
enum class Place { own, d_y, d_y2, none };

struct BackwardResult {
  Tensor d_x, d_residual;
  Flat d_gamma, d_beta;
};

/// y, mean and inverse_stddev come from `forward`; results go where the two places say and are
/// copied from there.
inline BackwardResult run_backward(const BatchNorm& norm, const Inputs& in, ForwardResult& forward,
                                   const std::vector<float>& d_y_values,
                                   const std::optional<std::vector<float>>& d_y2_values = {},
                                   Place d_x_place = Place::own,
                                   Place d_residual_place = Place::own) {
  const std::int64_t c = norm.x.shape.c;
  BackwardResult out{Tensor(norm.x), Tensor(norm.x), Flat(c), Flat(c)};
  Tensor x(norm.x, in.x), d_y(norm.x, d_y_values), d_y2(norm.x);
  if (d_y2_values) d_y2.set(*d_y2_values);
  Flat gamma(in.gamma), beta(in.beta);
  const auto place = [&](Place where, Tensor& own) -> Tensor* {
    switch (where) {
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
  };
  Tensor* d_x = place(d_x_place, out.d_x);
  Tensor* d_residual = place(d_residual_place, out.d_residual);
  std::vector<void*> args{x.pointer(),
                          norm.relu && norm.residual ? forward.y.pointer() : nullptr,
                          gamma.pointer(),
                          beta.pointer(),
                          forward.mean.pointer(),
                          forward.inverse_stddev.pointer(),
                          d_y.pointer()};
  if (d_y2_values) args.push_back(d_y2.pointer());
  args.push_back(d_x->pointer());
  if (norm.residual) args.push_back(d_residual ? d_residual->pointer() : nullptr);
  args.push_back(out.d_gamma.pointer());
  args.push_back(out.d_beta.pointer());
  run_kernel(*plan(BatchNormBackward{norm, d_y2_values.has_value()}, Cpu{}), args);
  REQUIRE(x.values() == in.x);
  const auto copy = [](const Tensor& from, Tensor& to) {
    if (&from == &to) return;
    REQUIRE(from.guard_intact());
    std::copy(from.stored().begin(), from.stored().end(), to.stored().begin());
  };
  copy(*d_x, out.d_x);
  if (norm.residual && d_residual) copy(*d_residual, out.d_residual);
  return out;
}

inline Inputs random_inputs(const Shape& shape, bool residual, unsigned seed) {
  const std::int64_t count = shape.elements();
  Inputs in{random_values(count, seed, -1, 3),
            residual ? random_values(count, seed + 1) : std::vector<float>{},
            random_values(shape.c, seed + 2, -2, 2),
            random_values(shape.c, seed + 3),
            random_values(shape.c, seed + 4),
            random_values(shape.c, seed + 5, 0.5f, 2)};
  return in;
}

inline Reference reference_of(const BatchNorm& norm, const Inputs& in) {
  return {.shape = norm.x.shape,
          .relu = norm.relu,
          .residual = norm.residual,
          .epsilon = static_cast<double>(norm.epsilon),
          .x = to_double(in.x),
          .r = to_double(in.residual),
          .gamma = to_double(in.gamma),
          .beta = to_double(in.beta)};
}

}  // namespace stpt::testing::batch_norm
