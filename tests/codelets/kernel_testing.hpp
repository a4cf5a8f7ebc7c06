// What the tests of the kernels share: aligned and guarded buffers, tensors in any layout,
// reference data, gradient checks and comparisons that say where two tensors differ.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <limits>
#include <map>
#include <memory>
#include <new>
#include <random>
#include <set>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "codelets/kernel.hpp"
#include "runtime/tensor_spec.hpp"
#include "tests/catch.hpp"

namespace stpt::testing {

using runtime::DataType;
using runtime::Layout;
using runtime::Shape;
using runtime::TensorSpec;

// ---- Memory -----------------------------------------------------------------------------------

/// 64-byte aligned memory, filled with 0xff (a NaN in every float) so that nothing can rely on what
/// was there. A guard behind it tells whether someone wrote past the end.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(std::size_t bytes = 0)
      : bytes_(bytes),
        memory_(static_cast<std::byte*>(std::aligned_alloc(
            alignment, (bytes + alignment - 1) / alignment * alignment + guard))) {
    if (!memory_) throw std::bad_alloc();
    poison();
    std::memset(memory_.get() + bytes_, guard_value, guard);
  }

  [[nodiscard]] void* pointer() { return memory_.get(); }
  [[nodiscard]] const void* pointer() const { return memory_.get(); }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  [[nodiscard]] std::span<float> floats() {
    return {reinterpret_cast<float*>(memory_.get()), bytes_ / sizeof(float)};
  }
  [[nodiscard]] std::span<const float> floats() const {
    return {reinterpret_cast<const float*>(memory_.get()), bytes_ / sizeof(float)};
  }
  void poison() { std::memset(memory_.get(), 0xff, bytes_); }
  [[nodiscard]] bool guard_intact() const {
    const std::byte* end = memory_.get() + bytes_;
    return std::all_of(end, end + guard, [](std::byte b) { return b == std::byte{guard_value}; });
  }

 private:
  static constexpr std::size_t alignment = 64;
  static constexpr std::size_t guard = 256;
  static constexpr unsigned char guard_value = 0x5a;
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::size_t bytes_;
  std::unique_ptr<std::byte, Free> memory_;
};

/// Reproducible values in [low, high); distinct seeds give independent tensors.
inline std::vector<float> random_values(std::int64_t count, unsigned seed, float low = -1,
                                        float high = 1) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> distribution(low, high);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = distribution(generator);
  return values;
}

/// `count` different values, at least `spacing` apart, in random order: no ties for max pooling,
/// and none closer to zero than spacing / 2 (the kink of the ReLU).
inline std::vector<float> spaced_values(std::int64_t count, unsigned seed, float spacing) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = (static_cast<float>(i) - static_cast<float>(values.size() / 2) + 0.5f) * spacing;
  }
  std::shuffle(values.begin(), values.end(), std::mt19937(seed));
  return values;
}

// ---- Tensors ----------------------------------------------------------------------------------

inline TensorSpec spec_of(Shape shape, Layout layout = Layout::nchw) {
  return {shape, DataType::float32, layout};
}

inline constexpr std::array<Layout, 4> all_layouts = {Layout::nchw, Layout::nhwc, Layout::nchw8c,
                                                      Layout::nchw16c};

/// Where element (n, c, h, w) lies in memory, counted in elements. Written out here rather than
/// taken from the library under test.
inline std::size_t stored_index(const TensorSpec& spec, std::int64_t n, std::int64_t c,
                                std::int64_t h, std::int64_t w) {
  const Shape& s = spec.shape;
  const auto blocked = [&](std::int64_t block) {
    const std::int64_t blocks = (s.c + block - 1) / block;
    return (((n * blocks + c / block) * s.h + h) * s.w + w) * block + c % block;
  };
  switch (spec.layout) {
    case Layout::nchw:
      return static_cast<std::size_t>(((n * s.c + c) * s.h + h) * s.w + w);
    case Layout::nhwc:
      return static_cast<std::size_t>(((n * s.h + h) * s.w + w) * s.c + c);
    case Layout::nchw8c:
      return static_cast<std::size_t>(blocked(8));
    case Layout::nchw16c:
      return static_cast<std::size_t>(blocked(16));
    case Layout::any:
      break;
  }
  throw std::invalid_argument("stored_index: no layout");
}

/// A float32 tensor in any layout, seen as its plain nchw values.
class Tensor {
 public:
  /// Poisoned with NaN, as outputs should be before every run.
  explicit Tensor(TensorSpec spec) : spec_(spec), buffer_(spec.bytes()) {}

