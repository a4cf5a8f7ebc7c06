// What the subcommands of gpu_bench share: their options, memory on the GPU, lines of JSON.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "codelets/cuda.hpp"
#include "models/network.hpp"
#include "models/program.hpp"

namespace stpt::bench {

struct Options {
  std::string model = "resnet50";
  int batch = 256;
  runtime::DataType type = runtime::DataType::float16;
  bool tf32 = false;
  models::Grain grain = models::Grain::step;
  int replicas = 1;
  int workers_per_gpu = 1;
  double seconds = 2;  ///< of a round
  int rounds = 5;
  bool serve = false;  ///< a round of S seconds for each line "S" of the standard input
  int side = 0;        ///< of the images; 0: what is usual for the model

  [[nodiscard]] codelets::Device device() const { return codelets::Cuda{tf32}; }
  [[nodiscard]] models::Network network() const;
  [[nodiscard]] models::LoweringOptions lowering() const;
};

/// Training steps as the program makes them, on batches that the GPU has.
int bench_step(const Options& options);
/// The same kernels in a plain loop, as one CUDA graph a step.
int bench_loop(const Options& options);
/// Both, interleaved.
int bench_overhead(const Options& options);
int bench_operations(const Options& options);

/// Calls round(seconds) for every round that the options or the standard input ask for.
void for_each_round(const Options& options, const std::function<void(double)>& round);

// ---- The GPU ------------------------------------------------------------------------------------

class DeviceMemory {
 public:
  explicit DeviceMemory(std::size_t bytes) {
    void* address = nullptr;
    codelets::cuda::check(cudaMalloc(&address, bytes),
                          "allocating " + std::to_string(bytes) + " bytes");
    address_.reset(address);
  }
  [[nodiscard]] void* address() const { return address_.get(); }

 private:
  struct Free {
    void operator()(void* address) const { cudaFree(address); }
  };
  std::unique_ptr<void, Free> address_;
};

class OwnStream {
 public:
  OwnStream() {
    codelets::cuda::check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
                          "making a stream");
  }
  ~OwnStream() { cudaStreamDestroy(stream_); }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;

  [[nodiscard]] cudaStream_t native() const { return stream_; }
  void wait() const {
    codelets::cuda::check(cudaStreamSynchronize(stream_), "waiting for the GPU");
  }

 private:
  cudaStream_t stream_ = nullptr;
};

// ---- Lines of JSON ------------------------------------------------------------------------------

/// One object, printed as a line when it goes. Strings are names without quotation marks.
class JsonLine {
 public:
  JsonLine() = default;
  ~JsonLine();
  JsonLine(const JsonLine&) = delete;
  JsonLine& operator=(const JsonLine&) = delete;

  JsonLine& add(const char* key, const std::string& value);
  JsonLine& add(const char* key, const char* value) { return add(key, std::string(value)); }
  JsonLine& add(const char* key, double value);  ///< null if not finite
  JsonLine& add(const char* key, std::int64_t value);
  JsonLine& add(const char* key, int value) { return add(key, std::int64_t{value}); }

 private:
  JsonLine& add_text(const char* key, const std::string& text);
  std::string text_;
};

}  // namespace stpt::bench
