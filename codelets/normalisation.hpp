// What normalisations do on cores. They are bound by memory traffic, so all work is done one block
// of channels at a time: what the first pass (sums) has read is still in the cache when the second
// (results) reads it again, in reverse order where the block is larger than the cache.
//
// All layouts are seen as rows of W lanes. A lane is a channel, except for nchw, where the lanes
// are W neighbouring positions of one channel and are summed at the end of a chunk.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>

#ifdef __FMA__
#include <immintrin.h>
#endif

#include "codelets/elementwise.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets::normalisation {

using runtime::Layout;
using runtime::TensorSpec;
using Index = std::int64_t;

/// How many values the machine computes at once.
#if defined(__AVX512F__)
inline constexpr int machine_lanes = 16;
#elif defined(__AVX__)
inline constexpr int machine_lanes = 8;
#else
inline constexpr int machine_lanes = 4;
#endif

/// A value for each lane of a row. The number of lanes, and so the order of every sum, is the same
/// on every machine.
template <int W>
using Lanes = std::array<float, W>;

/// Where the machine has narrower vectors than a row has lanes, rows are computed in parts, one
/// after the other.
template <int W>
inline constexpr int part_lanes = std::min(W, machine_lanes);

/// Of the compiler (GCC, Clang). Passed by reference only: by value the calling convention would
/// depend on the instruction set.
template <int W>
struct PartOf {
  using Type [[gnu::vector_size(part_lanes<W> * sizeof(float))]] = float;
};
template <int W>
using Part = typename PartOf<W>::Type;

