// Group norm by the CPU's kernels.
#pragma once

#include <optional>
#include <vector>

#include "codelets/group_norm.hpp"
#include "tests/codelets/kernel_testing.hpp"
#include "tests/codelets/normalisation_testing.hpp"

namespace stpt::testing::group_norm {

using codelets::Cpu;
using codelets::GroupNorm;
using codelets::GroupNormBackward;
using codelets::GroupNormForward;

/// What a run is given; plain nchw values.
struct Inputs {
  std::vector<float> x, residual, gamma, beta;
};

inline Inputs random_inputs(const Shape& shape, bool residual, unsigned seed) {
  const std::int64_t count = shape.elements();
  return {random_values(count, seed, -1, 3),
          residual ? random_values(count, seed + 1) : std::vector<float>{},
          random_values(shape.c, seed + 2, -2, 2), random_values(shape.c, seed + 3)};
}

inline NormReference reference_of(const GroupNorm& norm, const Inputs& in) {
  return {.shape = norm.x.shape,
          .groups = norm.groups,
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

/// A number for each group of each image, of numbers that are there for each of its channels: those
/// must be equal.
inline std::vector<float> of_groups(const GroupNorm& norm, const std::vector<float>& of_channels) {
  const auto channels = static_cast<std::size_t>(norm.x.shape.c / norm.groups);
  std::vector<float> result;
  for (std::size_t i = 0; i < of_channels.size(); ++i) {
    if (i % channels == 0) result.push_back(of_channels[i]);
    REQUIRE(of_channels[i] == result.back());
  }
  return result;
}

struct ForwardResult {
  Tensor y;
  Flat mean, inverse_stddev;
};

inline ForwardResult run_forward(const GroupNorm& norm, const Inputs& in) {
  const std::int64_t statistics = norm.x.shape.n * norm.x.shape.c;
  ForwardResult out{Tensor(norm.x), Flat(statistics), Flat(statistics)};
  Tensor x(norm.x, in.x), residual(norm.x);
  if (norm.residual) residual.set(in.residual);
  Flat gamma(in.gamma), beta(in.beta);
  std::vector<void*> args{x.pointer()};
  if (norm.residual) args.push_back(residual.pointer());
  for (void* arg : {gamma.pointer(), beta.pointer(), out.y.pointer(), out.mean.pointer(),
                    out.inverse_stddev.pointer(), static_cast<void*>(nullptr)})
    args.push_back(arg);
  run_kernel(*plan(GroupNormForward{norm}, Cpu{}), args);
  return out;
}

struct BackwardResult {
  Tensor d_x, d_residual;
  Flat d_gamma, d_beta;
};

/// y and the statistics come from `forward`; results go where the two places say and are copied
/// from there.
inline BackwardResult run_backward(const GroupNorm& norm, const Inputs& in, ForwardResult& forward,
                                   const std::vector<float>& d_y_values,
                                   const std::optional<std::vector<float>>& d_y2_values = {},
                                   Place d_x_place = Place::own,
                                   Place d_residual_place = Place::own) {
  BackwardResult out{Tensor(norm.x), Tensor(norm.x), Flat(norm.x.shape.c), Flat(norm.x.shape.c)};
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
  run_kernel(*plan(GroupNormBackward{norm, d_y2_values.has_value()}, Cpu{}), args);
  copy_to_own(*d_x, out.d_x);
  if (norm.residual && d_residual) copy_to_own(*d_residual, out.d_residual);
  return out;
}

}  // namespace stpt::testing::group_norm
