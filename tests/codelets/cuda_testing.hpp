// What the tests of the CUDA kernels share: guarded memory on the GPU, tensors of any data type,
// and runs that are held to the same bits: directly, again, and as a replayed CUDA graph. Tests
// begin with NEEDS_GPUS(1).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <latch>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "codelets/cuda.hpp"
#include "tests/codelets/kernel_testing.hpp"
#include "tests/gpu.hpp"

namespace stpt::testing {

using codelets::Cuda;

inline constexpr std::array<DataType, 3> cuda_types = {DataType::float32, DataType::bfloat16,
                                                       DataType::float16};

inline void check_cuda(cudaError_t error) { codelets::cuda::check(error, "test"); }

/// The current device for as long as it lives.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) : before_(codelets::cuda::current_device()) {
    check_cuda(cudaSetDevice(device));
  }
  ~CurrentDevice() { cudaSetDevice(before_); }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int before_;
};

// ---- Data types ---------------------------------------------------------------------------------

/// The largest relative error of rounding a value to this type.
inline double unit_roundoff(DataType type) {
  switch (type) {
    case DataType::float32:
      return 0x1p-24;
    case DataType::bfloat16:
      return 0x1p-8;
    case DataType::float16:
      return 0x1p-11;
    default:
      throw std::invalid_argument("unit_roundoff: no floating-point type");
  }
}

/// What one rounding to the type adds to a tolerance in float32. float16 has no more than 24 bits
/// behind the point.
inline Tolerance with_rounding(DataType type, Tolerance tolerance) {
  if (type == DataType::float32) return tolerance;
  return {tolerance.relative + unit_roundoff(type), tolerance.absolute + 0x1p-25};
}

/// The nearest value of the type.
inline float rounded(DataType type, float value) {
  if (type == DataType::bfloat16) return __bfloat162float(__float2bfloat16_rn(value));
  if (type == DataType::float16) return __half2float(__float2half_rn(value));
  return value;
}

inline std::vector<float> rounded(DataType type, std::vector<float> values) {
  for (float& value : values) value = rounded(type, value);
  return values;
}

/// Values that the type has, now and then one that is not finite.
inline std::vector<float> values_of(const TensorSpec& spec, unsigned seed) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> values = rounded(spec.type, random_values(spec.shape.elements(), seed));
  const std::array special = {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity, -0.0f};
  for (std::size_t i = 5, next = 0; i < values.size(); i += 11)
    values[i] = special[next++ % special.size()];
  return values;
}

/// Whole numbers that float16 has, and a prime of them: no two rows are the same.
inline std::vector<float> counted_values(const TensorSpec& spec) {
  std::vector<float> values(static_cast<std::size_t>(spec.shape.elements()));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 2039) - 1000;
  return values;
}

// ---- Memory -------------------------------------------------------------------------------------

using Bytes = std::vector<std::byte>;

/// Memory on the current GPU, filled with 0xff (a NaN of every type), with guards before and behind
/// it that tell whether someone wrote outside. What is written to it from the host is there for
/// every stream when the call returns: memsets, and copies from memory that is not pinned, may end
/// later, and streams that are created as non-blocking do not wait for them.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(std::size_t bytes) : bytes_(bytes) {
    void* memory = nullptr;
    check_cuda(cudaMalloc(&memory, bytes + 2 * guard));
    memory_.reset(static_cast<std::byte*>(memory));
    check_cuda(cudaMemset(memory, guard_value, bytes + 2 * guard));
    poison();
  }

  [[nodiscard]] void* pointer() const { return memory_.get() + guard; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

  void poison() {
    check_cuda(cudaMemset(pointer(), 0xff, bytes_));
    check_cuda(cudaDeviceSynchronize());
  }

  void upload(const void* from, std::size_t bytes) {
    if (bytes != bytes_) throw std::invalid_argument("DeviceBuffer: wrong number of bytes");
    check_cuda(cudaMemcpy(pointer(), from, bytes, cudaMemcpyHostToDevice));
    check_cuda(cudaDeviceSynchronize());
  }
  void upload(const Bytes& from) { upload(from.data(), from.size()); }
  [[nodiscard]] Bytes download() const { return download(guard, bytes_); }

  [[nodiscard]] bool guards_intact() const {
    const auto intact = [](const Bytes& bytes) {
      return std::all_of(bytes.begin(), bytes.end(),
                         [](std::byte b) { return b == std::byte{guard_value}; });
    };
    return intact(download(0, guard)) && intact(download(guard + bytes_, guard));
  }

 private:
  static constexpr std::size_t guard = 256;
  static constexpr unsigned char guard_value = 0x5a;
  struct Free {
    void operator()(std::byte* memory) const { cudaFree(memory); }
  };

  [[nodiscard]] Bytes download(std::size_t offset, std::size_t bytes) const {
    Bytes result(bytes);
    check_cuda(cudaMemcpy(result.data(), memory_.get() + offset, bytes, cudaMemcpyDeviceToHost));
    return result;
  }

  std::size_t bytes_;
  std::unique_ptr<std::byte, Free> memory_;
};

