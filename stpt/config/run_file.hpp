// The text of a run file, or of a network file.
#pragma once

#include <filesystem>
#include <string>

namespace stpt {

/// Without a byte order mark. Throws ConfigError where there is no such file, it cannot be read or
/// is larger than 16 MiB; `hint` says in its message what would be right.
[[nodiscard]] std::string read_run_file(const std::filesystem::path& path, const std::string& hint);

}  // namespace stpt
