#include "stpt/config/config_schema.hpp"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/string.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>

#include "stpt/config/config_names.hpp"
#include "stpt/config/json_text.hpp"
#include "stpt/config/json_values.hpp"
#include "stpt/config/lr_sets.hpp"
#include "stpt/config/network_file.hpp"

namespace stpt::config {

namespace json = boost::json;

[[noreturn]] void refuse(const std::string& path, const json::value& value,
                         const std::string& right) {
  const std::string what = value.is_object() ? "an object" : brief_json(value);
  throw Problem{path, "is " + what + "; must be " + right};
}

std::string list(std::span<const std::string> items) {
  std::string text;
  for (const std::string& item : items) {
    if (!text.empty()) text += ", ";
    text += item;
  }
  return text;
}

namespace {

// ---- Kinds of keys ---------------------------------------------------------------------------

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
            if (!number || !range.has(*number)) refuse(where, value, range.text_for(value));
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
  return is_layer_name(name) && name[0] != '.' && name[0] != '-';
}
bool is_path(std::string_view path) {
  return std::ranges::none_of(path, [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

template <typename Field>
Key names_key(std::string path, Field field, const std::string& of, std::string meaning) {
  const std::string allowed = "the name of " + of + " or a list of such";
  return {std::move(path),
          allowed,
          std::move(meaning),
          false,
          [field](const Config& config) {
            json::array names;
            for (const std::string& name : field(config)) names.emplace_back(name);
            return json::value(std::move(names));
          },
          [field, allowed](Config& config, const json::value& value, const std::string& where) {
            const json::array several = value.is_array() ? value.get_array() : json::array{value};
            std::vector<std::string> names;
            for (const json::value& each : several) {
              const json::string* name = each.if_string();
              if (name == nullptr || !is_layer_name(*name)) refuse(where, value, allowed);
              names.emplace_back(*name);
            }
            field(config) = std::move(names);
          }};
}

Key network_key(std::string path, std::string meaning) {
  const std::string allowed =
      "a network file's path, or a network as such a file has it, {...}, or empty";
  return {std::move(path),
          allowed,
          std::move(meaning),
          true,
          [](const Config& config) {
            const std::string& description = config.model.network.description;
            return description.empty() ? json::value("") : read_json(description);
          },
          [allowed](Config& config, const json::value& value, const std::string& where) {
            if (value.is_object()) {
              config.model.network = {compact_json(value), ""};
            } else if (const json::string* file = value.if_string();
                       file != nullptr && is_path(*file)) {
              config.model.network =
                  file->empty() ? NetworkConfig{} : read_network_file(std::string(*file));
            } else {
              refuse(where, value, allowed);
            }
          }};
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
  if (!from || !range.has(*from)) refuse(path + ".from_epoch", epoch, range.text_for(epoch));
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
                refuse(where + "[" + std::to_string(epochs.size()) + "]", element,
                       range.text_for(element));
              }
              epochs.push_back(*epoch);
            }
            field(config) = std::move(epochs);
          }};
}

}  // namespace

// ---- The tables ------------------------------------------------------------------------------

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
       "worth much with `stpt`, and is there unless the run file says otherwise; the policies "
       "cosine and linear do it already."},
      {"training.optimizer", "How a gradient changes the weights."},
      {"stpt",
       "An epoch under policy `stpt` begins with Pre-train: every candidate trains for `alpha` "
       "iterations from the same model, with the base learning rate times its factor. The best one "
       "goes on as the model, and its learning rate becomes the base."},
      {"runtime", "How the work is cut into StarPU tasks. Nothing here changes the results."},
  };
  return table;
}

