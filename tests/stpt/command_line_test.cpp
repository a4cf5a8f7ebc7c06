#include "stpt/command_line.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "tests/catch.hpp"

namespace stpt {
namespace {

using Arguments = std::vector<std::string_view>;

std::string error_of(const Arguments& arguments) {
  try {
    (void)parse_command_line(arguments);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

TEST_CASE("a command line that trains", "[command_line]") {
  const CommandLine line = parse_command_line(Arguments{
      "--config", "a.json", "--set", "training.epochs=3", "--output=runs/x", "--set=stpt.alpha=4"});
  CHECK(line.action == Action::train);
  CHECK(line.config == "a.json");
  CHECK(line.overrides == std::vector<std::string>{"training.epochs=3", "stpt.alpha=4"});
  CHECK(line.output == "runs/x");
  CHECK_FALSE(line.resume.has_value());
}

TEST_CASE("a command line that resumes", "[command_line]") {
  const CommandLine line = parse_command_line(Arguments{"--resume", "runs/x"});
  CHECK(line.action == Action::train);
  CHECK(line.resume == "runs/x");
}

TEST_CASE("actions", "[command_line]") {
  const auto action = [](const Arguments& arguments) {
    return parse_command_line(arguments).action;
  };
  CHECK(action({"--config", "a.json", "--validate"}) == Action::validate);
  CHECK(action({"--config", "a.json", "--test"}) == Action::test);
  CHECK(action({"--test", "--resume", "runs/a", "--set", "data.path=b"}) == Action::test);
  CHECK(action({"--print-config"}) == Action::print_config);
  CHECK(action({"--print-config", "--set", "name=x"}) == Action::print_config);
  CHECK(action({"--print-config-docs"}) == Action::print_config_docs);
  CHECK(action({"--list-models"}) == Action::list_models);
  CHECK(action({"--version"}) == Action::version);
  CHECK(action({"-h"}) == Action::help);
  CHECK(action({"--validate", "--help"}) == Action::help);
  CHECK(action({"--validate", "--version"}) == Action::version);
  CHECK(action({"--version", "--to", "a"}) == Action::version);
  CHECK(action({"--print-config", "--print-config"}) == Action::print_config);
  CHECK(action({"--help", "--validate"}) == Action::help);
}

TEST_CASE("argc and argv", "[command_line]") {
  const char* const arguments[] = {"./stpt_starpu", "--list-models"};
  CHECK(parse_command_line(2, arguments).action == Action::list_models);
  CHECK_THROWS_AS(parse_command_line(1, arguments), UsageError);
  CHECK_THROWS_AS(parse_command_line(0, arguments), UsageError);
}

TEST_CASE("command lines that are wrong", "[command_line]") {
  CHECK(error_of({}) == "no run file is given; try --config configs/quickstart.json, or --help");
  CHECK(error_of({"--conifg", "a"}) == "--conifg: unknown option; did you mean --config?");
  CHECK(error_of({"--print_config"}) ==
        "--print_config: unknown option; did you mean "
        "--print-config?");
  CHECK(error_of({"-v"}) == "-v: unknown option; --help lists them");
  CHECK(error_of({"--learning-rate=1"}) == "--learning-rate: unknown option; --help lists them");
  CHECK(error_of({"--config"}) == "--config: has no value; write --config FILE");
  CHECK(error_of({"--config", "--validate"}) == "--config: has no value; write --config FILE");
  CHECK(error_of({"--config="}) == "--config: has an empty value; write --config FILE");
  CHECK(error_of({"--validate=1"}) == "--validate: takes no value; leave it out");
  CHECK(error_of({"--config", "a", "--config", "b"}) == "--config is given twice; give it once");
  CHECK(error_of({"--output", "a", "--config", "b", "--output", "a"}) ==
        "--output is given twice; give it once");
  CHECK(error_of({"configs/a.json"}) ==
        "configs/a.json: is no option; did you mean --config configs/a.json?");
  CHECK(error_of({"training.epochs=3"}) ==
        "training.epochs=3: is no option; did you mean --set training.epochs=3?");
  CHECK(error_of({"train"}) == "train: is no option; --help lists them");
  CHECK(error_of({"--validate"}) == "--validate needs a run file; add --config FILE");
  CHECK(error_of({"--test"}) ==
        "--test needs a model; add --resume DIR, or --config FILE with model.weights");
  CHECK(error_of({"--test", "--config", "a.json", "--output", "runs/a"}) ==
        "--test writes nothing; leave --output out");
  CHECK(error_of({"--resume", "a", "--config", "b"}) ==
        "--resume and --config exclude each other: a run keeps its config; give one");
  CHECK(error_of({"--resume", "a", "--output", "b"}) ==
        "--resume and --output exclude each other: a run goes on where it is; give one");
  CHECK(error_of({"--validate", "--list-models"}) ==
        "--validate, --test, --export, --print-config, --print-config-docs and --list-models "
        "exclude one "
        "another; give one of them");
  CHECK(error_of({"--export"}) == "--export: has no value; write --export DIR");
  CHECK(error_of({"--export", "a", "--resume", "b"}) ==
        "--export takes the run as it is; give nothing but --to FILE with it");
  CHECK(error_of({"--export", "a", "--output", "b"}) ==
        "--export takes the run as it is; give nothing but --to FILE with it");
  CHECK(error_of({"--export", "a", "--config", "b"}) ==
        "--export takes the run as it is; give nothing but --to FILE with it");
  CHECK(error_of({"--export", "a", "--set", "training.epochs=1"}) ==
        "--export takes the run as it is; give nothing but --to FILE with it");
  CHECK(error_of({"--config", "a", "--to", "b"}) == "--to belongs to --export; add --export DIR");
}

TEST_CASE("the help names every option and fits a terminal", "[command_line]") {
  const std::string help = help_text();
  for (const char* word :
       {"--config FILE", "--set KEY=VALUE", "--output DIR", "--resume DIR", "--validate", "--test ",
        "--export DIR", "--to FILE", "--print-config ", "--print-config-docs", "--list-models",
        "--help", "--version", "STARPU_NCPU", "STARPU_NCUDA", "STARPU_SCHED", "130", "143"}) {
    INFO(word);
    CHECK(help.find(word) != std::string::npos);
  }
  std::size_t widest = 0;
  for (std::size_t start = 0; start < help.size();) {
    const std::size_t end = help.find('\n', start);
    widest = std::max(widest, end - start);
    start = end + 1;
  }
  CHECK(widest <= 100);
}

}  // namespace
}  // namespace stpt