  /// Values in nchw order; the padding of blocked layouts is zero.
  Tensor(TensorSpec spec, std::span<const float> values) : Tensor(spec) { set(values); }

  void set(std::span<const float> values) {
    if (static_cast<std::int64_t>(values.size()) != spec_.shape.elements())
      throw std::invalid_argument("Tensor: wrong number of values for " + spec_.to_string());
    const std::span<float> stored = buffer_.floats();
    std::fill(stored.begin(), stored.end(), 0.0f);
    std::size_t i = 0;
    for_each([&](std::size_t at) { stored[at] = values[i++]; });
  }

  [[nodiscard]] std::vector<float> values() const {
    std::vector<float> result;
    result.reserve(static_cast<std::size_t>(spec_.shape.elements()));
    for_each([&](std::size_t at) { result.push_back(buffer_.floats()[at]); });
    return result;
  }

  /// True also where there is no padding.
  [[nodiscard]] bool padding_is_zero() const {
    std::vector<bool> used(buffer_.floats().size());
    for_each([&](std::size_t at) { used[at] = true; });
    for (std::size_t i = 0; i < used.size(); ++i) {
      if (!used[i] && !(buffer_.floats()[i] == 0.0f)) return false;
    }
    return true;
  }

  void poison() { buffer_.poison(); }
  [[nodiscard]] bool guard_intact() const { return buffer_.guard_intact(); }
  [[nodiscard]] void* pointer() { return buffer_.pointer(); }
  [[nodiscard]] const TensorSpec& spec() const { return spec_; }
  /// What is in memory, in the order of memory.
  [[nodiscard]] std::span<const float> stored() const { return buffer_.floats(); }
  [[nodiscard]] std::span<float> stored() { return buffer_.floats(); }

 private:
  template <typename Visit>
  void for_each(Visit visit) const {
    const Shape& s = spec_.shape;
    for (std::int64_t n = 0; n < s.n; ++n)
      for (std::int64_t c = 0; c < s.c; ++c)
        for (std::int64_t h = 0; h < s.h; ++h)
          for (std::int64_t w = 0; w < s.w; ++w) visit(stored_index(spec_, n, c, h, w));
  }

  TensorSpec spec_;
  AlignedBuffer buffer_;
};

/// A float vector as a kernel's argument (weights, bias, ...): no layout, no padding.
class Flat {
 public:
  explicit Flat(std::int64_t count) : buffer_(static_cast<std::size_t>(count) * sizeof(float)) {}
  explicit Flat(std::span<const float> values) : Flat(static_cast<std::int64_t>(values.size())) {
    set(values);
  }
  void set(std::span<const float> values) {
    if (values.size() != buffer_.floats().size())
      throw std::invalid_argument("Flat: wrong number of values");
    std::copy(values.begin(), values.end(), buffer_.floats().begin());
  }
  [[nodiscard]] std::vector<float> values() const {
    return {buffer_.floats().begin(), buffer_.floats().end()};
  }
  void poison() { buffer_.poison(); }
  [[nodiscard]] bool guard_intact() const { return buffer_.guard_intact(); }
  [[nodiscard]] void* pointer() { return buffer_.pointer(); }

 private:
  AlignedBuffer buffer_;
};

// ---- Running ----------------------------------------------------------------------------------

/// Runs the kernel once with a fresh, poisoned workspace.
inline void run_kernel(const codelets::Kernel& kernel, std::span<void* const> args) {
  AlignedBuffer workspace(kernel.workspace_bytes());
  kernel.run(args, workspace.pointer(), nullptr);
  if (!workspace.guard_intact())
    throw std::runtime_error("the kernel wrote past the end of its workspace of " +
                             std::to_string(kernel.workspace_bytes()) + " bytes");
}

inline void run_kernel(const codelets::Kernel& kernel, std::initializer_list<void*> args) {
  run_kernel(kernel, std::span<void* const>(args.begin(), args.size()));
}

