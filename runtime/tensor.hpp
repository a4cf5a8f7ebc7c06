// Tensors as StarPU data handles.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "runtime/tensor_spec.hpp"

struct _starpu_data_state;  // what a starpu_data_handle_t points to

namespace stpt::runtime {

/// Every tensor starts at a multiple of this many bytes, in every memory.
inline constexpr std::size_t tensor_alignment = 64;

/// `bytes` rounded up to whole alignment units.
[[nodiscard]] constexpr std::size_t align_up(std::size_t bytes,
                                             std::size_t alignment = tensor_alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

enum class Access { read, write, read_write, scratch };

/// Where a tensor lives when no task uses it.
enum class Home {
  none,  ///< wherever it was written last; has no value before a task writes it
  host,  ///< main memory, pinned if there are GPUs; starts as zeros
};

/// Owns one handle and, with Home::host, its memory. Move-only. Destruction waits for the tasks
/// that use it.
class Tensor {
 public:
  Tensor();
  /// `name` is what traces show. There must be a Runtime, and 1 to 2^38 bytes (else
  /// std::logic_error); std::bad_alloc where Home::host has no memory left.
  Tensor(const TensorSpec& spec, const std::string& name, Home home = Home::none);
  ~Tensor();
  Tensor(Tensor&& other) noexcept;
  Tensor& operator=(Tensor&& other) noexcept;

  [[nodiscard]] const TensorSpec& spec() const { return spec_; }
  [[nodiscard]] std::size_t bytes() const { return spec_.bytes(); }
  [[nodiscard]] _starpu_data_state* handle() const { return handle_; }
  explicit operator bool() const { return handle_ != nullptr; }

 private:
  struct HostMemory;  // returns the memory to StarPU
  void release() noexcept;

  TensorSpec spec_;
  std::unique_ptr<HostMemory> memory_;
  _starpu_data_state* handle_ = nullptr;
};

/// A flat tensor of `bytes` bytes, for what has no shape of its own (packed activations,
/// workspaces).
[[nodiscard]] TensorSpec bytes_spec(std::size_t bytes);
/// A flat tensor of `count` elements.
[[nodiscard]] TensorSpec vector_spec(std::size_t count, DataType type = DataType::float32);

/// The tensor's content in main memory, from construction (which waits for the tasks that use it)
/// to destruction. Not within a task, and not of an empty tensor.
class HostView {
 public:
  HostView(const Tensor& tensor, Access access);
  ~HostView();
  HostView(const HostView&) = delete;
  HostView& operator=(const HostView&) = delete;

  template <class T>
  [[nodiscard]] std::span<T> as() const {
    return {static_cast<T*>(data_), bytes_ / sizeof(T)};
  }

 private:
  _starpu_data_state* handle_;
  void* data_;
  std::size_t bytes_;
};

}  // namespace stpt::runtime