/// A tensor on the GPU, seen as its plain nchw values.
class DeviceTensor : public DeviceBuffer {
 public:
  /// Poisoned with NaN.
  explicit DeviceTensor(TensorSpec spec) : DeviceBuffer(spec.bytes()), spec_(spec) {}

  /// Values in nchw order, rounded to the tensor's type.
  DeviceTensor(TensorSpec spec, std::span<const float> values) : DeviceTensor(spec) { set(values); }

  /// A vector of floats.
  explicit DeviceTensor(std::span<const float> values)
      : DeviceTensor(vector_of(static_cast<std::int64_t>(values.size())), values) {}

  /// The spec of a vector of floats.
  static TensorSpec vector_of(std::int64_t count) { return spec_of({1, count, 1, 1}); }

  void set(std::span<const float> values) {
    if (static_cast<std::int64_t>(values.size()) != spec_.shape.elements())
      throw std::invalid_argument("DeviceTensor: wrong number of values for " + spec_.to_string());
    Bytes stored(bytes());
    for_each([&](std::size_t i, std::size_t at) { store(values[i], stored.data() + at); });
    upload(stored);
  }

  [[nodiscard]] std::vector<float> values() const {
    const Bytes stored = download();
    std::vector<float> result(static_cast<std::size_t>(spec_.shape.elements()));
    for_each([&](std::size_t i, std::size_t at) { result[i] = load(stored.data() + at); });
    return result;
  }

  [[nodiscard]] const TensorSpec& spec() const { return spec_; }

 private:
  /// visit(index in nchw order, offset in bytes)
  template <typename Visit>
  void for_each(Visit visit) const {
    const Shape& s = spec_.shape;
    std::size_t i = 0;
    for (std::int64_t n = 0; n < s.n; ++n)
      for (std::int64_t c = 0; c < s.c; ++c)
        for (std::int64_t h = 0; h < s.h; ++h)
          for (std::int64_t w = 0; w < s.w; ++w)
            visit(i++, stored_index(spec_, n, c, h, w) * size_of(spec_.type));
  }

  template <typename T>
  static void store_as(T value, std::byte* to) {
    std::memcpy(to, &value, sizeof value);
  }
  template <typename T>
  static T load_as(const std::byte* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }

  void store(float value, std::byte* to) const {
    switch (spec_.type) {
      case DataType::float32:
        return store_as(value, to);
      case DataType::bfloat16:
        return store_as(__float2bfloat16_rn(value), to);
      case DataType::float16:
        return store_as(__float2half_rn(value), to);
      case DataType::int32:
        return store_as(static_cast<std::int32_t>(value), to);
      case DataType::uint8:
        return store_as(static_cast<std::uint8_t>(value), to);
    }
  }
  [[nodiscard]] float load(const std::byte* from) const {
    switch (spec_.type) {
      case DataType::float32:
        return load_as<float>(from);
      case DataType::bfloat16:
        return __bfloat162float(load_as<__nv_bfloat16>(from));
      case DataType::float16:
        return __half2float(load_as<__half>(from));
      case DataType::int32:
        return static_cast<float>(load_as<std::int32_t>(from));
      case DataType::uint8:
        return static_cast<float>(load_as<std::uint8_t>(from));
    }
    throw std::logic_error("DeviceTensor: unknown data type");
  }

  TensorSpec spec_;
};

// ---- Running ------------------------------------------------------------------------------------

/// A stream that waits for no other.
class CudaStream {
 public:
  CudaStream() { check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~CudaStream() { cudaStreamDestroy(stream_); }
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
  [[nodiscard]] cudaStream_t get() const { return stream_; }
  void wait() const { check_cuda(cudaStreamSynchronize(stream_)); }

 private:
  cudaStream_t stream_{};
};

struct DestroyGraph {
  void operator()(cudaGraph_t graph) const { cudaGraphDestroy(graph); }
  void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
};
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, DestroyGraph>;

/// What enqueue(stream) does, as a graph.
template <typename Enqueue>
Graph capture(const CudaStream& stream, Enqueue enqueue) {
  check_cuda(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal));
  enqueue(stream.get());
  cudaGraph_t graph{};
  check_cuda(cudaStreamEndCapture(stream.get(), &graph));
  const std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, DestroyGraph> owned(graph);
  cudaGraphExec_t executable{};
  check_cuda(cudaGraphInstantiate(&executable, graph, 0));
  return Graph(executable);
}

