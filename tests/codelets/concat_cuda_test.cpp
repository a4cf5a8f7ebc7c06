#include <string>
#include <vector>

#include "codelets/concat.hpp"
#include "tests/codelets/concat_testing.hpp"
#include "tests/codelets/cuda_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using namespace stpt::testing::concat;
using codelets::ConcatBackward;
using codelets::ConcatForward;

namespace {

/// Values are copied, so that the types' rounding is all that may change them.
void check(const Case& c, const Values& values, DataType type) {
  const Concat concat = make_concat(c, type, Layout::nhwc);
  DeviceTensor whole(concat.whole), d_whole(concat.whole, values.d_whole);
  std::vector<DeviceTensor> parts, gradients;
  for (std::size_t i = 0; i < concat.parts.size(); ++i) {
    parts.emplace_back(concat.parts[i], values.parts[i]);
    gradients.emplace_back(concat.parts[i]);
  }
  std::vector<DeviceBuffer*> forward_args, backward_args{&d_whole}, outputs;
  for (DeviceTensor& part : parts) forward_args.push_back(&part);
  forward_args.push_back(&whole);
  for (DeviceTensor& gradient : gradients) outputs.push_back(&gradient);
  backward_args.insert(backward_args.end(), outputs.begin(), outputs.end());
  run_on_gpu(*plan(ConcatForward{concat}, Cuda{}), forward_args, {&whole});
  require_tensor("whole", whole, rounded(type, values.whole), exactly);
  run_on_gpu(*plan(ConcatBackward{concat}, Cuda{}), backward_args, outputs);
  for (std::size_t i = 0; i < gradients.size(); ++i)
    require_tensor("d_part", gradients[i], rounded(type, values.d_parts[i]), exactly);
}

}  // namespace

TEST_CASE("concat on a GPU agrees with its definition", "[cuda][concat]") {
  NEEDS_GPUS(1);
  std::vector<Case> all = cases;
  all.push_back({1, 3, 2, std::vector<std::int64_t>(70, 2)});  // more than a launch takes
  for (const Case& c : all) {
    INFO(to_string(c));
    for (const DataType type : cuda_types) check(c, Values(c), type);
  }
}

TEST_CASE("concat on a GPU agrees with PyTorch", "[cuda][concat][golden]") {
  NEEDS_GPUS(1);
  for (const auto& [c, values] : golden_values()) {
    INFO(to_string(c));
    check(c, values, DataType::float32);
  }
}

TEST_CASE("concat on a GPU leaves gradients out that nobody needs", "[cuda][concat]") {
  NEEDS_GPUS(1);
  const Case c{2, 3, 2, {3, 5}};
  const Values values(c);
  const Concat concat = make_concat(c, DataType::float32, Layout::nhwc);
  DeviceTensor d_whole(concat.whole, values.d_whole), d_part(concat.parts[1]);
  run_on_gpu(*plan(ConcatBackward{concat}, Cuda{}), {&d_whole, nullptr, &d_part}, {&d_part});
  require_tensor("d_part", d_part, values.d_parts[1], exactly);
}

TEST_CASE("concat on a GPU has zeros where there is no part", "[cuda][concat]") {
  NEEDS_GPUS(1);
  for (const Case& c : {Case{2, 3, 2, {3, 5}}, Case{2, 3, 2, {8, 16, 8}}}) {
    INFO(to_string(c));
    const Values values(c);
    for (const DataType type : cuda_types) {
      const Concat concat = make_concat(c, type, Layout::nhwc);
      std::vector<DeviceTensor> parts;
      for (std::size_t i = 0; i < concat.parts.size(); ++i)
        parts.emplace_back(concat.parts[i], values.parts[i]);
      std::vector<DeviceBuffer*> arguments{nullptr};
      for (std::size_t i = 1; i < parts.size(); ++i) arguments.push_back(&parts[i]);
      DeviceTensor whole(concat.whole);
      arguments.push_back(&whole);
      run_on_gpu(*plan(ConcatForward{concat}, Cuda{}), arguments, {&whole});
      require_tensor("whole", whole, rounded(type, without_part(c, values, 0)), exactly);
    }
  }
}

TEST_CASE("concat on a GPU takes nhwc alone", "[cuda][concat]") {
  Concat concat = make_concat({2, 3, 2, {3, 5}}, DataType::float32, Layout::nchw);
  require_complaint([&] { (void)plan(ConcatForward{concat}, Cuda{}); },
                    {"concat forward of 2 parts to 2x8x3x2 float32 nchw", "must be nhwc"});
  codelets::choose_layout(concat, Cuda{});
  for (const TensorSpec& part : concat.parts) CHECK(part.layout == Layout::nhwc);
  CHECK(concat.whole.layout == Layout::nhwc);
  CHECK(plan(ConcatBackward{concat}, Cuda{}) != nullptr);
}
