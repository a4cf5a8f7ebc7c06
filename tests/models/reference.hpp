// What a network computes, in double and as plainly as possible: for comparison with lowered
// programs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

#include "models/network.hpp"
#include "models/program.hpp"
#include "runtime/random.hpp"
#include "tests/codelets/elementwise_testing.hpp"

namespace stpt::testing {

using models::ActivationId;
using models::Layer;
using models::LayerKind;
using models::Network;
using runtime::Shape;

class Reference {
 public:
  std::vector<std::vector<double>> parameters;  ///< by bucket
  std::vector<double> running;
  double label_smoothing = 0;            ///< while training
  std::vector<runtime::PhiloxKey> keys;  ///< of the images

  Reference(const Network& network, int batch, std::span<const float> images,
            std::span<const std::int32_t> labels)
      : network_(network), batch_(batch), images_(images.begin(), images.end()), labels_(labels) {}

  /// Losses of the images; updates `running` as the mode says.
  std::vector<double> losses(models::Mode mode) {
    mode_ = mode;
    values_.assign(network_.activations.size(), {});
    values_[0] = images_;
    for (const Layer& layer : network_.layers) compute(layer);
    std::vector<double> result;
    const auto classes = static_cast<std::size_t>(network_.classes);
    for (std::size_t n = 0; n < static_cast<std::size_t>(batch_); ++n) {
      const std::span row = std::span(of(network_.logits)).subspan(n * classes, classes);
      const double largest = *std::max_element(row.begin(), row.end());
      double sum = 0;
      for (const double logit : row) sum += std::exp(logit - largest);
      const double smoothing = mode == models::Mode::train ? label_smoothing : 0;
      const double mean =
          std::accumulate(row.begin(), row.end(), 0.0) / static_cast<double>(classes);
      result.push_back(largest + std::log(sum) - smoothing * mean -
                       (1 - smoothing) * row[static_cast<std::size_t>(labels_[n])]);
    }
    return result;
  }

  double mean_loss(models::Mode mode) {
    const auto all = losses(mode);
    return std::accumulate(all.begin(), all.end(), 0.0) / static_cast<double>(all.size());
  }

 private:
  [[nodiscard]] Shape shape(ActivationId id) const {
    Shape shape = network_.activations[static_cast<std::size_t>(id)];
    shape.n = batch_;
    return shape;
  }
  std::vector<double>& of(ActivationId id) { return values_[static_cast<std::size_t>(id)]; }
  [[nodiscard]] const double* parameter(int index) const {
    const models::Parameter& parameter = network_.parameters[static_cast<std::size_t>(index)];
    return parameters[static_cast<std::size_t>(parameter.bucket)].data() + parameter.offset;
  }
  static std::size_t at(const Shape& s, std::int64_t n, std::int64_t c, std::int64_t h,
                        std::int64_t w) {
    return static_cast<std::size_t>(((n * s.c + c) * s.h + h) * s.w + w);
  }

