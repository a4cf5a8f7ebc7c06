#include "stpt/files/record_json.hpp"

#include <algorithm>
#include <boost/json/array.hpp>
#include <concepts>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace stpt {
namespace {

namespace json = boost::json;

// The keys of each record, named once for both directions.

template <class Visitor, class Record>
void visit_fields(Visitor&& visit,
                  Record& record) requires std::same_as<std::remove_const_t<Record>, CurvePoint> {
  visit("iteration", record.iteration);
  visit("learning_rate", record.learning_rate);
  visit("loss", record.loss);
  visit("top1", record.top1);
}

template <class Visitor, class Record>
void visit_fields(Visitor&& visit, Record& record) requires
    std::same_as<std::remove_const_t<Record>, CandidateRecord> {
  visit("factor", record.factor);
  visit("learning_rate", record.learning_rate);
  visit("score_top1", record.score_top1);
  visit("score_loss", record.score_loss);
  visit("diverged", record.diverged);
  visit("winner", record.winner);
  visit("curve", record.curve);
}

template <class Visitor, class Record>
void visit_fields(Visitor&& visit,
                  Record& record) requires std::same_as<std::remove_const_t<Record>, EpochRecord> {
  visit("epoch", record.epoch);
  visit("phase", record.phase);
  visit("candidate_set", record.candidate_set);
  visit("retries", record.retries);
  visit("collapses", record.collapses);
  visit("base_learning_rate", record.base_learning_rate);
  visit("learning_rate", record.learning_rate);
  visit("choice_reason", record.choice_reason);
  visit("train_loss", record.train_loss);
  visit("train_top1", record.train_top1);
  visit("test_loss", record.test_loss);
  visit("test_top1", record.test_top1);
  visit("test_top5", record.test_top5);
  visit("iterations", record.iterations);
  visit("iterations_discarded", record.iterations_discarded);
  visit("samples_winner", record.samples_winner);
  visit("samples_discarded", record.samples_discarded);
  visit("seconds", record.seconds);
  visit("seconds_pretrain", record.seconds_pretrain);
  visit("seconds_score", record.seconds_score);
  visit("seconds_choose", record.seconds_choose);
  visit("seconds_main", record.seconds_main);
  visit("seconds_test", record.seconds_test);
  visit("rank_count", record.rank_count);
  visit("bytes_sent", record.bytes_sent);
  visit("messages_sent", record.messages_sent);
  visit("steps_main", record.steps_main);
  visit("seconds_busy", record.seconds_busy);
  visit("images_per_second", record.images_per_second);
  visit("memory_bytes", record.memory_bytes);
  visit("candidates", record.candidates);
  visit("curve", record.curve);
}

template <class Visitor, class Record>
void visit_fields(Visitor&& visit,
                  Record& record) requires std::same_as<std::remove_const_t<Record>, RunRecord> {
  visit("name", record.name);
  visit("version", record.version);
  visit("model", record.model);
  visit("dataset", record.dataset);
  visit("device", record.device);
  visit("started", record.started);
  visit("policy", record.policy);
  visit("optimizer", record.optimizer);
  visit("parameters", record.parameters);
  visit("flops_per_image", record.flops_per_image);
  visit("channels", record.channels);
  visit("height", record.height);
  visit("width", record.width);
  visit("classes", record.classes);
  visit("class_names", record.class_names);
  visit("training_images", record.training_images);
  visit("hold_out_images", record.hold_out_images);
  visit("test_images", record.test_images);
  visit("workers", record.workers);
  visit("batch_per_worker", record.batch_per_worker);
  visit("iterations_per_epoch", record.iterations_per_epoch);
  visit("epochs_planned", record.epochs_planned);
  visit("alpha", record.alpha);
  visit("initial_learning_rate", record.initial_learning_rate);
  visit("score", record.score);
  visit("score_metric", record.score_metric);
  visit("ranks", record.ranks);
}

template <class Visitor, class Record>
void visit_fields(Visitor&& visit,
                  Record& record) requires std::same_as<std::remove_const_t<Record>, RankRecord> {
  visit("host", record.host);
  visit("device", record.device);
}

template <class T>
struct is_vector : std::false_type {};
template <class T>
struct is_vector<std::vector<T>> : std::true_type {};

json::string element_json(const std::string& text) { return json::string(text); }

template <class Record>
json::object element_json(const Record& record) {
  return to_json(record);
}

struct Write {
  json::object& object;

  template <class T>
  void operator()(const char* key, const T& value) const {
    if constexpr (is_vector<T>::value) {
      json::array array;
      array.reserve(value.size());
      for (const auto& element : value) array.emplace_back(element_json(element));
      object[key] = std::move(array);
    } else {
      object[key] = value;
    }
  }
};

template <class Record>
json::object write(const Record& record) {
  json::object object;
  visit_fields(Write{object}, record);
  return object;
}

template <class Record>
Record read(const json::value& value);

[[noreturn]] void wrong(const char* key, const char* expected) {
  throw std::runtime_error(std::string(key) + ": expected " + expected);
}

struct Read {
  const json::object& object;

