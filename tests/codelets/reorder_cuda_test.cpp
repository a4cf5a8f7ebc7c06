#include <array>
#include <string>
#include <utility>
#include <vector>

#include "codelets/reorder.hpp"
#include "tests/codelets/cuda_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using codelets::Reorder;
using codelets::Reorders;

namespace {

/// Of nchw values those of the first `channels` channels, zeros for what there is not.
std::vector<float> with_channels(const std::vector<float>& values, const Shape& shape,
                                 std::int64_t channels) {
  std::vector<float> result;
  for (std::int64_t n = 0; n < shape.n; ++n) {
    for (std::int64_t c = 0; c < channels; ++c) {
      for (std::int64_t at = 0; at < shape.spatial(); ++at) {
        const std::int64_t from = (n * shape.c + c) * shape.spatial() + at;
        result.push_back(c < shape.c ? values[static_cast<std::size_t>(from)] : 0);
      }
    }
  }
  return result;
}

}  // namespace

TEST_CASE("Reorder on a GPU between layouts and data types", "[cuda][reorder]") {
  NEEDS_GPUS(1);
  // Images, features before a fully connected layer, several tiles with and without a rest, orders
  // that agree, a batch of one.
  for (const Shape shape : {Shape{3, 3, 9, 11}, Shape{2, 65, 7, 7}, Shape{2, 64, 8, 8},
                            Shape{1, 40, 3, 33}, Shape{5, 33, 1, 1}, Shape{2, 1, 6, 5}}) {
    for (const DataType from : cuda_types) {
      for (const DataType to : cuda_types) {
        for (const Layout from_layout : {Layout::nchw, Layout::nhwc}) {
          for (const Layout to_layout : {Layout::nchw, Layout::nhwc}) {
            const TensorSpec src_spec{shape, from, from_layout}, dst_spec{shape, to, to_layout};
            const std::vector<float> values = values_of(src_spec, 1);
            DeviceTensor src(src_spec, values), dst(dst_spec);
            INFO(src_spec.to_string() << " -> " << dst_spec.to_string());
            run_on_gpu(*plan(Reorder{src_spec, dst_spec}, Cuda{}), {&src, &dst}, {&dst});
            require_tensor("dst", dst, rounded(to, values), exactly);
          }
        }
      }
    }
  }
}

TEST_CASE("Reorder on a GPU adds channels of zeros and leaves out the last", "[cuda][reorder]") {
  NEEDS_GPUS(1);
  for (const auto& [shape, channels] : {std::pair{Shape{2, 3, 9, 30}, 8},
                                        {Shape{3, 3, 5, 7}, 4},
                                        {Shape{2, 1, 4, 5}, 8},
                                        {Shape{2, 13, 4, 5}, 16},
                                        {Shape{3, 3, 1, 1}, 8},
                                        {Shape{2, 8, 5, 7}, 3},
                                        {Shape{2, 40, 5, 7}, 33}}) {
    for (const auto& [from, to] : {std::pair{DataType::float32, DataType::float32},
                                   {DataType::float32, DataType::float16},
                                   {DataType::bfloat16, DataType::float32}}) {
      for (const Layout from_layout : {Layout::nchw, Layout::nhwc}) {
        for (const Layout to_layout : {Layout::nchw, Layout::nhwc}) {
          const TensorSpec src_spec{shape, from, from_layout};
          TensorSpec dst_spec{shape, to, to_layout};
          dst_spec.shape.c = channels;
          const std::vector<float> values = values_of(src_spec, 1);
          DeviceTensor src(src_spec, values), dst(dst_spec);
          INFO(src_spec.to_string() << " -> " << dst_spec.to_string());
          run_on_gpu(*plan(Reorder{src_spec, dst_spec}, Cuda{}), {&src, &dst}, {&dst});
          require_tensor("dst", dst, with_channels(rounded(to, values), shape, channels), exactly);
        }
      }
    }
  }
}

TEST_CASE("Reorder on a GPU takes more than a grid has threads for", "[cuda][reorder]") {
  NEEDS_GPUS(1);
  // 4096 blocks of 256 threads, and some more values; and more images than a grid has rows.
  for (const Shape shape : {Shape{1, 3, 1700, 1650}, Shape{70000, 3, 2, 5}}) {
    const TensorSpec spec{shape, DataType::float16, Layout::nchw};
    const std::vector<float> values = counted_values(spec);
    DeviceTensor from(spec, values);
    TensorSpec other = spec;
    other.layout = Layout::nhwc;
    DeviceTensor to(other);
    run_on_gpu(*plan(Reorder{spec, other}, Cuda{}), {&from, &to}, {&to});
    require_tensor("reordered", to, values, exactly);
  }
}

