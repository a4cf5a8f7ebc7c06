#include "codelets/reorder.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "codelets/cpu.hpp"
#include "codelets/onednn.hpp"

namespace stpt::codelets {
namespace {

class OneByOne final : public Kernel {
 public:
  explicit OneByOne(const Reorders& op) : sources_(op.sources) {
    for (const auto& [reorder, src, dst] : op.parts) {
      parts_.push_back({plan(reorder, Cpu{}), src, dst});
      workspace_bytes_ = std::max(workspace_bytes_, parts_.back().kernel->workspace_bytes());
    }
  }
  void run(std::span<void* const> args, void* workspace, Stream stream) const override {
    for (const auto& [kernel, src, dst] : parts_) {
      kernel->run(
          std::array<void*, 2>{static_cast<std::byte*>(args[src.buffer]) + src.offset,
                               static_cast<std::byte*>(args[sources_ + dst.buffer]) + dst.offset},
          workspace, stream);
    }
  }

 private:
  struct Part {
    KernelPtr kernel;
    Reorders::Place src, dst;
  };
  std::size_t sources_;
  std::vector<Part> parts_;
};

}  // namespace

KernelPtr plan(const Reorder& op, Cpu) {
  const std::string name = "reorder " + op.src.to_string() + " to " + op.dst.to_string();
  cpu::require_plain("reorder: src", op.src);
  cpu::require_plain("reorder: dst", op.dst);
  if (op.src.shape != op.dst.shape) onednn::fail(name, "both shapes must be the same");
  return onednn::explained(name, [&]() -> KernelPtr {
    auto program = std::make_unique<onednn::Program>(name, 2);
    const auto src = onednn::describe(op.src), dst = onednn::describe(op.dst);
    program->copy(program->argument(0), src, program->argument(1), dst);
    return program;
  });
}

KernelPtr plan(const Reorders& op, Cpu) { return std::make_unique<OneByOne>(op); }

}  // namespace stpt::codelets