const std::vector<Key>& schema() {
  constexpr double most_averaging = 0.999999;  // of steps; what is nearer to 1 is 1 in float32
  static const std::vector<Key> table = {
      text("name", STPT_FIELD(name), std::string(layer_name_text) + ", no '.' or '-' first",
           is_name, "Names the run's folder and report."),

      text(
          "model.name", STPT_FIELD(model.name), "the name of a model, or empty",
          [](std::string_view name) { return name.empty() || is_name(name); },
          "`./stpt_starpu --list-models` lists them. Empty where `network` is given."),
      network_key("model.network",
                  "A network of your own instead of a named one; docs/networks.md says how to "
                  "write it. A run keeps the network itself, not the path."),
      flag("model.zero_gamma", STPT_FIELD(model.zero_gamma),
           "The last batch normalisation of each residual branch starts with gamma 0."),
      text("model.weights", STPT_FIELD(model.weights), "a safetensors file's path, or empty",
           is_path,
           "Initial parameters and running statistics, as `--export` and PyTorch write them. "
           "Empty: parameters as He et al. have it."),
      names_key("model.new_layers", STPT_FIELD(model.new_layers), "a layer",
                "Layers that start as without `weights`, whatever the file has for them: the last "
                "one, where it was trained for other classes. A name also stands for all layers "
                "whose names begin with it and a dot."),
      choice("model.data_type", STPT_FIELD(model.data_type),
             "Of activations and of what convolutions and matrix products multiply. Parameters, "
             "their updates and all sums are float32. Cores compute in float32 only."),
      flag("model.tf32", STPT_FIELD(model.tf32),
           "With float32 on GPUs: convolutions and matrix products round what they multiply to 10 "
           "bits of mantissa, which tensor cores take."),

      choice("data.format", STPT_FIELD(data.format), "Where images come from."),
      text("data.path", STPT_FIELD(data.path), "a folder's path, or empty", is_path,
           "The folder with the data set; docs/data.md says what lies in it. Empty for idx: where "
           "Debian's package dataset-fashion-mnist puts Fashion-MNIST."),
      whole("data.limit", STPT_FIELD(data.limit), {0},
            "Takes only the first so many training images, hold-out included; 0 takes all."),
      whole("data.hold_out", STPT_FIELD(data.hold_out), {-1},
            "So many training images are set apart to score candidates, under every policy, so "
            "that runs compare. -1: 2000, but at most a tenth of them."),
      flag("data.normalize", STPT_FIELD(data.normalize),
           "To mean 0 and variance 1 per channel over the training images; those of image_folder "
           "are sampled, 4096 evenly spaced ones."),
      whole("data.image_size", STPT_FIELD(data.image_size), {1, 4096},
            "Format image_folder: images are resized to squares of so many pixels."),
      choice("data.resize", STPT_FIELD(data.resize), "Format image_folder: how they are."),
      whole("data.crop_size", STPT_FIELD(data.crop_size), {0, 4096},
            "The network sees a square of so many pixels, cut out of the image: at random while "
            "training, from the middle to score and test; 0 takes the whole image."),
      number("data.bad_image_limit", STPT_FIELD(data.bad_image_limit), {0, true, 1, true},
             "Format image_folder: this share of a set's images may be unreadable; another of its "
             "class stands in for each, and a line says so. More end the run."),
      number("data.cache", STPT_FIELD(data.cache), {0, true, 65536, true},
             "Format image_folder: GiB of memory for decoded images, which later epochs then need "
             "not decode. Changes no result. Does nothing for training images with "
             "`random_resized_crop`."),

      whole("data.augment.crop_padding", STPT_FIELD(data.crop_padding), {0, 64},
            "Pads by so many pixels on each side and crops at random; 0 does not."),
      choice("data.augment.padding", STPT_FIELD(data.padding), "What the padding shows."),
      flag("data.augment.flip", STPT_FIELD(data.flip), "Mirrors half of the images, at random."),
      flag(
          "data.augment.alternate_flip", STPT_FIELD(data.alternate_flip),
          "With `flip`: an image that one epoch mirrors the next one does not, which shows more of "
          "each in few epochs."),
      flag("data.augment.random_resized_crop", STPT_FIELD(data.random_resized_crop),
           "Instead of `crop_padding` and the random crop: a part of 8 % to 100 % of the stored "
           "image's area and of aspect ratio 3/4 to 4/3, resized."),

      whole("data.synthetic.classes", STPT_FIELD(data.synthetic.classes),
            {2, data::synthetic_limits::classes}, "Labels."),
      whole("data.synthetic.channels", STPT_FIELD(data.synthetic.channels),
            {1, data::synthetic_limits::channels}, "Of an image."),
      whole("data.synthetic.height", STPT_FIELD(data.synthetic.height),
            {1, data::synthetic_limits::side}, "In pixels."),
      whole("data.synthetic.width", STPT_FIELD(data.synthetic.width),
            {1, data::synthetic_limits::side}, "In pixels."),
      whole("data.synthetic.train_images", STPT_FIELD(data.synthetic.train_images),
            {1, data::synthetic_limits::images},
            "Training images, hold-out included; at least one of each class."),
      whole("data.synthetic.test_images", STPT_FIELD(data.synthetic.test_images),
            {1, data::synthetic_limits::images},
            "Test images. All images together have at most 16 GiB of pixels."),

      whole("training.epochs", STPT_FIELD(training.epochs), {1, 1'000'000},
            "Passes over the training images."),
      whole("training.workers", STPT_FIELD(training.workers), {1, 4096},
            "Logical data-parallel workers (the paper's n). A number of the algorithm, not of the "
            "machine: it may be more or less than there are cores or GPUs, and the results do not "
            "depend on those."),
      whole("training.batch_per_worker", STPT_FIELD(training.batch_per_worker), {1, 65536},
            "Images per worker and iteration; an iteration takes `workers` times as many."),
      choice("training.gradient_reduction", STPT_FIELD(training.gradient_reduction),
             "How gradients are summed over the ranks of a job (docs/cluster.md)."),
      number(
          "training.label_smoothing", STPT_FIELD(training.label_smoothing), {0, true, 0.9, true},
          "This share of a training image's label is spread evenly over all classes, which "
          "keeps the network from being too sure. Training losses are with it, hold-out and test "
          "without."),
      number("training.loss_scale", STPT_FIELD(training.loss_scale), {0, true, 1e9, true},
             "What the loss is multiplied by before backward, and gradients divided by before the "
             "update, so that small ones do not vanish. 0: 1024 for float16, 1 for other types."),
      whole("training.seed", STPT_FIELD(training.seed), {0},
            "Of initialisation, order, augmentation and split."),

      // Parameters are float32.
      number(
          "training.learning_rate.initial", STPT_FIELD(training.learning_rate.initial),
          {1e-30, true, 1e30, true},
          "The learning rate to begin with; with adamw 0.001 unless something else is said. Where "
          "the first epoch tries the set search, what `stpt` finds depends little on it."),
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
            STPT_FIELD(training.learning_rate.warmup.epochs), {0},
            "How long; 0 for none. A search behind it may take too small a learning rate "
            "(docs/learning_rate.md): keep what it warmed up to, or do without."),
      number(
          "training.learning_rate.warmup.start", STPT_FIELD(training.learning_rate.warmup.start),
          at_least(0),
          "The learning rate of the first iteration; with adamw 0.00005 unless something else is "
          "said."),
      choice("training.learning_rate.warmup.form", STPT_FIELD(training.learning_rate.warmup.form),
             "How it goes on from there."),
      choice("training.learning_rate.anneal.form", STPT_FIELD(training.learning_rate.anneal.form),
             "How it falls. Where nothing is said about the anneal: linear for the policies stpt, "
             "random_winner and always_one, none for the others."),
      number("training.learning_rate.anneal.fraction",
             STPT_FIELD(training.learning_rate.anneal.fraction), {0, false, 1, true},
             "Over the last part of what follows the warm-up. No epoch that begins in it has a "
             "Pre-train."),

      choice("training.optimizer.name", STPT_FIELD(training.optimizer.name),
             "Which rule. Where nothing is said about the optimizer and `learning_rate.initial`, "
             "adamw for the policies stpt, random_winner and always_one if the network has no "
             "batch normalisation, which a search of SGD's learning rate is not good at "
             "(docs/learning_rate.md)."),
      number("training.optimizer.momentum", STPT_FIELD(training.optimizer.momentum),
             {0, true, most_averaging, true},
             "0 is plain gradient descent. With adamw Adam's beta1."),
      choice("training.optimizer.momentum_form", STPT_FIELD(training.optimizer.momentum_form),
             "With sgd: where the learning rate stands."),
      flag("training.optimizer.nesterov", STPT_FIELD(training.optimizer.nesterov),
           "With sgd: Nesterov's look-ahead."),
      number("training.optimizer.weight_decay", STPT_FIELD(training.optimizer.weight_decay),
             {0, true, 1, true},
             "Times the weights: with sgd added to the gradient; with adamw, where it is 0.01 "
             "unless something else is said, taken off them times the learning rate."),
      number("training.optimizer.beta2", STPT_FIELD(training.optimizer.beta2),
             {0, true, most_averaging, true}, "With adamw: of the mean of squared gradients."),
      number("training.optimizer.epsilon", STPT_FIELD(training.optimizer.epsilon),
             {1e-30, true, 1, true}, "With adamw: added to the root of that mean."),
      flag("training.optimizer.decay_all", STPT_FIELD(training.optimizer.decay_all),
           "Weight decay on biases and on the parameters of normalisations and scales, too."),

      whole("stpt.alpha", STPT_FIELD(stpt.alpha), {0},
            "Iterations of Pre-train, at most as many as an epoch has. 0: 8 % of an epoch, as did "
            "best in the paper, but at least 12 or all of it."),
      candidates_key("stpt.candidates",
                     "The factors to try (below), where the schedule says nothing else."),
      schedule_key("stpt.schedule",
                   "Other sets from certain epochs on, counted from 1, up to the next entry's; "
                   "those behind the last epoch are not reached. A wide set finds the scale; what "
                   "it finds is then kept, or followed by a narrow "
                   "one. Begins behind a warm-up where it is not given. Setting `candidates` alone "
                   "empties it."),
      choice("stpt.pretrain_batch", STPT_FIELD(stpt.pretrain_batch),
             "What a candidate trains on in an iteration of Pre-train."),
      choice("stpt.lr_scaling", STPT_FIELD(stpt.lr_scaling),
             "With pretrain_batch worker: scales a candidate's learning rate down to that batch."),
      choice("stpt.score", STPT_FIELD(stpt.score), "What candidates are scored on."),
      choice("stpt.score_metric", STPT_FIELD(stpt.score_metric), "Which of them is the best."),
      choice("stpt.score_weights", STPT_FIELD(stpt.score_weights),
             "Which of a candidate's weights are scored, other than by training_window. The winner "
             "goes on from its last ones."),
      choice("stpt.score_statistics", STPT_FIELD(stpt.score_statistics),
             "What batch normalisation uses while scoring."),
      whole("stpt.score_window", STPT_FIELD(stpt.score_window), {1},
            "Score training_window: so many last iterations are averaged."),
      choice("stpt.tie_rule", STPT_FIELD(stpt.tie_rule),
             "When candidates score about the same on images, by accuracy; by loss or in the "
             "training window, exactly the same. Where `candidates` or `schedule` is given and "
             "this is not: prefer_unchanged, since with larger a set that is tried in many epochs "
             "makes the learning rate climb as soon as all score well."),
      choice("stpt.replica_data", STPT_FIELD(stpt.replica_data),
             "Which images candidates pre-train on."),
      choice("stpt.running_statistics", STPT_FIELD(stpt.running_statistics),
             "Batch normalisation's running averages."),
      whole("stpt.recalibration_batches", STPT_FIELD(stpt.recalibration_batches), {1},
            "With running_statistics recalibrate: so many batches of `batch_per_worker` training "
            "images as they are, the first of the epoch's order."),
      choice(
          "stpt.momentum", STPT_FIELD(stpt.momentum),
          "The optimizer's momentum (with adamw both of its means, and the count of their steps) "
          "after the choice, with winner_progress kept."),
      choice("stpt.winner_progress", STPT_FIELD(stpt.winner_progress),
             "What the winner learnt in Pre-train."),
      number(
          "stpt.divergence_factor", STPT_FIELD(stpt.divergence_factor), at_least(0),
          "A candidate whose loss, the mean of an iteration or of as many as 64 images take, "
          "exceeds so many times the larger of that at the start and that of a network that "
          "guesses, is out, and costs no more; 0, or where there is no other candidate: only one "
          "whose loss is not a finite number."),
      whole("stpt.max_retries", STPT_FIELD(stpt.max_retries), {0, 100},
            "When every candidate is out, the base learning rate is halved and Pre-train repeated, "
            "so many times before the run fails."),
      whole(
          "stpt.max_collapses", STPT_FIELD(stpt.max_collapses), {0, 100},
          "When an epoch's training comes to nothing, it is repeated from where it began, and no "
          "candidate may have more than half its learning rate from then on; so many times an "
          "epoch. It has come to nothing where its loss is not a finite number, or is in the end "
          "twice what it was at its worst, or where less than half is left of what had been "
          "learnt, counted from the loss of a network that guesses, by more than chance explains "
          "on so many images; the first epoch also where the network only guesses in the end "
          "(if that has not helped, training goes on from its first try). Policy stpt only; 0: it "
          "goes on, and the run ends where the loss is no number."),
      choice("stpt.drift_limit", STPT_FIELD(stpt.drift_limit),
             "Keeps the base of the next candidates from running away; a learning rate that was "
             "chosen trains as it is."),
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
             "With pretrain_batch worker and fewer candidates than workers."),

      choice("runtime.fusion", STPT_FIELD(runtime.fusion), "How much goes into one task."),
      whole("runtime.steps_in_flight", STPT_FIELD(runtime.steps_in_flight), {1, 64},
            "Training steps that are submitted ahead of the one that runs."),
      text("runtime.scheduler", STPT_FIELD(runtime.scheduler),
           "the name of a StarPU scheduling policy, or empty", is_word,
           "Empty: the environment's STARPU_SCHED, else lws, with GPUs prio."),
      whole(
          "runtime.cpu_workers", STPT_FIELD(runtime.cpu_workers), {0, 4096},
          "StarPU workers on cores. 0: the environment's STARPU_NCPU, else one per core, with GPUs "
          "fewer (docs/gpu.md)."),
      flag("runtime.data_on_gpu", STPT_FIELD(runtime.data_on_gpu),
           "Images of at most 4 GiB, and an eighth of a GPU's memory, lie in each GPU's memory as "
           "bytes, and GPUs augment them; not "
           "those of image_folder, and not with `random_resized_crop`. Else cores do."),
      flag("runtime.require_cuda", STPT_FIELD(runtime.require_cuda),
           "Ends the run at its start where there are fewer GPUs than the environment's "
           "STARPU_NCUDA asks for, at least one; else what there is does the work."),
      flag("runtime.checkpoint", STPT_FIELD(runtime.checkpoint),
           "Saves after each epoch what `--resume`, `--test` and `--export` need."),
  };
  return table;
}

const Key* find_key(std::string_view path) {
  const auto found = std::ranges::find(schema(), path, &Key::path);
  return found == schema().end() ? nullptr : &*found;
}

bool is_layer_name(std::string_view name) {
  return is_word(name) && !name.empty() && name.size() <= 64;
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

}  // namespace stpt::config
