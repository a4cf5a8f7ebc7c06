// The emulated cuDNN under its frontend, against plain loops.
#include <cudnn_frontend.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/emulated_cuda/testing.hpp"

namespace stpt::testing {
namespace {

namespace fe = cudnn_frontend;

struct Sizes {
  std::int64_t n, c, h, w, k, r, s, padding, stride, dilation;
  [[nodiscard]] std::int64_t out(std::int64_t in, std::int64_t filter) const {
    return (in + 2 * padding - ((filter - 1) * dilation + 1)) / stride + 1;
  }
  [[nodiscard]] std::int64_t p() const { return out(h, r); }
  [[nodiscard]] std::int64_t q() const { return out(w, s); }
  [[nodiscard]] std::size_t x_count() const { return static_cast<std::size_t>(n * c * h * w); }
  [[nodiscard]] std::size_t w_count() const { return static_cast<std::size_t>(k * c * r * s); }
  [[nodiscard]] std::size_t y_count() const { return static_cast<std::size_t>(n * k * p() * q()); }
};

/// What the tests compute with: x, y in n h w c, w in k r s c.
struct Values {
  std::vector<float> x, w, y;
};

/// Calls visit(x's, w's, y's index) for every product of a convolution.
template <typename Visit>
void for_each_product(const Sizes& z, Visit visit) {
  for (std::int64_t n = 0; n < z.n; ++n)
    for (std::int64_t k = 0; k < z.k; ++k)
      for (std::int64_t p = 0; p < z.p(); ++p)
        for (std::int64_t q = 0; q < z.q(); ++q)
          for (std::int64_t c = 0; c < z.c; ++c)
            for (std::int64_t r = 0; r < z.r; ++r)
              for (std::int64_t s = 0; s < z.s; ++s) {
                const std::int64_t h = p * z.stride - z.padding + r * z.dilation;
                const std::int64_t w = q * z.stride - z.padding + s * z.dilation;
                if (h < 0 || h >= z.h || w < 0 || w >= z.w) continue;
                visit(static_cast<std::size_t>(((n * z.h + h) * z.w + w) * z.c + c),
                      static_cast<std::size_t>(((k * z.r + r) * z.s + s) * z.c + c),
                      static_cast<std::size_t>(((n * z.p() + p) * z.q() + q) * z.k + k));
              }
}

std::vector<float> random_floats(std::size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> distribution(-1, 1);
  std::vector<float> values(count);
  for (float& value : values) value = distribution(generator);
  return values;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (std::isnan(difference)) return difference;
    largest = std::max(largest, difference);
  }
  return largest;
}

class Handle {
 public:
  Handle() { REQUIRE(cudnnCreate(&handle_) == CUDNN_STATUS_SUCCESS); }
  ~Handle() { cudnnDestroy(handle_); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  operator cudnnHandle_t() const { return handle_; }

 private:
  cudnnHandle_t handle_{};
};

enum class Op { forward, backward_data, backward_filter };
enum Uid : std::int64_t { uid_x = 1, uid_w, uid_y };

fe::graph::Tensor_attributes tensor(Uid uid, std::vector<std::int64_t> dims) {
  const std::int64_t channels = dims[1];
  return fe::graph::Tensor_attributes()
      .set_uid(uid)
      .set_name("tensor" + std::to_string(uid))
      .set_dim(dims)
      .set_stride({dims[2] * dims[3] * channels, 1, dims[3] * channels, channels});
}

template <typename Attributes>
Attributes attributes(const Sizes& z) {
  return Attributes()
      .set_padding({z.padding, z.padding})
      .set_stride({z.stride, z.stride})
      .set_dilation({z.dilation, z.dilation});
}

/// One convolution, built by the frontend for the first engine without `avoided` notes.
class Convolution {
 public:
  Convolution(Op op, const Sizes& z, cudnnHandle_t handle,
              const std::vector<fe::NumericalNote_t>& avoided) {
    graph_.set_io_data_type(fe::DataType_t::FLOAT)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    describe(op, z);
    good(graph_.validate());
    good(graph_.build_operation_graph(handle));
    good(graph_.create_execution_plans({fe::HeurMode_t::A}));
    graph_.deselect_numeric_notes(avoided);
    good(graph_.check_support());
    good(graph_.build_plans());
  }

  void run(cudnnHandle_t handle, float* x, float* w, float* y, float* workspace) const {
    std::unordered_map<std::int64_t, void*> pack{{uid_x, x}, {uid_w, w}, {uid_y, y}};
    good(graph_.execute(handle, pack, workspace));
  }
  [[nodiscard]] std::int64_t workspace_bytes() const { return graph_.get_workspace_size(); }

 private:
  static void good(fe::error_object status) {
    if (status.is_bad()) throw std::runtime_error(status.get_message());
  }

