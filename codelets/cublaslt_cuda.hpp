// cuBLASLt's matrix products as kernels.
#pragma once

#include <cstdint>
#include <string>

#include "codelets/kernel.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets::cublaslt {

/// d = a b, of matrices in row-major order: d is rows x columns, a is rows x depth, b is depth x
/// columns; either may be given transposed. Sums are float32.
///   run(a, b, d)
struct Product {
  std::int64_t rows = 0, columns = 0, depth = 0;
  bool a_transposed = false, b_transposed = false;
  runtime::DataType factors = runtime::DataType::float32;  ///< type of a and b
  runtime::DataType result = runtime::DataType::float32;   ///< that of a and b, or float32
  bool tf32 = false;                                       ///< matters for float32 only
};

/// A kernel for the current device that gives the same bits at each run. On another device it
/// chooses its algorithm at its first run. `what` names the op in errors: std::invalid_argument if
/// cuBLASLt has no such product, else std::runtime_error.
[[nodiscard]] KernelPtr plan(const Product& product, const std::string& what);

}  // namespace stpt::codelets::cublaslt
