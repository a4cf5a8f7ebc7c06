#include "stpt/application.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <optional>
#include <span>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "models/zoo.hpp"
#include "runtime/cluster.hpp"
#include "runtime/environment.hpp"
#include "runtime/runtime.hpp"
#include "stpt/command_line.hpp"
#include "stpt/config/config.hpp"
#include "stpt/config/run_file.hpp"
#include "stpt/experiment.hpp"
#include "stpt/files/checkpoint.hpp"
#include "stpt/files/run_directory.hpp"
#include "stpt/files/weights.hpp"
#include "stpt/messages.hpp"
#include "stpt/ranks.hpp"
#include "stpt/run_output.hpp"
#include "stpt/signals.hpp"
#include "stpt/tester.hpp"
#include "stpt/trainer.hpp"

namespace stpt {
namespace {

namespace fs = std::filesystem;

// ---- The run file ----------------------------------------------------------------------------

struct RunFile : ParsedConfig {
  bool saved_checkpoints = false;  ///< of a run that goes on: runtime.checkpoint until now
};

RunFile load_run_file(const CommandLine& line) {
  if (line.resume) {
    const std::string name = RunDirectory::open(*line.resume).file(config_name).string();
    const std::string text = read_run_file(name, "--resume needs the directory of a run");
    const Config before = parse_config(text, name);
    RunFile file{parse_run_file(text, name, line.overrides), before.runtime.checkpoint};
    const std::string change = first_difference(
        before, file.config, [](std::string_view key) { return !may_change_on_resume(key); });
    if (!change.empty()) {
      throw ConfigError("--set", change,
                        "cannot change in a run that goes on; only " + keys_free_on_resume() +
                            " can, start a new run for others");
    }
    return file;
  }
  const std::string name = line.config.value_or("the defaults");
  const std::string text =
      line.config ? read_run_file(*line.config, "--config needs a run file") : "{}";
  return {parse_run_file(text, name, line.overrides)};
}

/// What the installed StarPU cannot do, or its environment asks for; it would only say so once the
/// run has begun, or abort.
void check_runtime(const RunFile& file) {
  const RuntimeConfig& config = file.config.runtime;
  if (const int most = runtime::Runtime::most_cpu_workers(); config.cpu_workers > most) {
    throw ConfigError(file.source, "runtime.cpu_workers",
                      "is " + std::to_string(config.cpu_workers) +
                          "; this StarPU was built for at most " + std::to_string(most));
  }
  if (const std::string problem = runtime::scheduler_problem(config.scheduler); !problem.empty())
    throw ConfigError(file.source, "runtime.scheduler", problem);
  try {
    (void)runtime::Environment::read();
  } catch (const std::invalid_argument& error) {
    throw ConfigError("", "", error.what());
  }
}

// ---- Training --------------------------------------------------------------------------------

/// What to say when StarPU aborts the process, or the C++ library, or a library below them.
std::string abort_failure(const Experiment& experiment) {
  std::string why;
  if (runtime::Runtime::alive()) why = one_line(runtime::Runtime::current().failure().message());
  if (why.empty())
    why = "the program was aborted, by StarPU or a library; standard error may say why";
  if (!experiment.gpu_choice.gpus.empty()) why += "; if it was CUDA, see nvidia-smi";
  return why;
}

/// 128 plus the signal that stopped the job, which may have reached another rank.
int stop_status() {
  int signal = 0;
  for (const auto& rank : runtime::Cluster::current().all_gather(std::vector{StopSignals::last()}))
    signal = std::max(signal, rank.front());
  return 128 + signal;
}

/// Why another rank ends the job, as long as there is no record of the run to write it to.
void tell_failure(const std::string& failure) { print_error(one_line(failure)); }

/// While it lives such a failure is recorded.
class FailureRecorder {
 public:
  explicit FailureRecorder(RunOutput& output) {
    runtime::Cluster::current().watch(
        [&output](const std::string& failure) { output.fail(one_line(failure)); });
  }
  ~FailureRecorder() { runtime::Cluster::current().watch(tell_failure); }
  FailureRecorder(const FailureRecorder&) = delete;
  FailureRecorder& operator=(const FailureRecorder&) = delete;
};

/// Rank 0's part of a training, in a directory that is ready for it.
int train_in(RunDirectory& directory, Trainer& trainer, const std::string& version,
             const std::vector<RankRecord>& ranks, std::span<const std::string> notices) {
  runtime::Cluster& cluster = runtime::Cluster::current();
  RunOutput output(directory, trainer.record(), version, ranks);
  const FailureRecorder failure_recorder(output);
  const BeforeAbort before_abort([&] {
    std::string failure = abort_failure(trainer.experiment());
    std::error_code ignored;
    if (fs::exists(directory.file(checkpoint_name), ignored))
      failure += "; the last checkpoint is kept: go on with --resume";
    output.fail(cluster.size() > 1 ? cluster.here() + ": " + failure : failure);
    if (cluster.size() > 1) cluster.abandon("", failed);
  });
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
  RunRecord run;
  try {
    output.begin(notices);
    run = trainer.run(observer, &StopSignals::requested());
    if (!output.finish(run)) return failed;
  } catch (const std::exception& error) {
    if (cluster.size() > 1) observer.abandon(error);
    output.fail(message_of(error));
    return blames_data(error) ? bad_input : failed;
  }
  const int status = run.status == "stopped" ? stop_status() : 0;
  // The run is what its files say, even if this cannot be printed.
  output.print_result(run);
  return status;
}

/// Another rank's part: it trains, and writes no files.
int train_along(Trainer& trainer) {
  runtime::Cluster& cluster = runtime::Cluster::current();
  const BeforeAbort before_abort(
      [&] { cluster.abandon(abort_failure(trainer.experiment()), failed); });
  TrainerObserver observer;
  observer.abandon = [&](const std::exception& error) {
    cluster.abandon(message_of(error), failed);
  };
  try {
    const RunRecord run = trainer.run(observer, &StopSignals::requested());
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

int train(const CommandLine& line, const std::string& version) {
  ignore_broken_pipes();
  runtime::Cluster& cluster = runtime::Cluster::current();
  cluster.watch(tell_failure);
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
    check_workers_of_ranks(file.config, file.source);
    if (directory) starts_over = ended_before_checkpoint(*directory, file);
  });
  starts_over = cluster.broadcast(starts_over);
  on_all_ranks([&] {
    Config config = file.config;
    // The checkpoint has them; the file may be gone.
    if (line.resume && !starts_over) {
      config.model.weights.clear();
      config.model.new_layers.clear();
    }
    trainer.emplace(config, file.source);
  });
  check_agreement(file.config, file.source, trainer->experiment(), version);
  const std::vector<RankRecord> ranks = describe_ranks(trainer->record().device);
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
  std::vector<std::string> notices;
  if (starts_over) {
    notices.push_back(directory->path().string() +
                      ": the run ended before its first checkpoint; it starts from the beginning");
  }
  if (const std::string& shortage = trainer->experiment().gpu_choice.shortage; !shortage.empty())
    notices.push_back(shortage + "; training on " + trainer->record().device);
  if (const std::string caution = trainer->experiment().caution(); !caution.empty())
    notices.push_back(caution);
  return train_in(*directory, *trainer, version, ranks, notices);
}

// ---- Testing ---------------------------------------------------------------------------------

int test_model(const CommandLine& line, const std::string& version) {
  runtime::Cluster& cluster = runtime::Cluster::current();
  cluster.watch(tell_failure);
  RunFile file;
  std::optional<Tester> tester;
  on_all_ranks([&] {
    file = load_run_file(line);
    check_runtime(file);
    if (line.resume) {
      const RunDirectory directory = RunDirectory::open(*line.resume);
      Checkpoint checkpoint = load_checkpoint(directory.file(checkpoint_name));
      const int classes = record_until(checkpoint, directory).classes;
      tester.emplace(file.config, file.source, std::move(checkpoint), classes);
    } else {
      tester.emplace(file.config, file.source);
    }
  });
  const Experiment& experiment = tester->experiment();
  check_agreement(file.config, file.source, experiment, version);
  const auto end = [&cluster](const std::string& failure) {
    if (cluster.size() > 1) cluster.abandon(failure, failed);
    print_error(failure);
  };
  const BeforeAbort before_abort([&] { end(abort_failure(experiment)); });
  try {
    const TestResult result =
        tester->test([&](const std::exception& error) { end(message_of(error)); });
    if (cluster.rank() > 0) return 0;
    print(experiment.network.name + " on " + format_count(result.images) + " test images of " +
          experiment.data.name + ": accuracy " + format("%.2f %%", 100 * result.top1) +
          (experiment.network.classes > 5
               ? format(", among the best five %.2f %%", 100 * result.top5)
               : "") +
          ", loss " + format("%.6g", result.loss) + "\n");
  } catch (const std::exception& error) {
    print_error(message_of(error));
    return blames_data(error) ? bad_input : failed;
  }
  return 0;
}

// ---- The other actions -----------------------------------------------------------------------

std::string memory_text(std::uint64_t bytes) {
  const double mebibytes = static_cast<double>(bytes) / (1024.0 * 1024.0);
  if (mebibytes < 1) return "less than 1 MiB";
  return mebibytes < 1024 ? format("about %.0f MiB", mebibytes)
                          : format("about %.1f GiB", mebibytes / 1024);
}

std::string validate_run(const CommandLine& line) {
  const RunFile file = load_run_file(line);
  RunDirectory::check(line.output.value_or(""));
  check_runtime(file);
  // All that the trainer does before it trains.
  const Experiment experiment(file.config, file.source);
  const std::string caution = experiment.caution();
  return file.source.file() + ": ok\n" + experiment.network.name + ": " +
         format_count(experiment.network.parameter_count()) + " parameters; " +
         format_count(experiment.split.training.size()) + " training, " +
         format_count(experiment.split.hold_out.size()) + " hold-out and " +
         format_count(experiment.data.test->size()) + " test images; " +
         std::to_string(experiment.iterations_per_epoch) +
         (experiment.iterations_per_epoch == 1 ? " iteration" : " iterations") + " per epoch; " +
         memory_text(experiment.memory_bytes()) +
         " of memory for training, besides the program and the data set as loaded\n" +
         (caution.empty() ? "" : caution + "\n");
}

/// The model of the run's last checkpoint, which the run directory alone must suffice for.
std::string export_model(const CommandLine& line) {
  const RunDirectory directory = RunDirectory::open(*line.run);
  const fs::path file =
      line.to ? directory.other_file(*line.to, "--to") : directory.file("model.safetensors");
  const std::string config_file = directory.file(config_name).string();
  const Config config = parse_config(
      read_run_file(config_file, "--export needs the directory of a run"), config_file);
  Checkpoint checkpoint = load_checkpoint(directory.file(checkpoint_name));
  check_made_with(checkpoint, config);
  const RunRecord run = record_until(checkpoint, directory);
  const models::Network network = build_network(
      config.model, {1, run.channels, run.height, run.width}, run.classes, config_file);
  arrange_model(checkpoint, network, config.training.workers,
                optimizer_settings(config.training.optimizer).rule);
  std::int64_t iterations = 0;
  for (const EpochRecord& epoch : run.epochs) iterations += epoch.iterations;
  export_weights(file, network, checkpoint.model, iterations, checkpoint.normalization,
                 run.class_names);
  return file.string() + ": " + network.name + " after epoch " + std::to_string(checkpoint.epoch) +
         ", " + format_count(network.parameter_count()) + " parameters\n";
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
         format_count(network.parameter_count()), format("%.2f", network.flops_per_image() / 1e6),
         info.description});
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
    case Action::test:
      return test_model(line, version);
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

/// What is asked for, which is the same on all ranks; else an error that says which rank differs.
CommandLine agreed_command_line(int argc, const char* const* argv) {
  CommandLine line;
  on_all_ranks([&] { line = parse_command_line(argc, argv); });
  const Action other = runtime::Cluster::current().broadcast(line.action);
  on_all_ranks([&] {
    if (line.action == other) return;
    throw UsageError(
        "the command line asks for something else than rank 0's; all ranks must have the same");
  });
  return line;
}

}  // namespace

int run_application(int argc, const char* const* argv, const std::string& version) {
  fill_standard_files();
  ignore_file_size_limit();
  try {
    const runtime::Cluster cluster;
    try {
      const CommandLine line = agreed_command_line(argc, argv);
      // Of what only shows something, one answer is enough.
      const bool by_all = line.action == Action::train || line.action == Action::test;
      return cluster.rank() == 0 || by_all ? perform(line, version) : 0;
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
