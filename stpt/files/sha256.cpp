#include "stpt/files/sha256.hpp"

#include <array>
#include <cstdint>
#include <string_view>

namespace stpt {

Sha256::Sha256() { sha256_init(&context_); }

void Sha256::update(std::span<const std::byte> bytes) {
  sha256_update(&context_, bytes.size(), reinterpret_cast<const std::uint8_t*>(bytes.data()));
}

std::string Sha256::hex_digest() const {
  sha256_ctx finished = context_;  // whose digest ends it
  std::array<std::uint8_t, SHA256_DIGEST_SIZE> digest{};
  sha256_digest(&finished, digest.size(), digest.data());

  constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  text.reserve(2 * digest.size());
  for (const std::uint8_t byte : digest) {
    text += digits[byte >> 4U];
    text += digits[byte & 15U];
  }
  return text;
}

}  // namespace stpt
