#include "stpt/files/sha256.hpp"

#include <span>
#include <string>
#include <string_view>

#include "tests/catch.hpp"

namespace {

std::string digest(std::string_view text) {
  stpt::Sha256 sha;
  sha.update(std::as_bytes(std::span(text)));
  return sha.hex_digest();
}

}  // namespace

// The vectors are those of FIPS 180-4's examples.
TEST_CASE("SHA-256 gives the published digests", "[sha256]") {
  CHECK(digest("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(digest(std::string(1000000, 'a')) ==
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("SHA-256 does not depend on how the bytes are cut", "[sha256]") {
  const std::string text(1000, 'x');
  for (const std::size_t piece : {1U, 7U, 63U, 64U, 65U, 999U}) {
    stpt::Sha256 sha;
    for (std::size_t at = 0; at < text.size(); at += piece) {
      sha.update(std::as_bytes(std::span(std::string_view(text).substr(at, piece))));
    }
    CHECK(sha.hex_digest() == digest(text));
  }
}

TEST_CASE("SHA-256 goes on after a digest was asked for", "[sha256]") {
  stpt::Sha256 sha;
  sha.update(std::as_bytes(std::span(std::string_view("a"))));
  CHECK(sha.hex_digest() == digest("a"));
  CHECK(sha.hex_digest() == digest("a"));
  sha.update(std::as_bytes(std::span(std::string_view("bc"))));
  CHECK(sha.hex_digest() == digest("abc"));
}