  template <class T>
  void operator()(const char* key, T& target) const {
    const json::value* value = object.if_contains(key);
    if (value == nullptr) return;
    if constexpr (std::same_as<T, bool>) {
      if (!value->is_bool()) wrong(key, "true or false");
      target = value->get_bool();
    } else if constexpr (std::floating_point<T>) {
      if (value->is_null()) {
        target = std::numeric_limits<T>::quiet_NaN();
      } else if (value->is_number()) {
        target = value->to_number<T>();
      } else {
        wrong(key, "a number");
      }
    } else if constexpr (std::integral<T>) {
      boost::system::error_code error;
      if (value->is_number()) target = value->to_number<T>(error);
      if (!value->is_number() || error) wrong(key, "an integer");
    } else if constexpr (is_vector<T>::value) {
      if (!value->is_array()) wrong(key, "an array");
      target.clear();
      target.reserve(value->get_array().size());
      for (const json::value& element : value->get_array()) {
        target.push_back(read<typename T::value_type>(element));
      }
    } else {
      if (!value->is_string()) wrong(key, "a string");
      target = std::string(value->get_string());
    }
  }
};

template <class Record>
Record read(const json::value& value) {
  if constexpr (std::same_as<Record, std::string>) {
    if (!value.is_string()) throw std::runtime_error("expected a string");
    return std::string(value.get_string());
  } else {
    if (!value.is_object()) throw std::runtime_error("expected an object");
    Record record;
    visit_fields(Read{value.get_object()}, record);
    return record;
  }
}

double ratio(double part, double whole) { return whole > 0 ? part / whole : 0; }

}  // namespace

json::object to_json(const CurvePoint& point) { return write(point); }
json::object to_json(const RankRecord& rank) { return write(rank); }
json::object to_json(const CandidateRecord& candidate) { return write(candidate); }
json::object to_json(const EpochRecord& epoch) { return write(epoch); }
json::object to_json(const RunRecord& run) { return write(run); }

EpochRecord epoch_from_json(const json::value& value) { return read<EpochRecord>(value); }
RunRecord run_from_json(const json::value& value) { return read<RunRecord>(value); }

RunTotals totals(const RunRecord& run) {
  RunTotals sum;
  const std::int64_t batch = std::int64_t{run.workers} * run.batch_per_worker;
  for (const EpochRecord& epoch : run.epochs) {
    const auto tried = std::max<std::int64_t>(1, std::ssize(epoch.candidates));
    sum.iterations += epoch.iterations;
    sum.iterations_discarded += epoch.iterations_discarded;
    sum.iterations_exhaustive += tried * epoch.iterations;
    sum.samples_winner += epoch.samples_winner;
    sum.samples_discarded += epoch.samples_discarded;
    // Trying an LR for an epoch takes full batches, also where Pre-train ran on smaller ones.
    sum.samples_exhaustive +=
        tried * std::max(epoch.samples_winner, tried > 1 ? batch * epoch.iterations : 0);
    sum.seconds += epoch.seconds;
    sum.seconds_pretrain += epoch.seconds_pretrain;
    sum.seconds_score += epoch.seconds_score;
    sum.seconds_choose += epoch.seconds_choose;
    sum.seconds_main += epoch.seconds_main;
    sum.seconds_test += epoch.seconds_test;
    if (sum.best_epoch == 0 || !(epoch.test_top1 <= sum.best_test_top1)) {
      sum.best_test_top1 = epoch.test_top1;
      sum.best_epoch = epoch.epoch;
    }
    for (const CandidateRecord& candidate : epoch.candidates) {
      if (candidate.winner) sum.chosen_learning_rate = candidate.learning_rate;
    }
  }
  sum.images_per_second = ratio(static_cast<double>(sum.samples_winner + sum.samples_discarded),
                                sum.seconds_pretrain + sum.seconds_main);
  return sum;
}

json::object summary_json(const RunRecord& run) {
  const RunTotals sum = totals(run);
  const bool trained = !run.epochs.empty();
  const EpochRecord last = trained ? run.epochs.back() : EpochRecord{};
  std::uint64_t peak = 0;
  for (const EpochRecord& epoch : run.epochs) peak = std::max(peak, epoch.memory_bytes);

  // What no epoch has measured is null, not a zero that could be taken for a result.
  const auto measured = [&](auto value) {
    return trained ? json::value(value) : json::value(nullptr);
  };

  json::object summary;
  summary["status"] = run.status;
  summary["failure"] = run.failure.empty() ? json::value(nullptr) : json::value(run.failure);
  summary["test_top1"] = measured(last.test_top1);
  summary["best_test_top1"] = measured(sum.best_test_top1);
  summary["best_epoch"] = measured(sum.best_epoch);
  summary["test_top5"] = measured(last.test_top5);
  summary["test_loss"] = measured(last.test_loss);
  summary["final_lr"] = measured(last.learning_rate);
  summary["chosen_lr"] =
      sum.chosen_learning_rate > 0 ? json::value(sum.chosen_learning_rate) : json::value(nullptr);
  summary["epochs"] = run.epochs.size();
  summary["wall_seconds"] = run.wall_seconds;
  summary["images_per_second"] = measured(sum.images_per_second);
  summary["iterations"] = sum.iterations;
  summary["iterations_discarded"] = sum.iterations_discarded;
  summary["samples_total"] = sum.samples_winner + sum.samples_discarded;
  summary["samples_discarded"] = sum.samples_discarded;
  summary["choose_share"] = measured(ratio(sum.seconds_choose, sum.seconds));
  summary["seconds"] =
      json::object{{"pretrain", sum.seconds_pretrain}, {"score", sum.seconds_score},
                   {"choose", sum.seconds_choose},     {"main", sum.seconds_main},
                   {"test", sum.seconds_test},         {"epochs", sum.seconds}};
  summary["memory_bytes"] = measured(last.memory_bytes);
  summary["memory_bytes_peak"] = measured(peak);
  summary["model_digest"] =
      run.model_digest.empty() ? json::value(nullptr) : json::value(run.model_digest);
  summary["name"] = run.name;
  summary["version"] = run.version;
  summary["model"] = run.model;
  summary["dataset"] = run.dataset;
  summary["device"] = run.device;
  summary["policy"] = run.policy;
  summary["optimizer"] = run.optimizer;
  summary["started"] = run.started;
  return summary;
}

}  // namespace stpt
