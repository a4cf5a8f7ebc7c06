// What the CUDA implementations share: errors that name the op, streams, devices.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>

#include "codelets/kernel.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets::cuda {

/// Throws std::runtime_error, "<what>: <CUDA's own words>", unless all went well. `what` names the
/// op and its shapes.
void check(cudaError_t error, const std::string& what);

/// Throws std::invalid_argument, "<what>: <the type>; CUDA computes in ...".
[[noreturn]] void refuse(runtime::DataType type, const std::string& what);

/// Refuses a type that CUDA does not compute in.
void require_type(runtime::DataType type, const std::string& what);

/// The stream of Kernel::run.
[[nodiscard]] inline cudaStream_t native(Stream stream) {
  return static_cast<cudaStream_t>(stream);
}

/// The number of the calling thread's current device.
[[nodiscard]] int current_device();

/// Of the parts of a workspace: what cuBLASLt asks for.
inline constexpr std::size_t workspace_alignment = 256;

}  // namespace stpt::codelets::cuda
