#include "stpt/command_line.hpp"

#include <algorithm>
#include <array>
#include <cstddef>

#include "runtime/edit_distance.hpp"

namespace stpt {
namespace {

struct Option {
  std::string_view name;
  std::string_view argument;  ///< as the help calls it; empty if it takes none
  std::string_view meaning;
  void (*apply)(CommandLine& line, const std::string& value);
};

/// An option that is there once takes effect once; a second one is a mistake.
void set_once(std::optional<std::string>& target, const std::string& value, const char* option) {
  if (target) throw UsageError(std::string(option) + " is given twice; give it once");
  target = value;
}

void set_action(CommandLine& line, Action action) {
  // Help and version win, so that they can be added to any command line.
  const bool quiet = line.action == Action::help || line.action == Action::version;
  const bool asks = action == Action::help || action == Action::version;
  if (line.action != Action::train && line.action != action && !quiet && !asks) {
    throw UsageError(
        "--validate, --test, --export, --print-config, --print-config-docs and --list-models "
        "exclude one "
        "another; give one of them");
  }
  if (!quiet) line.action = action;
}

constexpr std::array options = {
    Option{"--config", "FILE", "the run file; docs/config.md describes its keys",
           [](CommandLine& line, const std::string& value) {
             set_once(line.config, value, "--config");
           }},
    Option{"--set", "KEY=VALUE", "set a key of the run file, once or more",
           [](CommandLine& line, const std::string& value) { line.overrides.push_back(value); }},
    Option{"--output", "DIR", "run directory, new or empty; default runs/<name>-<time>",
           [](CommandLine& line, const std::string& value) {
             set_once(line.output, value, "--output");
           }},
    Option{"--resume", "DIR",
           "go on with the run in this directory, from its last checkpoint if it has one",
           [](CommandLine& line, const std::string& value) {
             set_once(line.resume, value, "--resume");
           }},
    Option{"--validate", "", "check the run file and the overrides, then stop",
           [](CommandLine& line, const std::string&) { set_action(line, Action::validate); }},
    Option{"--test", "", "test the model that training would begin or go on with, then stop",
           [](CommandLine& line, const std::string&) { set_action(line, Action::test); }},
    Option{"--export", "DIR", "write the model of this run's last checkpoint as safetensors",
           [](CommandLine& line, const std::string& value) {
             set_action(line, Action::export_model);
             set_once(line.run, value, "--export");
           }},
    Option{"--to", "FILE", "where --export writes to; default DIR/model.safetensors",
           [](CommandLine& line, const std::string& value) { set_once(line.to, value, "--to"); }},
    Option{"--print-config", "", "print every key with its value, as a run file",
           [](CommandLine& line, const std::string&) { set_action(line, Action::print_config); }},
    Option{
        "--print-config-docs", "", "print docs/config.md",
        [](CommandLine& line, const std::string&) { set_action(line, Action::print_config_docs); }},
    Option{"--list-models", "", "list the models with parameters and FLOPs per image",
           [](CommandLine& line, const std::string&) { set_action(line, Action::list_models); }},
    Option{"--help", "", "this text",
           [](CommandLine& line, const std::string&) { set_action(line, Action::help); }},
    Option{"--version", "", "the version",
           [](CommandLine& line, const std::string&) { set_action(line, Action::version); }},
};

[[noreturn]] void refuse_unknown(std::string_view name) {
  std::vector<std::string> names;
  for (const Option& option : options) names.emplace_back(option.name);
  const std::string meant = runtime::nearest_word(name, names);
  throw UsageError(std::string(name) + ": unknown option; " +
                   (meant.empty() ? "--help lists them" : "did you mean " + meant + "?"));
}

[[noreturn]] void refuse_word(std::string_view word) {
  const std::string text(word);
  if (word.find('=') != std::string_view::npos) {
    throw UsageError(text + ": is no option; did you mean --set " + text + "?");
  }
  if (word.ends_with(".json")) {
    throw UsageError(text + ": is no option; did you mean --config " + text + "?");
  }
  throw UsageError(text + ": is no option; --help lists them");
}

void check(const CommandLine& line) {
  if (line.resume && line.config) {
    throw UsageError("--resume and --config exclude each other: a run keeps its config; give one");
  }
  if (line.resume && line.output) {
    throw UsageError(
        "--resume and --output exclude each other: a run goes on where it is; give "
        "one");
  }
  const bool trains = line.action == Action::train;
  if ((trains || line.action == Action::test) && !line.config && !line.resume) {
    throw UsageError(
        trains ? "no run file is given; try --config configs/quickstart.json, or --help"
               : "--test needs a model; add --resume DIR, or --config FILE with model.weights");
  }
  if (line.action == Action::test && line.output)
    throw UsageError("--test writes nothing; leave --output out");
  if (line.action == Action::export_model &&
      (line.config || line.resume || line.output || !line.overrides.empty())) {
    throw UsageError("--export takes the run as it is; give nothing but --to FILE with it");
  }
  if (line.to && line.action != Action::export_model) {
    throw UsageError("--to belongs to --export; add --export DIR");
  }
  if (line.action == Action::validate && !line.config) {
    throw UsageError("--validate needs a run file; add --config FILE");
  }
}

}  // namespace

CommandLine parse_command_line(std::span<const std::string_view> arguments) {
  CommandLine line;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string_view argument = arguments[i] == "-h" ? "--help" : arguments[i];
    if (!argument.starts_with("-") || argument == "-") refuse_word(argument);
    const std::string_view name = argument.substr(0, argument.find('='));
    const auto option = std::ranges::find(options, name, &Option::name);
    if (option == options.end()) refuse_unknown(name);
    const std::string shown(name);
    std::string value;
    if (name.size() < argument.size()) {
      if (option->argument.empty()) throw UsageError(shown + ": takes no value; leave it out");
      value = argument.substr(name.size() + 1);
    } else if (!option->argument.empty()) {
      if (i + 1 == arguments.size() || arguments[i + 1].starts_with("--")) {
        throw UsageError(shown + ": has no value; write " + shown + " " +
                         std::string(option->argument));
      }
      value = arguments[++i];
    }
    if (!option->argument.empty() && value.empty()) {
      throw UsageError(shown + ": has an empty value; write " + shown + " " +
                       std::string(option->argument));
    }
    option->apply(line, value);
  }
  if (line.action != Action::help && line.action != Action::version) check(line);
  return line;
}

