#include "codelets/cuda.hpp"

#include <stdexcept>

namespace stpt::codelets::cuda {

void check(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return;
  std::string advice;
  if (error == cudaErrorMemoryAllocation)
    advice = "; take a smaller batch or fewer replicas on one GPU";
  throw std::runtime_error(what + ": " + cudaGetErrorString(error) + " (" +
                           cudaGetErrorName(error) + ")" + advice);
}

void refuse(runtime::DataType type, const std::string& what) {
  throw std::invalid_argument(what + ": " + runtime::to_string(type) +
                              "; CUDA computes in float32, bfloat16 or float16");
}

void require_type(runtime::DataType type, const std::string& what) {
  using runtime::DataType;
  if (type != DataType::float32 && type != DataType::bfloat16 && type != DataType::float16)
    refuse(type, what);
}

int current_device() {
  int device = 0;
  check(cudaGetDevice(&device), "asking for the current GPU");
  return device;
}

}  // namespace stpt::codelets::cuda
