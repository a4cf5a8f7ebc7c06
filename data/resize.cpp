#include "data/resize.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <tuple>
#include <vector>

namespace stpt::data {
namespace {

/// Which inputs make each output along one axis, and with which weight.
struct Axis {
  std::vector<int> first;              ///< of each output
  std::vector<int> count;              ///< of each output
  std::vector<std::uint16_t> weights;  ///< `taps` for each output, in 2^-16; sum 1 if count > 1
  std::size_t taps = 0;                ///< the largest count
  bool copies = false;                 ///< output i is input first[0] + i

  void plan(int inputs, double start, double length, int outputs);
};

void Axis::plan(int inputs, double start, double length, int outputs) {
  const double scale = length / outputs;
  const double support = std::max(scale, 1.0);
  const double inverse = 1.0 / support;
  const auto n = static_cast<std::size_t>(outputs);
  taps = static_cast<std::size_t>(std::ceil(support)) * 2 + 1;
  first.resize(n);
  count.resize(n);
  weights.resize(n * taps);
  thread_local std::vector<double> sums;  // of the triangle up to each input
  sums.resize(taps);
  copies = true;
  for (std::size_t i = 0; i < n; ++i) {
    const double centre = start + (static_cast<double>(i) + 0.5) * scale;
    // Input j has its centre at j + 0.5.
    const auto reach = [&](double edge) { return static_cast<int>(std::floor(edge - 0.5)); };
    const int low = std::clamp(reach(centre - support) + 1, 0, inputs - 1);
    const int high = std::clamp(reach(centre + support), low, inputs - 1);
    const auto most = static_cast<std::size_t>(high - low + 1);
    double sum = 0;
    for (std::size_t k = 0; k < most; ++k) {
      const double distance = std::abs(low + static_cast<double>(k) + 0.5 - centre);
      sum += std::max(0.0, 1.0 - distance * inverse);
      sums[k] = sum;
    }
    // Rounded sums: their differences are never negative and add up to 1 exactly, so that what is
    // of one colour keeps it. Inputs without weight are left out.
    const double unit = sum > 0 ? 65536.0 / sum : 0;
    std::uint16_t* weight = &weights[i * taps];
    std::size_t skipped = 0;
    while (skipped + 1 < most && sums[skipped] * unit < 0.5) ++skipped;
    first[i] = low + static_cast<int>(skipped);
    count[i] = 1;
    int before = 0;
    for (std::size_t k = skipped; k < most; ++k) {
      const int rounded = static_cast<int>(sums[k] * unit + 0.5);
      weight[k - skipped] = static_cast<std::uint16_t>(rounded - before);
      if (rounded > before) count[i] = static_cast<int>(k - skipped) + 1;
      before = rounded;
    }
    copies = copies && count[i] == 1 && first[i] == first[0] + static_cast<int>(i);
  }
}

/// The thread's plan for that axis, good until four others have been asked for. Chroma planes share
/// theirs, and so do images of one size.
const Axis& planned(int inputs, double start, double length, int outputs) {
  struct Entry {
    std::tuple<int, double, double, int> key{};
    std::uint64_t used = 0;
    Axis axis;
  };
  thread_local std::array<Entry, 4> entries;
  thread_local std::uint64_t now = 0;
  const std::tuple key{inputs, start, length, outputs};
  auto entry = std::ranges::find(entries, key, &Entry::key);
  if (entry == entries.end()) {
    entry = std::ranges::min_element(entries, {}, &Entry::used);
    entry->axis.plan(inputs, start, length, outputs);
    entry->key = key;
  }
  entry->used = ++now;
  return entry->axis;
}

/// Weighted sums of `count` pieces of rows, `stride` bytes apart, in bytes of 2^-8: 16 bits hold
/// them, so that vector registers hold twice as many. A product loses less than 2^-8; the start
/// makes up for half of that, as far as it fits.
template <std::size_t width>
void blend_block(const std::uint8_t* from, std::size_t stride, const std::uint16_t* weights,
                 std::size_t count, std::uint8_t* out) {
  std::uint16_t sums[width];
  std::fill_n(sums, width, static_cast<std::uint16_t>(128 + std::min<std::size_t>(count / 2, 127)));
  for (std::size_t k = 0; k < count; ++k) {
    const std::uint8_t* row = from + k * stride;
    const std::uint32_t weight = weights[k];
    for (std::size_t j = 0; j < width; ++j) {
      const auto pixel = static_cast<std::uint16_t>(row[j] << 8);
      sums[j] = static_cast<std::uint16_t>(sums[j] + (pixel * weight >> 16));
    }
  }
  for (std::size_t j = 0; j < width; ++j) out[j] = static_cast<std::uint8_t>(sums[j] >> 8);
}

/// Weighted sums of whole rows; `rows` begins with input `origin` of the axis, `out` has a stride
/// of `width`.
void blend_rows(const std::uint8_t* rows, std::size_t stride, std::size_t width, const Axis& axis,
                std::size_t origin, std::uint8_t* out) {
  constexpr std::size_t block = 64;  // sums that fit into vector registers
  for (std::size_t i = 0; i < axis.first.size(); ++i, out += width) {
    const std::uint8_t* from = rows + (static_cast<std::size_t>(axis.first[i]) - origin) * stride;
    const std::uint16_t* weights = &axis.weights[i * axis.taps];
    const auto count = static_cast<std::size_t>(axis.count[i]);
    if (count == 1) {
      std::memcpy(out, from, width);
    } else if (width < block) {
      for (std::size_t x = 0; x < width; ++x) {
        blend_block<1>(from + x, stride, weights, count, out + x);
      }
    } else {
      for (std::size_t x = 0; x < width; x += block) {
        const std::size_t place = std::min(x, width - block);  // the last one overlaps
        blend_block<block>(from + place, stride, weights, count, out + place);
      }
    }
  }
}

using Bytes16 = std::uint8_t __attribute__((vector_size(16)));

/// 16 rows of 16 bytes: four rounds that each interleave row r with row r + 8.
void transpose_16x16(const std::uint8_t* from, std::size_t from_stride, std::uint8_t* to,
                     std::size_t to_stride) {
  Bytes16 rows[16];
  for (std::size_t r = 0; r < 16; ++r) std::memcpy(&rows[r], from + r * from_stride, 16);
  for (int round = 0; round < 4; ++round) {
    Bytes16 next[16];
    for (std::size_t r = 0; r < 8; ++r) {
      next[2 * r] = __builtin_shufflevector(rows[r], rows[r + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20,
                                            5, 21, 6, 22, 7, 23);
      next[2 * r + 1] = __builtin_shufflevector(rows[r], rows[r + 8], 8, 24, 9, 25, 10, 26, 11, 27,
                                                12, 28, 13, 29, 14, 30, 15, 31);
    }
    std::copy_n(next, 16, rows);
  }
  for (std::size_t r = 0; r < 16; ++r) std::memcpy(to + r * to_stride, &rows[r], 16);
}

/// height x width bytes become width x height.
void transpose(const std::uint8_t* from, std::size_t stride, std::size_t height, std::size_t width,
               std::uint8_t* to) {
  const std::size_t whole_height = height / 16 * 16;
  const std::size_t whole_width = width / 16 * 16;
  for (std::size_t y = 0; y < whole_height; y += 16) {
    for (std::size_t x = 0; x < whole_width; x += 16) {
      transpose_16x16(from + y * stride + x, stride, to + x * height + y, height);
    }
  }
  for (std::size_t y = 0; y < height; ++y) {
    for (std::size_t x = y < whole_height ? whole_width : 0; x < width; ++x) {
      to[x * height + y] = from[y * stride + x];
    }
  }
}

}  // namespace

void resize(const PlaneView& source, const Rectangle& part, Size size, std::uint8_t* out) {
  // Kept by the thread: images must not allocate.
  thread_local std::vector<std::uint8_t> blended;
  thread_local std::vector<std::uint8_t> turned;
  const auto height = static_cast<std::size_t>(size.height);
  const auto width = static_cast<std::size_t>(size.width);
  const Axis& rows = planned(source.size.height, part.y, part.height, size.height);
  const Axis& columns = planned(source.size.width, part.x, part.width, size.width);

  // Only the columns that are needed.
  const auto left = static_cast<std::size_t>(columns.first.front());
  const auto right = static_cast<std::size_t>(columns.first.back() + columns.count.back());
  const std::uint8_t* from = source.pixels + left;
  std::size_t stride = source.stride;
  const std::size_t needed = right - left;
  if (rows.copies) {
    from += static_cast<std::size_t>(rows.first.front()) * stride;
  } else {
    std::uint8_t* to = out;
    if (!columns.copies) {
      blended.resize(height * needed);
      to = blended.data();
    }
    blend_rows(from, stride, needed, rows, 0, to);
    if (columns.copies) return;
    from = blended.data();
    stride = needed;
  }
  if (columns.copies) {
    for (std::size_t y = 0; y < height; ++y) std::memcpy(out + y * width, from + y * stride, width);
    return;
  }
  // Columns are blended as rows of the transposed plane: sums of whole rows fill vector registers
  // without a shuffle for every tap.
  turned.resize(needed * height);
  transpose(from, stride, height, needed, turned.data());
  blended.resize(std::max(blended.size(), width * height));
  blend_rows(turned.data(), height, height, columns, left, blended.data());
  transpose(blended.data(), height, width, height, out);
}

}  // namespace stpt::data
