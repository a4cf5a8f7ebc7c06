#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "codelets/batch_norm.hpp"
#include "codelets/nhwc.cuh"
#include "runtime/tensor.hpp"

// The CUDA implementation, in nhwc. Batch norm is bound by memory traffic: each direction reads its
// tensors once for sums and once for the results, in reverse order, so that the end of the first
// pass is still in the cache. The rows are cut into slices. A block sums one slice of a group of
// channels in float and leaves the partial sums in the workspace, where a second kernel adds them
// in double, always in the same order. The slices depend on the shape only, not on the GPU.

namespace stpt::codelets {
namespace {

using cuda::add_over_rows;
using cuda::ChannelGroups;
using cuda::for_each_row;
using cuda::from_float;
using cuda::load;
using cuda::load_channels;
using cuda::Order;
using cuda::Slices;
using cuda::store;
using cuda::to_float;
using cuda::Vector;

/// What the normalisation does to a channel: (x - mean) * scale + shift. Forward and backward share
/// it to the bit, so that the mask that backward recomputes is the one of forward.
template <int width>
struct Affine {
  float mean[width], scale[width], shift[width];

  __device__ Affine(const float* means, const float* inverse_stddev, const float* gamma,
                    const float* beta, int channel) {
    float inverse[width];
    load_channels(means + channel, mean);
    load_channels(inverse_stddev + channel, inverse);
    load_channels(gamma + channel, scale);
    load_channels(beta + channel, shift);
#pragma unroll
    for (int v = 0; v < width; ++v) scale[v] *= inverse[v];
  }

  __device__ float of_centred(float centred, int v) const {
    return fmaf(centred, scale[v], shift[v]);
  }
};

// ---- Statistics ---------------------------------------------------------------------------------

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

/// Of a slice of a channel. The mean is relative to the pivot, a value of the slice: so it is
/// accurate however far from zero the values are.
struct SliceMoments {
  float pivot, mean, squares;

