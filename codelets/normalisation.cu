#include <algorithm>
#include <stdexcept>
#include <utility>

#include "codelets/activations.cuh"
#include "codelets/normalisation.cuh"

namespace stpt::codelets::normalisation {
namespace {

using cuda::add_over_rows;
using cuda::ChannelGroups;
using cuda::for_each_row;
using cuda::from_float;
using cuda::load;
using cuda::load_channels;
using cuda::Order;
using cuda::store;
using cuda::to_float;
using cuda::Vector;

/// What the normalisation does to a channel: (x - mean) * scale + shift. Forward and backward share
/// it to the bit, so that the mask that backward recomputes is the one of forward.
template <int width>
struct Affine {
  float mean[width], scale[width], shift[width];

  /// `at`: of the set and channel.
  __device__ Affine(const Parameters& parameters, std::int64_t at, int channel) {
    float inverse[width];
    load_channels(parameters.mean + at, mean);
    load_channels(parameters.inverse_stddev + at, inverse);
    load_channels(parameters.gamma + channel, scale);
    load_channels(parameters.beta + channel, shift);
#pragma unroll
    for (int v = 0; v < width; ++v) scale[v] *= inverse[v];
  }

  __device__ float of_centred(float centred, int v) const {
    return fmaf(centred, scale[v], shift[v]);
  }
};

// ---- Statistics -------------------------------------------------------------------------------

/// Of some values of a channel: how many, their mean and the sum of their squared deviations.
struct Moments {
  float count, mean, squares;

  /// Chan's parallel algorithm.
  __device__ void add(const Moments& other) {
    const float total = count + other.count;
    if (other.count == 0) return;
    const float share = other.count / total, delta = other.mean - mean;
    mean += delta * share;
    squares += other.squares + delta * delta * count * share;
    count = total;
  }
};

/// Those of the rows that a thread has taken, by Welford's algorithm.
template <class T, int width>
struct MomentsOfRows {
  Moments moments[width] = {};
  float pivot[width], count = 0;

  __device__ explicit MomentsOfRows(const Vector<T, width>& first) {
#pragma unroll
    for (int v = 0; v < width; ++v) pivot[v] = to_float(first.values[v]);
  }

  __device__ void take(const Vector<T, width>& row) {
    count += 1;
    const float share = __frcp_rn(count);
#pragma unroll
    for (int v = 0; v < width; ++v) {
      auto& [unused, mean, squares] = moments[v];
      const float value = to_float(row.values[v]) - pivot[v], delta = value - mean;
      mean = fmaf(delta, share, mean);
      squares = fmaf(delta, value - mean, squares);
    }
  }

  /// Takes several in one step, which is less to compute. The first ones give the mean, one by one:
  /// without it, what all have in common would drown how they differ.
  template <int rows>
  __device__ void take_all(const Vector<T, width> (&some)[rows]) {
    if (count == 0) {
#pragma unroll
      for (int k = 0; k < rows; ++k) take(some[k]);
      return;
    }
    count += rows;
    const float share = __frcp_rn(count);
#pragma unroll
    for (int v = 0; v < width; ++v) {
      auto& [unused, mean, squares] = moments[v];
      float sum = 0;
#pragma unroll
      for (int k = 0; k < rows; ++k) {
        const float delta = to_float(some[k].values[v]) - pivot[v] - mean;
        sum += delta;
        squares = fmaf(delta, delta, squares);
      }
      const float step = sum * share;
      mean += step;
      squares = fmaf(-sum, step, squares);
    }
  }
};

template <class T, int width>
__global__ void __launch_bounds__(cuda::block_threads, 4)
    slice_moments(const T* __restrict__ x, Slices slices, SliceMoments* __restrict__ partials) {
  constexpr int rows_at_once = 4;
  const int slice = cuda::own_slice<Order::forwards>(), channel = cuda::own_channel<width>();
  const bool has_channel = channel < slices.channels;
  const T* const first =
      x + (cuda::own_set() * slices.rows + slices.begin(slice)) * slices.channels;
  MomentsOfRows<T, width> own(load<width>(first + (has_channel ? channel : 0)));
  if (has_channel) {
    for_each_row<rows_at_once, Order::forwards>(
        slices, channel,
        [&](std::int64_t at, std::int64_t stride) {
          Vector<T, width> rows[rows_at_once];
#pragma unroll
          for (int k = 0; k < rows_at_once; ++k) rows[k] = load<width>(x + at + k * stride);
          own.take_all(rows);
        },
        [&](std::int64_t at) { own.take(load<width>(x + at)); });
#pragma unroll
    for (int v = 0; v < width; ++v) own.moments[v].count = own.count;
  }
  add_over_rows(own.moments);
  if (threadIdx.y > 0 || !has_channel) return;
#pragma unroll
  for (int v = 0; v < width; ++v)
    partials[slices.partial(slice) + channel + v] = {own.pivot[v], own.moments[v].mean,
                                                     own.moments[v].squares};
}

// ---- Activations other than ReLU --------------------------------------------------------------

/// One that fuses_with_normalisations(). Chosen while the kernel runs: all threads take the same
/// way.
struct Function {
  Activation function;
  float slope;

