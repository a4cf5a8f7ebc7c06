#include "stpt/config/config.hpp"

#include <algorithm>
#include <array>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/string.hpp>
#include <boost/json/value.hpp>
#include <filesystem>
#include <limits>
#include <set>
#include <utility>

#include "runtime/edit_distance.hpp"
#include "stpt/config/config_names.hpp"
#include "stpt/config/config_rules.hpp"
#include "stpt/config/config_schema.hpp"
#include "stpt/config/json_text.hpp"
#include "stpt/config/lr_sets.hpp"
#include "stpt/config/network_file.hpp"
#include "stpt/config/run_file.hpp"
#include "stpt/messages.hpp"

namespace stpt {
namespace {

namespace json = boost::json;
using namespace config;

constexpr const char* set_option = "--set";

/// Besides runtime.*.
constexpr std::array<std::string_view, 4> free_on_resume = {"training.epochs", "data.path",
                                                            "data.bad_image_limit", "data.cache"};

// ---- Unknown keys ----------------------------------------------------------------------------

/// Steps from one section to another in the tree of sections.
std::size_t tree_distance(std::string_view a, std::string_view b) {
  const auto depth = [](std::string_view path) {
    return path.empty() ? 0 : static_cast<std::size_t>(std::ranges::count(path, '.')) + 1;
  };
  std::string common(a);
  while (!common.empty() && common != b && !b.starts_with(common + ".")) common = parent_of(common);
  return depth(a) + depth(b) - 2 * depth(common);
}

/// The known key or section that was probably meant, or empty: right in name but wrong in place, or
/// nearly right in name.
std::string nearest(const std::string& unknown) {
  const std::string leaf = leaf_of(unknown).substr(0, 64);
  const std::size_t tolerance = std::max<std::size_t>(1, leaf.size() / 3);
  std::string best;
  std::size_t least = std::numeric_limits<std::size_t>::max();
  const auto consider = [&](const std::string& known) {
    const std::string known_leaf = leaf_of(known);
    const std::size_t distance = runtime::word_distance(leaf, known_leaf);
    if (distance > tolerance || known_leaf.empty()) return;
    // A wrong name weighs more than a wrong place.
    const std::size_t cost = 20 * distance + tree_distance(parent_of(unknown), parent_of(known));
    if (cost < least) {
      least = cost;
      best = known;
    }
  };
  for (const Key& key : schema()) consider(key.path);
  for (const Section& section : sections()) consider(section.path);
  return best;
}

[[noreturn]] void refuse_unknown(const std::string& path) {
  const std::string meant = nearest(path);
  if (!meant.empty()) throw Problem{path, "unknown key; did you mean " + meant + "?"};
  std::string section = parent_of(path);
  while (!is_section(section)) section = parent_of(section);
  std::vector<std::string> known;
  for (const Key& key : schema()) {
    if (parent_of(key.path) == section) known.push_back(leaf_of(key.path));
  }
  for (const Section& other : sections()) {
    if (!other.path.empty() && parent_of(other.path) == section) {
      known.push_back(leaf_of(other.path));
    }
  }
  throw Problem{
      path, "unknown key; " + (section.empty() ? "a run file" : section) + " has " + list(known)};
}

// ---- Reading ---------------------------------------------------------------------------------

void apply(Config& config, const std::string& path, const json::value& value,
           std::set<std::string>& given);

void apply_members(Config& config, const std::string& section, const json::object& object,
                   std::set<std::string>& given) {
  for (const auto& [key, member] : object) {
    const std::string name(key);
    const std::string path = section.empty() ? name : section + "." + name;
    if (name.find('.') != std::string::npos) {
      throw Problem{path, "is one name with dots; must be nested, {\"a\": {\"b\": ...}}"};
    }
    apply(config, path, member, given);
  }
}

void apply(Config& config, const std::string& path, const json::value& value,
           std::set<std::string>& given) {
  if (const Key* key = find_key(path)) {
    key->write(config, value, path);
    given.insert(path);
  } else if (is_section(path)) {
    const json::object* object = value.if_object();
    if (object == nullptr) refuse(path, value, "an object, {...}");
    apply_members(config, path, *object, given);
  } else {
    refuse_unknown(path);
  }
}

/// Words need no quotation marks on the command line: what is not JSON is text.
json::value override_value(const std::string& path, const std::string& value) {
  const Key* key = find_key(path);
  const bool looks_like_json =
      !value.empty() && std::string_view("[{\"").find(value[0]) != std::string_view::npos;
  try {
    json::value parsed = read_json(value);
    const bool scalar = !parsed.is_string() && !parsed.is_array() && !parsed.is_object();
    if (key == nullptr || !key->is_text || !scalar) return parsed;
  } catch (const JsonError& error) {
    if (looks_like_json) {
      throw Problem{
          path, "is not JSON at column " + std::to_string(error.column()) + ": " + error.what()};
    }
  }
  json::value text = json::string(value);
  try {
    (void)read_json(json::serialize(text));
  } catch (const JsonError&) {
    throw Problem{path, "is not UTF-8; must be text in UTF-8"};
  }
  return text;
}

void apply_override(Config& config, const std::string& override, std::set<std::string>& given) {
  const std::size_t equals = override.find('=');
  if (equals == std::string::npos || equals == 0) {
    throw Problem{override, "is no key=value; must be as in training.epochs=20"};
  }
  const std::string path = override.substr(0, equals);
  if (find_key(path) == nullptr && !is_section(path)) refuse_unknown(path);
  apply(config, path, override_value(path, override.substr(equals + 1)), given);
}

/// Who sets candidates means them for the whole run, not only for where the schedule of a file
/// below ends.
void drop_older_schedule(Config& config, const std::set<std::string>& given) {
  if (given.contains("stpt.candidates") && !given.contains("stpt.schedule")) {
    config.stpt.schedule.clear();
  }
}

// No default depends on the number of epochs, which may change when a run goes on.

/// Where nothing is said about candidates: the default schedule from the first Pre-train on.
void place_default_schedule(Config& config) {
  const int warmup = config.training.learning_rate.warmup.epochs;
  config.stpt.schedule = default_schedule(config.stpt.pretrain_during_warmup ? 1 : warmup + 1);
}

/// Where nothing is said about an anneal, there is one for the policies that choose a LR, which
/// never go down by themselves.
void place_default_anneal(LearningRateConfig& rate, const std::set<std::string>& given) {
  const bool form = given.contains("training.learning_rate.anneal.form");
  const bool fraction = given.contains("training.learning_rate.anneal.fraction");
  if (!form && !fraction && !chooses(rate.policy)) rate.anneal.form = AnnealForm::none;
}

/// Where the LR is left to the program and nothing is said about the optimizer: AdamW for networks
/// without batch norm, whose LR for SGD a short Pre-train does not find.
void choose_optimizer(Config& config, const std::set<std::string>& given) {
  const bool is_open = std::ranges::none_of(given, [](const std::string& key) {
    return key.starts_with("training.optimizer.") || key == "training.learning_rate.initial";
  });
  if (is_open && chooses(config.training.learning_rate.policy) && !has_batch_norm(config.model))
    config.training.optimizer.name = OptimizerName::adamw;
}

/// AdamW's step does not depend on the size of the gradient: it needs a smaller LR and, its decay
/// being multiplied by that alone, a larger decay.
void place_adamw_defaults(TrainingConfig& training, const std::set<std::string>& given) {
  if (training.optimizer.name != OptimizerName::adamw) return;
  const auto place = [&given](const char* key, double& value, double standard) {
    if (!given.contains(key)) value = standard;
  };
  place("training.learning_rate.initial", training.learning_rate.initial, 0.001);
  place("training.learning_rate.warmup.start", training.learning_rate.warmup.start, 0.00005);
  place("training.optimizer.weight_decay", training.optimizer.weight_decay, 0.01);
}

/// A network takes the place of the model that was named below, and the other way round.
void drop_older_model(ModelConfig& model, const std::set<std::string>& given) {
  const bool name = given.contains("model.name"), network = given.contains("model.network");
  if (network && !name && !model.network.description.empty()) model.name.clear();
  if (name && !network && !model.name.empty()) model.network = {};
}

/// Of files that extend one another; more is a circle.
constexpr int most_files = 8;

/// A run file's keys over those of the file that it extends. `depth`: files above it. Adds the
/// keys of both to `given`.
void apply_file(Config& config, std::string_view text, const std::string& name, int depth,
                std::set<std::string>& given) {
  try {
    json::value root = read_json(text);
    if (!root.is_object()) refuse("", root, "an object, {...}");
    json::object& members = root.as_object();
    if (const json::value* base = members.if_contains("extends")) {
      if (!base->is_string() || base->as_string().empty()) {
        refuse("extends", *base, "the path of a run file, from this one's folder");
      }
      if (depth + 1 == most_files) {
        throw Problem{"extends", "is the end of a chain of " + std::to_string(most_files) +
                                     " files; a file must not extend itself"};
      }
      const std::filesystem::path path =
          std::filesystem::path(name).parent_path() / std::string(base->as_string());
      apply_file(config, read_run_file(path, name + " extends it"), path.string(), depth + 1,
                 given);
      members.erase("extends");
    }
    std::set<std::string> here;
    apply_members(config, "", members, here);
    drop_older_schedule(config, here);
    drop_older_model(config.model, here);
    given.merge(here);
  } catch (const JsonError& error) {
    throw ConfigError(
        name + ":" + std::to_string(error.line()) + ":" + std::to_string(error.column()), "",
        error.what());
  } catch (const Problem& problem) {
    throw ConfigError(name, problem.path, problem.text);
  }
}

/// Puts the value where the path leads, making the objects on the way.
void insert(json::object& root, std::string_view path, json::value value) {
  json::object* object = &root;
  for (std::size_t dot = path.find('.'); dot != std::string_view::npos; dot = path.find('.')) {
    json::value& next = (*object)[path.substr(0, dot)];
    object = next.is_object() ? &next.as_object() : &next.emplace_object();
    path.remove_prefix(dot + 1);
  }
  (*object)[path] = std::move(value);
}

}  // namespace

ConfigError::ConfigError(const ConfigSource& source, const std::string& path,
                         const std::string& problem)
    : InputError(one_line((source.of(path).empty() ? "" : source.of(path) + ": ") +
                          (path.empty() ? "" : path + ": ") + problem)) {}

std::string ConfigSource::of(std::string_view path) const {
  return overridden_.contains(std::string(path.substr(0, path.find('[')))) ? set_option : file_;
}

ParsedConfig parse_run_file(std::string_view json_text, const std::string& source_name,
                            const std::vector<std::string>& overrides) {
  Config config;
  std::set<std::string> given, overridden;
  apply_file(config, json_text, source_name, 0, given);
  try {
    for (const std::string& override : overrides) apply_override(config, override, overridden);
  } catch (const Problem& problem) {
    throw ConfigError(set_option, problem.path, problem.text);
  }
  drop_older_schedule(config, overridden);
  drop_older_model(config.model, overridden);
  given.insert(overridden.begin(), overridden.end());
  if (!given.contains("stpt.candidates") && !given.contains("stpt.schedule")) {
    place_default_schedule(config);
  } else if (!given.contains("stpt.tie_rule")) {
    config.stpt.tie_rule = TieRule::prefer_unchanged;
  }
  place_default_anneal(config.training.learning_rate, given);
  choose_optimizer(config, given);
  place_adamw_defaults(config.training, given);
  ConfigSource source(source_name, std::move(overridden));
  try {
    check_rules(config);
  } catch (const Problem& problem) {
    throw ConfigError(source, problem.path, problem.text);
  }
  return {std::move(config), std::move(source)};
}

Config parse_config(std::string_view json_text, const std::string& source_name,
                    const std::vector<std::string>& overrides) {
  return parse_run_file(json_text, source_name, overrides).config;
}

std::string print_config(const Config& config) {
  json::object root;
  for (const Key& key : schema()) insert(root, key.path, key.read(config));
  return pretty_json(root) + "\n";
}

bool may_change_on_resume(std::string_view key) {
  return key.starts_with("runtime.") ||
         std::ranges::find(free_on_resume, key) != free_on_resume.end();
}

std::string keys_free_on_resume(std::string_view quote) {
  std::string text;
  for (const std::string_view key : free_on_resume)
    text.append(quote).append(key).append(quote).append(", ");
  text.replace(text.size() - 2, 2, " and ");
  return text.append(quote).append("runtime.*").append(quote);
}

std::string first_difference(const Config& a, const Config& b,
                             bool (*counts)(std::string_view key)) {
  for (const Key& key : schema()) {
    if (counts(key.path) && key.read(a) != key.read(b)) return key.path;
  }
  return "";
}

std::int64_t images_within_limit(const DataConfig& config, std::int64_t training_images) {
  return config.limit > 0 ? std::min(config.limit, training_images) : training_images;
}

std::int64_t hold_out_images(const DataConfig& config, std::int64_t training_images) {
  if (config.hold_out >= 0) return config.hold_out;
  return std::clamp<std::int64_t>(images_within_limit(config, training_images) / 10, 1, 2000);
}

int pretrain_iterations(const StptConfig& config, std::int64_t iterations_per_epoch) {
  if (config.alpha > 0) return config.alpha;
  const std::int64_t share = (8 * iterations_per_epoch + 50) / 100;
  return static_cast<int>(std::min(std::max<std::int64_t>(share, 12), iterations_per_epoch));
}

void validate_for_images(const Config& config, std::int64_t training_images,
                         const ConfigSource& source) {
  if (config.data.limit > training_images) {
    throw ConfigError(source, "data.limit",
                      "is " + std::to_string(config.data.limit) +
                          "; must be at most the training images, " +
                          std::to_string(training_images) + ", or 0 for all");
  }
  if (const MaybeProblem problem =
          check_images(config, images_within_limit(config.data, training_images)))
    throw ConfigError(source, problem->path, problem->text);
}

std::string config_documentation() {
  const Config defaults;
  std::string out =
      "<!-- Made by `./stpt_starpu --print-config-docs`; the text stands in "
      "stpt/config/config_schema.cpp. -->\n"
      "# Run files\n\n"
      "A run file is JSON: an object of sections, sections within sections, and keys. Every key "
      "may "
      "be left out and then has its default. A key that does not exist is an error, as is one "
      "given "
      "twice.\n\n"
      "With `\"extends\": \"base.json\"` at its top a file takes its keys over those of another, "
      "named from its own folder; what it says wins, a list as a whole. Where it sets "
      "`stpt.candidates` and no `stpt.schedule`, the other's schedule is gone.\n\n"
      "```json\n"
      "{\n"
      "  \"model\": {\"name\": \"resnet8\"},\n"
      "  \"training\": {\"epochs\": 5, \"learning_rate\": {\"initial\": 0.01}},\n"
      "  \"stpt\": {\"candidates\": [4, 2, 1, 0.5, 0.25]}\n"
      "}\n"
      "```\n\n"
      "On the command line `--set training.epochs=5` sets a key over the file, the value in JSON "
      "or a plain word: `--set stpt.candidates=narrow --set \"stpt.candidates=[2, 1, 0.5]\"`; of a "
      "section, `--set 'data.augment={\"flip\": false}'`, the keys that it names. "
      "`--print-config` prints the result with every key, `--validate` only checks it. A run that "
      "goes on (`--resume`) lets " +
      keys_free_on_resume("`") +
      " change. With more epochs the anneal and the policies cosine and linear are spread over "
      "all of them: the learning rate of a complete run jumps up again, and its model is not that "
      "of a run that had as many from the start.\n\n"
      "Paths are taken from the working directory, but for `extends`.\n";
  for (const Section& section : sections()) {
    out += "\n## " + (section.path.empty() ? "Top level" : "`" + section.path + "`") + "\n\n" +
           section.meaning + "\n\n| key | default | value | |\n|---|---|---|---|\n";
    for (const Key& key : schema()) {
      if (parent_of(key.path) != section.path) continue;
      out += "| `" + leaf_of(key.path) + "` | `" + brief_json(key.read(defaults), 200) + "` | " +
             key.values + " | " + key.meaning + " |\n";
    }
  }
  out +=
      "\n## Sets of candidates\n\n"
      "Factors of the base learning rate, for `stpt.candidates` and `stpt.schedule`.\n\n"
      "| set | factors | |\n|---|---|---|\n";
  for (const NamedSet& set : named_sets()) {
    std::vector<std::string> factors;
    for (const double factor : set.factors) factors.push_back(number_text(factor));
    out += "| `" + std::string(set.name) + "` | " + list(factors) + " | " +
           std::string(set.documentation) + " |\n";
  }
  out += "\n## Rules between keys\n\n";
  for (const Rule& rule : rules()) out += "- " + std::string(rule.meaning) + "\n";
  return out;
}

}  // namespace stpt
