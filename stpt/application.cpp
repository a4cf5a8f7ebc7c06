#include "stpt/application.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <functional>
#include <iostream>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "data/dataset.hpp"
#include "models/zoo.hpp"
#include "runtime/cluster.hpp"
#include "runtime/machine.hpp"
#include "runtime/runtime.hpp"
#include "stpt/checkpoint.hpp"
#include "stpt/command_line.hpp"
#include "stpt/config.hpp"
#include "stpt/config_schema.hpp"
#include "stpt/experiment.hpp"
#include "stpt/json_text.hpp"
#include "stpt/progress.hpp"
#include "stpt/run_directory.hpp"
#include "stpt/run_file.hpp"
#include "stpt/trainer.hpp"
#include "stpt/weights.hpp"

namespace stpt {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr std::string_view checkpoint_name = "checkpoint.bin";
constexpr std::string_view config_name = "config.json";
constexpr std::string_view report_name = "report.html";

constexpr int failed = 1;
constexpr int bad_input = 2;

// ---- Text ------------------------------------------------------------------------------------

template <typename... Values>
std::string format(const char* pattern, Values... values) {
  std::array<char, 64> text{};
  const int length = std::snprintf(text.data(), text.size(), pattern, values...);
  return {text.data(),
          static_cast<std::size_t>(std::clamp(length, 0, static_cast<int>(text.size()) - 1))};
}

std::string percent(double share) { return format("%.2f %%", 100 * share); }

std::string memory_text(std::uint64_t bytes) {
  const double mebibytes = static_cast<double>(bytes) / (1024.0 * 1024.0);
  return mebibytes < 1024 ? format("%.0f MiB", mebibytes) : format("%.1f GiB", mebibytes / 1024);
}

/// Messages quote what a person wrote, which may hold line breaks.
std::string one_line(std::string text) {
  std::ranges::replace_if(
      text, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
  return text;
}

std::string message_of(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return "out of memory";
  return one_line(error.what());
}

void print(const std::string& text) {
  std::cout << text << std::flush;
  if (!std::cout) throw std::runtime_error("cannot write to standard output");
}

void print_error(const std::string& message) {
  std::cerr << "stpt_starpu: " + message + "\n" << std::flush;
}

// ---- The run file ----------------------------------------------------------------------------

/// A run keeps its bits when these change: how long it goes on, what it puts up with, and where its
/// tasks run.
bool may_change_on_resume(std::string_view path) {
  return path == "training.epochs" || path == "data.bad_image_limit" || path == "data.cache" ||
         path.starts_with("runtime.");
}

/// The first key whose value differs and may not; both have the same keys.
std::string find_change(const json::value& before, const json::value& after,
                        const std::string& path) {
  if (config::find_key(path) != nullptr) {
    return before == after || may_change_on_resume(path) ? "" : path;
  }
  for (const auto& [key, value] : before.as_object()) {
    const std::string below = path.empty() ? std::string(key) : path + "." + std::string(key);
    const std::string change = find_change(value, after.as_object().at(key), below);
    if (!change.empty()) return change;
  }
  return "";
}

struct RunFile {
  Config config;
  std::string name;                ///< for messages
  bool saved_checkpoints = false;  ///< of a run that goes on: runtime.checkpoint until now
};

RunFile load_run_file(const CommandLine& line) {
  if (line.resume) {
    RunFile file;
    file.name = (RunDirectory::open(*line.resume).file(config_name)).string();
    const std::string text = read_run_file(file.name, "--resume needs the directory of a run");
    const Config before = parse_config(text, file.name);
    file.saved_checkpoints = before.runtime.checkpoint;
    file.config = parse_config(text, file.name, line.overrides);
    const std::string change =
        find_change(read_json(print_config(before)), read_json(print_config(file.config)), "");
    if (!change.empty()) {
      throw ConfigError("--set", change,
                        "cannot change in a run that goes on; only training.epochs, "
                        "data.bad_image_limit, data.cache and runtime.* can, start a new run for "
                        "others");
    }
    return file;
  }
  RunFile file;
  file.name = line.config.value_or("the defaults");
  const std::string text =
      line.config ? read_run_file(*line.config, "--config needs a run file") : "{}";
  file.config = parse_config(text, file.name, line.overrides);
  return file;
}

/// What the installed StarPU cannot do; it would only say so once the run has begun.
void check_runtime(const RunFile& file) {
  const RuntimeConfig& config = file.config.runtime;
  if (const int most = runtime::Runtime::most_cpu_workers(); config.cpu_workers > most) {
    throw ConfigError(file.name, "runtime.cpu_workers",
                      "is " + std::to_string(config.cpu_workers) +
                          "; this StarPU was built for at most " + std::to_string(most));
  }
  const std::vector<std::string> known = runtime::Runtime::schedulers();
  if (config.scheduler.empty() || std::ranges::find(known, config.scheduler) != known.end()) return;
  std::string names;
  for (const std::string& name : known) {
    if (!name.starts_with("modular-")) names += name + ", ";
  }
  throw ConfigError(file.name, "runtime.scheduler",
                    "is \"" + config.scheduler + "\"; this StarPU has " + names + "modular-...");
}

// ---- Signals ---------------------------------------------------------------------------------

std::atomic<bool> stop_requested = false;
std::atomic<int> stop_signal = 0;
std::atomic<bool> on_terminal = false;  ///< then the cursor may stand behind a progress line
std::atomic<bool> speaks = true;        ///< one of a job's ranks does
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

extern "C" void stpt_on_stop_signal(int number) {
  const int saved = errno;
  stop_signal = number;
  stop_requested = true;
  std::string_view text =
      "\nstpt_starpu: stopping after this step; a second signal ends it at once\n";
  if (!on_terminal) text.remove_prefix(1);
  if (speaks && write(STDERR_FILENO, text.data(), text.size()) < 0) {
    // There is nobody to read it.
  }
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  errno = saved;
}

/// While it lives the first SIGINT or SIGTERM asks the run to stop; the second one kills.
class StopSignals {
 public:
  StopSignals() {
    stop_requested = false;
    on_terminal = isatty(STDERR_FILENO) == 1;
    speaks = runtime::Cluster::current().rank() == 0;
    struct sigaction action {};
    action.sa_handler = stpt_on_stop_signal;
    action.sa_flags = SA_RESTART;
    sigaction(SIGINT, &action, &interrupt_);
    sigaction(SIGTERM, &action, &terminate_);
    // StarPU would put handlers of its own before these. A value from outside wins.
    setenv("STARPU_CATCH_SIGNALS", "0", 0);
  }
  ~StopSignals() {
    sigaction(SIGINT, &interrupt_, nullptr);
    sigaction(SIGTERM, &terminate_, nullptr);
  }
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

 private:
  struct sigaction interrupt_ {};
  struct sigaction terminate_ {};
};

std::function<void()> last_words;

extern "C" void stpt_on_abort(int) {
  std::signal(SIGABRT, SIG_DFL);
  last_words();
  _exit(failed);
}

/// StarPU aborts the process where CUDA fails in its own calls, as it does once a GPU is lost.
/// While this lives `speak` is called first, in the thread that aborts, and the process exits with
/// status 1.
class BeforeAbort {
 public:
  explicit BeforeAbort(std::function<void()> speak) {
    last_words = std::move(speak);
    before_ = std::signal(SIGABRT, stpt_on_abort);
  }
  ~BeforeAbort() { std::signal(SIGABRT, before_); }
  BeforeAbort(const BeforeAbort&) = delete;
  BeforeAbort& operator=(const BeforeAbort&) = delete;

 private:
  void (*before_)(int);
};

/// What to say of a GPU that failed under StarPU.
std::string gpu_failure() {
  std::string why;
  if (runtime::Runtime::alive()) why = one_line(runtime::Runtime::current().failure().message());
  if (why.empty()) why = "CUDA failed in StarPU, whose message stands above";
  return why + "; the last checkpoint is kept: see nvidia-smi, then go on with --resume";
}

// ---- Training --------------------------------------------------------------------------------

/// "runs/quickstart: test accuracy 91.20 % (best 91.35 % in epoch 9), ..."
std::string result_line(const RunRecord& run, const RunDirectory& directory) {
  std::string line = directory.path().string() + ": ";
  const std::string done = std::to_string(run.epochs.size());
  if (run.status == "stopped") {
    line += "stopped after " + done + " of " + std::to_string(run.epochs_planned) + " epochs; ";
  }
  if (!run.epochs.empty()) {
    const EpochRecord& last = run.epochs.back();
    const EpochRecord& best = *std::ranges::max_element(run.epochs, {}, &EpochRecord::test_top1);
    line += "test accuracy " + percent(last.test_top1) + " (best " + percent(best.test_top1) +
            " in epoch " + std::to_string(best.epoch) + "), final learning rate " +
            format_learning_rate(last.learning_rate) + ", ";
  }
  line += format_duration(run.wall_seconds) + "; report: " + directory.file(report_name).string();
  std::error_code ignored;
  if (run.status == "stopped" &&
      (run.epochs.empty() || fs::exists(directory.file(checkpoint_name), ignored))) {
    line += "; go on: stpt_starpu --resume " + directory.path().string();
  }
  return line + "\n";
}

/// "2 images cannot be read; others of their class stand in: a.jpg: is empty; b.jpg: ..."
std::string unreadable_line(const std::vector<std::string>& images) {
  constexpr std::size_t shown = 3;
  std::string line = std::to_string(images.size()) + (images.size() == 1 ? " image" : " images") +
                     " cannot be read; others of the class stand in: ";
  for (std::size_t i = 0; i < std::min(shown, images.size()); ++i) {
    line += (i == 0 ? "" : "; ") + one_line(images[i]);
  }
  if (images.size() > shown) line += "; and " + std::to_string(images.size() - shown) + " more";
  return line;
}

void write_results(const RunDirectory& directory, const RunRecord& run) {
  directory.write_summary(run);
  directory.write_report(run);
}

/// Keeps what there is; it is the first failure that a person has to know of.
void write_failure(const RunDirectory& directory, RunRecord run, const std::string& failure) {
  run.status = "failed";
  run.failure = failure;
  try {
    write_results(directory, run);
  } catch (const std::exception&) {
    // The disk is full, most likely: that is what `failure` says.
  }
}

/// What rank 0 writes and shows while the job trains. Other ranks' failures come from a thread of
/// their own, hence the lock.
class RunOutput {
 public:
  RunOutput(RunDirectory& directory, const RunRecord& start, std::string version,
            std::vector<RankRecord> ranks)
      : directory_(directory),
        version_(std::move(version)),
        ranks_(std::move(ranks)),
        earlier_seconds_(start.wall_seconds),
        last_(stamped(start)) {}

  /// `notice` is to be said first, if there is one; `shortage` says which GPUs were asked for and
  /// are not there.
  void begin(const std::string& notice, const std::string& shortage) {
    if (!notice.empty()) progress_.message(notice);
    if (!shortage.empty()) progress_.message(shortage + "; training on " + last_.device);
    if (!directory_.locked()) {
      progress_.message(directory_.path().string() +
                        ": the file system has no locks; see to it that no other process writes "
                        "there");
    }
    directory_.begin_metrics(last_);
    write_results(directory_, last_);
    progress_.message("writing to " + directory_.path().string() + "; watch " +
                      directory_.file(report_name).string());
  }

  [[nodiscard]] TrainerObserver observer() {
    TrainerObserver observer;
    observer.progress = [this](const ProgressState& state) {
      const std::scoped_lock lock(mutex_);
      if (!failed_) progress_.update(state);
    };
    observer.epoch_done = [this](const RunRecord& run, const Checkpoint* checkpoint) {
      const std::scoped_lock lock(mutex_);
      if (failed_) return;
      last_ = stamped(run);
      // The checkpoint comes after the line in the metrics: to resume needs both.
      directory_.append_epoch(last_.epochs.back());
      if (checkpoint != nullptr) save_checkpoint(directory_.file(checkpoint_name), *checkpoint);
      write_results(directory_, last_);
      progress_.epoch_done(last_.epochs.back());
    };
    return observer;
  }

  /// Says which images cannot be read if there are more than when it was last called.
  void name_unreadable(const std::vector<std::string>& images) {
    const std::scoped_lock lock(mutex_);
    if (images.size() > named_) progress_.message(unreadable_line(images));
    named_ = images.size();
  }

  void finish(const RunRecord& run) {
    const std::scoped_lock lock(mutex_);
    progress_.finish();
    write_results(directory_, stamped(run));
    print(result_line(run, directory_));
  }

  /// Writes and tells the first failure.
  void fail(const std::string& failure) {
    const std::scoped_lock lock(mutex_);
    if (std::exchange(failed_, true)) return;
    progress_.finish();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
    RunRecord run = last_;
    run.wall_seconds = earlier_seconds_ + elapsed.count();
    write_failure(directory_, std::move(run), failure);
    print_error(failure);
  }

 private:
  [[nodiscard]] RunRecord stamped(RunRecord run) const {
    run.version = version_;
    run.ranks = ranks_;
    return run;
  }

  RunDirectory& directory_;
  std::string version_;
  std::vector<RankRecord> ranks_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double earlier_seconds_;
  RunRecord last_;
  ProgressLine progress_{std::cerr, isatty(STDERR_FILENO) == 1};
  bool failed_ = false;
  std::size_t named_ = 0;  ///< unreadable images
  std::mutex mutex_;
};

/// 128 plus the signal that stopped the job, which may have reached another rank.
int stop_status() {
  const std::vector<int> mine = {stop_signal.load()};
  int signal = 0;
  for (const auto& bytes : runtime::Cluster::current().all_gather(runtime::bytes_of(mine)))
    signal = std::max(signal, runtime::values_of<int>(bytes).front());
  return 128 + signal;
}

/// Rank 0's part of a training, in a directory that is ready for it.
int train_in(RunDirectory& directory, Trainer& trainer, const std::string& version,
             const std::vector<RankRecord>& ranks, const std::string& notice) {
  runtime::Cluster& cluster = runtime::Cluster::current();
  RunOutput output(directory, trainer.record(), version, ranks);
  cluster.watch([&output](const std::string& failure) { output.fail(one_line(failure)); });
  std::optional<BeforeAbort> before_abort;
  if (!trainer.gpus().gpus.empty()) {
    before_abort.emplace([&] {
      output.fail(cluster.size() > 1 ? cluster.here() + ": " + gpu_failure() : gpu_failure());
      if (cluster.size() > 1) cluster.abandon("", failed);
    });
  }
  TrainerObserver observer = output.observer();
  observer.epoch_done = [&, record = observer.epoch_done](const RunRecord& run,
                                                          const Checkpoint* checkpoint) {
    record(run, checkpoint);
    output.name_unreadable(trainer.unreadable_images());
  };
  observer.abandon = [&](const std::exception& error) {
    output.fail(cluster.here() + ": " + message_of(error));
    cluster.abandon("", failed);
  };
  try {
    output.begin(notice, trainer.gpus().shortage);
    const RunRecord run = trainer.run(observer, &stop_requested);
    output.finish(run);
    return run.status == "stopped" ? stop_status() : 0;
  } catch (const std::exception& error) {
    if (cluster.size() > 1) observer.abandon(error);
    output.fail(message_of(error));
    return failed;
  }
}

/// Another rank's part: it trains, and writes no files.
int train_along(Trainer& trainer) {
  runtime::Cluster& cluster = runtime::Cluster::current();
  cluster.watch([](const std::string& failure) { print_error(one_line(failure)); });
  std::optional<BeforeAbort> before_abort;
  if (!trainer.gpus().gpus.empty())
    before_abort.emplace([&] { cluster.abandon(gpu_failure(), failed); });
  TrainerObserver observer;
  observer.abandon = [&](const std::exception& error) {
    cluster.abandon(message_of(error), failed);
  };
  try {
    const RunRecord run = trainer.run(observer, &stop_requested);
    const std::vector<std::string> unreadable = trainer.unreadable_images();
    if (!unreadable.empty()) print_error(cluster.here() + ": " + unreadable_line(unreadable));
    return run.status == "stopped" ? stop_status() : 0;
  } catch (const std::exception& error) {
    cluster.abandon(message_of(error), failed);
  }
}

/// The record until the checkpoint. Later epochs are in the metrics if the run ended between the
/// two; they are done again.
RunRecord record_until(const Checkpoint& checkpoint, const RunDirectory& directory) {
  RunRecord run = directory.read_metrics();
  std::erase_if(run.epochs,
                [&](const EpochRecord& epoch) { return epoch.epoch > checkpoint.epoch; });
  if (std::ssize(run.epochs) != checkpoint.epoch) {
    throw CheckpointError(directory.path().string() + ": metrics.jsonl has " +
                          std::to_string(run.epochs.size()) + " of the " +
                          std::to_string(checkpoint.epoch) +
                          " epochs of the checkpoint; start a new run");
  }
  run.wall_seconds = checkpoint.wall_seconds;
  run.status = directory.is_complete() ? "complete" : "running";
  return run;
}

/// The run ended before it had saved anything to go on from, so that it starts over. One that got
/// further and has no checkpoint saves none, or has lost it: its epochs are not thrown away.
bool ended_before_checkpoint(const RunDirectory& directory, const RunFile& file) {
  std::error_code error;
  const fs::file_status checkpoint = fs::symlink_status(directory.file(checkpoint_name), error);
  if (checkpoint.type() != fs::file_type::not_found) return false;
  // The first epoch's line comes before its checkpoint.
  return directory.read_metrics().epochs.size() <= (file.saved_checkpoints ? 1U : 0U);
}

/// A start that failed on some rank: what to say, once, and the status for all.
class StartError : public std::runtime_error {
 public:
  StartError(const std::string& message, int status)
      : std::runtime_error(message), status_(status) {}
  [[nodiscard]] int status() const { return status_; }

 private:
  int status_;
};

bool blames_input(const std::exception& error);

/// Does something on every rank and goes on only if it worked on all of them: else all throw the
/// first failing rank's error. On a job of one rank errors pass as they are.
template <class Step>
void on_all_ranks(Step step) {
  runtime::Cluster& cluster = runtime::Cluster::current();
  if (cluster.size() == 1) return step();
  // The status as one character, and the message.
  std::string outcome = "0";
  try {
    step();
  } catch (const std::exception& error) {
    outcome = std::to_string(blames_input(error) ? bad_input : failed) + message_of(error);
  }
  const auto outcomes = cluster.all_gather(std::as_bytes(std::span(outcome)));
  const auto text = [&](std::size_t rank) {
    return std::string(reinterpret_cast<const char*>(outcomes[rank].data()), outcomes[rank].size());
  };
  bool all_alike = true;
  std::size_t first = outcomes.size();
  for (std::size_t rank = outcomes.size(); rank-- > 0;) {
    all_alike = all_alike && text(rank) == text(0);
    if (text(rank).front() != '0') first = rank;
  }
  // Hosts by a second exchange, which all ranks reach.
  const auto hosts = cluster.all_gather(std::as_bytes(std::span(cluster.host())));
  if (first == outcomes.size()) return;
  const std::string message = text(first).substr(1);
  const std::string host(reinterpret_cast<const char*>(hosts[first].data()), hosts[first].size());
  throw StartError(
      all_alike ? message : "rank " + std::to_string(first) + " (" + host + "): " + message,
      text(first).front() - '0');
}

/// Rank 0's text, on all ranks.
std::string rank_0s(const std::string& text) {
  const auto bytes = runtime::Cluster::current().broadcast(std::as_bytes(std::span(text)));
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// All ranks have the same program, config and data; else an error that says which rank has not.
void check_agreement(const RunFile& file, const Trainer& trainer, const std::string& version) {
  if (runtime::Cluster::current().size() == 1) return;
  const std::string other_version = rank_0s(version);
  const std::string config = print_config(file.config), other_config = rank_0s(config);
  const std::string data = trainer.data_checksum(), other_data = rank_0s(data);
  const std::string kind = trainer.gpus().gpus.empty() ? "cores" : "GPUs",
                    other_kind = rank_0s(kind);
  on_all_ranks([&] {
    if (version != other_version) {
      throw ConfigError("", "",
                        "this is stpt_starpu " + version + ", on rank 0 it is " + other_version +
                            "; all ranks must run the same program");
    }
    if (config != other_config) {
      const std::string key = find_change(read_json(other_config), read_json(config), "");
      throw ConfigError(file.name, key.empty() ? "runtime" : key,
                        "differs from rank 0's; all ranks must train with the same config");
    }
    if (kind != other_kind) {
      throw ConfigError(file.name, "runtime",
                        "this rank would train on " + kind + ", rank 0 on " + other_kind +
                            "; set STARPU_NCUDA=0 for all to train on cores");
    }
    if (data != other_data) {
      throw data::DataError(trainer.record().dataset +
                            ": the images or labels differ from rank 0's; all ranks must read the "
                            "same data");
    }
  });
}

/// Host and device of every rank; empty for a job of one.
std::vector<RankRecord> describe_ranks(const Trainer& trainer) {
  runtime::Cluster& cluster = runtime::Cluster::current();
  if (cluster.size() == 1) return {};
  const std::string mine = cluster.host() + "\n" + trainer.record().device;
  std::vector<RankRecord> ranks;
  for (const auto& bytes : cluster.all_gather(std::as_bytes(std::span(mine)))) {
    const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    const std::size_t end = text.find('\n');
    ranks.push_back({text.substr(0, end), text.substr(end + 1)});
  }
  return ranks;
}

/// Every rank must have a logical worker to train with.
void check_ranks(const RunFile& file) {
  const int ranks = runtime::Cluster::current().size();
  if (file.config.training.workers >= ranks) return;
  throw ConfigError(file.name, "training.workers",
                    "is " + std::to_string(file.config.training.workers) + ", but the job has " +
                        std::to_string(ranks) + " ranks; each needs at least one worker");
}

int train(const CommandLine& line, const std::string& version) {
  runtime::Cluster& cluster = runtime::Cluster::current();
  const bool writes = cluster.rank() == 0;
  const fs::path output = line.output.value_or("");
  RunFile file;
  std::optional<RunDirectory> directory;  // of the rank that writes
  std::optional<Trainer> trainer;
  bool starts_over = false;  // a run to go on with that has no checkpoint yet
  on_all_ranks([&] {
    if (line.resume && writes) {
      // Before anything in it is read, which another process may be about to change.
      directory.emplace(RunDirectory::open(*line.resume));
      directory->lock();
    }
    file = load_run_file(line);
    if (!line.resume && writes) RunDirectory::check(output);
    check_runtime(file);
    check_ranks(file);
    if (directory) starts_over = ended_before_checkpoint(*directory, file);
  });
  starts_over = rank_0s(starts_over ? "yes" : "no") == "yes";
  on_all_ranks([&] {
    Config config = file.config;
    // The checkpoint has them; the file may be gone.
    if (line.resume && !starts_over) config.model.weights.clear();
    trainer.emplace(config, file.name);
  });
  check_agreement(file, *trainer, version);
  const std::vector<RankRecord> ranks = describe_ranks(*trainer);
  const StopSignals signals;
  on_all_ranks([&] {
    if (!writes) return;
    if (line.resume && !starts_over) {
      Checkpoint checkpoint = load_checkpoint(directory->file(checkpoint_name));
      const RunRecord record = record_until(checkpoint, *directory);
      trainer->resume(std::move(checkpoint), record);
    } else if (!line.resume) {
      directory.emplace(RunDirectory::create(output, file.config.name));
    }
    directory->write_config(print_config(file.config));
  });
  if (!writes) return train_along(*trainer);
  const std::string notice =
      starts_over ? directory->path().string() +
                        ": the run ended before its first checkpoint; it starts from the beginning"
                  : "";
  return train_in(*directory, *trainer, version, ranks, notice);
}

// ---- The other actions -----------------------------------------------------------------------

std::string validate_run(const CommandLine& line) {
  const RunFile file = load_run_file(line);
  RunDirectory::check(line.output.value_or(""));
  check_runtime(file);
  // All that the trainer does before it trains.
  const Experiment experiment(file.config, file.name);
  const auto count = [](std::size_t value) { return format_count(static_cast<double>(value)); };
  return file.name + ": ok\n" + experiment.network.name + ": " +
         format_count(static_cast<double>(experiment.network.parameter_count())) + " parameters; " +
         count(experiment.split.training.size()) + " training, " +
         count(experiment.split.hold_out.size()) + " hold-out and " +
         count(experiment.data.test->size()) + " test images; " +
         std::to_string(experiment.iterations_per_epoch) + " iterations per epoch; about " +
         memory_text(experiment.memory_bytes()) + " of memory\n";
}

/// The model of the run's last checkpoint, which the run directory alone must suffice for.
std::string export_model(const CommandLine& line) {
  const RunDirectory directory = RunDirectory::open(*line.run);
  const std::string config_file = directory.file(config_name).string();
  const Config config = parse_config(
      read_run_file(config_file, "--export needs the directory of a run"), config_file);
  if (config.stpt.running_statistics == RunningStatistics::recalibrate) {
    throw ConfigError(
        config_file, "stpt.running_statistics",
        "is recalibrate, so that the model's running statistics are in no checkpoint; "
        "only runs with winner can be exported");
  }
  const fs::path checkpoint_file = directory.file(checkpoint_name);
  const Checkpoint checkpoint = load_checkpoint(checkpoint_file);
  const RunRecord run = record_until(checkpoint, directory);
  if (run.classes == 0) {
    throw CheckpointError(directory.path().string() +
                          ": metrics.jsonl does not say how large the images are; it was written "
                          "by an older version, export with a run of this one");
  }
  const models::Network network = build_network(
      config.model, {1, run.channels, run.height, run.width}, run.classes, config_file);
  if (!checkpoint.model.fits(network, config.training.workers)) {
    throw CheckpointError(checkpoint_file.string() + ": its tensors are not those of " +
                          network.name + "; must be the checkpoint of the run's config");
  }
  std::int64_t iterations = 0;
  for (const EpochRecord& epoch : run.epochs) iterations += epoch.iterations;
  const fs::path file = line.to ? fs::path(*line.to) : directory.file("model.safetensors");
  export_weights(file, network, checkpoint.model, iterations);
  return file.string() + ": " + network.name + " after epoch " + std::to_string(checkpoint.epoch) +
         ", " + format_count(static_cast<double>(network.parameter_count())) + " parameters\n";
}

std::string models_table() {
  constexpr int classes = 10;
  std::vector<std::array<std::string, 5>> rows = {
      {"name", "input", "parameters", "MFLOPs", "description"}};
  for (const models::ModelInfo& info : models::available_models()) {
    const models::Network network = models::make_network(info.name, info.usual_input, classes);
    const runtime::Shape& input = info.usual_input;
    rows.push_back(
        {info.name,
         std::to_string(input.c) + "x" + std::to_string(input.h) + "x" + std::to_string(input.w),
         format_count(static_cast<double>(network.parameter_count())),
         format("%.2f", network.flops_per_image() / 1e6), info.description});
  }
  std::array<std::size_t, 5> widths{};
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - row[i].size(), ' ');
      const bool is_number = i == 2 || i == 3;
      if (i > 0) out += "  ";
      out += is_number ? padding + row[i] : row[i] + (i + 1 < row.size() ? padding : "");
    }
    out += '\n';
  }
  return out +
         "\nInput: channels x height x width; other sizes do, too. MFLOPs: 10^6 floating-point\n"
         "operations of the forward pass for one image and 10 classes, 2 per multiply-add.\n";
}