  template <int width>
  __device__ void apply(float (&x)[width]) const {
    with_function([&](auto f) {
#pragma unroll
      for (int v = 0; v < width; ++v) x[v] = f(x[v]);
    });
  }
  /// g *= f'(x)
  template <int width>
  __device__ void differentiate(const float (&x)[width], float (&g)[width]) const {
    with_function([&](auto f) {
#pragma unroll
      for (int v = 0; v < width; ++v) g[v] = f(x[v], g[v]);
    });
  }

 private:
  template <class Visit>
  __device__ void with_function(Visit visit) const {
    if (function == Activation::relu6) visit(activations::Relu6{});
    if (function == Activation::leaky_relu) visit(activations::LeakyRelu{slope});
    if (function == Activation::hard_swish) visit(activations::HardSwish{});
    if (function == Activation::silu) visit(activations::Silu{});
  }
};

// ---- The ReLU's mask ----------------------------------------------------------------------------

/// Results up to this one are 0 when they are rounded to T (ties go to even).
template <class T>
constexpr float rounded_to_zero = 0;
template <>
constexpr float rounded_to_zero<__half> = 0x1p-25f;
template <>
constexpr float rounded_to_zero<__nv_bfloat16> = 0x1p-134f;

/// A bit for each channel of a vector: whether the ReLU lets its gradient through.
using MaskBits = std::uint8_t;

template <class T>
constexpr int widest = 16 / sizeof(T);
static_assert(widest<__half> <= 8 * sizeof(MaskBits));

// ---- Forward ----------------------------------------------------------------------------------

/// What becomes of a normalised value: a ReLU or nothing, the same behind an addition, or another
/// function.
enum class Tail { relu, residual, function };

/// `mask` may be nullptr.
template <class T, int width, Tail tail>
__global__ void __launch_bounds__(cuda::block_threads, 4)
    write_results(const T* __restrict__ x, const T* __restrict__ residual, Parameters parameters,
                  bool relu, Function function, Slices slices, T* __restrict__ y,
                  MaskBits* __restrict__ mask) {
  constexpr bool with_residual = tail == Tail::residual;
  constexpr int rows_at_once = tail == Tail::relu ? 4 : 2;
  struct Row {
    Vector<T, width> x, residual;
  };
  const int channel = cuda::own_channel<width, Order::backwards>();
  if (channel >= slices.channels) return;
  const Affine<width> affine(parameters, slices.of_set(channel), channel);
  const auto read = [&](std::int64_t at) {
    Row row;
    row.x = load<width>(x + at);
    if constexpr (with_residual) row.residual = load<width>(residual + at);
    return row;
  };
  const auto write = [&](const Row& row, std::int64_t at) {
    Vector<T, width> results;
    if constexpr (tail == Tail::function) {
      float values[width];
#pragma unroll
      for (int v = 0; v < width; ++v)
        values[v] = affine.of_centred(to_float(row.x.values[v]) - affine.mean[v], v);
      function.apply(values);
#pragma unroll
      for (int v = 0; v < width; ++v) results.values[v] = from_float<T>(values[v]);
      store(y + at, results);
      return;
    }
    unsigned bits = 0;
#pragma unroll
    for (int v = 0; v < width; ++v) {
      float result = affine.of_centred(to_float(row.x.values[v]) - affine.mean[v], v);
      if constexpr (with_residual) result += to_float(row.residual.values[v]);
      bits |= (result > rounded_to_zero<T> ? 1u : 0u) << v;
      if (relu) result = cuda::relu(result);
      results.values[v] = from_float<T>(result);
    }
    store(y + at, results);
    if (with_residual && mask) mask[at / width] = static_cast<MaskBits>(bits);
  };
  for_each_row<rows_at_once, Order::backwards>(
      slices, channel,
      [&](std::int64_t at, std::int64_t stride) {
        Row rows[rows_at_once];
#pragma unroll
        for (int k = 0; k < rows_at_once; ++k) rows[k] = read(at + k * stride);
#pragma unroll
        for (int k = 0; k < rows_at_once; ++k) write(rows[k], at + k * stride);
      },
      [&](std::int64_t at) { write(read(at), at); });
}

// ---- Backward ---------------------------------------------------------------------------------

/// Where backward sees the derivative of the activation.
enum class Mask {
  none,      ///< no activation, or already applied
  from_x,    ///< which values the ReLU has cut: recomputed from x, which is read anyway
  stored,    ///< the same: by forward
  function,  ///< of another function: recomputed from x
};

template <class T>
struct Sources {
  const T *x, *d_y, *d_y2;  ///< d_y2 only where it comes in two parts
  const MaskBits* mask;     ///< only with Mask::stored
};

/// A row's values of the thread's channels, as they are in memory.
template <class T, int width, Mask mask, bool two_parts>
struct Row {
  Vector<T, width> x, d_y, d_y2;
  MaskBits bits;

