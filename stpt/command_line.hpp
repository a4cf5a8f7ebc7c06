// The command line: what is to be done, and with which run file.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/input_error.hpp"

namespace stpt {

enum class Action {
  train,
  validate,
  test,
  export_model,
  print_config,
  print_config_docs,
  list_models,
  help,
  version,
};

struct CommandLine {
  Action action = Action::train;
  std::optional<std::string>
      config;  ///< run file; never empty to train or test unless resume is given
  std::vector<std::string> overrides;  ///< "key=value", in order
  std::optional<std::string> output;   ///< run directory
  std::optional<std::string> resume;   ///< run directory to go on in; excludes config and output
  std::optional<std::string> run;      ///< run directory to export the model of
  std::optional<std::string> to;       ///< file to export it to
};

/// A command line that cannot be used: one line that says what is wrong and what would be right.
class UsageError : public InputError {
  using InputError::InputError;
};

/// The arguments without the program's name.
[[nodiscard]] CommandLine parse_command_line(std::span<const std::string_view> arguments);
[[nodiscard]] CommandLine parse_command_line(int argc, const char* const* argv);

[[nodiscard]] std::string help_text();

}  // namespace stpt
