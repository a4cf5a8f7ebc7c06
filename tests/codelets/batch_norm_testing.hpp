// Batch norm by its definition, and by the CPU's kernels.
#pragma once

#include <optional>
#include <vector>

#include "codelets/batch_norm.hpp"
#include "tests/codelets/kernel_testing.hpp"
#include "tests/codelets/normalisation_testing.hpp"

namespace stpt::testing::batch_norm {

using codelets::BatchNorm;
using codelets::BatchNormBackward;
using codelets::BatchNormForward;
using codelets::BatchNormMode;
using codelets::Cpu;

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
  Tensor* d_x = tensor_at(d_x_place, out.d_x, d_y, d_y2);
  Tensor* d_residual = tensor_at(d_residual_place, out.d_residual, d_y, d_y2);
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
  copy_to_own(*d_x, out.d_x);
  if (norm.residual && d_residual) copy_to_own(*d_residual, out.d_residual);
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

inline NormReference reference_of(const BatchNorm& norm, const Inputs& in) {
  return {.shape = norm.x.shape,
          .relu = norm.relu,
          .residual = norm.residual,
          .function = norm.function,
          .slope = static_cast<double>(norm.slope),
          .epsilon = static_cast<double>(norm.epsilon),
          .x = to_double(in.x),
          .r = to_double(in.residual),
          .gamma = to_double(in.gamma),
          .beta = to_double(in.beta)};
}

}  // namespace stpt::testing::batch_norm