TEST_CASE("Reorders on a GPU, of weights and of their gradients", "[cuda][reorder]") {
  NEEDS_GPUS(1);
  // More than a launch takes, of one block and of several, whole and broken ones.
  const Shape shapes[] = {
      {16, 3, 3, 3}, {65, 33, 3, 3}, {10, 64, 1, 1}, {1, 1, 5, 7}, {8, 3, 7, 7}};
  constexpr std::size_t count = 70, gap = 64;
  for (const DataType type : cuda_types) {
    for (const bool gradients : {false, true}) {
      INFO(runtime::to_string(type) << (gradients ? " to" : " from") << " float32");
      // Two sources and two destinations.
      Reorders op{2, 2, {}};
      std::array<Bytes, 2> sources, expected;
      const auto append = [](Bytes& to, const DeviceTensor& tensor) {
        const Bytes bytes = tensor.download();
        const std::size_t offset = to.size();
        to.insert(to.end(), bytes.begin(), bytes.end());
        to.resize(to.size() + gap, std::byte{0xff});  // which no part may write
        return offset;
      };
      for (std::size_t i = 0; i < count; ++i) {
        const Shape& shape = shapes[i % std::size(shapes)];
        TensorSpec src{shape, DataType::float32, Layout::nchw}, dst{shape, type, Layout::nhwc};
        if (i % 4 == 1) dst.shape.c += 5;
        if (gradients) std::swap(src, dst);
        const std::vector<float> values = rounded(src.type, values_of(src, static_cast<int>(i)));
        const std::size_t from = i % 2, to = i % 3 % 2;
        op.parts.push_back(
            {{src, dst},
             {from, append(sources[from], DeviceTensor(src, values))},
             {to, append(expected[to], DeviceTensor(dst, with_channels(rounded(dst.type, values),
                                                                       src.shape, dst.shape.c)))}});
      }
      DeviceBuffer src_a(sources[0].size()), src_b(sources[1].size());
      DeviceBuffer dst_a(expected[0].size()), dst_b(expected[1].size());
      src_a.upload(sources[0]);
      src_b.upload(sources[1]);
      run_on_gpu(*plan(op, Cuda{}), {&src_a, &src_b, &dst_a, &dst_b}, {&dst_a, &dst_b});
      REQUIRE((dst_a.download() == expected[0]));
      REQUIRE((dst_b.download() == expected[1]));
    }
  }
}

TEST_CASE("Reorders on a GPU say what they cannot plan", "[cuda][reorder]") {
  const TensorSpec plain = spec_of({2, 3, 4, 5}), other = spec_of({2, 3, 5, 4}, Layout::nhwc);
  const TensorSpec blocked = spec_of({2, 3, 4, 5}, Layout::nchw8c);
  const TensorSpec bytes{{2, 3, 4, 5}, DataType::uint8, Layout::nhwc};
  require_complaint(
      [&] {
        (void)plan(Reorder{plain, other}, Cuda{});
      },
      {"reorder 2x3x4x5 float32 nchw to 2x3x5x4 float32 nhwc",
       "must be the same but for the channels"});
  require_complaint([&] { (void)plan(Reorder{plain, blocked}, Cuda{}); }, {"nchw or nhwc"});
  require_complaint([&] { (void)plan(Reorder{bytes, bytes}, Cuda{}); }, {"uint8"});
  require_complaint([] { (void)plan(Reorders{}, Cuda{}); }, {"at least one"});
  TensorSpec rounded_one = plain;
  rounded_one.type = DataType::float16;
  const Reorders mixed{1, 1, {{{plain, plain}, {}, {}}, {{plain, rounded_one}, {}, {}}}};
  require_complaint([&] { (void)plan(mixed, Cuda{}); }, {"2 tensors", "same two types"});
  const Reorders elsewhere{1, 1, {{{plain, plain}, {0, 0}, {1, 0}}}};
  require_complaint([&] { (void)plan(elsewhere, Cuda{}); }, {"no buffer"});
  const Reorders askew{1, 1, {{{plain, rounded_one}, {}, {0, 1}}}};
  require_complaint([&] { (void)plan(askew, Cuda{}); }, {"whole values"});
}
