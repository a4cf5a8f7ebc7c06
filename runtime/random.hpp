// Random numbers as a pure function of (seed, stream, index, draw): the same values on every
// thread, in every order, on every machine. The generator is Philox4x32-10 (Salmon et al.,
// "Parallel random numbers: as easy as 1, 2, 3", 2011).
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace stpt::runtime {

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

/// The block cipher itself: four random words for a counter and a key.
[[nodiscard]] constexpr PhiloxCounter philox4x32_10(PhiloxCounter counter, PhiloxKey key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53U} * counter[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57U} * counter[2];
    counter = {
        static_cast<std::uint32_t>(b >> 32U) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
        static_cast<std::uint32_t>(a >> 32U) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key[0] += 0x9E3779B9U;
    key[1] += 0xBB67AE85U;
  }
  return counter;
}

/// Names a stream, e.g. stream_id("weights", layer) or stream_id("order", epoch). Streams of one
/// purpose never coincide; those of different purposes do with probability 2^-64.
[[nodiscard]] constexpr std::uint64_t stream_id(std::string_view purpose,
                                                std::uint64_t number = 0) {
  std::uint64_t hash = 0xCBF29CE484222325U;  // FNV-1a
  for (const char c : purpose) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3U;
  }
  hash += number * 0x9E3779B97F4A7C15U;  // SplitMix64, a bijection of the number
  hash = (hash ^ (hash >> 30U)) * 0xBF58476D1CE4E5B9U;
  hash = (hash ^ (hash >> 27U)) * 0x94D049BB133111EBU;
  return hash ^ (hash >> 31U);
}

/// Draws from one (seed, stream, index), up to 2^34 words. The index separates items of a stream,
/// such as the images of an epoch. Cheap to make: nothing is computed before the first draw.
class Random {
 public:
  Random(std::uint64_t seed, std::uint64_t stream, std::uint32_t index = 0)
      : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32U)},
        counter_{0, index, static_cast<std::uint32_t>(stream),
                 static_cast<std::uint32_t>(stream >> 32U)} {}

  [[nodiscard]] std::uint32_t next() {
    if (used_ == words_.size()) {
      words_ = philox4x32_10(counter_, key_);
      ++counter_[0];
      used_ = 0;
    }
    return words_[used_++];
  }

  /// Uniform in [0, n) without modulo bias (Lemire 2019); n = 0 yields 0.
  [[nodiscard]] std::uint32_t below(std::uint32_t n) {
    std::uint64_t product = std::uint64_t{next()} * n;
    if (static_cast<std::uint32_t>(product) < n) {
      const std::uint32_t threshold = (0U - n) % n;
      while (static_cast<std::uint32_t>(product) < threshold) {
        product = std::uint64_t{next()} * n;
      }
    }
    return static_cast<std::uint32_t>(product >> 32U);
  }

  /// Uniform in [0, 1), 53 random bits.
  [[nodiscard]] double uniform() {
    const std::uint64_t high = next() >> 5U;
    const std::uint64_t low = next() >> 6U;
    return static_cast<double>((high << 26U) | low) * 0x1p-53;
  }

  /// Uniform in [low, high).
  [[nodiscard]] double uniform(double low, double high) { return low + (high - low) * uniform(); }

  /// Normal with mean 0 and standard deviation 1 (Box-Muller; two uniforms yield two values).
  [[nodiscard]] double normal() {
    if (spare_) return *std::exchange(spare_, std::nullopt);
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));  // 1 - u is never 0
    const double angle = 2.0 * std::numbers::pi * uniform();
    spare_ = radius * std::sin(angle);
    return radius * std::cos(angle);
  }

 private:
  PhiloxKey key_;
  PhiloxCounter counter_;
  std::array<std::uint32_t, 4> words_{};
  std::size_t used_ = 4;
  std::optional<double> spare_;  ///< of normal()
};

/// Shuffles in place (Fisher-Yates).
template <typename T>
void shuffle(std::vector<T>& values, std::uint64_t seed, std::uint64_t stream) {
  Random random(seed, stream);
  for (std::size_t i = values.size(); i > 1; --i) {
    std::swap(values[i - 1], values[random.below(static_cast<std::uint32_t>(i))]);
  }
}

}  // namespace stpt::runtime
