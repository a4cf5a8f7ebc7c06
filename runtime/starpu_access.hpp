// How accesses are spelt in StarPU. For the .cpp files of runtime/ alone.
#pragma once

#include <starpu.h>

#include <stdexcept>

#include "runtime/tensor.hpp"

namespace stpt::runtime {

inline starpu_data_access_mode to_starpu(Access access) {
  switch (access) {
    case Access::read:
      return STARPU_R;
    case Access::write:
      return STARPU_W;
    case Access::read_write:
      return STARPU_RW;
    case Access::scratch:
      return STARPU_SCRATCH;
  }
  throw std::logic_error("to_starpu: unknown access");
}

}  // namespace stpt::runtime
