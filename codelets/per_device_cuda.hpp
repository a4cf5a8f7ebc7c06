// What has to be made for each GPU.
#pragma once

#include <map>
#include <mutex>

#include "codelets/cuda.hpp"
#include "runtime/runtime.hpp"

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

  void clear() {
    const std::scoped_lock lock(mutex_);
    made_.clear();
  }

 private:
  std::mutex mutex_;
  std::map<int, T> made_;
};

/// The calling thread's.
template <class T>
PerDevice<T>& of_this_thread() {
  thread_local PerDevice<T> made;
  return made;
}

/// The calling thread's T of its current device; make() if there is none yet. It goes before the
/// runtime ends, or without one when the thread does.
template <class T, class Make>
T& get_of_this_thread(Make make) {
  return of_this_thread<T>().get([&] {
    if (runtime::Runtime::alive())
      runtime::Runtime::current().at_end([] { of_this_thread<T>().clear(); });
    return make();
  });
}

}  // namespace stpt::codelets::cuda
