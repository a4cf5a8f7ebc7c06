#include "stpt/config/run_file.hpp"

#include <cstddef>
#include <fstream>
#include <ios>
#include <string_view>
#include <system_error>

#include "stpt/config/config.hpp"

namespace stpt {

namespace fs = std::filesystem;

std::string read_run_file(const std::filesystem::path& path, const std::string& hint) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) throw ConfigError(path.string(), "", "no such file; " + hint);
  if (fs::is_directory(status)) throw ConfigError(path.string(), "", "is a directory; " + hint);
  std::ifstream in(path, std::ios::binary);
  constexpr std::size_t most = std::size_t{1} << 24;
  std::string text(most, '\0');
  in.read(text.data(), static_cast<std::streamsize>(most));
  if (in.bad() || in.gcount() == 0) {
    if (!in.eof()) throw ConfigError(path.string(), "", "cannot be read; check its permissions");
  }
  if (!in.eof()) throw ConfigError(path.string(), "", "is larger than 16 MiB; " + hint);
  text.resize(static_cast<std::size_t>(in.gcount()));
  // Some editors begin UTF-8 with a byte order mark, which JSON does not know.
  constexpr std::string_view mark = "\xef\xbb\xbf";
  if (text.starts_with(mark)) text.erase(0, mark.size());
  return text;
}

}  // namespace stpt