  __device__ double whole_mean() const {
    return static_cast<double>(pivot) + static_cast<double>(mean);
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

/// partials[slice][channel]
template <class T, int width>
__global__ void __launch_bounds__(cuda::block_threads, 4)
    slice_moments(const T* __restrict__ x, Slices slices, SliceMoments* __restrict__ partials) {
  constexpr int rows_at_once = 4;
  const int slice = cuda::own_slice<Order::forwards>(), channel = cuda::own_channel<width>();
  const bool has_channel = channel < slices.channels;
  const T* const first = x + slices.begin(slice) * slices.channels;
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
    partials[std::int64_t{slice} * slices.channels + channel + v] = {
        own.pivot[v], own.moments[v].mean, own.moments[v].squares};
}

/// Two sums over slices at once.
struct TwoSums {
  double a, b;
  __device__ void add(const TwoSums& other) {
    a += other.a;
    b += other.b;
  }
};

/// The running statistics, nullptr where they are not to be updated, and what backward needs.
struct Kept {
  float *running_mean, *running_variance, *mean, *inverse_stddev;
  double momentum;

  __device__ void update(float& running, double batch) const {
    // With a momentum of 1 nothing of what was there may count, not even NaN.
    const double kept = momentum == 1 ? 0 : (1 - momentum) * static_cast<double>(running);
    running = static_cast<float>(kept + momentum * batch);
  }
};

__global__ void __launch_bounds__(cuda::finish_block_threads)
    finish_moments(const SliceMoments* __restrict__ partials, Slices slices, double epsilon,
                   float* __restrict__ mean, float* __restrict__ inverse_stddev, Kept kept) {
  const int channel = cuda::finished_channel();
  const bool has_channel = channel < slices.channels;
  // Relative to one slice's mean, so that squares of far means do not drown the rest.
  const double base = has_channel ? partials[channel].whole_mean() : 0;
  const auto [sum, second] = cuda::sum_over_slices<TwoSums>(slices, has_channel, [&](int slice) {
    const SliceMoments part = partials[std::int64_t{slice} * slices.channels + channel];
    const auto weight = static_cast<double>(slices.end(slice) - slices.begin(slice));
    const double delta = part.whole_mean() - base;
    return TwoSums{weight * delta, static_cast<double>(part.squares) + weight * delta * delta};
  });
  if (threadIdx.y > 0 || !has_channel) return;
  const auto count = static_cast<double>(slices.rows);
  const double whole_mean = base + sum / count;
  const double rest = second - sum * sum / count;
  const double squares = rest < 0 ? 0 : rest;  // by rounding; NaN stays
  mean[channel] = static_cast<float>(whole_mean);
  inverse_stddev[channel] = static_cast<float>(1 / sqrt(squares / count + epsilon));
  if (!kept.mean) return;
  kept.mean[channel] = mean[channel];
  kept.inverse_stddev[channel] = inverse_stddev[channel];
  kept.update(kept.running_mean[channel], whole_mean);
  kept.update(kept.running_variance[channel], squares / (count - 1));
}

__global__ void running_moments(const float* __restrict__ running_mean,
                                const float* __restrict__ running_variance, int channels,
                                double epsilon, float* __restrict__ mean,
                                float* __restrict__ inverse_stddev) {
  const int channel = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (channel >= channels) return;
  mean[channel] = running_mean[channel];
  inverse_stddev[channel] =
      static_cast<float>(1 / sqrt(static_cast<double>(running_variance[channel]) + epsilon));
}

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

// ---- Forward ------------------------------------------------------------------------------------

struct Parameters {
  const float *mean, *inverse_stddev, *gamma, *beta;
};

/// `mask` may be nullptr.
template <class T, int width, bool with_residual>
__global__ void __launch_bounds__(cuda::block_threads, 4)
    normalise(const T* __restrict__ x, const T* __restrict__ residual, Parameters parameters,
              bool relu, Slices slices, T* __restrict__ y, MaskBits* __restrict__ mask) {
  constexpr int rows_at_once = with_residual ? 2 : 4;
  struct Row {
    Vector<T, width> x, residual;
  };
  const int channel = cuda::own_channel<width, Order::backwards>();
  if (channel >= slices.channels) return;
  const Affine<width> affine(parameters.mean, parameters.inverse_stddev, parameters.gamma,
                             parameters.beta, channel);
  const auto read = [&](std::int64_t at) {
    Row row;
    row.x = load<width>(x + at);
    if constexpr (with_residual) row.residual = load<width>(residual + at);
    return row;
  };
  const auto write = [&](const Row& row, std::int64_t at) {
    Vector<T, width> results;
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

// ---- Backward -----------------------------------------------------------------------------------

/// Where backward sees which values the ReLU has cut.
enum class Mask {
  none,    ///< no ReLU, or already applied
  from_x,  ///< recomputed from x, which is read anyway
  stored,  ///< by forward
};

template <class T>
struct Gradients {
  const T *x, *d_y, *d_y2;  ///< d_y2 only where it comes in two parts
  const MaskBits* mask;     ///< only with Mask::stored
};

/// A row's values of the thread's channels, as they are in memory.
template <class T, int width, Mask mask, bool two_parts>
struct Row {
  Vector<T, width> x, d_y, d_y2;
  MaskBits bits;

  __device__ Row() {}  // not cleared: that would be done between the loads
  __device__ Row(const Gradients<T>& from, std::int64_t at) {
    x = load<width>(from.x + at);
    d_y = load<width>(from.d_y + at);
    if constexpr (two_parts) d_y2 = load<width>(from.d_y2 + at);
    if constexpr (mask == Mask::stored) bits = from.mask[at / width];
  }

  __device__ float centred(const Affine<width>& affine, int v) const {
    return to_float(x.values[v]) - affine.mean[v];
  }

  /// Behind the ReLU. The sum of two parts is rounded as if it had been stored, which it is where
  /// d_residual is wanted: d_x shall not depend on that.
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
__device__ void for_each_gradient(const Gradients<T>& from, const Slices& slices, int channel,
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
  return two_parts ? 2 : mask == Mask::stored ? 4 : 3;
}
constexpr int blocks_for_results(bool two_parts) { return two_parts ? 2 : 4; }

/// Over a slice of a channel: of the gradient g, and of g * (x - mean).
struct GradientSums {
  float sum, product;

  __device__ void add(const GradientSums& other) {
    sum += other.sum;
    product += other.product;
  }
};

/// partials[slice][channel]; g goes to `written`, too, unless that is nullptr (it may be d_y or
/// d_y2).
template <class T, int width, Mask mask, bool two_parts>
__global__ void __launch_bounds__(cuda::block_threads, blocks_for_sums(mask, two_parts))
    slice_gradients(Gradients<T> from, Parameters parameters, Slices slices, T* written,
                    GradientSums* __restrict__ partials) {
  const int slice = cuda::own_slice<Order::forwards>(), channel = cuda::own_channel<width>();
  const bool has_channel = channel < slices.channels;
  GradientSums sums[width] = {};
  if (has_channel) {
    const Affine<width> affine(parameters.mean, parameters.inverse_stddev, parameters.gamma,
                               parameters.beta, channel);
    for_each_gradient<T, width, mask, two_parts, Order::forwards>(
        from, slices, channel, [&](const auto& row, std::int64_t at) {
          Vector<T, width> gradients;
#pragma unroll
          for (int v = 0; v < width; ++v) {
            const float g = row.gradient(affine, v);
            sums[v].sum += g;
            sums[v].product = fmaf(g, row.centred(affine, v), sums[v].product);
            gradients.values[v] = from_float<T>(g);
          }
          if (written) store(written + at, gradients);
        });
  }
  add_over_rows(sums);
  if (threadIdx.y > 0 || !has_channel) return;
#pragma unroll
  for (int v = 0; v < width; ++v)
    partials[std::int64_t{slice} * slices.channels + channel + v] = sums[v];
}

/// d_x = scale * g + on_centred * (x - mean) + constant, for each channel.
struct Combination {
  float *on_centred, *constant;
};

__global__ void __launch_bounds__(cuda::finish_block_threads)
    finish_gradients(const GradientSums* __restrict__ partials, Slices slices,
                     Parameters parameters, Combination combination, float* __restrict__ d_gamma,
                     float* __restrict__ d_beta) {
  const int channel = cuda::finished_channel();
  const bool has_channel = channel < slices.channels;
  const auto [sum, product] = cuda::sum_over_slices<TwoSums>(slices, has_channel, [&](int slice) {
    const GradientSums part = partials[std::int64_t{slice} * slices.channels + channel];
    return TwoSums{static_cast<double>(part.sum), static_cast<double>(part.product)};
  });
  if (threadIdx.y > 0 || !has_channel) return;
  const auto inverse = static_cast<double>(parameters.inverse_stddev[channel]);
  const double scale = static_cast<double>(parameters.gamma[channel]) * inverse;
  const auto count = static_cast<double>(slices.rows);
  d_beta[channel] = static_cast<float>(sum);
  d_gamma[channel] = static_cast<float>(product * inverse);
  combination.on_centred[channel] =
      static_cast<float>(-scale * product * inverse * inverse / count);
  combination.constant[channel] = static_cast<float>(-scale * sum / count);
}

/// d_x may be d_y or d_y2.
template <class T, int width, Mask mask, bool two_parts>
__global__ void __launch_bounds__(cuda::block_threads, blocks_for_results(two_parts))
    combine_gradients(Gradients<T> from, Parameters parameters, Combination combination,
                      Slices slices, T* d_x) {
  const int channel = cuda::own_channel<width, Order::backwards>();
  if (channel >= slices.channels) return;
  const Affine<width> affine(parameters.mean, parameters.inverse_stddev, parameters.gamma,
                             parameters.beta, channel);
  float on_centred[width], constant[width];
  load_channels(combination.on_centred + channel, on_centred);
  load_channels(combination.constant + channel, constant);
  for_each_gradient<T, width, mask, two_parts, Order::backwards>(
      from, slices, channel, [&](const auto& row, std::int64_t at) {
        Vector<T, width> results;
#pragma unroll
        for (int v = 0; v < width; ++v) {
          const float g = row.gradient(affine, v);
          const float rest = fmaf(row.centred(affine, v), on_centred[v], constant[v]);
          results.values[v] = from_float<T>(fmaf(g, affine.scale[v], rest));
        }
        store(d_x + at, results);
      });
}

// ---- Planning -----------------------------------------------------------------------------------

/// Cuts a workspace into parts; without memory it only adds up their sizes.
class Parts {
 public:
  explicit Parts(void* memory = nullptr) : memory_(static_cast<std::byte*>(memory)) {}

  template <class T>
  T* take(std::int64_t count) {
    std::byte* part = memory_ ? memory_ + bytes_ : nullptr;
    bytes_ +=
        runtime::align_up(static_cast<std::size_t>(count) * sizeof(T), cuda::workspace_alignment);
    return reinterpret_cast<T*>(part);
  }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  std::byte* memory_;
  std::size_t bytes_ = 0;
};

template <class T, int width>
class Forward final : public Kernel {
 public:
  Forward(std::string what, const BatchNormForward& op)
      : what_(std::move(what)),
        op_(op),
        groups_(op.norm.x.shape.c, width),
        slices_(op.norm.x.shape, groups_) {
    workspace_bytes_ = Workspace(*this, nullptr).bytes;
  }

  void run(std::span<void* const> args, void* workspace, Stream stream) const override {
    std::size_t next = 0;
    const auto* x = static_cast<const T*>(args[next++]);
    const auto* residual = op_.norm.residual ? static_cast<const T*>(args[next++]) : nullptr;
    const auto* gamma = static_cast<const float*>(args[next++]);
    const auto* beta = static_cast<const float*>(args[next++]);
    auto* running_mean = static_cast<float*>(args[next++]);
    auto* running_variance = static_cast<float*>(args[next++]);
    auto* y = static_cast<T*>(args[next++]);
    auto* saved_mean = static_cast<float*>(args[next++]);
    auto* saved_inverse = static_cast<float*>(args[next++]);
    auto* mask = op_.mode == BatchNormMode::training && batch_norm_mask_bytes(op_.norm, Cuda{}) > 0
                     ? static_cast<MaskBits*>(args[next])
                     : nullptr;

    const Workspace parts(*this, workspace);
    const auto epsilon = static_cast<double>(op_.norm.epsilon);
    if (op_.mode == BatchNormMode::inference) {
      constexpr unsigned threads = 128;
      cuda::launch(what_, running_moments, cuda::blocks_for(slices_.channels, threads), threads,
                   stream, running_mean, running_variance, slices_.channels, epsilon, parts.mean,
                   parts.inverse_stddev);
    } else {
      Kept kept{};
      if (op_.mode == BatchNormMode::training)
        kept = {running_mean, running_variance, saved_mean, saved_inverse,
                static_cast<double>(op_.norm.momentum)};
      cuda::launch_on_slices(what_, slice_moments<T, width>, slices_, groups_, stream, x, slices_,
                             parts.partials);
      cuda::launch_finish(what_, finish_moments, slices_, stream, parts.partials, slices_, epsilon,
                          parts.mean, parts.inverse_stddev, kept);
    }
    cuda::launch_on_slices(what_, residual ? normalise<T, width, true> : normalise<T, width, false>,
                           slices_, groups_, stream, x, residual,
                           Parameters{parts.mean, parts.inverse_stddev, gamma, beta}, op_.norm.relu,
                           slices_, y, mask);
  }

 private:
  struct Workspace {
    SliceMoments* partials = nullptr;
    float *mean, *inverse_stddev;
    std::size_t bytes;

    Workspace(const Forward& forward, void* memory) {
      Parts parts(memory);
      const auto& [op, slices] = std::tie(forward.op_, forward.slices_);
      if (op.mode != BatchNormMode::inference)
        partials = parts.take<SliceMoments>(std::int64_t{slices.count()} * slices.channels);
      mean = parts.take<float>(slices.channels);
      inverse_stddev = parts.take<float>(slices.channels);
      bytes = parts.bytes();
    }
  };

  std::string what_;
  BatchNormForward op_;
  ChannelGroups groups_;
  Slices slices_;
};

template <class T, int width>
class Backward final : public Kernel {
 public:
  Backward(std::string what, const BatchNormBackward& op)
      : what_(std::move(what)),
        op_(op),
        groups_(op.norm.x.shape.c, width),
        slices_(op.norm.x.shape, groups_) {
    workspace_bytes_ = Workspace(slices_, nullptr).bytes;
  }

  void run(std::span<void* const> args, void* workspace, Stream stream) const override {
    if (!op_.norm.relu) {
      run<Mask::none>(args, workspace, stream);
    } else if (op_.norm.residual) {
      run<Mask::stored>(args, workspace, stream);
    } else {
      run<Mask::from_x>(args, workspace, stream);
    }
  }

 private:
  struct Workspace {
    GradientSums* partials;
    Combination combination;
    std::size_t bytes;

    Workspace(const Slices& slices, void* memory) {
      Parts parts(memory);
      partials = parts.take<GradientSums>(std::int64_t{slices.count()} * slices.channels);
      combination.on_centred = parts.take<float>(slices.channels);
      combination.constant = parts.take<float>(slices.channels);
      bytes = parts.bytes();
    }
  };

  template <Mask mask>
  void run(std::span<void* const> args, void* workspace, Stream stream) const {
    std::size_t next = 0;
    const auto tensor = [&] { return static_cast<T*>(args[next++]); };
    const auto vector = [&] { return static_cast<float*>(args[next++]); };
    Gradients<T> from{};
    from.x = tensor();
    from.mask = static_cast<const MaskBits*>(args[next++]);
    Parameters parameters{};
    parameters.gamma = vector();
    parameters.beta = vector();
    parameters.mean = vector();
    parameters.inverse_stddev = vector();
    from.d_y = tensor();
    from.d_y2 = op_.two_parts ? tensor() : nullptr;
    T* d_x = tensor();
    T* d_residual = op_.norm.residual ? tensor() : nullptr;
    float* d_gamma = vector();
    float* d_beta = vector();

    // The masked gradient goes where it is wanted in the first pass, and the second reads it there.
    // Nothing is to be done if it is wanted where it already is.
    const bool write =
        d_residual && !(mask == Mask::none && !op_.two_parts && d_residual == from.d_y);
    const Workspace parts(slices_, workspace);
    cuda::launch_on_slices(
        what_,
        from.d_y2 ? slice_gradients<T, width, mask, true> : slice_gradients<T, width, mask, false>,
        slices_, groups_, stream, from, parameters, slices_, write ? d_residual : nullptr,
        parts.partials);
    cuda::launch_finish(what_, finish_gradients, slices_, stream, parts.partials, slices_,
                        parameters, parts.combination, d_gamma, d_beta);
    const auto combine = [&](auto kernel, const Gradients<T>& gradients) {
      cuda::launch_on_slices(what_, kernel, slices_, groups_, stream, gradients, parameters,
                             parts.combination, slices_, d_x);
    };
    if (write) {
      combine(combine_gradients<T, width, Mask::none, false>,
              {from.x, d_residual, nullptr, nullptr});
    } else {
      combine(from.d_y2 ? combine_gradients<T, width, mask, true>
                        : combine_gradients<T, width, mask, false>,
              from);
    }
  }

  std::string what_;
  BatchNormBackward op_;
  ChannelGroups groups_;
  Slices slices_;
};

}  // namespace

std::size_t batch_norm_mask_bytes(const BatchNorm& norm, Cuda) {
  if (!norm.relu || !norm.residual) return 0;
  return cuda::with_vectors(norm.x, "batch norm " + norm.x.to_string(), [&](auto, auto width) {
    return static_cast<std::size_t>(norm.x.shape.elements() / width()) * sizeof(MaskBits);
  });
}

KernelPtr plan(const BatchNormForward& op, Cuda) {
  const std::string what = "BatchNormForward " + op.norm.x.to_string();
  cuda::require_nhwc(what, op.norm.x);
  require_valid(what, op.norm, op.mode);
  return cuda::with_vectors(op.norm.x, what, [&](auto element, auto width) -> KernelPtr {
    return std::make_unique<Forward<decltype(element), width()>>(what, op);
  });
}

KernelPtr plan(const BatchNormBackward& op, Cuda) {
  const std::string what = "BatchNormBackward " + op.norm.x.to_string();
  cuda::require_nhwc(what, op.norm.x);
  require_valid(what, op.norm, BatchNormMode::training);
  return cuda::with_vectors(op.norm.x, what, [&](auto element, auto width) -> KernelPtr {
    return std::make_unique<Backward<decltype(element), width()>>(what, op);
  });
}

}  // namespace stpt::codelets