  __device__ Row() {}  // not cleared: that would be done between the loads
  __device__ Row(const Sources<T>& from, std::int64_t at) {
    x = load<width>(from.x + at);
    d_y = load<width>(from.d_y + at);
    if constexpr (two_parts) d_y2 = load<width>(from.d_y2 + at);
    if constexpr (mask == Mask::stored) bits = from.mask[at / width];
  }

  __device__ float centred(const Affine<width>& affine, int v) const {
    return to_float(x.values[v]) - affine.mean[v];
  }

  /// Before the activation. The sum of two parts is rounded as if it had been stored, which it is
  /// where d_residual is wanted: d_x shall not depend on that.
  __device__ void gradients(const Affine<width>& affine, const Function& function,
                            float (&g)[width]) const {
#pragma unroll
    for (int v = 0; v < width; ++v) g[v] = gradient(affine, v);
    if constexpr (mask == Mask::function) {
      float normalised[width];
#pragma unroll
      for (int v = 0; v < width; ++v) normalised[v] = affine.of_centred(centred(affine, v), v);
      function.differentiate(normalised, g);
    }
  }

 private:
  __device__ float gradient(const Affine<width>& affine, int v) const {
    float g = to_float(d_y.values[v]);
    if constexpr (two_parts) g = to_float(from_float<T>(g + to_float(d_y2.values[v])));
    if constexpr (mask == Mask::from_x)
      return affine.of_centred(centred(affine, v), v) > rounded_to_zero<T> ? g : 0;
    if constexpr (mask == Mask::stored) return bits >> v & 1 ? g : 0;
    return g;
  }
};

/// Calls visit(row, at) for the thread's rows.
template <class T, int width, Mask mask, bool two_parts, Order order, class Visit>
__device__ void for_each_gradient(const Sources<T>& from, const Slices& slices, int channel,
                                  Visit visit) {
  constexpr int rows_at_once = 2;
  using OneRow = Row<T, width, mask, two_parts>;
  for_each_row<rows_at_once, order>(
      slices, channel,
      [&](std::int64_t at, std::int64_t stride) {
        OneRow rows[rows_at_once];
#pragma unroll
        for (int k = 0; k < rows_at_once; ++k) rows[k] = OneRow(from, at + k * stride);
#pragma unroll
        for (int k = 0; k < rows_at_once; ++k) visit(rows[k], at + k * stride);
      },
      [&](std::int64_t at) { visit(OneRow(from, at), at); });
}

/// Blocks on a multiprocessor that leave each thread the registers it needs.
constexpr int blocks_for_sums(Mask mask, bool two_parts) {
  return two_parts || mask == Mask::function ? 2 : mask == Mask::stored ? 4 : 3;
}
constexpr int blocks_for_results(Mask mask, bool two_parts) {
  return two_parts || mask == Mask::function ? 2 : 4;
}

/// g goes to `written`, too, unless that is nullptr (it may be d_y or
/// d_y2).
template <class T, int width, Mask mask, bool two_parts>
__global__ void __launch_bounds__(cuda::block_threads, blocks_for_sums(mask, two_parts))
    slice_gradients(Sources<T> from, Parameters parameters, Function function, Slices slices,
                    T* written, GradientSums* __restrict__ partials) {
  const int slice = cuda::own_slice<Order::forwards>(), channel = cuda::own_channel<width>();
  const bool has_channel = channel < slices.channels;
  GradientSums sums[width] = {};
  if (has_channel) {
    const Affine<width> affine(parameters, slices.of_set(channel), channel);
    for_each_gradient<T, width, mask, two_parts, Order::forwards>(
        from, slices, channel, [&](const auto& row, std::int64_t at) {
          Vector<T, width> gradients;
          float g[width];
          row.gradients(affine, function, g);
#pragma unroll
          for (int v = 0; v < width; ++v) {
            sums[v].sum += g[v];
            sums[v].product = fmaf(g[v], row.centred(affine, v), sums[v].product);
            gradients.values[v] = from_float<T>(g[v]);
          }
          if (written) store(written + at, gradients);
        });
  }
  add_over_rows(sums);
  if (threadIdx.y > 0 || !has_channel) return;
#pragma unroll
  for (int v = 0; v < width; ++v) partials[slices.partial(slice) + channel + v] = sums[v];
}

/// d_x may be d_y or d_y2.
template <class T, int width, Mask mask, bool two_parts>
__global__ void __launch_bounds__(cuda::block_threads, blocks_for_results(mask, two_parts))
    combine(Sources<T> from, Parameters parameters, Function function, Combination combination,
            Slices slices, T* d_x) {
  const int channel = cuda::own_channel<width, Order::backwards>();
  if (channel >= slices.channels) return;
  const Affine<width> affine(parameters, slices.of_set(channel), channel);
  float on_centred[width], constant[width];
  load_channels(combination.on_centred + slices.of_set(channel), on_centred);
  load_channels(combination.constant + slices.of_set(channel), constant);
  for_each_gradient<T, width, mask, two_parts, Order::backwards>(
      from, slices, channel, [&](const auto& row, std::int64_t at) {
        Vector<T, width> results;
        float g[width];
        row.gradients(affine, function, g);
#pragma unroll
        for (int v = 0; v < width; ++v) {
          const float rest = fmaf(row.centred(affine, v), on_centred[v], constant[v]);
          results.values[v] = from_float<T>(fmaf(g[v], affine.scale[v], rest));
        }
        store(d_x + at, results);
      });
}

// ---- Planning ---------------------------------------------------------------------------------

template <class T, int width>
class TypedPasses final : public Passes {
 public:
  TypedPasses(std::string what, const Fused& fused, const ChannelGroups& groups,
              const Slices& slices)
      : Passes(slices), what_(std::move(what)), fused_(fused), groups_(groups) {}