  void describe(Op op, const Sizes& z) {
    const std::vector<std::int64_t> x_dims{z.n, z.c, z.h, z.w}, w_dims{z.k, z.c, z.r, z.s},
        y_dims{z.n, z.k, z.p(), z.q()};
    std::shared_ptr<fe::graph::Tensor_attributes> result;
    const auto input = [&](Uid uid, const std::vector<std::int64_t>& dims) {
      return graph_.tensor(tensor(uid, dims));
    };
    Uid uid = uid_y;
    switch (op) {
      case Op::forward:
        result = graph_.conv_fprop(input(uid_x, x_dims), input(uid_w, w_dims),
                                   attributes<fe::graph::Conv_fprop_attributes>(z));
        break;
      case Op::backward_data:
        result = graph_.conv_dgrad(input(uid_y, y_dims), input(uid_w, w_dims),
                                   attributes<fe::graph::Conv_dgrad_attributes>(z));
        result->set_dim(x_dims);
        uid = uid_x;
        break;
      case Op::backward_filter:
        result = graph_.conv_wgrad(input(uid_y, y_dims), input(uid_x, x_dims),
                                   attributes<fe::graph::Conv_wgrad_attributes>(z));
        result->set_dim(w_dims);
        uid = uid_w;
        break;
    }
    result->set_output(true).set_uid(uid);
  }

