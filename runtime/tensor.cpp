#include "runtime/tensor.hpp"

#include <starpu.h>

#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>

#include "runtime/runtime.hpp"
#include "runtime/starpu_access.hpp"

namespace stpt::runtime {

// StarPU counts vector elements in 32 bits: counting alignment units instead of bytes reaches 256
// GiB.
static_assert(tensor_alignment == 64);

struct Tensor::HostMemory {
  explicit HostMemory(std::size_t size) : bytes(size) {
    if (starpu_malloc_flags(&data, bytes, STARPU_MALLOC_PINNED) != 0) throw std::bad_alloc();
    std::memset(data, 0, bytes);
  }
  ~HostMemory() { starpu_free_flags(data, bytes, STARPU_MALLOC_PINNED); }
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  void* data = nullptr;
  std::size_t bytes;
};

Tensor::Tensor() = default;

Tensor::Tensor(const TensorSpec& spec, const std::string& name, Home home) : spec_(spec) {
  if (!Runtime::alive()) throw std::logic_error("Tensor " + name + ": no Runtime is alive");
  const std::size_t bytes = align_up(spec.bytes());
  if (bytes == 0) throw std::logic_error("Tensor " + name + ": no elements");
  const std::size_t units = bytes / tensor_alignment;
  if (units > UINT32_MAX) throw std::logic_error("Tensor " + name + ": larger than 256 GiB");
  if (home == Home::host) {
    memory_ = std::make_unique<HostMemory>(bytes);
    starpu_vector_data_register(&handle_, STARPU_MAIN_RAM,
                                reinterpret_cast<uintptr_t>(memory_->data),
                                static_cast<std::uint32_t>(units), tensor_alignment);
  } else {
    starpu_vector_data_register(&handle_, -1, 0, static_cast<std::uint32_t>(units),
                                tensor_alignment);
  }
  starpu_data_set_name(handle_, name.c_str());
}

Tensor::~Tensor() { release(); }

Tensor::Tensor(Tensor&& other) noexcept
    : spec_(other.spec_),
      memory_(std::move(other.memory_)),
      handle_(std::exchange(other.handle_, nullptr)) {}

Tensor& Tensor::operator=(Tensor&& other) noexcept {
  if (this != &other) {
    release();
    spec_ = other.spec_;
    memory_ = std::move(other.memory_);
    handle_ = std::exchange(other.handle_, nullptr);
  }
  return *this;
}

void Tensor::release() noexcept {
  if (handle_ != nullptr) starpu_data_unregister_no_coherency(std::exchange(handle_, nullptr));
  memory_.reset();
}

TensorSpec bytes_spec(std::size_t bytes) { return vector_spec(bytes, DataType::uint8); }

TensorSpec vector_spec(std::size_t count, DataType type) {
  return {{1, static_cast<std::int64_t>(count), 1, 1}, type, Layout::nchw};
}

HostView::HostView(const Tensor& tensor, Access access)
    : handle_(tensor.handle()), data_(nullptr), bytes_(tensor.bytes()) {
  if (handle_ == nullptr) throw std::logic_error("HostView: the tensor has no memory");
  if (access == Access::scratch) throw std::logic_error("HostView: scratch data has no content");
  // The task would wait for others while it keeps its worker from running them; StarPU would abort.
  if (starpu_worker_get_id() >= 0) throw std::logic_error("HostView: not inside a task");
  if (starpu_data_acquire(handle_, to_starpu(access)) != 0)
    throw std::logic_error("HostView: cannot acquire the data");
  data_ = starpu_data_get_local_ptr(handle_);
}

HostView::~HostView() { starpu_data_release(handle_); }

}  // namespace stpt::runtime