int perform(const CommandLine& line, const std::string& version) {
  switch (line.action) {
    case Action::train:
      return train(line, version);
    case Action::validate:
      print(validate_run(line));
      break;
    case Action::export_model:
      print(export_model(line));
      break;
    case Action::print_config:
      print(print_config(load_run_file(line).config));
      break;
    case Action::print_config_docs:
      print(config_documentation());
      break;
    case Action::list_models:
      print(models_table());
      break;
    case Action::help:
      print(help_text());
      break;
    case Action::version:
      print("stpt_starpu " + version + "\n");
      break;
  }
  return 0;
}

bool blames_input(const std::exception& error) {
  return dynamic_cast<const UsageError*>(&error) != nullptr ||
         dynamic_cast<const ConfigError*>(&error) != nullptr ||
         dynamic_cast<const data::DataError*>(&error) != nullptr ||
         dynamic_cast<const OutputError*>(&error) != nullptr ||
         dynamic_cast<const CheckpointError*>(&error) != nullptr;
}

}  // namespace

int run_application(int argc, const char* const* argv, const std::string& version) {
  try {
    const runtime::Cluster cluster;
    try {
      const CommandLine line = parse_command_line(argc, argv);
      // Of what only shows something, one answer is enough.
      return cluster.rank() == 0 || line.action == Action::train ? perform(line, version) : 0;
    } catch (const StartError& error) {
      if (cluster.rank() == 0) print_error(error.what());
      return error.status();
    }
  } catch (const std::exception& error) {
    print_error(message_of(error));
    return blames_input(error) ? bad_input : failed;
  }
}

}  // namespace stpt
