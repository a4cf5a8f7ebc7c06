#include "stpt/config.hpp"

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/string.hpp>
#include <boost/json/value.hpp>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <set>
#include <span>
#include <type_traits>
#include <utility>

#include "stpt/edit_distance.hpp"
#include "stpt/json_text.hpp"
#include "stpt/lr_sets.hpp"

namespace stpt {
namespace {

namespace json = boost::json;

// ---- Names of enumerators --------------------------------------------------------------------

template <typename Enum>
struct Named {
  Enum value;
  std::string_view name;
  std::string_view meaning;  ///< for docs/config.md; may be empty where the key's text says it
};

/// Every enum's names, in the order of docs/config.md.
template <typename Enum>
inline constexpr std::array<Named<Enum>, 0> names{};

template <>
constexpr std::array names<runtime::DataType> = {
    Named{runtime::DataType::float32, "float32", ""},
};
template <>
constexpr std::array names<Fusion> = {
    Named{Fusion::op, "op", "a task per layer, for traces and tests"},
    Named{Fusion::block, "block", "a task per residual block"},
    Named{Fusion::step, "step", "one task for all of forward and backward"},
};
template <>
constexpr std::array names<Policy> = {
    Named{Policy::stpt, "stpt", "Pre-train every candidate, go on with the best"},
    Named{Policy::fixed, "fixed", "the initial value throughout"},
    Named{Policy::step, "step", "times `decay_factor` at each of `milestones`"},
    Named{Policy::plateau, "plateau",
          "times `decay_factor` when accuracy has not risen for `patience` epochs (the paper's "
          "reference)"},
    Named{Policy::cosine, "cosine", "half a cosine from the initial value to 0"},
    Named{Policy::linear, "linear", "a straight line from the initial value to 0"},
    Named{Policy::random_winner, "random_winner",
          "a control: as `stpt`, but the winner is drawn at random"},
    Named{Policy::always_one, "always_one", "a control: as `stpt`, but candidate 1.0 always wins"},
};
template <>
constexpr std::array names<WarmupForm> = {
    Named{WarmupForm::linear, "linear", "rises from `start` to the initial value"},
    Named{WarmupForm::constant, "constant", "stays at `start`"},
};
template <>
constexpr std::array names<AnnealForm> = {
    Named{AnnealForm::none, "none", ""},
    Named{AnnealForm::linear, "linear", "a straight line"},
    Named{AnnealForm::cosine, "cosine", "half a cosine"},
};
template <>
constexpr std::array names<DataFormat> = {
    Named{DataFormat::idx, "idx", "the files of MNIST, Fashion-MNIST and their kin"},
    Named{DataFormat::synthetic, "synthetic", "learnable images made from the seed"},
};
template <>
constexpr std::array names<PretrainBatch> = {
    Named{PretrainBatch::global, "global",
          "the batch of all workers together, so that a candidate is judged by the batch it will "
          "be used with (as the paper simulates it)"},
    Named{PretrainBatch::worker, "worker",
          "the batch of one worker: cheap, but judges another noise (the paper's Figure 1)"},
};
template <>
constexpr std::array names<LrScaling> = {
    Named{LrScaling::none, "none", ""},
    Named{LrScaling::linear, "linear", "by the ratio of the batches"},
    Named{LrScaling::square_root, "square_root", "by the root of that ratio"},
};
template <>
constexpr std::array names<ScoreSource> = {
    Named{ScoreSource::hold_out, "hold_out", "the images that `data.hold_out` sets apart"},
    Named{ScoreSource::training_window, "training_window",
          "the batches of the last `score_window` Pre-train iterations"},
    Named{ScoreSource::validation, "validation",
          "the test images; leaks them into the training, only to match the paper"},
};
template <>
constexpr std::array names<ScoreMetric> = {
    Named{ScoreMetric::accuracy, "accuracy", "the highest top-1"},
    Named{ScoreMetric::loss, "loss", "the lowest mean loss"},
};
template <>
constexpr std::array names<ScoreStatistics> = {
    Named{ScoreStatistics::batch, "batch", "of the scored batch"},
    Named{ScoreStatistics::running, "running", "running averages, which lag after few iterations"},
};
template <>
constexpr std::array names<TieRule> = {
    Named{TieRule::prefer_unchanged, "prefer_unchanged",
          "within one paired standard error of the best prefer candidate 1.0, then the lower loss"},
    Named{TieRule::none, "none", "plain best"},
    Named{TieRule::larger, "larger", "within one paired standard error prefer the larger one"},
};
template <>
constexpr std::array names<ReplicaData> = {
    Named{ReplicaData::same, "same", "only the learning rate differs"},
    Named{ReplicaData::disjoint, "disjoint", "each candidate sees images of its own"},
};
template <>
constexpr std::array names<RunningStatistics> = {
    Named{RunningStatistics::winner, "winner", "the winner's"},
    Named{RunningStatistics::recalibrate, "recalibrate",
          "measured anew on `recalibration_batches` batches"},
};
template <>
constexpr std::array names<MomentumAtChoice> = {
    Named{MomentumAtChoice::winner, "winner", "the winner's"},
    Named{MomentumAtChoice::reset, "reset", "zero"},
};
template <>
constexpr std::array names<MomentumForm> = {
    Named{MomentumForm::velocity, "velocity",
          "v = momentum * v + g, w = w - lr * v: a new learning rate acts at once"},
    Named{MomentumForm::lr_in_velocity, "lr_in_velocity",
          "v = momentum * v - lr * g, w = w + v: Chainer's form, as in the paper"},
};
template <>
constexpr std::array names<Progress> = {
    Named{Progress::kept, "kept", "goes on from there"},
    Named{Progress::discarded, "discarded", "goes back to the start and trains again"},
};
template <>
constexpr std::array names<DriftLimit> = {
    Named{DriftLimit::clamp, "clamp",
          "between `clamp_low` and `clamp_high` times the initial value"},
    Named{DriftLimit::anchor, "anchor", "candidates always multiply the initial value"},
    Named{DriftLimit::ratio_cap, "ratio_cap", "changes by at most `ratio_cap` times an epoch"},
};
template <>
constexpr std::array names<ManyCandidates> = {
    Named{ManyCandidates::waves, "waves", "as many at a time as there are workers"},
    Named{ManyCandidates::reject, "reject", "refuse to start"},
};
template <>
constexpr std::array names<FewCandidates> = {
    Named{FewCandidates::groups, "groups", "several workers share a candidate's batch"},
    Named{FewCandidates::idle, "idle", "the others wait"},
};

// ---- Problems and checks of single values ----------------------------------------------------

/// Becomes a ConfigError once it is known where the value came from.
struct Problem {
  std::string path;
  std::string text;
};

std::string list(std::span<const std::string> items, const char* separator = ", ") {
  std::string text;
  for (const std::string& item : items) {
    if (!text.empty()) text += separator;
    text += item;
  }
  return text;
}

[[noreturn]] void refuse(const std::string& path, const json::value& value,
                         const std::string& right) {
  const std::string what = value.is_object() ? "an object" : brief_json(value);
  throw Problem{path, "is " + what + "; must be " + right};
}

/// A whole number of type T, also if it is written as 1e3.
template <typename T>
std::optional<T> to_whole(const json::value& value) {
  if (const std::int64_t* number = value.if_int64()) {
    if (std::in_range<T>(*number)) return static_cast<T>(*number);
  } else if (const std::uint64_t* large = value.if_uint64()) {
    if (std::in_range<T>(*large)) return static_cast<T>(*large);
  } else if (const double* real = value.if_double()) {
    constexpr double exact = 9007199254740992;  // above it doubles skip whole numbers
    if (std::trunc(*real) == *real && std::abs(*real) <= exact) {
      return to_whole<T>(json::value(static_cast<std::int64_t>(*real)));
    }
  }
  return std::nullopt;
}

std::optional<double> to_number(const json::value& value) {
  if (const std::int64_t* number = value.if_int64()) return static_cast<double>(*number);
  if (const std::uint64_t* large = value.if_uint64()) return static_cast<double>(*large);
  if (const double* real = value.if_double()) return *real;
  return std::nullopt;
}

template <typename T>
struct WholeRange {
  T low;
  T high = std::numeric_limits<T>::max();

