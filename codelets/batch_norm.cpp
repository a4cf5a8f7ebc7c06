#include "codelets/batch_norm.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>

#ifdef __FMA__
#include <immintrin.h>
#endif

#include "codelets/cpu.hpp"

// The CPU implementation. Batch norm is bound by memory traffic, so all work is done one block of
// channels at a time: what the first pass (sums) has read is still in the cache when the second
// (results) reads it again, in reverse order where the block is larger than the cache.
//
// All layouts are seen as rows of W lanes. A lane is a channel, except for nchw, where the lanes
// are W neighbouring positions of one channel and are summed at the end of a chunk.

namespace stpt::codelets {
namespace {

using runtime::Layout;
using Index = std::int64_t;

/// How many values the machine computes at once.
#if defined(__AVX512F__)
constexpr int machine_lanes = 16;
#elif defined(__AVX__)
constexpr int machine_lanes = 8;
#else
constexpr int machine_lanes = 4;
#endif

/// A value for each lane of a row. The number of lanes, and so the order of every sum, is the same
/// on every machine.
template <int W>
using Lanes = std::array<float, W>;

/// Where the machine has narrower vectors than a row has lanes, rows are computed in parts, one
/// after the other.
template <int W>
constexpr int part_lanes = std::min(W, machine_lanes);

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
constexpr Index chunk_rows = 256;
/// Independent sums, to hide the latency of the additions.
constexpr int ways = 4;

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
    if (spec.layout == Layout::nchw) {
      width = 16;
      lanes_are_channels = false;
      blocks = channels;
      block_stride = spatial;
      row_stride = width;
      rows = (spatial + width - 1) / width;
      tail = spatial % width;
    } else if (spec.layout == Layout::nhwc) {
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

// ---- Forward ----------------------------------------------------------------------------------

template <int W, bool Partial, bool Relu, bool Residual>
void normalise(const float* x, const float* residual, float* y, Index rows, Index stride,
               Index lanes, const Affine<W>& affines) {
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
      if constexpr (Relu) v = v < 0.0f ? Part<W>{} : v;  // keeps NaN
      store<Partial>(y + at, v, present);
    }
  });
}

class Forward final : public Kernel {
 public:
  explicit Forward(const BatchNormForward& op) : op_(op), geometry_(op.norm.x) {}

  void run(std::span<void* const> args, void*, Stream) const override {
    if (geometry_.width == 16) {
      run_blocks<16>(args);
    } else {
      run_blocks<8>(args);
    }
  }

 private:
  template <int W>
  void run_blocks(std::span<void* const> args) const {
    std::size_t next = 0;
    const auto argument = [&] { return static_cast<float*>(args[next++]); };
    const float* x = argument();
    const float* residual = op_.norm.residual ? argument() : nullptr;
    const float* gamma = argument();
    const float* beta = argument();
    float* running_mean = argument();
    float* running_variance = argument();
    float* y = argument();
    float* saved_mean = argument();
    float* saved_inverse = argument();

    const auto count = static_cast<double>(geometry_.count());
    const auto epsilon = static_cast<double>(op_.norm.epsilon);
    for (Index block = 0; block < geometry_.blocks; ++block) {
      Affine<W> affine;
      Statistics<W> statistics;
      const bool inference = op_.mode == BatchNormMode::inference;
      if (!inference) compute_statistics(geometry_, block, x, statistics);
      for_each_lane(geometry_, block, [&](int lane, Index channel) {
        double mean, variance;
        if (inference) {
          mean = static_cast<double>(running_mean[channel]);
          variance = static_cast<double>(running_variance[channel]);
        } else {
          mean = statistics.mean[lane];
          variance = statistics.squares[lane] / count;
        }
        const auto inverse = static_cast<float>(1 / std::sqrt(variance + epsilon));
        affine.mean[lane] = static_cast<float>(mean);
        affine.scale[lane] = gamma[channel] * inverse;
        affine.shift[lane] = beta[channel];
        const bool first = geometry_.lanes_are_channels || lane == 0;
        if (op_.mode == BatchNormMode::training && first) {
          saved_mean[channel] = affine.mean[lane];
          saved_inverse[channel] = inverse;
          update(running_mean[channel], mean);
          update(running_variance[channel], statistics.squares[lane] / (count - 1));
        }
      });
      with_flags(
          [&](auto relu, auto with_residual) {
            geometry_.for_each_run_backwards(
                block, [&](auto partial, Index offset, Index rows, Index lanes) {
                  normalise<W, partial.value, relu.value, with_residual.value>(
                      x + offset, with_residual.value ? residual + offset : nullptr, y + offset,
                      rows, geometry_.row_stride, lanes, affine);
                });
          },
          op_.norm.relu, op_.norm.residual);
    }
  }