  void compute(const Layer& layer) {
    const std::vector<double>& x = of(layer.inputs[0]);
    std::vector<double>& y = of(layer.output);
    const Shape in = shape(layer.inputs[0]), out = shape(layer.output);
    y.assign(static_cast<std::size_t>(out.elements()), 0.0);
    switch (layer.kind) {
      case LayerKind::convolution:
      case LayerKind::max_pool:
      case LayerKind::average_pool:
        slide(layer, in, out, x, y);
        break;
      case LayerKind::batch_norm:
        normalise(layer, in, x, y);
        break;
      case LayerKind::group_norm:
        normalise_groups(layer, in, x, y);
        break;
      case LayerKind::layer_norm:
        normalise_pixels(layer, in, x, y);
        break;
      case LayerKind::relu:
        std::transform(x.begin(), x.end(), y.begin(), [](double v) { return std::max(v, 0.0); });
        break;
      case LayerKind::activation:
        std::transform(x.begin(), x.end(), y.begin(), [&](double v) {
          return activate(layer.function, static_cast<double>(layer.slope), v);
        });
        break;
      case LayerKind::add:
        std::transform(x.begin(), x.end(), of(layer.inputs[1]).begin(), y.begin(), std::plus<>());
        break;
      case LayerKind::multiply:
        for (std::size_t i = 0; i < y.size(); ++i) {
          const std::vector<double>& factors = of(layer.inputs[1]);
          y[i] = x[i] * factors[i / (y.size() / factors.size())];
        }
        break;
      case LayerKind::affine:
        std::transform(x.begin(), x.end(), y.begin(), [&](double v) {
          return static_cast<double>(layer.factor) * v + static_cast<double>(layer.offset);
        });
        break;
      case LayerKind::dropout:
        drop(layer, in, x, y);
        break;
      case LayerKind::concat: {
        std::int64_t first = 0;
        for (const models::ActivationId input : layer.inputs) {
          const Shape part = shape(input);
          for (std::int64_t n = 0; n < part.n; ++n)
            for (std::int64_t c = 0; c < part.c; ++c)
              for (std::int64_t i = 0; i < part.spatial(); ++i)
                y[at(out, n, first + c, 0, i)] = of(input)[at(part, n, c, 0, i)];
          first += part.c;
        }
        break;
      }
      case LayerKind::slice:
        for (std::int64_t n = 0; n < out.n; ++n)
          for (std::int64_t c = 0; c < out.c; ++c)
            for (std::int64_t i = 0; i < out.spatial(); ++i)
              y[at(out, n, c, 0, i)] = x[at(in, n, layer.first_channel + c, 0, i)];
        break;
      case LayerKind::pad:
        for (std::int64_t n = 0; n < in.n; ++n)
          for (std::int64_t c = 0; c < in.c; ++c)
            for (std::int64_t i = 0; i < in.spatial(); ++i)
              y[at(out, n, c, i / in.w + layer.before.h, i % in.w + layer.before.w)] =
                  x[at(in, n, c, 0, i)];
        break;
      case LayerKind::channel_shuffle:
        for (std::int64_t n = 0; n < out.n; ++n)
          for (std::int64_t c = 0; c < out.c; ++c)
            for (std::int64_t i = 0; i < out.spatial(); ++i)
              y[at(out, n, c, 0, i)] =
                  x[at(in, n, c % layer.groups * (out.c / layer.groups) + c / layer.groups, 0, i)];
        break;
      case LayerKind::fully_connected: {
        const std::size_t inputs = x.size() / static_cast<std::size_t>(batch_);
        const auto outputs = static_cast<std::size_t>(out.c);
        for (std::size_t i = 0; i < y.size(); ++i) {
          const double* row = parameter(layer.weight) + i % outputs * inputs;
          const double bias = layer.bias >= 0 ? parameter(layer.bias)[i % outputs] : 0;
          y[i] = std::inner_product(row, row + inputs,
                                    x.begin() + static_cast<std::ptrdiff_t>(i / outputs * inputs),
                                    bias);
        }
        break;
      }
    }
  }

  void drop(const Layer& layer, const Shape& s, const std::vector<double>& x,
            std::vector<double>& y) const {
    y = x;
    if (mode_ != models::Mode::train) return;
    for (std::int64_t n = 0; n < s.n; ++n)
      for (std::int64_t c = 0; c < s.c; ++c)
        for (std::int64_t i = 0; i < s.spatial(); ++i) {
          using codelets::Dropped;
          const auto place = static_cast<std::uint32_t>(
              layer.dropped == Dropped::images
                  ? 0
                  : c + (layer.dropped == Dropped::elements ? i * s.c : 0));
          const auto layer_number = static_cast<std::uint32_t>(layer.output);
          const auto words = runtime::philox4x32_10({place / 4, layer_number, 0, 0},
                                                    keys[static_cast<std::size_t>(n)]);
          const bool kept = words[place % 4] * 0x1p-32 >= layer.rate;
          y[at(s, n, c, 0, i)] *= kept ? 1 / (1 - layer.rate) : 0;
        }
  }

  void slide(const Layer& layer, const Shape& in, const Shape& out, const std::vector<double>& x,
             std::vector<double>& y) const {
    const bool convolves = layer.kind == LayerKind::convolution;
    const auto& [kernel, stride, padding, dilation] = layer.window;
    for (std::int64_t n = 0; n < out.n; ++n)
      for (std::int64_t k = 0; k < out.c; ++k)
        for (std::int64_t h = 0; h < out.h; ++h)
          for (std::int64_t w = 0; w < out.w; ++w) {
            double sum = convolves && layer.bias >= 0 ? parameter(layer.bias)[k] : 0;
            double largest = -std::numeric_limits<double>::infinity();
            int count = 0, padded_count = 0;
            for (int i = 0; i < kernel.h; ++i)
              for (int j = 0; j < kernel.w; ++j) {
                const std::int64_t row = h * stride.h - padding.h + i * dilation.h;
                const std::int64_t column = w * stride.w - padding.w + j * dilation.w;
                if (layer.count_padding && row < in.h + padding.h && column < in.w + padding.w)
                  ++padded_count;
                if (row < 0 || row >= in.h || column < 0 || column >= in.w) continue;
                if (convolves) {
                  const std::int64_t seen = in.c / layer.groups;
                  const std::int64_t first = k / (out.c / layer.groups) * seen;
                  for (std::int64_t c = 0; c < seen; ++c) {
                    const auto tap = ((k * seen + c) * kernel.h + i) * kernel.w + j;
                    sum += x[at(in, n, first + c, row, column)] * parameter(layer.weight)[tap];
                  }
                } else {
                  const double value = x[at(in, n, k, row, column)];
                  sum += value;
                  largest = std::max(largest, value);
                  ++count;
                }
              }
            if (layer.kind == LayerKind::average_pool)
              sum /= layer.count_padding ? padded_count : count;
            y[at(out, n, k, h, w)] = layer.kind == LayerKind::max_pool ? largest : sum;
          }
  }

