// What the implementations for cores ask of tensors.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "runtime/tensor_spec.hpp"

namespace stpt::codelets::cpu {

/// Throws std::invalid_argument, which begins with `what` and the tensor, unless it is float32.
inline void require_float32(const std::string& what, const runtime::TensorSpec& spec) {
  if (spec.type != runtime::DataType::float32)
    throw std::invalid_argument(what + " " + spec.to_string() +
                                ": the CPU computes in float32 only");
}

/// The same unless it is float32, in a layout, and no dimension is below `least`.
inline void require_plain(const std::string& what, const runtime::TensorSpec& spec,
                          std::int64_t least = 1) {
  require_float32(what, spec);
  const auto fail = [&](const std::string& reason) {
    throw std::invalid_argument(what + " " + spec.to_string() + ": " + reason);
  };
  if (spec.layout == runtime::Layout::any)
    fail("the layout must be chosen first: nchw, nhwc, nchw8c or nchw16c");
  if (spec.shape.smallest() < least)
    fail("every dimension must be at least " + std::to_string(least));
}

}  // namespace stpt::codelets::cpu