  void update(float& running, double batch) const {
    const auto momentum = static_cast<double>(op_.norm.momentum);
    // With a momentum of 1 nothing of what was there may count, not even NaN.
    const double kept = momentum == 1 ? 0 : (1 - momentum) * static_cast<double>(running);
    running = static_cast<float>(kept + momentum * batch);
  }

  BatchNormForward op_;
  Geometry geometry_;
};

// ---- Backward ---------------------------------------------------------------------------------

/// Where backward sees which values the ReLU has cut.
enum class Mask {
  none,    ///< no ReLU, or already applied
  from_x,  ///< recomputed from x, which is read anyway
  from_y,
};

struct Inputs {
  const float* x;
  const float* y;
  const float* d_y;
  const float* d_y2;
};

/// g = gradient after the mask, centred = x - mean
template <int W, bool Partial, Mask From, bool Two>
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
  if constexpr (From != Mask::none) {
    Part<W> y{};
    if constexpr (From == Mask::from_x) {
      y = centred;
      affine.apply(y);
    } else {
      load<Partial>(y, in.y + at, lanes);
    }
    g = y > 0.0f ? g : Part<W>{};
  }
}

/// first += g, second += g * (x - mean); g is written if `Write`.
template <int W, bool Partial, Mask From, bool Two, bool Write>
void add_gradients(const Inputs& in_in, Index offset, float* written, Index rows, Index stride,
                   Index lanes, const Affine<W>& affines, Sums<W>& sums) {
  const Inputs in = in_in;
  for_each_part<W>(lanes, [&](int lane, Index present) {
    const PartAffine<W> affine(affines, lane);
    PartSums<W> part(sums, lane);
    for_each_row(rows, [&](int way, Index row) {
      const Index at = offset + row * stride + lane;
      Part<W> g, centred;
      load_gradient<W, Partial, From, Two>(in, at, present, affine, g, centred);
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

template <int W, bool Partial, Mask From, bool Two>
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
      load_gradient<W, Partial, From, Two>(in, at, present, affine, g, centred);
      Part<W> result;
      multiply_add(result, centred, on_centred, constant);
      multiply_add(result, g, on_gradient, result);
      store<Partial>(d_x + at, result, present);
    }
  });
}

class Backward final : public Kernel {
 public:
  explicit Backward(const BatchNormBackward& op) : op_(op), geometry_(op.norm.x) {}

  void run(std::span<void* const> args, void*, Stream) const override {
    if (geometry_.width == 16) {
      run_mask<16>(args);
    } else {
      run_mask<8>(args);
    }
  }

 private:
  template <int W>
  void run_mask(std::span<void* const> args) const {
    if (!op_.norm.relu) {
      run_blocks<W, Mask::none>(args);
    } else if (op_.norm.residual) {
      run_blocks<W, Mask::from_y>(args);
    } else {
      run_blocks<W, Mask::from_x>(args);
    }
  }

  template <int W, Mask From>
  void run_blocks(std::span<void* const> args) const {
    std::size_t next = 0;
    const auto argument = [&] { return static_cast<float*>(args[next++]); };
    Inputs in{};
    in.x = argument();
    in.y = argument();
    const float* gamma = argument();
    const float* beta = argument();
    const float* mean = argument();
    const float* inverse_stddev = argument();
    in.d_y = argument();
    in.d_y2 = op_.two_parts ? argument() : nullptr;
    float* d_x = argument();
    float* d_residual = op_.norm.residual ? argument() : nullptr;
    float* d_gamma = argument();
    float* d_beta = argument();

    // The masked gradient goes where it is wanted in the first pass, and the second reads it there.
    // Nothing is to be done if it is wanted where it already is.
    const bool write =
        d_residual != nullptr && !(From == Mask::none && !op_.two_parts && d_residual == in.d_y);
    Inputs second_in = in;
    if (write) second_in.d_y = d_residual;

    const auto count = static_cast<double>(geometry_.count());
    for (Index block = 0; block < geometry_.blocks; ++block) {
      Affine<W> affine;
      for_each_lane(geometry_, block, [&](int lane, Index channel) {
        affine.mean[lane] = mean[channel];
        affine.scale[lane] = gamma[channel] * inverse_stddev[channel];
        if constexpr (From == Mask::from_x) affine.shift[lane] = beta[channel];
      });

      std::array<double, W> sum{}, product{};
      with_flags(
          [&](auto two, auto writes) {
            geometry_.for_each_chunk([&](const Chunk& chunk) {
              Sums<W> sums;
              geometry_.for_each_run(
                  block, chunk, [&](auto partial, Index offset, Index rows, Index lanes) {
                    add_gradients<W, partial.value, From, two.value, writes.value>(
                        in, offset, d_residual, rows, geometry_.row_stride, lanes, affine, sums);
                  });
              std::array<double, W> first, second;
              sums.total(geometry_.lanes_are_channels, first, second);
              for (int lane = 0; lane < W; ++lane) {
                sum[lane] += first[lane];
                product[lane] += second[lane];
              }
            });
          },
          op_.two_parts, write);

      Combination<W> combination;
      for_each_lane(geometry_, block, [&](int lane, Index channel) {
        const auto inverse = static_cast<double>(inverse_stddev[channel]);
        const auto scale = static_cast<double>(affine.scale[lane]);
        d_beta[channel] = static_cast<float>(sum[lane]);
        d_gamma[channel] = static_cast<float>(product[lane] * inverse);
        combination.on_gradient[lane] = affine.scale[lane];
        combination.on_centred[lane] =
            static_cast<float>(-scale * product[lane] * inverse * inverse / count);
        combination.constant[lane] = static_cast<float>(-scale * sum[lane] / count);
      });

      if (write) {
        write_block<W, Mask::none, false>(block, second_in, d_x, affine, combination);
      } else if (op_.two_parts) {
        write_block<W, From, true>(block, in, d_x, affine, combination);
      } else {
        write_block<W, From, false>(block, in, d_x, affine, combination);
      }
    }
  }

  template <int W, Mask From, bool Two>
  void write_block(Index block, const Inputs& in, float* d_x, const Affine<W>& affine,
                   const Combination<W>& combination) const {
    geometry_.for_each_run_backwards(
        block, [&](auto partial, Index offset, Index rows, Index lanes) {
          write_d_x<W, partial.value, From, Two>(in, offset, d_x, rows, geometry_.row_stride, lanes,
                                                 affine, combination);
        });
  }

  BatchNormBackward op_;
  Geometry geometry_;
};

}  // namespace

void require_valid(const std::string& what, const BatchNorm& norm, BatchNormMode mode) {
  if (!(norm.epsilon >= 0)) throw std::invalid_argument(what + ": epsilon must not be negative");
  if (mode != BatchNormMode::inference && norm.x.shape.n * norm.x.shape.spatial() < 2)
    throw std::invalid_argument(what +
                                ": batch statistics need more than one value for each channel");
}

std::size_t batch_norm_mask_bytes(const BatchNorm&, Cpu) { return 0; }

KernelPtr plan(const BatchNormForward& op, Cpu) {
  cpu::require_plain("BatchNormForward", op.norm.x);
  require_valid("BatchNormForward " + op.norm.x.to_string(), op.norm, op.mode);
  return std::make_unique<Forward>(op);
}

KernelPtr plan(const BatchNormBackward& op, Cpu) {
  cpu::require_plain("BatchNormBackward", op.norm.x);
  require_valid("BatchNormBackward " + op.norm.x.to_string(), op.norm, BatchNormMode::training);
  return std::make_unique<Backward>(op);
}

}  // namespace stpt::codelets
