#include "codelets/buffers.hpp"

#include <algorithm>
#include <cstring>
#include <memory>

namespace stpt::codelets {
namespace {

class Zeros final : public Kernel {
 public:
  explicit Zeros(const Clear& op) : bytes_(op.bytes) {}
  void run(std::span<void* const> args, void*, Stream stream) const override {
    clear(bytes_, args[0], Cpu{}, stream);
  }

 private:
  std::size_t bytes_;
};

}  // namespace

void accumulate(std::size_t count, float* sum, const float* term, Cpu, Stream) {
  for (std::size_t i = 0; i < count; ++i) sum[i] += term[i];
}

void update_mean(std::span<const MeanBuffer> buffers, float weight, Cpu, Stream) {
  for (const auto& [count, mean, value] : buffers) {
    if (weight == 1) {
      std::copy_n(value, count, mean);
    } else {
      for (std::size_t i = 0; i < count; ++i) mean[i] += weight * (value[i] - mean[i]);
    }
  }
}

void copy(std::size_t bytes, void* destination, const void* source, Cpu, Stream) {
  std::memcpy(destination, source, bytes);
}

void clear(std::size_t bytes, void* destination, Cpu, Stream) {
  std::memset(destination, 0, bytes);
}

KernelPtr plan(const Clear& op, Cpu) { return std::make_unique<Zeros>(op); }

}  // namespace stpt::codelets