  [[nodiscard]] bool has(T value) const { return low <= value && value <= high; }
  [[nodiscard]] std::string text() const {
    if (high == std::numeric_limits<T>::max()) {
      return "a whole number of at least " + std::to_string(low);
    }
    return "a whole number from " + std::to_string(low) + " to " + std::to_string(high);
  }
};

struct NumberRange {
  double low;
  bool with_low;
  double high = std::numeric_limits<double>::infinity();
  bool with_high = false;

  [[nodiscard]] bool has(double value) const {
    return std::isfinite(value) && (with_low ? value >= low : value > low) &&
           (with_high ? value <= high : value < high);
  }
  [[nodiscard]] std::string text() const {
    std::string text =
        "a number " + std::string(with_low ? "of at least " : "above ") + number_text(low);
    if (std::isfinite(high)) {
      text += std::string(with_high ? " and at most " : " and below ") + number_text(high);
    }
    return text;
  }
};

constexpr NumberRange above(double low) { return {low, false}; }
constexpr NumberRange at_least(double low) { return {low, true}; }

// ---- The schema ------------------------------------------------------------------------------

/// One key of the run file: all that parsing, printing, checking and documenting need.
struct Key {
  std::string path;
  std::string values;    ///< what is allowed: "a whole number of at least 1"
  std::string meaning;   ///< a sentence or two
  bool is_text = false;  ///< an override's value may then look like a number
  std::function<json::value(const Config&)> read;
  std::function<void(Config&, const json::value&, const std::string& path)> write;
};

struct Section {
  std::string path;
  std::string meaning;
};

/// The place of a key's value in a Config, const or not.
#define STPT_FIELD(member) \
  [](auto& config) -> auto& { return config.member; }

template <typename Field>
using FieldType = std::remove_reference_t<decltype(std::declval<Field>()(std::declval<Config&>()))>;

template <typename Field, typename T = FieldType<Field>>
Key whole(std::string path, Field field, std::type_identity_t<WholeRange<T>> range,
          std::string meaning) {
  return {std::move(path),
          range.text(),
          std::move(meaning),
          false,
          [field](const Config& config) { return json::value(field(config)); },
          [field, range](Config& config, const json::value& value, const std::string& where) {
            const std::optional<T> number = to_whole<T>(value);
            if (!number || !range.has(*number)) refuse(where, value, range.text());
            field(config) = *number;
          }};
}

template <typename Field>
Key number(std::string path, Field field, NumberRange range, std::string meaning) {
  return {std::move(path),
          range.text(),
          std::move(meaning),
          false,
          [field](const Config& config) { return json::value(field(config)); },
          [field, range](Config& config, const json::value& value, const std::string& where) {
            const std::optional<double> real = to_number(value);
            if (!real || !range.has(*real)) refuse(where, value, range.text());
            field(config) = *real;
          }};
}

template <typename Field>
Key flag(std::string path, Field field, std::string meaning) {
  return {std::move(path),
          "true or false",
          std::move(meaning),
          false,
          [field](const Config& config) { return json::value(field(config)); },
          [field](Config& config, const json::value& value, const std::string& where) {
            if (!value.is_bool()) refuse(where, value, "true or false");
            field(config) = value.as_bool();
          }};
}

template <typename Field, typename Enum = FieldType<Field>>
Key choice(std::string path, Field field, std::string meaning) {
  std::string allowed;
  std::string explained;
  for (const auto& named : names<Enum>) {
    allowed += (allowed.empty() ? "" : ", ") + std::string(named.name);
    if (named.meaning.empty()) continue;
    explained += (explained.empty() ? " " : "; ") + ("`" + std::string(named.name) + "`: ") +
                 std::string(named.meaning);
  }
  if (!explained.empty()) explained += '.';
  allowed = (names<Enum>.size() == 1 ? "" : "one of ") + allowed;
  return {
      std::move(path),
      allowed,
      std::move(meaning) + explained,
      true,
      [field](const Config& config) { return json::value(json::string(enum_name(field(config)))); },
      [field, allowed](Config& config, const json::value& value, const std::string& where) {
        if (const json::string* text = value.if_string()) {
          const auto found =
              std::ranges::find(names<Enum>, std::string_view(*text), &Named<Enum>::name);
          if (found != names<Enum>.end()) {
            field(config) = found->value;
            return;
          }
        }
        refuse(where, value, allowed);
      }};
}

template <typename Field>
Key text(std::string path, Field field, std::string allowed, bool (*fits)(std::string_view),
         std::string meaning) {
  return {
      std::move(path),
      allowed,
      std::move(meaning),
      true,
      [field](const Config& config) { return json::value(json::string(field(config))); },
      [field, allowed, fits](Config& config, const json::value& value, const std::string& where) {
        const json::string* string = value.if_string();
        if (string == nullptr || !fits(*string)) refuse(where, value, allowed);
        field(config) = std::string(*string);
      }};
}

bool is_word(std::string_view word) {
  return std::ranges::all_of(word, [](char c) {
    return ('a' <= c && c <= 'z') || ('A' <= c && c <= 'Z') || ('0' <= c && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  });
}
/// Safe as a part of a folder's name.
bool is_name(std::string_view name) {
  return is_word(name) && !name.empty() && name.size() <= 64 && name[0] != '.' && name[0] != '-';
}
bool is_path(std::string_view path) {
  return std::ranges::none_of(path, [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

std::string candidates_values() {
  std::vector<std::string> set_names;
  for (const NamedSet& set : named_sets()) set_names.emplace_back(set.name);
  return "a set's name (" + list(set_names) + ") or a list of numbers above 0";
}

json::value read_candidates(const CandidateSet& set) {
  if (!set.name.empty()) return json::string(set.name);
  return json::array(set.factors.begin(), set.factors.end());
}

CandidateSet to_candidates(const json::value& value, const std::string& path) {
  constexpr std::size_t most = 1024;
  if (const json::string* name = value.if_string()) {
    if (find_named_set(*name) != nullptr) return named_candidate_set(*name);
  } else if (const json::array* factors = value.if_array()) {
    if (factors->empty()) throw Problem{path, "is an empty list; must have a candidate, say [1]"};
    if (factors->size() > most) {
      throw Problem{path, "has " + std::to_string(factors->size()) +
                              " candidates; must have at most " + std::to_string(most)};
    }
    CandidateSet set;
    for (std::size_t i = 0; i < factors->size(); ++i) {
      const std::optional<double> factor = to_number((*factors)[i]);
      if (!factor || !above(0).has(*factor)) {
        refuse(path + "[" + std::to_string(i) + "]", (*factors)[i], above(0).text());
      }
      set.factors.push_back(*factor);
    }
    return set;
  }
  refuse(path, value, candidates_values());
}

Key candidates_key(std::string path, std::string meaning) {
  return {std::move(path),
          candidates_values(),
          std::move(meaning),
          true,
          [](const Config& config) { return read_candidates(config.stpt.candidates); },
          [](Config& config, const json::value& value, const std::string& where) {
            config.stpt.candidates = to_candidates(value, where);
          }};
}

ScheduleEntry to_schedule_entry(const json::value& value, const std::string& path) {
  const json::object* object = value.if_object();
  if (object == nullptr) {
    refuse(path, value, "an object with the keys from_epoch and candidates");
  }
  for (const auto& [key, member] : *object) {
    if (key != "from_epoch" && key != "candidates") {
      throw Problem{path + "." + std::string(key),
                    "unknown key; an entry has from_epoch and candidates"};
    }
  }
  for (const char* key : {"from_epoch", "candidates"}) {
    if (!object->contains(key)) throw Problem{path, std::string("has no ") + key + "; add it"};
  }
  ScheduleEntry entry;
  const WholeRange<int> range{1};
  const json::value& epoch = object->at("from_epoch");
  const std::optional<int> from = to_whole<int>(epoch);
  if (!from || !range.has(*from)) refuse(path + ".from_epoch", epoch, range.text());
  entry.from_epoch = *from;
  entry.candidates = to_candidates(object->at("candidates"), path + ".candidates");
  return entry;
}

Key schedule_key(std::string path, std::string meaning) {
  const std::string allowed = "a list of {\"from_epoch\": ..., \"candidates\": ...}";
  return {std::move(path),
          allowed,
          std::move(meaning),
          false,
          [](const Config& config) {
            json::array entries;
            for (const ScheduleEntry& entry : config.stpt.schedule) {
              entries.push_back(json::object{{"from_epoch", entry.from_epoch},
                                             {"candidates", read_candidates(entry.candidates)}});
            }
            return json::value(std::move(entries));
          },
          [allowed](Config& config, const json::value& value, const std::string& where) {
            const json::array* entries = value.if_array();
            if (entries == nullptr) refuse(where, value, allowed);
            std::vector<ScheduleEntry> schedule;
            for (const json::value& entry : *entries) {
              const std::string place = where + "[" + std::to_string(schedule.size()) + "]";
              schedule.push_back(to_schedule_entry(entry, place));
            }
            config.stpt.schedule = std::move(schedule);
          }};
}

template <typename Field>
Key epochs_key(std::string path, Field field, std::string meaning) {
  const std::string allowed = "a list of whole numbers of at least 2";
  return {std::move(path),
          allowed,
          std::move(meaning),
          false,
          [field](const Config& config) {
            return json::value(json::array(field(config).begin(), field(config).end()));
          },
          [field, allowed](Config& config, const json::value& value, const std::string& where) {
            const json::array* array = value.if_array();
            if (array == nullptr) refuse(where, value, allowed);
            const WholeRange<int> range{2};
            std::vector<int> epochs;
            for (const json::value& element : *array) {
              const std::optional<int> epoch = to_whole<int>(element);
              if (!epoch || !range.has(*epoch)) {
                refuse(where + "[" + std::to_string(epochs.size()) + "]", element, range.text());
              }
              epochs.push_back(*epoch);
            }
            field(config) = std::move(epochs);
          }};
}

/// In the order of docs/config.md and --print-config.
const std::vector<Section>& sections() {
  static const std::vector<Section> table = {
      {"", "Above all sections."},
      {"model", "What is trained."},
      {"data", "What it is trained on."},
      {"data.augment", "How training images are varied. Images that score or test are not."},
      {"data.synthetic", "The images of `data.format` synthetic."},
      {"training", "How long, on how many workers, with which batch."},
      {"training.learning_rate",
       "The learning rate, as far as it is not chosen by STPT, and who chooses it."},
      {"training.learning_rate.warmup", "Before the policy begins."},
      {"training.learning_rate.anneal",
       "Down to 0 at the end. A chooser of learning rates never goes down by itself, so this is "
       "worth much with `stpt`; the policies cosine and linear do it already."},
      {"training.optimizer", "Stochastic gradient descent with momentum."},
      {"stpt",
       "An epoch under policy `stpt` begins with Pre-train: every candidate trains for `alpha` "
       "iterations from the same model, with the base learning rate times its factor. The best one "
       "goes on as the model, and its learning rate becomes the base."},
      {"runtime", "How the work is cut into StarPU tasks. Nothing here changes the results."},
  };
  return table;
}

const std::vector<Key>& schema() {
  static const std::vector<Key> table = {
      text("name", STPT_FIELD(name),
           "1 to 64 letters, digits, '.', '_' or '-', no '.' or '-' first", is_name,
           "Names the run's folder and report."),

      text("model.name", STPT_FIELD(model.name), "the name of a model", is_name,
           "`./stpt_starpu --list-models` lists them."),
      choice("model.data_type", STPT_FIELD(model.data_type), "Of parameters and activations."),

      choice("data.format", STPT_FIELD(data.format), "Where images come from."),
      text("data.path", STPT_FIELD(data.path), "a folder's path, or empty", is_path,
           "The folder with the data set; for idx with its four files, plain or .gz. Empty: where "
           "Debian's package dataset-fashion-mnist puts Fashion-MNIST."),
      whole("data.limit", STPT_FIELD(data.limit), {0},
            "Takes only the first so many training images, hold-out included; 0 takes all."),
      whole("data.hold_out", STPT_FIELD(data.hold_out), {0},
            "So many training images are set apart to score candidates, under every policy, so "
            "that runs compare."),
      flag("data.normalize", STPT_FIELD(data.normalize),
           "To mean 0 and variance 1 per channel over the training images."),

      whole("data.augment.crop_padding", STPT_FIELD(data.crop_padding), {0, 64},
            "Pads by so many black pixels on each side and crops at random; 0 does not."),
      flag("data.augment.flip", STPT_FIELD(data.flip), "Mirrors half of the images, at random."),

      whole("data.synthetic.classes", STPT_FIELD(data.synthetic.classes), {2, 256}, "Labels."),
      whole("data.synthetic.channels", STPT_FIELD(data.synthetic.channels), {1, 256},
            "Of an image."),
      whole("data.synthetic.height", STPT_FIELD(data.synthetic.height), {1, 4096}, "In pixels."),
      whole("data.synthetic.width", STPT_FIELD(data.synthetic.width), {1, 4096}, "In pixels."),
      whole("data.synthetic.train_images", STPT_FIELD(data.synthetic.train_images), {1},
            "Training images, hold-out included."),
      whole("data.synthetic.test_images", STPT_FIELD(data.synthetic.test_images), {1},
            "Test images."),

      whole("training.epochs", STPT_FIELD(training.epochs), {1, 1'000'000},
            "Passes over the training images."),
      whole("training.workers", STPT_FIELD(training.workers), {1, 4096},
            "Logical data-parallel workers (the paper's n). A number of the algorithm, not of the "
            "machine: it may be more or less than there are cores or GPUs, and the results do not "
            "depend on those."),
      whole("training.batch_per_worker", STPT_FIELD(training.batch_per_worker), {1, 65536},
            "Images per worker and iteration; an iteration takes `workers` times as many."),
      whole("training.seed", STPT_FIELD(training.seed), {0},
            "Of initialisation, order, augmentation and split."),

      number("training.learning_rate.initial", STPT_FIELD(training.learning_rate.initial), above(0),
             "The learning rate to begin with; what `stpt` finds depends little on it."),
      choice("training.learning_rate.policy", STPT_FIELD(training.learning_rate.policy),
             "How it goes on."),
      epochs_key("training.learning_rate.milestones", STPT_FIELD(training.learning_rate.milestones),
                 "Policy step: epochs, counted from 1, at whose start the learning rate falls."),
      number("training.learning_rate.decay_factor", STPT_FIELD(training.learning_rate.decay_factor),
             {0, false, 1, false},
             "Policies step and plateau: what the learning rate is multiplied by."),
      whole("training.learning_rate.patience", STPT_FIELD(training.learning_rate.patience), {1},
            "Policy plateau: epochs without a better test accuracy before the learning rate "
            "falls."),
      whole("training.learning_rate.warmup.epochs",
            STPT_FIELD(training.learning_rate.warmup.epochs), {0}, "How long; 0 for none."),
      number("training.learning_rate.warmup.start", STPT_FIELD(training.learning_rate.warmup.start),
             at_least(0), "The learning rate of the first iteration."),
      choice("training.learning_rate.warmup.form", STPT_FIELD(training.learning_rate.warmup.form),
             "How it goes on from there."),
      choice("training.learning_rate.anneal.form", STPT_FIELD(training.learning_rate.anneal.form),
             "How it falls."),
      number("training.learning_rate.anneal.fraction",
             STPT_FIELD(training.learning_rate.anneal.fraction), {0, false, 1, true},
             "Over the last part of all iterations. No epoch that begins in it has a Pre-train."),

      number("training.optimizer.momentum", STPT_FIELD(training.optimizer.momentum),
             {0, true, 1, false}, "0 is plain gradient descent."),
      choice("training.optimizer.momentum_form", STPT_FIELD(training.optimizer.momentum_form),
             "Where the learning rate stands."),
      flag("training.optimizer.nesterov", STPT_FIELD(training.optimizer.nesterov),
           "Nesterov's look-ahead."),
      number("training.optimizer.weight_decay", STPT_FIELD(training.optimizer.weight_decay),
             at_least(0), "Times the weights, added to the gradient."),
      flag("training.optimizer.decay_all", STPT_FIELD(training.optimizer.decay_all),
           "Weight decay on batch normalisation's parameters and on biases, too."),

      whole("stpt.alpha", STPT_FIELD(stpt.alpha), {1},
            "Iterations of Pre-train. At most as many as an epoch has."),
      candidates_key("stpt.candidates",
                     "The factors to try (below), where the schedule says nothing else."),
      schedule_key("stpt.schedule",
                   "Other sets from certain epochs on, counted from 1, up to the next entry's. A "
                   "wide set first finds the scale, a narrow one then follows it."),
      choice("stpt.pretrain_batch", STPT_FIELD(stpt.pretrain_batch),
             "What a candidate trains on in an iteration of Pre-train."),
      choice("stpt.lr_scaling", STPT_FIELD(stpt.lr_scaling),
             "With pretrain_batch worker: scales a candidate's learning rate down to that batch."),
      choice("stpt.score", STPT_FIELD(stpt.score), "What candidates are scored on."),
      choice("stpt.score_metric", STPT_FIELD(stpt.score_metric), "Which of them is the best."),
      choice("stpt.score_statistics", STPT_FIELD(stpt.score_statistics),
             "What batch normalisation uses while scoring."),
      whole("stpt.score_window", STPT_FIELD(stpt.score_window), {1},
            "Score training_window: so many last iterations are averaged."),
      choice("stpt.tie_rule", STPT_FIELD(stpt.tie_rule), "When candidates score about the same."),
      choice("stpt.replica_data", STPT_FIELD(stpt.replica_data),
             "Which images candidates pre-train on."),
      choice("stpt.running_statistics", STPT_FIELD(stpt.running_statistics),
             "Batch normalisation's running averages after the choice."),
      whole("stpt.recalibration_batches", STPT_FIELD(stpt.recalibration_batches), {1},
            "With running_statistics recalibrate."),
      choice("stpt.momentum", STPT_FIELD(stpt.momentum), "The momentum buffer after the choice."),
      choice("stpt.winner_progress", STPT_FIELD(stpt.winner_progress),
             "What the winner learnt in Pre-train."),
      number("stpt.divergence_factor", STPT_FIELD(stpt.divergence_factor), at_least(0),
             "A candidate whose loss exceeds so many times the loss at the start is out; 0: only "
             "one whose loss is not a finite number."),
      whole("stpt.max_retries", STPT_FIELD(stpt.max_retries), {0, 100},
            "When every candidate is out, the base learning rate is halved and Pre-train repeated, "
            "so many times before the run fails."),
      choice("stpt.drift_limit", STPT_FIELD(stpt.drift_limit),
             "Keeps the base learning rate from running away."),
      number("stpt.clamp_low", STPT_FIELD(stpt.clamp_low), {0, false, 1, true},
             "With drift_limit clamp."),
      number("stpt.clamp_high", STPT_FIELD(stpt.clamp_high), at_least(1),
             "With drift_limit clamp."),
      number("stpt.ratio_cap", STPT_FIELD(stpt.ratio_cap), at_least(1),
             "With drift_limit ratio_cap."),
      flag("stpt.pretrain_during_warmup", STPT_FIELD(stpt.pretrain_during_warmup),
           "Pre-train in the epochs of the warm-up, too."),
      choice("stpt.many_candidates", STPT_FIELD(stpt.many_candidates),
             "With more candidates than workers."),
      choice("stpt.few_candidates", STPT_FIELD(stpt.few_candidates),
             "With fewer candidates than workers."),

      choice("runtime.fusion", STPT_FIELD(runtime.fusion), "How much goes into one task."),
      whole("runtime.steps_in_flight", STPT_FIELD(runtime.steps_in_flight), {1, 64},
            "Training steps that are submitted ahead of the one that runs."),
      text("runtime.scheduler", STPT_FIELD(runtime.scheduler),
           "the name of a StarPU scheduling policy, or empty", is_word,
           "Empty: the environment's STARPU_SCHED, else lws."),
      whole("runtime.cpu_workers", STPT_FIELD(runtime.cpu_workers), {0, 4096},
            "StarPU workers on cores. 0: the environment's STARPU_NCPU, else one per core."),
      flag("runtime.checkpoint", STPT_FIELD(runtime.checkpoint),
           "Saves after each epoch what `--resume` needs."),
  };
  return table;
}

const Key* find_key(std::string_view path) {
  const auto found = std::ranges::find(schema(), path, &Key::path);
  return found == schema().end() ? nullptr : &*found;
}

bool is_section(std::string_view path) {
  return std::ranges::find(sections(), path, &Section::path) != sections().end();
}

std::string parent_of(std::string_view path) {
  const std::size_t dot = path.rfind('.');
  return std::string(path.substr(0, dot == std::string_view::npos ? 0 : dot));
}

std::string leaf_of(std::string_view path) {
  return std::string(path.substr(path.rfind('.') + 1));  // npos + 1 is 0
}

// ---- Rules between keys ----------------------------------------------------------------------

bool chooses(const Config& config) {
  const Policy policy = config.training.learning_rate.policy;
  return policy == Policy::stpt || policy == Policy::random_winner || policy == Policy::always_one;
}

std::string policy_name(const Config& config) {
  return std::string(enum_name(config.training.learning_rate.policy));
}

/// The first set that `wrong` is true for, as a path and itself.
template <typename Wrong>
std::optional<std::pair<std::string, const CandidateSet*>> find_set(const Config& config,
                                                                    Wrong wrong) {
  if (wrong(config.stpt.candidates)) return {{"stpt.candidates", &config.stpt.candidates}};
  for (std::size_t i = 0; i < config.stpt.schedule.size(); ++i) {
    const CandidateSet& set = config.stpt.schedule[i].candidates;
    if (wrong(set)) return {{"stpt.schedule[" + std::to_string(i) + "].candidates", &set}};
  }
  return std::nullopt;
}

std::int64_t images_per_iteration(const Config& config) {
  return static_cast<std::int64_t>(config.training.workers) * config.training.batch_per_worker;
}

/// What depends on the number of training images, hold-out included.
std::optional<Problem> check_images(const Config& config, std::int64_t images) {
  const std::int64_t training = images - config.data.hold_out;
  const auto among = " of the " + std::to_string(images) + " training images";
  if (training < 1) {
    return Problem{"data.hold_out", "is " + std::to_string(config.data.hold_out) + among +
                                        "; must leave some to train on"};
  }
  const std::int64_t iterations = training / images_per_iteration(config);
  if (iterations < 1) {
    return Problem{"training.batch_per_worker",
                   "is " + std::to_string(config.training.batch_per_worker) + ", with " +
                       std::to_string(config.training.workers) + " workers " +
                       std::to_string(images_per_iteration(config)) +
                       " images an iteration; must leave an iteration to the " +
                       std::to_string(training) + " training images"};
  }
  if (chooses(config) && config.stpt.alpha > iterations) {
    return Problem{"stpt.alpha", "is " + std::to_string(config.stpt.alpha) +
                                     "; must be at most the iterations of an epoch, " +
                                     std::to_string(iterations)};
  }
  return std::nullopt;
}

/// The number of training images as far as the run file alone tells it.
std::optional<std::int64_t> known_images(const Config& config) {
  if (config.data.format == DataFormat::synthetic) {
    const std::int64_t all = config.data.synthetic.train_images;
    return config.data.limit > 0 ? std::min(config.data.limit, all) : all;
  }
  if (config.data.limit > 0) return config.data.limit;
  return std::nullopt;
}

struct Rule {
  std::string_view meaning;  ///< for docs/config.md
  std::optional<Problem> (*check)(const Config&);
};

using MaybeProblem = std::optional<Problem>;

const std::vector<Rule>& rules() {
  static const std::vector<Rule> table = {
      {"`data.hold_out` is above 0 where `stpt.score` is hold_out and the policy stpt, "
       "random_winner or always_one.",
       [](const Config& config) -> MaybeProblem {
         if (!chooses(config) || config.stpt.score != ScoreSource::hold_out ||
             config.data.hold_out > 0) {
           return std::nullopt;
         }
         return Problem{"data.hold_out", "is 0, but policy " + policy_name(config) +
                                             " scores candidates on the hold-out; must be above 0"};
       }},
      {"The hold-out leaves at least the images of one iteration to train on, and `stpt.alpha` is "
       "at "
       "most the iterations of an epoch.",
       [](const Config& config) -> MaybeProblem {
         const std::optional<std::int64_t> images = known_images(config);
         return images ? check_images(config, *images) : std::nullopt;
       }},
      {"`training.learning_rate.warmup.epochs` is below `training.epochs`.",
       [](const Config& config) -> MaybeProblem {
         const int warmup = config.training.learning_rate.warmup.epochs;
         if (warmup < config.training.epochs) return std::nullopt;
         return Problem{"training.learning_rate.warmup.epochs",
                        "is " + std::to_string(warmup) + "; must be below training.epochs, " +
                            std::to_string(config.training.epochs)};
       }},
      {"`training.learning_rate.warmup.start` is above 0 for the form constant.",
       [](const Config& config) -> MaybeProblem {
         const WarmupConfig& warmup = config.training.learning_rate.warmup;
         if (warmup.epochs == 0 || warmup.form != WarmupForm::constant || warmup.start > 0) {
           return std::nullopt;
         }
         return Problem{"training.learning_rate.warmup.start",
                        "is 0, with which a constant warm-up learns nothing; must be above 0"};
       }},
      {"`training.learning_rate.milestones` rise, end within `training.epochs`, and are there for "
       "policy step.",
       [](const Config& config) -> MaybeProblem {
         const std::string path = "training.learning_rate.milestones";
         if (config.training.learning_rate.policy != Policy::step) return std::nullopt;
         const std::vector<int>& epochs = config.training.learning_rate.milestones;
         if (epochs.empty()) {
           return Problem{path, "is empty, but policy step needs epochs to decay at; say [5, 8]"};
         }
         for (std::size_t i = 0; i < epochs.size(); ++i) {
           const std::string place = path + "[" + std::to_string(i) + "]";
           if (i > 0 && epochs[i] <= epochs[i - 1]) {
             return Problem{place, "is " + std::to_string(epochs[i]) +
                                       "; must be above the one before it, " +
                                       std::to_string(epochs[i - 1])};
           }
           if (epochs[i] > config.training.epochs) {
             return Problem{place, "is " + std::to_string(epochs[i]) +
                                       "; must be at most training.epochs, " +
                                       std::to_string(config.training.epochs)};
           }
         }
         return std::nullopt;
       }},
      {"`training.learning_rate.anneal.form` is none for the policies cosine and linear.",
       [](const Config& config) -> MaybeProblem {
         const LearningRateConfig& rate = config.training.learning_rate;
         if (rate.anneal.form == AnnealForm::none ||
             (rate.policy != Policy::cosine && rate.policy != Policy::linear)) {
           return std::nullopt;
         }
         return Problem{"training.learning_rate.anneal.form",
                        "is " + json::serialize(json::string(enum_name(rate.anneal.form))) +
                            ", but policy " + policy_name(config) +
                            " goes to 0 by itself; must be none"};
       }},
      {"`training.optimizer.nesterov` needs `momentum` above 0 and the `momentum_form` velocity.",
       [](const Config& config) -> MaybeProblem {
         const OptimizerConfig& optimizer = config.training.optimizer;
         const std::string path = "training.optimizer.nesterov";
         if (!optimizer.nesterov) return std::nullopt;
         if (optimizer.momentum_form != MomentumForm::velocity) {
           return Problem{path,
                          "is true with momentum_form lr_in_velocity; must be false, or "
                          "momentum_form velocity"};
         }
         if (optimizer.momentum > 0) return std::nullopt;
         return Problem{path, "is true without momentum; must be false, or momentum above 0"};
       }},
      {"`stpt.schedule` rises in `from_epoch` and ends within `training.epochs`.",
       [](const Config& config) -> MaybeProblem {
         const std::vector<ScheduleEntry>& schedule = config.stpt.schedule;
         if (!chooses(config)) return std::nullopt;
         for (std::size_t i = 0; i < schedule.size(); ++i) {
           const int epoch = schedule[i].from_epoch;
           const std::string place = "stpt.schedule[" + std::to_string(i) + "].from_epoch";
           if (i > 0 && epoch <= schedule[i - 1].from_epoch) {
             return Problem{place, "is " + std::to_string(epoch) +
                                       "; must be above the entry before it, " +
                                       std::to_string(schedule[i - 1].from_epoch)};
           }
           if (epoch > config.training.epochs) {
             return Problem{place, "is " + std::to_string(epoch) +
                                       "; must be at most training.epochs, " +
                                       std::to_string(config.training.epochs)};
           }
         }
         return std::nullopt;
       }},
      {"A set has at most `training.workers` candidates where `stpt.many_candidates` is reject.",
       [](const Config& config) -> MaybeProblem {
         if (!chooses(config) || config.stpt.many_candidates != ManyCandidates::reject) {
           return std::nullopt;
         }
         const auto most = static_cast<std::size_t>(config.training.workers);
         const auto found = find_set(
             config, [most](const CandidateSet& set) { return set.factors.size() > most; });
         if (!found) return std::nullopt;
         return Problem{found->first, "has " + std::to_string(found->second->factors.size()) +
                                          " candidates; must have at most training.workers, " +
                                          std::to_string(most) +
                                          ", or set stpt.many_candidates to waves"};
       }},
      {"Every set has the candidate 1 for the policy always_one.",
       [](const Config& config) -> MaybeProblem {
         if (config.training.learning_rate.policy != Policy::always_one) return std::nullopt;
         const auto found = find_set(config, [](const CandidateSet& set) {
           return std::ranges::find(set.factors, 1.0) == set.factors.end();
         });
         if (!found) return std::nullopt;
         return Problem{found->first,
                        "has no candidate 1, which policy always_one goes on with; add it"};
       }},
      {"`stpt.score_window` is at most `stpt.alpha` where `stpt.score` is training_window.",
       [](const Config& config) -> MaybeProblem {
         if (!chooses(config) || config.stpt.score != ScoreSource::training_window ||
             config.stpt.score_window <= config.stpt.alpha) {
           return std::nullopt;
         }
         return Problem{"stpt.score_window", "is " + std::to_string(config.stpt.score_window) +
                                                 "; must be at most stpt.alpha, " +
                                                 std::to_string(config.stpt.alpha)};
       }},
      {"`stpt.divergence_factor` is 0 or above 1.",
       [](const Config& config) -> MaybeProblem {
         const double factor = config.stpt.divergence_factor;
         if (factor == 0 || factor > 1) return std::nullopt;
         return Problem{"stpt.divergence_factor",
                        "is " + number_text(factor) + "; must be 0 or above 1"};
       }},
  };
  return table;
}

void check_rules(const Config& config) {
  for (const Rule& rule : rules()) {
    if (MaybeProblem problem = rule.check(config)) throw std::move(*problem);
  }
}

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
    std::size_t distance = edit_distance(leaf, known_leaf);
    const bool part = leaf.size() >= 3 && known_leaf.find(leaf) != std::string::npos;
    if (part) distance = std::min<std::size_t>(distance, 1);
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
    throw Problem{path, "is not UTF-8; must be"};
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

/// A key or file may have a line break in its name.
std::string one_line(std::string text) {
  std::ranges::replace_if(
      text, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return text;
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

ConfigError::ConfigError(const std::string& source, const std::string& path,
                         const std::string& problem)
    : std::runtime_error(one_line((source.empty() ? "" : source + ": ") +
                                  (path.empty() ? "" : path + ": ") + problem)) {}

Config parse_config(std::string_view json_text, const std::string& source_name,
                    const std::vector<std::string>& overrides) {
  const std::string override_source = "--set";
  Config config;
  std::string source = source_name;
  std::set<std::string> in_file;
  std::set<std::string> overridden;
  try {
    const json::value root = read_json(json_text);
    if (!root.is_object()) refuse("", root, "an object, {...}");
    apply_members(config, "", root.as_object(), in_file);
    source = override_source;
    for (const std::string& override : overrides) apply_override(config, override, overridden);
  } catch (const JsonError& error) {
    throw ConfigError(
        source + ":" + std::to_string(error.line()) + ":" + std::to_string(error.column()), "",
        error.what());
  } catch (const Problem& problem) {
    throw ConfigError(source, problem.path, problem.text);
  }
  try {
    check_rules(config);
  } catch (const Problem& problem) {
    const bool from_override = overridden.contains(problem.path.substr(0, problem.path.find('[')));
    throw ConfigError(from_override ? override_source : source_name, problem.path, problem.text);
  }
  return config;
}

std::string print_config(const Config& config) {
  json::object root;
  for (const Key& key : schema()) insert(root, key.path, key.read(config));
  return pretty_json(root) + "\n";
}

void validate(const Config& config, const std::string& source_name) {
  try {
    Config copy;
    for (const Key& key : schema()) key.write(copy, key.read(config), key.path);
    if (copy.stpt.candidates != config.stpt.candidates) {
      throw Problem{"stpt.candidates", "has not the factors of the set that it names"};
    }
    if (copy.stpt.schedule != config.stpt.schedule) {
      throw Problem{"stpt.schedule", "has not the factors of the sets that it names"};
    }
    check_rules(config);
  } catch (const Problem& problem) {
    throw ConfigError(source_name, problem.path, problem.text);
  }
}

void validate_for_images(const Config& config, std::int64_t training_images,
                         const std::string& source_name) {
  const std::int64_t images =
      config.data.limit > 0 ? std::min(config.data.limit, training_images) : training_images;
  if (const MaybeProblem problem = check_images(config, images)) {
    throw ConfigError(source_name, problem->path, problem->text);
  }
}

std::string config_documentation() {
  const Config defaults;
  std::string out =
      "<!-- Made by `./stpt_starpu --print-config-docs`; the text stands in stpt/config.cpp. -->\n"
      "# Run files\n\n"
      "A run file is JSON: an object of sections, sections within sections, and keys. Every key "
      "may "
      "be left out and then has its default. A key that does not exist is an error, as is one "
      "given "
      "twice.\n\n"
      "```json\n"
      "{\n"
      "  \"model\": {\"name\": \"resnet8\"},\n"
      "  \"training\": {\"epochs\": 5, \"learning_rate\": {\"initial\": 0.01}},\n"
      "  \"stpt\": {\"candidates\": [4, 2, 1, 0.5, 0.25]}\n"
      "}\n"
      "```\n\n"
      "On the command line `--set training.epochs=5` sets a key over the file, the value in JSON "
      "or "
      "a plain word: `--set stpt.candidates=narrow --set \"stpt.candidates=[2, 1, 0.5]\"`. "
      "`--print-config` prints the result with every key, `--validate` only checks it.\n";
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

template <typename Enum>
std::string_view enum_name(Enum value) {
  const auto found = std::ranges::find(names<Enum>, value, &Named<Enum>::value);
  return found == names<Enum>.end() ? "?" : found->name;
}

template std::string_view enum_name(runtime::DataType);
template std::string_view enum_name(Fusion);
template std::string_view enum_name(Policy);
template std::string_view enum_name(WarmupForm);
template std::string_view enum_name(AnnealForm);
template std::string_view enum_name(DataFormat);
template std::string_view enum_name(PretrainBatch);
template std::string_view enum_name(LrScaling);
template std::string_view enum_name(ScoreSource);
template std::string_view enum_name(ScoreMetric);
template std::string_view enum_name(ScoreStatistics);
template std::string_view enum_name(TieRule);
template std::string_view enum_name(ReplicaData);
template std::string_view enum_name(RunningStatistics);
template std::string_view enum_name(MomentumAtChoice);
template std::string_view enum_name(MomentumForm);
template std::string_view enum_name(Progress);
template std::string_view enum_name(DriftLimit);
template std::string_view enum_name(ManyCandidates);
template std::string_view enum_name(FewCandidates);

}  // namespace stpt