  void sum_moments(const void* x, SliceMoments* partials, Stream stream) const override {
    launch(slice_moments<T, width>, stream, static_cast<const T*>(x), slices(), partials);
  }

  void normalise(const void* x, const void* residual, const Parameters& parameters, void* y,
                 void* mask, Stream stream) const override {
    launch(fused_.function ? write_results<T, width, Tail::function>
           : residual      ? write_results<T, width, Tail::residual>
                           : write_results<T, width, Tail::relu>,
           stream, static_cast<const T*>(x), static_cast<const T*>(residual), parameters,
           fused_.relu, function(), slices(), static_cast<T*>(y), static_cast<MaskBits*>(mask));
  }

  void sum_gradients(const Gradients& gradients, const Parameters& parameters,
                     GradientSums* partials, Stream stream) const override {
    with_mask([&](auto mask) {
      launch(gradients.d_y2 ? slice_gradients<T, width, mask(), true>
                            : slice_gradients<T, width, mask(), false>,
             stream, sources_of(gradients), parameters, function(), slices(),
             writes_gradient(gradients) ? static_cast<T*>(gradients.d_residual) : nullptr,
             partials);
    });
  }

  void combine_gradients(const Gradients& gradients, const Parameters& parameters,
                         const Combination& combination, Stream stream) const override {
    auto* const d_x = static_cast<T*>(gradients.d_x);
    if (writes_gradient(gradients)) {
      Sources<T> masked = sources_of(gradients);
      masked.d_y = static_cast<const T*>(gradients.d_residual);
      launch(combine<T, width, Mask::none, false>, stream, masked, parameters, function(),
             combination, slices(), d_x);
      return;
    }
    with_mask([&](auto mask) {
      launch(gradients.d_y2 ? combine<T, width, mask(), true> : combine<T, width, mask(), false>,
             stream, sources_of(gradients), parameters, function(), combination, slices(), d_x);
    });
  }

