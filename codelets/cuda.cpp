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

int current_device() {
  int device = 0;
  check(cudaGetDevice(&device), "asking for the current GPU");
  return device;
}

}  // namespace stpt::codelets::cuda