  fe::graph::Graph graph_;
};

const std::vector<fe::NumericalNote_t> nondeterministic{fe::NumericalNote_t::NONDETERMINISTIC};
const std::vector<fe::NumericalNote_t> but_transforms{fe::NumericalNote_t::NONDETERMINISTIC,
                                                      fe::NumericalNote_t::TENSOR_CORE};
const std::vector<fe::NumericalNote_t> but_winograd{fe::NumericalNote_t::NONDETERMINISTIC,
                                                    fe::NumericalNote_t::TENSOR_CORE,
                                                    fe::NumericalNote_t::FFT};
const std::vector<fe::NumericalNote_t> but_reduced{
    fe::NumericalNote_t::NONDETERMINISTIC, fe::NumericalNote_t::TENSOR_CORE,
    fe::NumericalNote_t::FFT, fe::NumericalNote_t::WINOGRAD};
const std::vector<fe::NumericalNote_t> but_converted{
    fe::NumericalNote_t::NONDETERMINISTIC, fe::NumericalNote_t::TENSOR_CORE,
    fe::NumericalNote_t::FFT, fe::NumericalNote_t::WINOGRAD,
    fe::NumericalNote_t::REDUCED_PRECISION_REDUCTION};
const std::vector<fe::NumericalNote_t> rounding{fe::NumericalNote_t::NONDETERMINISTIC,
                                                fe::NumericalNote_t::TENSOR_CORE,
                                                fe::NumericalNote_t::FFT,
                                                fe::NumericalNote_t::WINOGRAD,
                                                fe::NumericalNote_t::REDUCED_PRECISION_REDUCTION,
                                                fe::NumericalNote_t::DOWN_CONVERT_INPUTS};

Values random_values(const Sizes& z) {
  return {random_floats(z.x_count(), 1), random_floats(z.w_count(), 2),
          random_floats(z.y_count(), 3)};
}

/// The same in plain loops, into the op's output.
void compute(Op op, const Sizes& z, Values& v) {
  std::vector<float>& output = op == Op::forward ? v.y : op == Op::backward_data ? v.x : v.w;
  std::vector<double> sums(output.size());
  for_each_product(z, [&](std::size_t x, std::size_t w, std::size_t y) {
    if (op == Op::forward) sums[y] += static_cast<double>(v.x[x]) * static_cast<double>(v.w[w]);
    if (op == Op::backward_data)
      sums[x] += static_cast<double>(v.y[y]) * static_cast<double>(v.w[w]);
    if (op == Op::backward_filter)
      sums[w] += static_cast<double>(v.x[x]) * static_cast<double>(v.y[y]);
  });
  for (std::size_t i = 0; i < sums.size(); ++i) output[i] = static_cast<float>(sums[i]);
}

TEST_CASE("cuDNN's frontend convolves in every direction", "[cudnn]") {
  const Op op = GENERATE(Op::forward, Op::backward_data, Op::backward_filter);
  const Sizes z =
      GENERATE(Sizes{2, 3, 5, 6, 4, 3, 3, 1, 1, 1}, Sizes{1, 2, 7, 8, 3, 3, 1, 0, 2, 2});
  CAPTURE(static_cast<int>(op), z.stride);
  const Handle handle;
  const Convolution convolution(op, z, handle, rounding);
  REQUIRE(convolution.workspace_bytes() > 0);
  const DeviceFloats workspace(static_cast<std::size_t>(convolution.workspace_bytes()) / 4);
  Values values = random_values(z);
  const DeviceFloats x(values.x), w(values.w), y(values.y);
  convolution.run(handle, x.pointer(), w.pointer(), y.pointer(), workspace.pointer());
  compute(op, z, values);
  CHECK(largest_difference(x.values(), values.x) < 1e-5);
  CHECK(largest_difference(w.values(), values.w) < 1e-5);
  CHECK(largest_difference(y.values(), values.y) < 1e-5);
  CHECK(std::isnan(workspace.values()[0]));
}

TEST_CASE("engines keep what their notes say", "[cudnn]") {
  const Sizes z{1, 8, 6, 6, 4, 3, 3, 1, 1, 1};
  Values values = random_values(z);
  const Handle handle;
  const DeviceFloats x(values.x), w(values.w), workspace(1024);
  compute(Op::forward, z, values);
  const auto twice = [&](const std::vector<fe::NumericalNote_t>& avoided) {
    const Convolution convolution(Op::forward, z, handle, avoided);
    std::vector<std::vector<float>> results;
    for (int i = 0; i < 2; ++i) {
      const DeviceFloats y(z.y_count());
      convolution.run(handle, x.pointer(), w.pointer(), y.pointer(), workspace.pointer());
      results.push_back(y.values());
    }
    return results;
  };
  const auto any = twice({}), tf32 = twice(nondeterministic), exact = twice(rounding);
  CHECK(any[0] != any[1]);
  CHECK(tf32[0] == tf32[1]);
  CHECK(exact[0] == exact[1]);
  const double error = largest_difference(tf32[0], values.y);
  CHECK(error > 1e-5);
  CHECK(error < 1e-2);
  CHECK(largest_difference(exact[0], values.y) < 1e-5);
  for (const auto& avoided : {but_transforms, but_winograd, but_reduced, but_converted}) {
    const double transformed = largest_difference(twice(avoided)[0], values.y);
    CHECK(transformed > 1e-5);
    CHECK(transformed < 1e-2);
  }
}

TEST_CASE("a plan is executed by one thread at a time", "[cudnn]") {
  const Sizes z{4, 16, 32, 32, 16, 3, 3, 1, 1, 1};
  const Values values = random_values(z);
  const Handle handle;
  const Convolution convolution(Op::forward, z, handle, rounding);
  const DeviceFloats x(values.x), w(values.w);
  std::atomic<int> ready = 0, refused = 0;
  {
    const auto run = [&] {
      const Handle own;
      const Stream stream;
      const DeviceFloats y(z.y_count()), workspace(1024);
      cudnnSetStream(own, stream);
      ++ready;
      while (ready < 2) std::this_thread::yield();
      for (int i = 0; i < 20 && refused == 0; ++i) {
        try {
          convolution.run(own, x.pointer(), w.pointer(), y.pointer(), workspace.pointer());
        } catch (const std::runtime_error&) {
          ++refused;
        }
      }
    };
    const std::jthread one(run), other(run);
  }
  CHECK(refused > 0);
}

TEST_CASE("a captured convolution is replayed, with an engine compiled at run time, too",
          "[cudnn]") {
  const Sizes z{1, 2, 4, 4, 2, 3, 3, 1, 1, 1};
  const Values values = random_values(z);
  const bool compiled = GENERATE(false, true);
  const Handle handle;
  const Stream stream;
  REQUIRE(cudnnSetStream(handle, stream) == CUDNN_STATUS_SUCCESS);
  const DeviceFloats x(values.x), w(values.w), y(z.y_count()), workspace(1024);
  std::shared_ptr<CUgraphExec_st> graph;
  {
    const Convolution convolution(Op::forward, z, handle, compiled ? nondeterministic : rounding);
    graph = captured(stream, [&](cudaStream_t) {
      convolution.run(handle, x.pointer(), w.pointer(), y.pointer(), workspace.pointer());
    });
  }
  CHECK(std::isnan(y.values()[0]));
  check(cudaGraphLaunch(graph.get(), stream));
  CHECK_FALSE(std::isnan(y.values()[0]));
}

TEST_CASE("what cuDNN's emulation cannot do it refuses", "[cudnn]") {
  const Handle handle;
  fe::graph::Graph graph;
  graph.set_io_data_type(fe::DataType_t::FLOAT)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  const auto x = graph.tensor(tensor(uid_x, {1, 2, 4, 4}));
  const auto y =
      graph.pointwise(x, fe::graph::Pointwise_attributes().set_mode(fe::PointwiseMode_t::RELU_FWD));
  y->set_output(true).set_uid(uid_y);
  fe::error_object status = graph.build(handle, {fe::HeurMode_t::A});
  CHECK(status.is_bad());
}

TEST_CASE("a convolution's pointers are those of its device", "[cudnn]") {
  const Sizes z{1, 2, 4, 4, 2, 3, 3, 1, 1, 1};
  const Values values = random_values(z);
  const Handle handle;
  const Convolution convolution(Op::forward, z, handle, rounding);
  const DeviceFloats x(values.x), w(values.w), y(z.y_count()), small(1000);
  check(cudaSetDevice(1));
  const DeviceFloats workspace(1024);
  check(cudaSetDevice(0));
  CHECK_THROWS(convolution.run(handle, x.pointer(), w.pointer(), y.pointer(), workspace.pointer()));
  CHECK_THROWS(convolution.run(handle, x.pointer(), w.pointer(), y.pointer(), small.pointer()));
}

}  // namespace
}  // namespace stpt::testing
