#include "stpt/config/config_rules.hpp"

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <boost/json/string.hpp>
#include <string>
#include <utility>

#include "stpt/config/config_names.hpp"
#include "stpt/config/json_text.hpp"

namespace stpt::config {
namespace {

namespace json = boost::json;

bool chooses(const Config& config) { return stpt::chooses(config.training.learning_rate.policy); }

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

/// The number of training images as far as the run file alone tells it.
std::optional<std::int64_t> known_images(const Config& config) {
  if (config.data.format == DataFormat::synthetic)
    return images_within_limit(config.data, config.data.synthetic.train_images);
  if (config.data.limit > 0) return config.data.limit;
  return std::nullopt;
}

}  // namespace

MaybeProblem check_images(const Config& config, std::int64_t images) {
  const std::int64_t hold_out = hold_out_images(config.data, images);
  const std::int64_t training = images - hold_out;
  const auto among = " of the " + std::to_string(images) + " training images";
  if (training < 1) {
    return Problem{"data.hold_out",
                   "is " + std::to_string(hold_out) + among + "; must leave some to train on"};
  }
  const std::int64_t iterations = training / images_per_iteration(config);
  if (iterations < 1) {
    return Problem{"training.batch_per_worker",
                   "is " + std::to_string(config.training.batch_per_worker) +
                       ", times training.workers, " + std::to_string(config.training.workers) +
                       ": " + std::to_string(images_per_iteration(config)) +
                       " images an iteration; must be at most the " + std::to_string(training) +
                       " that are left to train on, with " + std::to_string(hold_out) +
                       " held out"};
  }
  if (chooses(config) && config.stpt.alpha > iterations) {
    return Problem{"stpt.alpha", "is " + std::to_string(config.stpt.alpha) +
                                     "; must be at most the iterations of an epoch, " +
                                     std::to_string(iterations)};
  }
  if (const int alpha = pretrain_iterations(config.stpt, iterations);
      chooses(config) && config.stpt.score == ScoreSource::training_window &&
      config.stpt.score_window > alpha) {
    return Problem{"stpt.score_window", "is " + std::to_string(config.stpt.score_window) +
                                            "; must be at most the iterations of Pre-train, " +
                                            std::to_string(alpha)};
  }
  return std::nullopt;
}

const std::vector<Rule>& rules() {
  static const std::vector<Rule> table = {
      {"Either `model.name` or `model.network` is given. Either one replaces what an extended "
       "file, "
       "or on the command line the run file, has.",
       [](const Config& config) -> MaybeProblem {
         const ModelConfig& model = config.model;
         if (model.name.empty() && model.network.description.empty()) {
           return Problem{"model.name", "is empty; must be the name of a model"};
         }
         if (!model.name.empty() && !model.network.description.empty()) {
           return Problem{"model.network",
                          "is given beside model.name, " + model.name + "; give one of them"};
         }
         return std::nullopt;
       }},
      {"`model.new_layers` needs `model.weights`.",
       [](const Config& config) -> MaybeProblem {
         if (config.model.new_layers.empty() || !config.model.weights.empty()) return std::nullopt;
         return Problem{"model.new_layers",
                        "is given without model.weights, so that all layers are new; must be []"};
       }},
      {"`model.zero_gamma` is false with `model.network`, whose layers say it themselves.",
       [](const Config& config) -> MaybeProblem {
         if (!config.model.zero_gamma || config.model.network.description.empty()) {
           return std::nullopt;
         }
         return Problem{"model.zero_gamma",
                        "is true; must be false with model.network, whose batch_norm layers have "
                        "\"gamma\": 0 instead"};
       }},
      {"`data.hold_out` is not 0 where `stpt.score` is hold_out and the policy stpt, "
       "random_winner or always_one.",
       [](const Config& config) -> MaybeProblem {
         if (!chooses(config) || config.stpt.score != ScoreSource::hold_out ||
             config.data.hold_out != 0) {
           return std::nullopt;
         }
         return Problem{"data.hold_out", "is 0, but policy " + policy_name(config) +
                                             " scores candidates on the hold-out; must be above 0"};
       }},
      {"`data.synthetic.train_images` is at least `classes`, and all synthetic images have at most "
       "16 GiB of pixels, where `data.format` is synthetic.",
       [](const Config& config) -> MaybeProblem {
         if (config.data.format != DataFormat::synthetic) return std::nullopt;
         const auto problem = data::find_problem(config.data.synthetic);
         if (!problem) return std::nullopt;
         return Problem{"data.synthetic." + problem->option, problem->text};
       }},
      {"The hold-out leaves at least the images of one iteration to train on. `stpt.alpha` is at "
       "most the iterations of an epoch, and `stpt.score_window` at most those of Pre-train where "
       "`stpt.score` is training_window.",
       [](const Config& config) -> MaybeProblem {
         const std::optional<std::int64_t> images = known_images(config);
         return images ? check_images(config, *images) : std::nullopt;
       }},
      {"`data.augment.flip` is true with `data.augment.alternate_flip`.",
       [](const Config& config) -> MaybeProblem {
         if (!config.data.alternate_flip || config.data.flip) return std::nullopt;
         return Problem{"data.augment.alternate_flip",
                        "is true, but data.augment.flip is false; set that to true, too"};
       }},
      {"`data.path` is there for the formats cifar10, cifar100 and image_folder.",
       [](const Config& config) -> MaybeProblem {
         const DataFormat format = config.data.format;
         if (format == DataFormat::idx || format == DataFormat::synthetic ||
             !config.data.path.empty()) {
           return std::nullopt;
         }
         return Problem{"data.path", "is empty; must be the folder of the " +
                                         std::string(enum_name(format)) + " data"};
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
      {"`training.learning_rate.milestones` are there for policy step, rise, and lie behind the "
       "warm-up and within `training.epochs`.",
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
           const int warmup = config.training.learning_rate.warmup.epochs;
           if (epochs[i] <= warmup) {
             return Problem{place, "is " + std::to_string(epochs[i]) +
                                       "; must be above training.learning_rate.warmup.epochs, " +
                                       std::to_string(warmup)};
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
      {"For the policies stpt, random_winner and always_one an epoch begins before the anneal, and "
       "behind the warm-up without `stpt.pretrain_during_warmup`, to choose a learning rate in.",
       [](const Config& config) -> MaybeProblem {
         const LearningRateConfig& rate = config.training.learning_rate;
         if (!chooses(config) || rate.anneal.form == AnnealForm::none) return std::nullopt;
         const bool in_warmup = config.stpt.pretrain_during_warmup && rate.warmup.epochs > 0;
         if (rate.anneal.fraction < 1 || in_warmup) return std::nullopt;
         return Problem{"training.learning_rate.anneal.fraction",
                        "is 1; must be below 1 to leave policy " + policy_name(config) +
                            " an epoch to choose in"};
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
      {"`training.optimizer.name` is sgd with `nesterov` or the `momentum_form` lr_in_velocity.",
       [](const Config& config) -> MaybeProblem {
         const OptimizerConfig& optimizer = config.training.optimizer;
         if (optimizer.name == OptimizerName::sgd) return std::nullopt;
         const std::string of_sgd = ", which adamw does not know; must be ";
         if (optimizer.nesterov) {
           return Problem{"training.optimizer.nesterov",
                          "is true" + of_sgd + "false, or the optimizer's name sgd"};
         }
         if (optimizer.momentum_form == MomentumForm::velocity) return std::nullopt;
         return Problem{"training.optimizer.momentum_form",
                        "is lr_in_velocity" + of_sgd + "velocity, or the optimizer's name sgd"};
       }},
      {"`stpt.schedule` rises in `from_epoch`.",
       [](const Config& config) -> MaybeProblem {
         const std::vector<ScheduleEntry>& schedule = config.stpt.schedule;
         if (!chooses(config)) return std::nullopt;
         for (std::size_t i = 1; i < schedule.size(); ++i) {
           const int before = schedule[i - 1].from_epoch, epoch = schedule[i].from_epoch;
           if (epoch > before) continue;
           return Problem{"stpt.schedule[" + std::to_string(i) + "].from_epoch",
                          "is " + std::to_string(epoch) + "; must be above the entry before it, " +
                              std::to_string(before)};
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

}  // namespace stpt::config
