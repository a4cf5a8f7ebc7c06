#include "codelets/elementwise.hpp"

#include <cstddef>
#include <memory>
#include <string>

#include "codelets/cpu.hpp"

// The CPU implementation. Padding needs no care: all ops here map zeros to zero.

namespace stpt::codelets {
namespace {

/// Elements in memory; throws if the op cannot be computed on the CPU.
std::size_t checked_count(const std::string& op, const TensorSpec& spec) {
  cpu::require_plain(op, spec, 0);
  return static_cast<std::size_t>(spec.stored_elements());
}

// Written so that NaN stays NaN.
float relu(float x) { return x < 0 ? 0 : x; }

class Relu final : public Kernel {
 public:
  explicit Relu(const ReluForward& op) : count_(checked_count("ReluForward", op.x)) {}
  void run(std::span<void* const> args, void*, Stream) const override {
    const auto* x = static_cast<const float*>(args[0]);
    auto* y = static_cast<float*>(args[1]);
    for (std::size_t i = 0; i < count_; ++i) y[i] = relu(x[i]);
  }

 private:
  std::size_t count_;
};

class ReluGradient final : public Kernel {
 public:
  explicit ReluGradient(const ReluBackward& op) : count_(checked_count("ReluBackward", op.x)) {}
  void run(std::span<void* const> args, void*, Stream) const override {
    const auto* y = static_cast<const float*>(args[0]);
    const auto* d_y = static_cast<const float*>(args[1]);
    auto* d_x = static_cast<float*>(args[2]);
    for (std::size_t i = 0; i < count_; ++i) {
      const float g = d_y[i];  // read in any case, else the loop has a branch
      d_x[i] = y[i] > 0 ? g : 0;
    }
  }

 private:
  std::size_t count_;
};

class Sum final : public Kernel {
 public:
  explicit Sum(const Add& op) : relu_(op.relu), count_(checked_count("Add", op.x)) {}
  void run(std::span<void* const> args, void*, Stream) const override {
    const auto* a = static_cast<const float*>(args[0]);
    const auto* b = static_cast<const float*>(args[1]);
    auto* y = static_cast<float*>(args[2]);
    if (relu_) {
      for (std::size_t i = 0; i < count_; ++i) y[i] = relu(a[i] + b[i]);
    } else {
      for (std::size_t i = 0; i < count_; ++i) y[i] = a[i] + b[i];
    }
  }

 private:
  bool relu_;
  std::size_t count_;
};

}  // namespace

KernelPtr plan(const ReluForward& op, Cpu) { return std::make_unique<Relu>(op); }
KernelPtr plan(const ReluBackward& op, Cpu) { return std::make_unique<ReluGradient>(op); }
KernelPtr plan(const Add& op, Cpu) { return std::make_unique<Sum>(op); }

}  // namespace stpt::codelets
