// The Reorder and Reorders ops of elementwise.hpp.
#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "codelets/elementwise.hpp"
#include "codelets/onednn.hpp"

namespace stpt::codelets {
namespace {

class OneByOne final : public Kernel {
 public:
  explicit OneByOne(const Reorders& op) {
    for (const auto& [reorder, src_offset, dst_offset] : op.parts) {
      parts_.push_back({plan(reorder, Cpu{}), src_offset, dst_offset});
      workspace_bytes_ = std::max(workspace_bytes_, parts_.back().kernel->workspace_bytes());
    }
  }
  void run(std::span<void* const> args, void* workspace, Stream stream) const override {
    for (const auto& [kernel, src_offset, dst_offset] : parts_) {
      kernel->run(std::array<void*, 2>{static_cast<std::byte*>(args[0]) + src_offset,
                                       static_cast<std::byte*>(args[1]) + dst_offset},
                  workspace, stream);
    }
  }

 private:
  struct Part {
    KernelPtr kernel;
    std::size_t src_offset, dst_offset;
  };
  std::vector<Part> parts_;
};

}  // namespace

KernelPtr plan(const Reorder& op, Cpu) {
  const std::string name = "reorder " + op.src.to_string() + " to " + op.dst.to_string();
  onednn::require_layout("reorder", "src", op.src);
  onednn::require_layout("reorder", "dst", op.dst);
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
