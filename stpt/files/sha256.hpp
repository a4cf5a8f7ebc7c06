// SHA-256 of bytes as they come: the digest by which two models are told apart.
#pragma once

#include <nettle/sha2.h>

#include <cstddef>
#include <span>
#include <string>

namespace stpt {

class Sha256 {
 public:
  Sha256();

  void update(std::span<const std::byte> bytes);

  /// The digest of all bytes so far, in lower-case hexadecimal; more may follow.
  [[nodiscard]] std::string hex_digest() const;

 private:
  sha256_ctx context_;
};

}  // namespace stpt