/// Runs the kernel `repeats` times in each of two threads at once, each thread with its own
/// arguments; a failure in a thread is rethrown here.
inline void run_in_two_threads(const codelets::Kernel& kernel, std::initializer_list<void*> first,
                               std::initializer_list<void*> second, int repeats = 20) {
  std::array<std::exception_ptr, 2> failure;
  const auto work = [&](std::span<void* const> args, std::exception_ptr& failed) {
    try {
      for (int i = 0; i < repeats; ++i) run_kernel(kernel, args);
    } catch (...) {
      failed = std::current_exception();
    }
  };
  {
    std::jthread one(work, std::span<void* const>(first.begin(), first.size()),
                     std::ref(failure[0]));
    std::jthread two(work, std::span<void* const>(second.begin(), second.size()),
                     std::ref(failure[1]));
  }
  for (const std::exception_ptr& failed : failure) {
    if (failed) std::rethrow_exception(failed);
  }
}

// ---- Comparing --------------------------------------------------------------------------------

/// |actual - expected| <= absolute + relative * scale, where the scale is the largest magnitude
/// among the finite expected values: a sum of products carries a rounding error of the size of its
/// terms, not of its (perhaps cancelled) value. Infinity equals itself alone, and so does NaN.
struct Tolerance {
  double relative = 1e-5;
  double absolute = 1e-6;
};

/// Empty if equal within the tolerance, else what differs most, for a readable message.
template <typename Actual, typename Expected>
std::string difference(const Actual& actual, const Expected& expected, Tolerance tolerance = {}) {
  std::ostringstream message;
  if (actual.size() != expected.size()) {
    message << actual.size() << " values where " << expected.size() << " were expected";
    return message.str();
  }
  double scale = 0;
  for (const auto& value : expected) {
    const double magnitude = std::abs(static_cast<double>(value));
    if (std::isfinite(magnitude)) scale = std::max(scale, magnitude);
  }
  const double allowed = tolerance.absolute + tolerance.relative * scale;
  std::size_t wrong = 0, worst = 0;
  double worst_error = -1;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double a = static_cast<double>(actual[i]), e = static_cast<double>(expected[i]);
    const bool same = a == e || (std::isnan(a) && std::isnan(e));
    double error = same ? 0 : std::abs(a - e);
    if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
    if (error > allowed) ++wrong;
    if (error > worst_error) worst_error = error, worst = i;
  }
  if (wrong == 0) return {};
  message.precision(9);
  message << wrong << " of " << actual.size() << " values differ by more than " << allowed
          << "; worst at [" << worst << "]: " << actual[worst] << ", expected " << expected[worst];
  return message.str();
}

template <typename Actual, typename Expected>
void require_close(const std::string& what, const Actual& actual, const Expected& expected,
                   Tolerance tolerance = {}) {
  INFO(what << ": " << difference(actual, expected, tolerance));
  REQUIRE(difference(actual, expected, tolerance).empty());
}

/// An output tensor: right values, zero padding, nothing written past its end.
template <typename Expected>
void require_tensor(const std::string& what, const Tensor& actual, const Expected& expected,
                    Tolerance tolerance = {}) {
  require_close(what + " " + actual.spec().to_string(), actual.values(), expected, tolerance);
  INFO(what << " " << actual.spec().to_string());
  REQUIRE(actual.padding_is_zero());
  REQUIRE(actual.guard_intact());
}

template <typename Expected>
void require_flat(const std::string& what, const Flat& actual, const Expected& expected,
                  Tolerance tolerance = {}) {
  require_close(what, actual.values(), expected, tolerance);
  INFO(what);
  REQUIRE(actual.guard_intact());
}

/// Same bits, padding included (a NaN equals itself).
inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

/// The message of the std::invalid_argument that `act` throws, empty if it throws none.
template <typename Act>
std::string complaint(Act act) {
  try {
    act();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return {};
}

/// Requires that `act` throws std::invalid_argument with these parts in its message.
template <typename Act>
void require_complaint(Act act, std::initializer_list<std::string_view> parts) {
  const std::string message = complaint(act);
  for (const std::string_view part : parts) {
    INFO('"' << message << "\" should contain \"" << part << '"');
    REQUIRE(message.find(part) != std::string::npos);
  }
}

// ---- Gradients --------------------------------------------------------------------------------

/// sum(weights * values): the linear functional whose gradient the backward ops are asked for when
/// `weights` is passed as the gradient of the output.
inline double functional(std::span<const float> weights, std::span<const float> values) {
  double sum = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    sum += static_cast<double>(weights[i]) * static_cast<double>(values[i]);
  }
  return sum;
}