  void normalise(const Layer& layer, const Shape& s, const std::vector<double>& x,
                 std::vector<double>& y) {
    const double count = static_cast<double>(s.n * s.spatial());
    for (std::int64_t c = 0; c < s.c; ++c) {
      const auto for_each = [&](const auto& visit) {
        for (std::int64_t n = 0; n < s.n; ++n)
          for (std::int64_t i = 0; i < s.spatial(); ++i) visit(at(s, n, c, 0, i));
      };
      double& running_mean = running.at(static_cast<std::size_t>(layer.running_mean + c));
      double& running_variance = running.at(static_cast<std::size_t>(layer.running_variance + c));
      double mean = 0, variance = 0;
      for_each([&](std::size_t i) { mean += x[i] / count; });
      for_each([&](std::size_t i) { variance += (x[i] - mean) * (x[i] - mean) / count; });
      if (mode_ == models::Mode::inference) {
        mean = running_mean;
        variance = running_variance;
      } else if (mode_ != models::Mode::batch_statistics) {
        const double momentum =
            mode_ == models::Mode::calibration ? 1.0 : static_cast<double>(layer.momentum);
        running_mean += momentum * (mean - running_mean);
        running_variance += momentum * (variance * count / (count - 1) - running_variance);
      }
      const double scale =
          parameter(layer.weight)[c] / std::sqrt(variance + static_cast<double>(layer.epsilon));
      for_each([&](std::size_t i) { y[i] = (x[i] - mean) * scale + parameter(layer.bias)[c]; });
    }
  }

  void normalise_groups(const Layer& layer, const Shape& s, const std::vector<double>& x,
                        std::vector<double>& y) const {
    const std::size_t size = static_cast<std::size_t>(s.c / layer.groups * s.spatial());
    for (std::size_t first = 0; first < x.size(); first += size) {
      double mean = 0, variance = 0;
      for (std::size_t i = first; i < first + size; ++i) mean += x[i] / static_cast<double>(size);
      for (std::size_t i = first; i < first + size; ++i)
        variance += (x[i] - mean) * (x[i] - mean) / static_cast<double>(size);
      const double stddev = std::sqrt(variance + static_cast<double>(layer.epsilon));
      for (std::size_t i = first; i < first + size; ++i) {
        const std::size_t c =
            i / static_cast<std::size_t>(s.spatial()) % static_cast<std::size_t>(s.c);
        y[i] = (x[i] - mean) / stddev * parameter(layer.weight)[c] + parameter(layer.bias)[c];
      }
    }
  }

  void normalise_pixels(const Layer& layer, const Shape& s, const std::vector<double>& x,
                        std::vector<double>& y) const {
    const auto channels = static_cast<double>(s.c);
    for (std::int64_t n = 0; n < s.n; ++n) {
      for (std::int64_t i = 0; i < s.spatial(); ++i) {
        double mean = 0, variance = 0;
        for (std::int64_t c = 0; c < s.c; ++c) mean += x[at(s, n, c, 0, i)] / channels;
        for (std::int64_t c = 0; c < s.c; ++c)
          variance += std::pow(x[at(s, n, c, 0, i)] - mean, 2) / channels;
        const double stddev = std::sqrt(variance + static_cast<double>(layer.epsilon));
        for (std::int64_t c = 0; c < s.c; ++c)
          y[at(s, n, c, 0, i)] =
              (x[at(s, n, c, 0, i)] - mean) / stddev * parameter(layer.weight)[c] +
              parameter(layer.bias)[c];
      }
    }
  }

  const Network& network_;
  int batch_;
  std::vector<double> images_;
  std::span<const std::int32_t> labels_;
  models::Mode mode_ = models::Mode::train;
  std::vector<std::vector<double>> values_;
};

}  // namespace stpt::testing
