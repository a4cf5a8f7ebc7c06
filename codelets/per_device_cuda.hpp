// What has to be made for each GPU.
#pragma once

#include <map>
#include <mutex>

#include "codelets/cuda.hpp"

namespace stpt::codelets::cuda {

/// One T for each device, made by the first thread that needs it there.
template <class T>
class PerDevice {
 public:
  /// The one of the calling thread's current device, which stays where it is; make() if there is
  /// none yet.
  template <class Make>
  T& get(Make make) {
    const int device = current_device();
    const std::scoped_lock lock(mutex_);
    const auto found = made_.find(device);
    return found != made_.end() ? found->second : made_.emplace(device, make()).first->second;
  }

 private:
  std::mutex mutex_;
  std::map<int, T> made_;
};

}  // namespace stpt::codelets::cuda