/// Compares `gradient` with central differences of `f` around `x`, at up to `samples` places.
/// An op that is linear in x has no truncation error, so its step can be large (1), which leaves
/// only the rounding of the outputs; others need a step small against their curvature (and no kink
/// within it).
inline void require_gradient(const std::string& what,
                             const std::function<double(std::span<const float>)>& f,
                             std::span<const float> x, std::span<const float> gradient, float step,
                             Tolerance tolerance, std::size_t samples = 40) {
  REQUIRE(x.size() == gradient.size());
  std::vector<std::size_t> places(x.size());
  for (std::size_t i = 0; i < places.size(); ++i) places[i] = i;
  std::shuffle(places.begin(), places.end(), std::mt19937(12345));
  places.resize(std::min(samples, places.size()));
  std::sort(places.begin(), places.end());

  std::vector<float> point(x.begin(), x.end());
  std::vector<double> numerical, analytical;
  for (const std::size_t i : places) {
    // The step that is really taken differs from `step` by the rounding of x +- step.
    const float up = x[i] + step, down = x[i] - step;
    point[i] = up;
    const double above = f(point);
    point[i] = down;
    const double below = f(point);
    point[i] = x[i];
    numerical.push_back((above - below) / (static_cast<double>(up) - static_cast<double>(down)));
    analytical.push_back(static_cast<double>(gradient[i]));
  }
  require_close("numerical gradient of " + what, analytical, numerical, tolerance);
}

// ---- Reference tensors ------------------------------------------------------------------------

struct GoldenTensor {
  std::vector<std::int64_t> dims;
  std::vector<float> values;  ///< integers are converted
};

using GoldenFile = std::map<std::string, GoldenTensor>;

/// Reads a file that tests/golden/make_golden.py wrote: "STPTGOLD", uint32 count, then per tensor
/// uint32 name length, name, uint32 rank, int64 dims[rank], uint32 type (0 float32, 1 int32), data;
/// little-endian, rows first.
inline GoldenFile load_golden(const std::string& name) {
#ifdef STPT_TEST_DATA_DIR
  const std::string directory = STPT_TEST_DATA_DIR;
#else
  const std::string directory = "tests/golden";
#endif
  const std::string path = directory + "/" + name;
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be opened");
  const auto read = [&](void* to, std::size_t bytes) {
    if (!file.read(static_cast<char*>(to), static_cast<std::streamsize>(bytes)))
      throw std::runtime_error(path + ": ends too early");
  };
  const auto read_u32 = [&] {
    std::uint32_t value = 0;
    read(&value, sizeof value);
    return value;
  };

  std::array<char, 8> magic{};
  read(magic.data(), magic.size());
  if (std::string_view(magic.data(), magic.size()) != "STPTGOLD")
    throw std::runtime_error(path + ": does not begin with STPTGOLD");
  GoldenFile result;
  for (std::uint32_t left = read_u32(); left > 0; --left) {
    std::string key(read_u32(), '\0');
    read(key.data(), key.size());
    GoldenTensor tensor;
    tensor.dims.resize(read_u32());
    read(tensor.dims.data(), tensor.dims.size() * sizeof(std::int64_t));
    std::size_t count = 1;
    for (const std::int64_t dim : tensor.dims) count *= static_cast<std::size_t>(dim);
    tensor.values.resize(count);
    const std::uint32_t type = read_u32();
    if (type == 0) {
      read(tensor.values.data(), count * sizeof(float));
    } else if (type == 1) {
      std::vector<std::int32_t> integers(count);
      read(integers.data(), count * sizeof(std::int32_t));
      std::transform(integers.begin(), integers.end(), tensor.values.begin(),
                     [](std::int32_t i) { return static_cast<float>(i); });
    } else {
      throw std::runtime_error(path + ": " + key + " has an unknown type");
    }
    result.emplace(std::move(key), std::move(tensor));
  }
  return result;
}

/// The part of the tensors' names before the '/'.
inline std::set<std::string> golden_cases(const GoldenFile& file) {
  std::set<std::string> cases;
  for (const auto& [name, tensor] : file) cases.insert(name.substr(0, name.find('/')));
  return cases;
}

/// Dims of rank 1 to 4 as a Shape, the missing ones being 1 at the end.
inline Shape golden_shape(const GoldenTensor& tensor) {
  std::array<std::int64_t, 4> dims{1, 1, 1, 1};
  if (tensor.dims.size() > dims.size()) throw std::runtime_error("golden tensor of rank > 4");
  std::copy(tensor.dims.begin(), tensor.dims.end(), dims.begin());
  return {dims[0], dims[1], dims[2], dims[3]};
}

}  // namespace stpt::testing