 private:
  template <class... Parameters>
  void launch(void (*kernel)(Parameters...), Stream stream,
              std::type_identity_t<Parameters>... arguments) const {
    cuda::launch_on_slices(what_, kernel, slices(), groups_, stream, arguments...);
  }

  [[nodiscard]] static Sources<T> sources_of(const Gradients& gradients) {
    return {static_cast<const T*>(gradients.x), static_cast<const T*>(gradients.d_y),
            static_cast<const T*>(gradients.d_y2), static_cast<const MaskBits*>(gradients.mask)};
  }

  /// Read only where there is one.
  [[nodiscard]] Function function() const {
    return {fused_.function.value_or(Activation::relu6), fused_.slope};
  }

  /// visit(where the activation's derivative is seen as a std::integral_constant)
  template <class Visit>
  void with_mask(Visit visit) const {
    if (fused_.function) {
      visit(std::integral_constant<Mask, Mask::function>{});
    } else if (!fused_.relu) {
      visit(std::integral_constant<Mask, Mask::none>{});
    } else if (fused_.residual) {
      visit(std::integral_constant<Mask, Mask::stored>{});
    } else {
      visit(std::integral_constant<Mask, Mask::from_x>{});
    }
  }

  /// The masked gradient goes where it is wanted in the first pass, and the second reads it there.
  /// Nothing is to be done if it is wanted where it already is.
  [[nodiscard]] bool writes_gradient(const Gradients& gradients) const {
    return gradients.d_residual &&
           (fused_.relu || gradients.d_y2 || gradients.d_residual != gradients.d_y);
  }

  std::string what_;
  Fused fused_;
  ChannelGroups groups_;
};

template <class SlicesOf>
std::unique_ptr<const Passes> plan_passes(const std::string& what, const Fused& fused,
                                          SlicesOf slices_of) {
  return cuda::with_vectors(fused.x, what,
                            [&](auto element, auto width) -> std::unique_ptr<const Passes> {
                              const ChannelGroups groups(fused.x.shape.c, width);
                              return std::make_unique<TypedPasses<decltype(element), width()>>(
                                  what, fused, groups, slices_of(groups));
                            });
}

}  // namespace

std::size_t mask_bytes(const std::string& what, const Fused& fused) {
  if (!fused.relu || !fused.residual) return 0;
  return cuda::with_vectors(fused.x, what, [&](auto, auto width) {
    return static_cast<std::size_t>(fused.x.shape.elements() / width()) * sizeof(MaskBits);
  });
}

std::unique_ptr<const Passes> over_batch(const std::string& what, const Fused& fused) {
  return plan_passes(what, fused,
                     [&](const ChannelGroups& groups) { return Slices(fused.x.shape, groups); });
}

std::unique_ptr<const Passes> over_images(const std::string& what, const Fused& fused) {
  return plan_passes(what, fused, [&](const ChannelGroups& groups) {
    return Slices::of_images(fused.x.shape, groups);
  });
}

}  // namespace stpt::codelets::normalisation
