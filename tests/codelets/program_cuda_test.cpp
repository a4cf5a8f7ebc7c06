#include "codelets/program_cuda.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "tests/catch.hpp"

using namespace stpt;
using codelets::cuda::Program;

namespace {

struct Call {
  std::vector<void*> operands;
  std::byte* workspace;
};

/// Computes nothing, and keeps what it is called with.
class Probe final : public codelets::Kernel {
 public:
  Probe(std::size_t workspace, std::vector<Call>& calls) : calls_(calls) {
    workspace_bytes_ = workspace;
  }
  void run(std::span<void* const> args, void* workspace, codelets::Stream) const override {
    calls_.push_back({{args.begin(), args.end()}, static_cast<std::byte*>(workspace)});
  }

 private:
  std::vector<Call>& calls_;
};

bool aligned(const void* at) { return reinterpret_cast<std::uintptr_t>(at) % 256 == 0; }

}  // namespace

TEST_CASE("a program's temporaries lie in its workspace, wherever that begins", "[program]") {
  constexpr std::size_t first_bytes = 700, second_bytes = 1, most_needed = 3000;
  std::vector<Call> calls;
  Program program(1);
  const auto first = program.temporary(first_bytes);
  program.add(std::make_unique<Probe>(10, calls), {Program::argument(0), first});
  const auto second = program.temporary(second_bytes);
  program.add(std::make_unique<Probe>(most_needed, calls), {first, second});
  program.add(std::make_unique<Probe>(20, calls), {second, Program::argument(0)});

  std::vector<std::byte> memory(2 * 256 + program.workspace_bytes());
  std::byte* base = memory.data();
  while (!aligned(base)) ++base;
  float argument = 0;
  const std::array<void*, 1> arguments = {&argument};
  for (const int offset : {0, 64, 128, 192}) {
    INFO(offset);
    std::byte* const workspace = base + offset;
    calls.clear();
    program.run(arguments, workspace, nullptr);
    REQUIRE(calls.size() == 3);
    auto* const at_first = static_cast<std::byte*>(calls[0].operands.at(1));
    auto* const at_second = static_cast<std::byte*>(calls[1].operands.at(1));
    CHECK(calls[0].operands == std::vector<void*>{&argument, at_first});
    CHECK(calls[1].operands == std::vector<void*>{at_first, at_second});
    CHECK(calls[2].operands == std::vector<void*>{at_second, &argument});
    CHECK(aligned(at_first));
    CHECK(aligned(at_second));
    CHECK(at_first >= workspace);
    CHECK(at_second >= at_first + first_bytes);
    for (const Call& call : calls) {
      CHECK(aligned(call.workspace));
      CHECK(call.workspace >= at_second + second_bytes);
      CHECK(call.workspace + most_needed <= workspace + program.workspace_bytes());
    }
  }
}

TEST_CASE("a program that needs no workspace asks for none", "[program]") {
  std::vector<Call> calls;
  Program program(1);
  program.add(std::make_unique<Probe>(0, calls), {Program::argument(0)});
  CHECK(program.workspace_bytes() == 0);
  // The first that it is told of counts, be it a temporary or a kernel's.
  Program temporary(1), kernel(1);
  (void)temporary.temporary(300);
  CHECK(temporary.workspace_bytes() >= 300);
  kernel.add(std::make_unique<Probe>(300, calls), {Program::argument(0)});
  CHECK(kernel.workspace_bytes() >= 300);
}

TEST_CASE("a program takes as many arguments as it was made for", "[program]") {
  std::vector<Call> calls;
  Program program(2);
  CHECK_THROWS_AS(program.add(std::make_unique<Probe>(0, calls), {Program::argument(2)}),
                  std::logic_error);
  program.add(std::make_unique<Probe>(0, calls), {Program::argument(1)});
  float value = 0;
  const std::array<void*, 3> values = {&value, &value, &value};
  const std::span<void* const> all(values);
  CHECK_NOTHROW(program.run(all.first(2), nullptr, nullptr));
  CHECK_THROWS_AS(program.run(all.first(1), nullptr, nullptr), std::logic_error);
  CHECK_THROWS_AS(program.run(all, nullptr, nullptr), std::logic_error);
}