/// Runs enqueue(stream) three times from the same state of `outputs`: directly, again, and as a
/// graph, which must be all that it does. Requires the same bits each time, and that nothing is
/// written outside the outputs.
template <typename Enqueue>
void run_repeatedly(Enqueue enqueue, const std::vector<DeviceBuffer*>& outputs) {
  std::vector<Bytes> before, results;
  for (const DeviceBuffer* output : outputs) before.push_back(output->download());
  const CudaStream stream;
  const auto run = [&](const std::string& how, auto act) {
    for (std::size_t i = 0; i < outputs.size(); ++i) outputs[i]->upload(before[i]);
    act();
    stream.wait();
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      INFO("output " << i << ", run " << how);
      REQUIRE(outputs[i]->guards_intact());
      const Bytes result = outputs[i]->download();
      if (results.size() <= i) results.push_back(result);
      REQUIRE((result == results[i]));  // twice the brackets: Catch2 shall not print them
    }
  };
  run("directly", [&] { enqueue(stream.get()); });
  run("again", [&] { enqueue(stream.get()); });
  const Graph graph = capture(stream, enqueue);
  run("as a graph", [&] { check_cuda(cudaGraphLaunch(graph.get(), stream.get())); });
}

/// Runs the kernel like run_repeatedly, each time with a poisoned workspace. `args` may be nullptr;
/// those that are not `outputs` must not change.
inline void run_on_gpu(const codelets::Kernel& kernel, const std::vector<DeviceBuffer*>& args,
                       const std::vector<DeviceBuffer*>& outputs) {
  std::vector<void*> pointers;
  std::vector<std::pair<const DeviceBuffer*, Bytes>> inputs;
  for (DeviceBuffer* arg : args) {
    pointers.push_back(arg ? arg->pointer() : nullptr);
    if (arg && std::find(outputs.begin(), outputs.end(), arg) == outputs.end())
      inputs.emplace_back(arg, arg->download());
  }
  DeviceBuffer workspace(kernel.workspace_bytes());
  run_repeatedly(
      [&](codelets::Stream stream) {
        if (workspace.bytes() > 0) {  // a graph may refuse to set nothing
          check_cuda(cudaMemsetAsync(workspace.pointer(), 0xff, workspace.bytes(),
                                     codelets::cuda::native(stream)));
        }
        kernel.run(pointers, workspace.pointer(), stream);
      },
      outputs);
  REQUIRE(workspace.guards_intact());
  for (const auto& [input, before] : inputs) {
    INFO("argument " << std::find(args.begin(), args.end(), input) - args.begin());
    REQUIRE((input->download() == before));
    REQUIRE(input->guards_intact());
  }
}

/// Runs the kernel with each list of arguments in a thread of its own, several times, all at once.
inline void run_in_threads_on_gpu(const codelets::Kernel& kernel,
                                  const std::vector<std::vector<DeviceBuffer*>>& of_threads) {
  std::vector<std::exception_ptr> failures(of_threads.size());
  std::latch ready(std::ssize(of_threads));
  const auto work = [&](std::size_t thread) {
    bool waited = false;
    try {
      std::vector<void*> pointers;
      for (DeviceBuffer* arg : of_threads[thread])
        pointers.push_back(arg ? arg->pointer() : nullptr);
      const DeviceBuffer workspace(kernel.workspace_bytes());
      const CudaStream stream;
      waited = true;
      ready.arrive_and_wait();
      for (int i = 0; i < 3; ++i) kernel.run(pointers, workspace.pointer(), stream.get());
      stream.wait();
    } catch (...) {
      failures[thread] = std::current_exception();
      if (!waited) ready.count_down();
    }
  };
  {
    std::vector<std::jthread> threads;
    for (std::size_t thread = 0; thread < of_threads.size(); ++thread)
      threads.emplace_back(work, thread);
  }
  for (const std::exception_ptr& failed : failures) {
    if (failed) std::rethrow_exception(failed);
  }
}

template <typename Expected>
void require_tensor(const std::string& what, const DeviceTensor& actual, const Expected& expected,
                    Tolerance tolerance) {
  require_close(what + " " + actual.spec().to_string(), actual.values(), expected, tolerance);
}

/// The same values and NaNs.
inline constexpr Tolerance exactly{0, 0};

}  // namespace stpt::testing