/// result = a * b + c, rounded once where the machine can. Left to the compiler, that would depend
/// on the code around it, and passes that must agree to the bit would not.
template <class V>
inline void multiply_add(V& result, const V& a, const V& b, const V& c) {
#ifdef __FMA__
  if constexpr (sizeof(V) == 32) {
    result = reinterpret_cast<V>(_mm256_fmadd_ps(
        reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
    return;
  }
#ifdef __AVX512F__
  if constexpr (sizeof(V) == 64) {
    result = reinterpret_cast<V>(_mm512_fmadd_ps(
        reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
    return;
  }
#endif
#endif
  result = a * b + c;
}

/// visit(first lane, lanes that are there) for the parts of a row.
template <int W, typename Visit>
inline void for_each_part(Index lanes, Visit visit) {
  for (int first = 0; first < W && first < lanes; first += part_lanes<W>)
    visit(first, std::min<Index>(lanes - first, part_lanes<W>));
}

template <class V>
inline void load(V& v, const float* from) {
  std::memcpy(&v, from, sizeof v);
}

/// Reads a part; lanes from `lanes` on, which are not there, keep the value that `v` has.
template <bool Partial, class V>
inline void load(V& v, const float* from, Index lanes) {
  std::memcpy(&v, from, Partial ? static_cast<std::size_t>(lanes) * sizeof(float) : sizeof v);
}

template <bool Partial, class V>
inline void store(float* to, const V& v, Index lanes) {
  std::memcpy(to, &v, Partial ? static_cast<std::size_t>(lanes) * sizeof(float) : sizeof v);
}

/// Rows summed in float before the sum goes on in double; 16 KiB.
inline constexpr Index chunk_rows = 256;
/// Independent sums, to hide the latency of the additions.
inline constexpr int ways = 4;

/// Some rows of some images, all of one block.
struct Chunk {
  Index first_image, last_image;  // half open
  Index first_row, last_row;      // half open
};

/// Where the rows of a tensor lie.
struct Geometry {
  int width = 0;                   ///< lanes of a row
  bool lanes_are_channels = true;  ///< else positions of one channel
  Index images = 0, channels = 0, spatial = 0, blocks = 0;
  Index image_stride = 0, block_stride = 0, row_stride = 0;
  Index rows = 0;                  ///< of one image and block, with a last row that is not full
  Index tail = 0;                  ///< lanes of the last row if it is not full (nchw), else 0
  bool narrow_last_block = false;  ///< all rows of the last block lack lanes (nhwc)

  explicit Geometry(const TensorSpec& spec)
      : images(spec.shape.n), channels(spec.shape.c), spatial(spec.shape.spatial()) {
    // Of one pixel the memory is that of nhwc.
    if (spec.layout == Layout::nchw && spatial > 1) {
      width = 16;
      lanes_are_channels = false;
      blocks = channels;
      block_stride = spatial;
      row_stride = width;
      rows = (spatial + width - 1) / width;
      tail = spatial % width;
    } else if (spec.layout == Layout::nhwc || spec.layout == Layout::nchw) {
      width = 16;
      blocks = (channels + width - 1) / width;
      block_stride = width;
      row_stride = channels;
      rows = spatial;
      narrow_last_block = channels % width != 0;
    } else {
      width = static_cast<int>(channel_block(spec.layout, channels));
      blocks = (channels + width - 1) / width;
      block_stride = spatial * width;
      row_stride = width;
      rows = spatial;
    }
    image_stride = spec.stored_elements() / images;
  }

  [[nodiscard]] Index count() const { return images * spatial; }  ///< values of a channel

  [[nodiscard]] Index first_channel(Index block) const {
    return lanes_are_channels ? block * width : block;
  }
  [[nodiscard]] Index channels_in(Index block) const {
    return lanes_are_channels ? std::min<Index>(width, channels - block * width) : 1;
  }

  /// Values of each channel in a chunk.
  [[nodiscard]] Index count(const Chunk& chunk) const {
    const Index per_image =
        lanes_are_channels ? chunk.last_row - chunk.first_row
                           : std::min(chunk.last_row * width, spatial) - chunk.first_row * width;
    return per_image * (chunk.last_image - chunk.first_image);
  }

  /// visit(chunk), always in the same order.
  template <typename Visit>
  void for_each_chunk(Visit visit) const {
    if (rows >= chunk_rows) {
      for (Index image = 0; image < images; ++image)
        for (Index row = 0; row < rows; row += chunk_rows)
          visit(Chunk{image, image + 1, row, std::min(row + chunk_rows, rows)});
    } else {
      const Index step = chunk_rows / rows;
      for (Index image = 0; image < images; image += step)
        visit(Chunk{image, std::min(image + step, images), 0, rows});
    }
  }

  /// visit(partial, offset, rows, lanes) for the runs of equally long rows of a chunk; partial is
  /// std::true_type where the rows have fewer than `width` lanes.
  template <typename Visit>
  void for_each_run(Index block, const Chunk& chunk, Visit visit) const {
    const Index whole_rows = std::min(chunk.last_row, tail ? rows - 1 : rows) - chunk.first_row;
    const bool narrow = narrow_last_block && block == blocks - 1;
    for (Index image = chunk.first_image; image < chunk.last_image; ++image) {
      const Index offset =
          image * image_stride + block * block_stride + chunk.first_row * row_stride;
      if (narrow) {
        visit(std::true_type{}, offset, whole_rows, channels_in(block));
      } else {
        visit(std::false_type{}, offset, whole_rows, Index{width});
      }
      if (tail && chunk.last_row == rows)
        visit(std::true_type{}, offset + whole_rows * row_stride, Index{1}, tail);
    }
  }

  /// The same for the whole block, last image first; few rows at a time, so that the second part of
  /// a row is still in the cache.
  template <typename Visit>
  void for_each_run_backwards(Index block, Visit visit) const {
    constexpr Index step = chunk_rows / 4;
    for (Index image = images - 1; image >= 0; --image)
      for (Index row = 0; row < rows; row += step)
        for_each_run(block, Chunk{image, image + 1, row, std::min(row + step, rows)}, visit);
  }
};

/// visit(lanes of a row as a std::integral_constant)
template <typename Visit>
void with_width(const Geometry& geometry, Visit visit) {
  if (geometry.width == 16) {
    visit(std::integral_constant<int, 16>{});
  } else {
    visit(std::integral_constant<int, 8>{});
  }
}

/// Calls f with flags as types, so that it is compiled for each combination.
template <typename F>
void with_flags(F f) {
  f();
}
template <typename F, typename... Flags>
void with_flags(F f, bool flag, Flags... flags) {
  if (flag) {
    with_flags([&](auto... rest) { f(std::true_type{}, rest...); }, flags...);
  } else {
    with_flags([&](auto... rest) { f(std::false_type{}, rest...); }, flags...);
  }
}

/// Two sums for each lane.
template <int W>
struct Sums {
  std::array<Lanes<W>, ways> first{}, second{};

  /// Sum over the ways, and over the lanes unless they are channels.
  void total(bool lanes_are_channels, std::array<double, W>& a, std::array<double, W>& b) const {
    total_of(first, lanes_are_channels, a);
    total_of(second, lanes_are_channels, b);
  }

 private:
  static void total_of(const std::array<Lanes<W>, ways>& sums, bool lanes_are_channels,
                       std::array<double, W>& result) {
    static_assert(ways == 4);
    for (int lane = 0; lane < W; ++lane)
      result[lane] =
          static_cast<double>((sums[0][lane] + sums[1][lane]) + (sums[2][lane] + sums[3][lane]));
    if (lanes_are_channels) return;
    for (int half = W / 2; half > 0; half /= 2)
      for (int lane = 0; lane < half; ++lane) result[lane] += result[lane + half];
    result.fill(result[0]);
  }
};

/// One part of them, while rows are added. Not written back by a destructor: with one, GCC keeps
/// the sums in memory.
template <int W>
struct PartSums {
  std::array<Part<W>, ways> first, second;

  PartSums(const Sums<W>& sums, int lane) {
    for (int way = 0; way < ways; ++way) {
      load(first[way], &sums.first[way][lane]);
      load(second[way], &sums.second[way][lane]);
    }
  }
  void write_to(Sums<W>& sums, int lane) const {
    for (int way = 0; way < ways; ++way) {
      store<false>(&sums.first[way][lane], first[way], W);
      store<false>(&sums.second[way][lane], second[way], W);
    }
  }
};

/// add(way, row) for all rows.
template <typename Add>
[[gnu::always_inline]] inline void for_each_row(Index rows, Add add) {
  Index row = 0;
  for (; row + ways <= rows; row += ways) {
    add(0, row);
    add(1, row + 1);
    add(2, row + 2);
    add(3, row + 3);
  }
  for (; row < rows; ++row) add(0, row);
}

/// first += x - pivot, second += (x - pivot)^2
template <int W, bool Partial>
void add_moments(const float* x, Index rows, Index stride, Index lanes, const Lanes<W>& pivots,
                 Sums<W>& sums) {
  for_each_part<W>(lanes, [&](int lane, Index present) {
    Part<W> pivot;
    load(pivot, &pivots[lane]);
    PartSums<W> part(sums, lane);
    for_each_row(rows, [&](int way, Index row) {
      Part<W> v = pivot;
      load<Partial>(v, x + row * stride + lane, present);
      v -= pivot;
      part.first[way] += v;
      multiply_add(part.second[way], v, v, part.second[way]);
    });
    part.write_to(sums, lane);
  });
}

/// Mean and sum of squared deviations for each lane of a block.
template <int W>
struct Statistics {
  std::array<double, W> mean{}, squares{};
};

/// Chan's parallel algorithm. Each chunk is summed relative to the mean of the ones before it; what
/// cancels when its own mean differs from that is part of the total variance, so that the result is
/// accurate however far from zero the mean is.
template <int W>
void compute_statistics(const Geometry& geometry, Index block, const float* x,
                        Statistics<W>& result) {
  Lanes<W> pivot{};
  double count = 0;
  const auto sum = [&](const Chunk& chunk, Sums<W>& sums) {
    geometry.for_each_run(block, chunk, [&](auto partial, Index offset, Index rows, Index lanes) {
      add_moments<W, partial.value>(x + offset, rows, geometry.row_stride, lanes, pivot, sums);
    });
  };
  geometry.for_each_chunk([&](const Chunk& chunk) {
    const auto added = static_cast<double>(geometry.count(chunk));
    std::array<double, W> first, second;
    if (count == 0) {  // Nothing is known about the mean yet.
      Sums<W> sums;
      sum(chunk, sums);
      sums.total(geometry.lanes_are_channels, first, second);
      for (int lane = 0; lane < W; ++lane) pivot[lane] = static_cast<float>(first[lane] / added);
    }
    Sums<W> sums;
    sum(chunk, sums);
    sums.total(geometry.lanes_are_channels, first, second);
    const double total = count + added;
    const double share = added / total, weight = count * share, inverse = 1 / added;
    for (int lane = 0; lane < W; ++lane) {
      const double shift = first[lane] * inverse;
      const double delta = static_cast<double>(pivot[lane]) + shift - result.mean[lane];
      result.squares[lane] += second[lane] - first[lane] * shift + delta * delta * weight;
      result.mean[lane] += delta * share;
    }
    for (int lane = 0; lane < W; ++lane) pivot[lane] = static_cast<float>(result.mean[lane]);
    count = total;
  });
  for (double& squares : result.squares) squares = squares < 0 ? 0 : squares;  // rounding
}

/// What the normalisation does to a block: (x - mean) * scale + shift. Lanes without a channel give
/// 0.
template <int W>
struct Affine {
  Lanes<W> mean{}, scale{}, shift{};
};

/// A part of it. Forward and backward share it, so that the mask that backward recomputes is the
/// one of forward.
template <int W>
struct PartAffine {
  Part<W> mean, scale, shift;

  PartAffine(const Affine<W>& affine, int lane) {
    load(mean, &affine.mean[lane]);
    load(scale, &affine.scale[lane]);
    load(shift, &affine.shift[lane]);
  }
  void apply(Part<W>& centred) const { multiply_add(centred, centred, scale, shift); }
};

/// set(lane, channel) for the lanes of a block that have a channel.
template <typename Set>
void for_each_lane(const Geometry& geometry, Index block, Set set) {
  const Index channel = geometry.first_channel(block);
  if (geometry.lanes_are_channels) {
    for (int lane = 0; lane < geometry.channels_in(block); ++lane) set(lane, channel + lane);
  } else {
    for (int lane = 0; lane < geometry.width; ++lane) set(lane, channel);
  }
}

/// From a mean and an inverse standard deviation for each channel.
template <int W>
Affine<W> affine_of(const Geometry& geometry, Index block, const float* mean,
                    const float* inverse_stddev, const float* gamma, const float* beta) {
  Affine<W> affine;
  for_each_lane(geometry, block, [&](int lane, Index channel) {
    affine.mean[lane] = mean[channel];
    affine.scale[lane] = gamma[channel] * inverse_stddev[channel];
    affine.shift[lane] = beta[channel];
  });
  return affine;
}

// ---- The activation behind a normalisation ----------------------------------------------------

/// What passes are compiled for: the activation, and where backward sees its derivative.
enum class Behind {
  nothing,    ///< or already applied
  relu,       ///< recomputed from x, which is read anyway, as for all others but
  relu_in_y,  ///< in y; of backward, behind a residual
  relu6,
  leaky_relu,
  hard_swish,
  silu,
};

/// x = exp(x), to a few units in the last place; infinity from 88.4 on, NaN of NaN.
template <class V>
inline void exponential(V& x) {
  using Bits = decltype(x < x);
  x = x < -87.3f ? V{} - 87.3f : x;
  x = x > 88.73f ? V{} + 88.73f : x;
  // x = n ln 2 + rest. In 1.5 * 2^23 + n the last bits are those of n.
  constexpr float shift = 0x1.8p23f, ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  V shifted, rest;
  multiply_add(shifted, x, V{} + 0x1.715476p0f, V{} + shift);
  const V n = shifted - shift;
  multiply_add(rest, n, V{} - ln2_high, x);
  multiply_add(rest, n, V{} - ln2_low, rest);
  // exp(rest) by Taylor's series; |rest| < 0.35, so that what is left out is below 1e-8.
  V sum = V{} + 1.0f / 5040;
  for (const float next : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    multiply_add(sum, sum, rest, V{} + next);
  const Bits power = ((Bits)shifted + 127) << 23;  // 2^n as a float
  x = sum * (V)power;
}

template <class V>
inline void sigmoid(V& x) {
  V power = -x;
  exponential(power);
  x = 1.0f / (1.0f + power);
}

/// x = f(x); NaN stays NaN.
template <Behind F, class V>
[[gnu::always_inline]] inline void activate(V& x, float slope) {
  if constexpr (F == Behind::relu) x = x < 0.0f ? V{} : x;
  if constexpr (F == Behind::relu6) x = x < 0.0f ? V{} : x > 6.0f ? V{} + 6.0f : x;
  if constexpr (F == Behind::leaky_relu) x = x > 0.0f ? x : x * slope;
  if constexpr (F == Behind::hard_swish) {
    V gate = x + 3.0f;
    gate = gate < 0.0f ? V{} : gate > 6.0f ? V{} + 6.0f : gate;
    x *= gate * (1.0f / 6);
  }
  if constexpr (F == Behind::silu) {
    V gate = x;
    sigmoid(gate);
    x *= gate;
  }
}

/// g *= f'(x), as ActivationBackward has it.
template <Behind F, class V>
[[gnu::always_inline]] inline void differentiate(V& g, const V& x, float slope) {
  if constexpr (F == Behind::relu) g = x > 0.0f ? g : V{};
  if constexpr (F == Behind::relu6) g = (x > 0.0f) & (x < 6.0f) ? g : V{};
  if constexpr (F == Behind::leaky_relu) g = x > 0.0f ? g : g * slope;
  if constexpr (F == Behind::hard_swish)
    g = x <= -3.0f ? V{} : x >= 3.0f ? g : g * (x * (1.0f / 3) + 0.5f);
  if constexpr (F == Behind::silu) {
    V gate = x;
    sigmoid(gate);
    g *= gate * (1.0f + x * (1.0f - gate));
  }
}

/// Throws std::invalid_argument, which begins with `what`, unless there are passes for what is
/// fused into the normalisation.
template <class Norm>
void require_fusible(const std::string& what, const Norm& norm) {
  if (!norm.function) return;
  if (norm.relu || norm.residual || !fuses_with_normalisations(*norm.function))
    throw std::invalid_argument(what + ": " + std::string(to_string(*norm.function)) +
                                " cannot be fused into it, or not beside a ReLU or a residual");
}

/// visit(the activation as a std::integral_constant)
template <typename Visit>
void with_activation(bool relu, std::optional<Activation> function, Visit visit) {
  if (relu) return visit(std::integral_constant<Behind, Behind::relu>{});
  if (!function) return visit(std::integral_constant<Behind, Behind::nothing>{});
  switch (*function) {
    case Activation::relu6:
      return visit(std::integral_constant<Behind, Behind::relu6>{});
    case Activation::leaky_relu:
      return visit(std::integral_constant<Behind, Behind::leaky_relu>{});
    case Activation::hard_swish:
      return visit(std::integral_constant<Behind, Behind::hard_swish>{});
    case Activation::silu:
      return visit(std::integral_constant<Behind, Behind::silu>{});
    default:
      throw std::logic_error("a normalisation with an activation that is not for it");
  }
}

// ---- Forward ----------------------------------------------------------------------------------

template <int W, bool Partial, Behind F, bool Residual>
void normalise(const float* x, const float* residual, float* y, Index rows, Index stride,
               Index lanes, const Affine<W>& affines, float slope) {
  for_each_part<W>(lanes, [&](int lane, Index present) {
    const PartAffine<W> affine(affines, lane);
    for (Index row = 0; row < rows; ++row) {
      const Index at = row * stride + lane;
      Part<W> v{};
      load<Partial>(v, x + at, present);
      v -= affine.mean;
      affine.apply(v);
      if constexpr (Residual) {
        Part<W> r{};
        load<Partial>(r, residual + at, present);
        v += r;
      }
      activate<F>(v, slope);
      store<Partial>(y + at, v, present);
    }
  });
}

/// y of a block; `residual` may be nullptr.
template <int W, class Norm>
void write_y(const Geometry& geometry, Index block, const Norm& norm, const float* x,
             const float* residual, const Affine<W>& affine, float* y) {
  const auto write = [&](auto function, auto with_residual) {
    geometry.for_each_run_backwards(
        block, [&](auto partial, Index offset, Index rows, Index lanes) {
          normalise<W, partial.value, function.value, with_residual.value>(
              x + offset, with_residual.value ? residual + offset : nullptr, y + offset, rows,
              geometry.row_stride, lanes, affine, norm.slope);
        });
  };
  with_activation(norm.relu, norm.function, [&](auto function) {
    if constexpr (function() == Behind::nothing || function() == Behind::relu) {
      if (residual) return write(function, std::true_type{});
    }
    write(function, std::false_type{});
  });
}

// ---- Backward ---------------------------------------------------------------------------------

/// The same for backward.
template <class Norm, typename Visit>
void with_derivative(const Norm& norm, Visit visit) {
  if (norm.relu && norm.residual) return visit(std::integral_constant<Behind, Behind::relu_in_y>{});
  with_activation(norm.relu, norm.function, visit);
}

struct Inputs {
  const float* x;
  const float* y;
  const float* d_y;
  const float* d_y2;
  float slope;  ///< of leaky_relu
};

/// What the backward op of a BatchNorm or GroupNorm is given, in the order of its arguments.
struct BackwardArguments {
  Inputs in{};
  const float *gamma, *beta, *mean, *inverse_stddev;
  float* d_x;
  float* d_residual;  ///< nullptr without a residual
  float *d_gamma, *d_beta;

  template <class Norm>
  BackwardArguments(std::span<void* const> args, const Norm& norm, bool two_parts) {
    std::size_t next = 0;
    const auto argument = [&] { return static_cast<float*>(args[next++]); };
    in.slope = norm.slope;
    in.x = argument();
    in.y = argument();
    gamma = argument();
    beta = argument();
    mean = argument();
    inverse_stddev = argument();
    in.d_y = argument();
    in.d_y2 = two_parts ? argument() : nullptr;
    d_x = argument();
    d_residual = norm.residual ? argument() : nullptr;
    d_gamma = argument();
    d_beta = argument();
  }
};

/// g = gradient before the activation, centred = x - mean
template <int W, bool Partial, Behind F, bool Two>
[[gnu::always_inline]] inline void load_gradient(const Inputs& in, Index at, Index lanes,
                                                 const PartAffine<W>& affine, Part<W>& g,
                                                 Part<W>& centred) {
  centred = affine.mean;
  load<Partial>(centred, in.x + at, lanes);
  centred -= affine.mean;
  g = Part<W>{};
  load<Partial>(g, in.d_y + at, lanes);
  if constexpr (Two) {
    Part<W> g2{};
    load<Partial>(g2, in.d_y2 + at, lanes);
    g += g2;
  }
  if constexpr (F == Behind::relu_in_y) {
    Part<W> y{};
    load<Partial>(y, in.y + at, lanes);
    differentiate<Behind::relu>(g, y, in.slope);
  } else if constexpr (F != Behind::nothing) {
    Part<W> normalised = centred;
    affine.apply(normalised);
    differentiate<F>(g, normalised, in.slope);
  }
}

/// first += g, second += g * (x - mean); g is written if `Write`.
template <int W, bool Partial, Behind F, bool Two, bool Write>
void add_gradients(const Inputs& in_in, Index offset, float* written, Index rows, Index stride,
                   Index lanes, const Affine<W>& affines, Sums<W>& sums) {
  const Inputs in = in_in;
  for_each_part<W>(lanes, [&](int lane, Index present) {
    const PartAffine<W> affine(affines, lane);
    PartSums<W> part(sums, lane);
    for_each_row(rows, [&](int way, Index row) {
      const Index at = offset + row * stride + lane;
      Part<W> g, centred;
      load_gradient<W, Partial, F, Two>(in, at, present, affine, g, centred);
      part.first[way] += g;
      multiply_add(part.second[way], g, centred, part.second[way]);
      if constexpr (Write) store<Partial>(written + at, g, present);
    });
    part.write_to(sums, lane);
  });
}

/// d_x = on_gradient * g + on_centred * (x - mean) + constant
template <int W>
struct Combination {
  Lanes<W> on_gradient{}, on_centred{}, constant{};
};

template <int W, bool Partial, Behind F, bool Two>
void write_d_x(const Inputs& in_in, Index offset, float* d_x, Index rows, Index stride, Index lanes,
               const Affine<W>& affines, const Combination<W>& combination) {
  const Inputs in = in_in;
  for_each_part<W>(lanes, [&](int lane, Index present) {
    const PartAffine<W> affine(affines, lane);
    Part<W> on_gradient, on_centred, constant;
    load(on_gradient, &combination.on_gradient[lane]);
    load(on_centred, &combination.on_centred[lane]);
    load(constant, &combination.constant[lane]);
    for (Index row = 0; row < rows; ++row) {
      const Index at = offset + row * stride + lane;
      Part<W> g, centred;
      load_gradient<W, Partial, F, Two>(in, at, present, affine, g, centred);
      Part<W> result;
      multiply_add(result, centred, on_centred, constant);
      multiply_add(result, g, on_gradient, result);
      store<Partial>(d_x + at, result, present);
    }
  });
}

/// Backward's two passes over a block.
template <int W, Behind F>
class GradientPasses {
 public:
  /// `d_residual` may be nullptr.
  GradientPasses(const Geometry& geometry, const Inputs& in, float* d_residual, float* d_x)
      : geometry_(geometry), in_(in), g_(d_residual), d_x_(d_x) {
    // The gradient before the activation goes where it is wanted in the first pass, and the second
    // reads it there. Nothing is to be done if it is wanted where it already is. Where it is dear,
    // it is kept in d_x meanwhile.
    if (F == Behind::nothing && !in.d_y2 && d_residual == in.d_y) g_ = nullptr;
    if (F == Behind::silu) g_ = d_x;
  }

  /// For each lane the sum of g and of g * (x - mean).
  void sum(Index block, const Affine<W>& affine, std::array<double, W>& sum,
           std::array<double, W>& product) const {
    with_flags(
        [&](auto two, auto writes) {
          geometry_.for_each_chunk([&](const Chunk& chunk) {
            Sums<W> sums;
            geometry_.for_each_run(
                block, chunk, [&](auto partial, Index offset, Index rows, Index lanes) {
                  add_gradients<W, partial.value, F, two.value, writes.value>(
                      in_, offset, g_, rows, geometry_.row_stride, lanes, affine, sums);
                });
            std::array<double, W> first, second;
            sums.total(geometry_.lanes_are_channels, first, second);
            for (int lane = 0; lane < W; ++lane) {
              sum[lane] += first[lane];
              product[lane] += second[lane];
            }
          });
        },
        in_.d_y2 != nullptr, g_ != nullptr);
  }

  /// d_x.
  void write(Index block, const Affine<W>& affine, const Combination<W>& combination) const {
    if (g_) {
      Inputs in = in_;
      in.d_y = g_;
      write_block<Behind::nothing, false>(block, in, affine, combination);
    } else if (in_.d_y2) {
      write_block<F, true>(block, in_, affine, combination);
    } else {
      write_block<F, false>(block, in_, affine, combination);
    }
  }

 private:
  template <Behind Seen, bool Two>
  void write_block(Index block, const Inputs& in, const Affine<W>& affine,
                   const Combination<W>& combination) const {
    geometry_.for_each_run_backwards(
        block, [&](auto partial, Index offset, Index rows, Index lanes) {
          write_d_x<W, partial.value, Seen, Two>(in, offset, d_x_, rows, geometry_.row_stride,
                                                 lanes, affine, combination);
        });
  }

  const Geometry& geometry_;
  Inputs in_;
  float* g_;  ///< before the activation: where the first pass writes it; nullptr: nowhere
  float* d_x_;
};

}  // namespace stpt::codelets::normalisation
