// The Reorder op of elementwise.hpp.
#include <memory>
#include <string>

#include "codelets/elementwise.hpp"
#include "codelets/onednn.hpp"

namespace stpt::codelets {

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

}  // namespace stpt::codelets