CommandLine parse_command_line(int argc, const char* const* argv) {
  return parse_command_line(std::vector<std::string_view>(argv + std::min(argc, 1), argv + argc));
}

std::string help_text() {
  std::string out =
      "Trains a convolutional network and finds its learning rate on the way (STPT: at the start\n"
      "of each epoch candidates are tried in parallel, and the best one goes on).\n"
      "\n"
      "usage: stpt_starpu --config FILE [options]\n"
      "       stpt_starpu --resume DIR\n"
      "       stpt_starpu --test --resume DIR\n"
      "       stpt_starpu --export DIR [--to FILE]\n"
      "\n"
      "options:\n";
  constexpr std::size_t column = 22;
  for (const Option& option : options) {
    std::string left = std::string(option.name);
    if (!option.argument.empty()) left += " " + std::string(option.argument);
    left.resize(std::max(column, left.size() + 1), ' ');
    out += "  " + left + std::string(option.meaning) + "\n";
  }
  out +=
      "\n"
      "examples:\n"
      "  ./stpt_starpu --config configs/quickstart.json\n"
      "      train on Fashion-MNIST; the report is runs/quickstart-<time>/report.html\n"
      "  ./stpt_starpu --config configs/quickstart.json --set "
      "training.learning_rate.initial=0.001\n"
      "      the same from another learning rate\n"
      "  ./stpt_starpu --config configs/quickstart.json --set \"stpt.candidates=[4, 1, 0.25]\"\n"
      "      with candidates of your own\n"
      "  ./stpt_starpu --config configs/quickstart.json --set training.learning_rate.policy=fixed\n"
      "      without STPT, to compare\n"
      "  ./stpt_starpu --config configs/quickstart.json --set data.limit=20000 --output "
      "runs/small\n"
      "      on fewer images, into a folder of your choice\n"
      "  ./stpt_starpu --export runs/small --to small.safetensors\n"
      "      its model, for PyTorch or for model.weights of another run\n"
      "  ./stpt_starpu --print-config\n"
      "      every key of a run file and its default\n"
      "\n"
      "environment:\n"
      "  STARPU_NCPU    cores to use (default: all)\n"
      "  STARPU_NCUDA   GPUs to use (default: all)\n"
      "  STARPU_SCHED   StarPU's scheduling policy where the run file names none (default: lws,\n"
      "                 with GPUs prio)\n"
      "\n"
      "exit status:\n"
      "  0    done\n"
      "  1    the run failed, or its result could not be printed: summary.json says which\n"
      "  2    the command line, run file, environment or data is wrong; nothing was written, but\n"
      "       for a run that met the data while it trained: its last checkpoint is kept\n"
      "  130  SIGINT (Ctrl-C) stopped the run after a step; 143: SIGTERM did. --resume goes on "
      "with\n"
      "       it. A second signal kills it\n";
  return out;
}

}  // namespace stpt
