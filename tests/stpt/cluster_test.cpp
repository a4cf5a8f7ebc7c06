// Training over several ranks, as mpirun starts it: the same bits on any number of them, and an end
// for all when one fails.
#include "runtime/cluster.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <chrono>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "models/team.hpp"
#include "models/zoo.hpp"
#include "runtime/machine.hpp"
#include "stpt/config/json_text.hpp"
#include "stpt/data_parallel.hpp"
#include "tests/catch.hpp"
#include "tests/stpt/program.hpp"

namespace stpt {
namespace {

namespace json = boost::json;
using namespace testing;

/// 4 classes of 12x12 images, 6 steps an epoch.
constexpr const char* small_run = R"({
  "name": "small",
  "model": {"name": "mlp"},
  "data": {"format": "synthetic", "hold_out": 61,
           "synthetic": {"classes": 4, "channels": 1, "height": 12, "width": 12,
                         "train_images": 300, "test_images": 101}},
  "training": {"epochs": 2, "workers": 5, "batch_per_worker": 8,
               "learning_rate": {"initial": 0.05, "anneal": {"form": "none"}}},
  "stpt": {"alpha": 2, "candidates": [2, 1, 0.5]},
  "runtime": {"cpu_workers": 1}
})";

/// A job that hangs is killed: the limit is far above what any of these takes. Open MPI's plugins
/// leak as they are unloaded: a sanitized program would say so.
Arguments launcher(int ranks) {
  return {"env",
          "LSAN_OPTIONS=detect_leaks=0",
          "timeout",
          "--kill-after=5",
          "240",
          STPT_MPIEXEC,
          "-n",
          std::to_string(ranks),
          "--allow-run-as-root",
          "--oversubscribe",
          "--bind-to",
          "none"};
}

Arguments with(Arguments arguments, const Arguments& more) {
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

Arguments settings(const Arguments& values) {
  Arguments arguments;
  for (const std::string& value : values) {
    arguments.emplace_back("--set");
    arguments.push_back(value);
  }
  return arguments;
}

/// What a run left behind that must not depend on where it ran.
struct Result {
  std::string digest;
  std::vector<std::string> epochs;  ///< metrics without times
  json::object last_epoch;
};

Result result_of(const fs::path& directory) {
  Result result;
  result.digest =
      read_json(read_file(directory / "summary.json")).at("model_digest").as_string().c_str();
  std::istringstream lines(read_file(directory / "metrics.jsonl"));
  std::string line;
  std::getline(lines, line);  // the header
  while (std::getline(lines, line)) {
    json::object epoch = read_json(line).as_object();
    result.last_epoch = epoch;
    for (const char* key : {"seconds", "seconds_pretrain", "seconds_score", "seconds_choose",
                            "seconds_main", "seconds_test", "images_per_second", "memory_bytes",
                            "rank_count", "bytes_sent", "messages_sent", "seconds_busy"}) {
      epoch.erase(key);
    }
    result.epochs.push_back(json::serialize(epoch));
  }
  return result;
}

Result train(Program& program, int ranks, const Arguments& values) {
  const std::string output = "on" + std::to_string(ranks);
  Arguments arguments = with({"--config", "run.json", "--output", output}, settings(values));
  fs::remove_all(program.folder() / output);
  const Outcome outcome =
      ranks == 1 ? program.run(arguments)
                 : program.run_command(with(with(launcher(ranks), {STPT_EXECUTABLE}), arguments));
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  return result_of(program.folder() / output);
}

void check_same(const Result& a, const Result& b) {
  CHECK(a.digest.size() == 64);
  CHECK(a.digest == b.digest);
  CHECK(a.epochs == b.epochs);
}

TEST_CASE("1, 2, 3 and 4 ranks give the same bits", "[cluster]") {
  const auto [name, values] = GENERATE(table<std::string, Arguments>({
      {"plain training", {"training.learning_rate.policy=fixed"}},
      {"STPT", {}},
      {"STPT with batch normalisation", {"model.name=resnet20"}},
      {"STPT with dropout",
       {R"(model.network={"name": "dropped", "layers": [{"type": "dropout", "rate": 0.2},
           {"name": "fc1", "type": "fully_connected", "outputs": 20}, {"type": "relu"},
           {"type": "dropout"}, {"name": "fc2", "type": "fully_connected"}]})"}},
      {"plain training with batch normalisation, a task per block",
       {"model.name=resnet20", "training.learning_rate.policy=fixed", "runtime.fusion=block"}},
  }));
  INFO(name);
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const Result one = train(program, 1, values);
  for (const int ranks : {2, 3, 4}) {
    INFO(ranks << " ranks");
    check_same(train(program, ranks, values), one);
  }
}

TEST_CASE("ranks share the test of a model", "[cluster]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  REQUIRE(program
              .run({"--config", "run.json", "--output", "out", "--set", "training.epochs=1",
                    "--set", "model.name=resnet8"})
              .status == 0);
  const Outcome one = program.run({"--test", "--resume", "out"});
  REQUIRE(one.status == 0);
  const Outcome three =
      program.run_command(with(launcher(3), {STPT_EXECUTABLE, "--test", "--resume", "out"}));
  CHECK(three.status == 0);
  CHECK(three.out == one.out);
}

TEST_CASE("ranks of one host name the cores that each has", "[cluster]") {
  constexpr int ranks = 2;
  Program program;
  write_file(program.folder() / "run.json", small_run);
  (void)train(program, ranks, {"training.epochs=1"});
  std::istringstream metrics(read_file(program.folder() / "on2/metrics.jsonl"));
  std::string header;
  std::getline(metrics, header);
  // Bound to some of them or within a quota, ranks have the same in common.
  cpu_set_t bound;
  REQUIRE(sched_getaffinity(0, sizeof bound, &bound) == 0);
  if (runtime::cores_by_quota() || CPU_COUNT(&bound) < sysconf(_SC_NPROCESSORS_ONLN)) return;
  const int cores = runtime::Machine::detect().cores;
  for (int rank = 0; rank < ranks; ++rank) {
    const int own = std::max(1, (rank + 1) * cores / ranks - rank * cores / ranks);
    const std::string device = read_json(header)
                                   .at("ranks")
                                   .at(static_cast<std::size_t>(rank))
                                   .at("device")
                                   .as_string()
                                   .c_str();
    CHECK_THAT(device, Catch::Matchers::StartsWith(std::to_string(own) + " core"));
  }
}

TEST_CASE("StarPU does not wonder at a rank that has one core", "[cluster]") {
  const int ranks = runtime::Machine::detect().cores;
  if (ranks < 2 || ranks > 4) return;
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const Outcome outcome = program.run_command(with(
      launcher(ranks), {STPT_EXECUTABLE, "--config", "run.json", "--set", "training.epochs=1"}));
  INFO(outcome.err);
  CHECK(outcome.status == 0);
  CHECK(outcome.err.find("CPU binding") == std::string::npos);
}

TEST_CASE("ranks that outnumber the cores have one worker each", "[cluster]") {
  const int ranks = runtime::Machine::detect().cores + 1;
  if (ranks < 3 || ranks > 5 || runtime::cores_by_quota() || !runtime::may_use_all_cores()) return;
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const auto workers_of = [&](const std::string& setting) {
    const Outcome outcome = program.run_command(
        with(launcher(ranks), {"env", "STARPU_WORKER_STATS=1", STPT_EXECUTABLE, "--config",
                               "run.json", "--set", "training.epochs=1", "--set", setting}));
    INFO(outcome.err);
    CHECK(outcome.status == 0);
    int count = 0;
    for (auto at = outcome.err.find("\nCPU "); at != std::string::npos;
         at = outcome.err.find("\nCPU ", at + 1))
      ++count;
    return count;
  };
  CHECK(workers_of("runtime.cpu_workers=0") == ranks);
  CHECK(workers_of("runtime.cpu_workers=2") == 2 * ranks);
}

TEST_CASE("replicas of any number share the ranks", "[cluster]") {
  const auto [name, values] = GENERATE(table<std::string, Arguments>({
      // The workers' batch: replicas on single ranks, or on teams.
      {"m < n", {"stpt.pretrain_batch=worker", "stpt.candidates=[2,1]"}},
      {"m = n", {"stpt.pretrain_batch=worker", "stpt.candidates=[4,2,1,0.5,0.25]"}},
      {"m > n, running statistics",
       {"stpt.pretrain_batch=worker", "stpt.candidates=[4,3,2,1,0.5,0.25]", "training.workers=4",
        "stpt.score_statistics=running", "model.name=resnet20"}},
      {"disjoint data, training window",
       {"stpt.replica_data=disjoint", "stpt.score=training_window", "stpt.score_window=2"}},
      {"recalibrated, momentum in the other form and reset",
       {"stpt.running_statistics=recalibrate", "stpt.recalibration_batches=3",
        "stpt.momentum=reset", "training.optimizer.momentum_form=lr_in_velocity",
        "model.name=resnet20", "stpt.candidates=[2,1]"}},
      {"AdamW, its means reset",
       {"training.optimizer.name=adamw", "stpt.momentum=reset", "stpt.pretrain_batch=worker",
        "stpt.candidates=[4,3,2,1,0.5,0.25]", "training.workers=4"}},
  }));
  INFO(name);
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const Result one = train(program, 1, values);
  for (const int ranks : {2, 3}) {
    INFO(ranks << " ranks");
    check_same(train(program, ranks, values), one);
  }
}

TEST_CASE("an epoch that falls apart is repeated by all ranks", "[cluster]") {
  // With a loss that is too high, or one that is not finite, which each rank sees in its own time.
  const auto [alpha, factor] =
      GENERATE(table<std::string, std::string>({{"2", "16"}, {"1", "1e9"}}));
  CAPTURE(factor);
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const Arguments values = {"stpt.alpha=" + alpha, "stpt.candidates=[1]", "stpt.max_collapses=100",
                            "stpt.max_retries=100",
                            R"(stpt.schedule=[{"from_epoch": 2, "candidates": [)" + factor + "]}]"};
  const Result one = train(program, 1, values);
  CHECK(one.last_epoch.at("collapses").to_number<int>() > 0);
  for (const int ranks : {2, 3}) {
    INFO(ranks << " ranks");
    check_same(train(program, ranks, values), one);
  }
}

TEST_CASE("a first epoch that teaches nothing is repeated by all ranks", "[cluster]") {
  // Until it does, or until training goes on from its first try.
  const std::string max_collapses = GENERATE("100", "1");
  CAPTURE(max_collapses);
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const Arguments values = {"model.name=lenet5",
                            "training.optimizer.name=adamw",
                            "stpt.alpha=1",
                            "stpt.candidates=[1]",
                            "training.workers=8",
                            "stpt.max_collapses=" + max_collapses,
                            "training.learning_rate.initial=0.6",
                            "training.epochs=1",
                            "data.synthetic.train_images=2109"};
  const Result one = train(program, 1, values);
  CHECK(one.last_epoch.at("collapses").to_number<int>() > 0);
  CHECK((one.last_epoch.at("base_learning_rate").to_number<double>() == 0.6) ==
        (max_collapses == "1"));
  for (const int ranks : {2, 3}) {
    INFO(ranks << " ranks");
    check_same(train(program, ranks, values), one);
  }
}

TEST_CASE("the winner goes to the others from whichever rank has it", "[cluster]") {
  // Three replicas on three ranks; only one of them learns.
  const auto [winner, candidates] = GENERATE(table<std::size_t, std::string>({
      {0, "[1,1e-4,1e-4]"},
      {1, "[1e-4,1,1e-4]"},
      {2, "[1e-4,1e-4,1]"},
  }));
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const Arguments values = {"stpt.candidates=" + candidates, "training.learning_rate.initial=0.2",
                            "stpt.alpha=3"};
  const Result one = train(program, 1, values);
  CHECK(one.last_epoch.at("candidates").at(winner).at("winner").as_bool());
  check_same(train(program, 3, values), one);
}

TEST_CASE("a replica that diverges on another rank is out", "[cluster]") {
  const std::string candidates = GENERATE("[1,1e30,1e30]", "[1e30,1,1e30]");
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const Arguments values = {"stpt.candidates=" + candidates, "stpt.alpha=3"};
  const Result one = train(program, 1, values);
  const json::array& tried = one.last_epoch.at("candidates").as_array();
  CHECK(std::ranges::count_if(tried, [](const json::value& candidate) {
          return candidate.at("diverged").as_bool();
        }) == 2);
  check_same(train(program, 3, values), one);
  check_same(train(program, 2, values), one);
}

TEST_CASE("a run goes on over another number of ranks", "[cluster]") {
  // A LR that has decayed already is to go on from there on every rank; and one with which training
  // fell apart is tried again on none.
  const auto [epochs, values] = GENERATE(table<int, Arguments>(
      {{1, {"model.name=resnet20"}},
       {4,
        {"model.name=resnet20", "training.learning_rate.policy=plateau",
         "training.learning_rate.patience=1"}},
       {2,
        {"stpt.max_retries=100", "stpt.max_collapses=100", "stpt.drift_limit=anchor",
         R"(stpt.schedule=[{"from_epoch": 1, "candidates": [1]},
                           {"from_epoch": 2, "candidates": [500]},
                           {"from_epoch": 3, "candidates": [500, 1, 0.5]}])"}}}));
  CAPTURE(epochs);
  const auto until = [](int epoch) { return "training.epochs=" + std::to_string(epoch); };
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const Result whole = train(program, 1, with(values, {until(epochs + 1)}));
  const Arguments first = with({"--config", "run.json", "--output", "resumed"},
                               settings(with(values, {until(epochs)})));
  REQUIRE(program.run_command(with(with(launcher(3), {STPT_EXECUTABLE}), first)).status == 0);
  const Outcome outcome = program.run_command(
      with(launcher(2), {STPT_EXECUTABLE, "--resume", "resumed", "--set", until(epochs + 1)}));
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  check_same(result_of(program.folder() / "resumed"), whole);
}

TEST_CASE("a run that has no checkpoint yet starts over on any number of ranks", "[cluster]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const Result whole = train(program, 1, {});
  const fs::path directory = program.folder() / "begun";
  fs::create_directory(directory);
  const auto config = program.run({"--print-config", "--config", "run.json"});
  write_file(directory / "config.json", config.out);
  const Outcome outcome =
      program.run_command(with(launcher(2), {STPT_EXECUTABLE, "--resume", "begun"}));
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  CHECK(outcome.err.find("begun: the run ended before its first checkpoint; ") !=
        std::string::npos);
  check_same(result_of(directory), whole);
}

TEST_CASE("reduction in any order differs by rounding alone", "[cluster]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  // Replicas of single ranks do not take part in what StarPU sums over all ranks.
  const std::string policy =
      GENERATE("training.learning_rate.policy=fixed", "stpt.candidates=[1,1e-6,1e-6]");
  CAPTURE(policy);
  const Arguments plain = {policy, "training.epochs=1"};
  const Result tree = train(program, 3, plain);
  const Result redux = train(program, 3, with(plain, {"training.gradient_reduction=redux"}));
  // Six steps from the same start: sums of 5 floats in another order differ by some 2^-24 of them,
  // and a step multiplies such a difference by little.
  const double difference = tree.last_epoch.at("train_loss").to_number<double>() -
                            redux.last_epoch.at("train_loss").to_number<double>();
  CHECK(std::abs(difference) < 1e-5);
  CHECK(redux.digest.size() == 64);
  // It did go the other way: the tree is torn apart where 5 workers meet 3 ranks, and sends more.
  CHECK(redux.last_epoch.at("messages_sent").to_number<int>() <
        tree.last_epoch.at("messages_sent").to_number<int>());
}

TEST_CASE("the program counts what it sends", "[cluster]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const Result result =
      train(program, 2, {"training.learning_rate.policy=fixed", "training.workers=4"});
  const models::Network network = models::make_network("mlp", {1, 1, 12, 12}, 4);
  const models::Placement placement(network, {0, 2, 4});
  StepCost job;
  for (const int rank : {0, 1}) {
    const StepCost cost = step_cost(network.buckets, placement, rank);
    job.sent += cost.sent;
    job.bytes_sent += cost.bytes_sent;
  }
  const auto steps = result.last_epoch.at("steps_main").to_number<std::size_t>();
  CHECK(result.last_epoch.at("rank_count").to_number<int>() == 2);
  CHECK(result.last_epoch.at("messages_sent").to_number<std::size_t>() == steps * job.sent);
  CHECK(result.last_epoch.at("bytes_sent").to_number<std::size_t>() == steps * job.bytes_sent);
  const auto model = static_cast<double>(network.parameter_count()) * sizeof(float);
  CHECK(static_cast<double>(job.bytes_sent) <= 1.05 * 2 * model);
}

// ---- Failures --------------------------------------------------------------------------------

TEST_CASE("ranks with different configs or data are refused", "[cluster]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const auto [other, message] = GENERATE(table<std::string, std::string>({
      {"training.learning_rate.initial=0.1",
       "training.learning_rate.initial: differs from rank 0's"},
      {"training.workers=1", "training.workers: is 1, but the job has 2 ranks"},
  }));
  Arguments arguments =
      with(launcher(1), {STPT_EXECUTABLE, "--config", "run.json", "--output", "x", ":", "-n", "1",
                         STPT_EXECUTABLE, "--config", "run.json", "--output", "x", "--set", other});
  const Outcome outcome = program.run_command(arguments);
  INFO(outcome.err);
  CHECK(outcome.status == 2);
  CHECK(outcome.err.find("stpt_starpu: rank 1 (") != std::string::npos);
  CHECK(outcome.err.find(message) != std::string::npos);
  CHECK_FALSE(fs::exists(program.folder() / "x"));
}

TEST_CASE("ranks with different images or labels are refused", "[cluster]") {
  Program program;
  // Each rank has a working directory of its own, with a data set of 12 equal images.
  for (const std::string rank : {"rank0", "rank1"}) {
    const fs::path folder = program.folder() / rank;
    write_file(folder / "run.json", small_run);
    std::vector<std::uint8_t> labels = {0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1};
    if (rank == "rank1") std::swap(labels[8], labels[9]);
    for (const char* set : {"train", "t10k"})
      data::testing::write_idx(folder / "data", set, 4, labels);
  }
  const Arguments train = with({STPT_EXECUTABLE, "--config", "run.json", "--output", "x"},
                               settings({"data.format=idx", "data.path=data", "data.hold_out=2",
                                         "training.workers=2", "training.batch_per_worker=2"}));
  Arguments arguments = with(with(launcher(1), {"env", "-C", "rank0"}), train);
  arguments = with(with(arguments, {":", "-n", "1", "env", "-C", "rank1"}), train);
  const Outcome outcome = program.run_command(arguments);
  INFO(outcome.err);
  CHECK(outcome.status == 2);
  CHECK(outcome.err.find("stpt_starpu: rank 1 (") != std::string::npos);
  CHECK(outcome.err.find("data: the images or labels differ from rank 0's; all ranks must read the "
                         "same data") != std::string::npos);
  CHECK_FALSE(fs::exists(program.folder() / "rank0/x"));
}

TEST_CASE("ranks with different command lines are refused", "[cluster]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const std::string another = "the command line asks for something else than rank 0's";
  const auto [other, message] =
      GENERATE_COPY(table<Arguments, std::string>({{{"--outptu", "x"}, "--outptu: unknown option"},
                                                   {{"--output", "x", "--validate"}, another},
                                                   {{"--help"}, another}}));
  const Arguments first = {
      STPT_EXECUTABLE, "--config", "run.json", "--output", "x", ":", "-n", "1"};
  const Outcome outcome = program.run_command(
      with(with(launcher(1), first), with({STPT_EXECUTABLE, "--config", "run.json"}, other)));
  INFO(outcome.err);
  CHECK(outcome.status == 2);
  CHECK(outcome.out.empty());
  CHECK(outcome.err.find("stpt_starpu: rank 1 (") != std::string::npos);
  CHECK(outcome.err.find(message) != std::string::npos);
  CHECK_FALSE(fs::exists(program.folder() / "x"));
}

TEST_CASE("what all ranks would say is said once", "[cluster]") {
  Program program;
  const auto [argument, status, text] = GENERATE(table<std::string, int, std::string>(
      {{"--version", 0, "stpt_starpu "}, {"--outptu", 2, "stpt_starpu: --outptu: "}}));
  const Outcome outcome = program.run_command(with(launcher(2), {STPT_EXECUTABLE, argument}));
  INFO(outcome.err);
  CHECK(outcome.status == status);
  const std::string said = outcome.out + outcome.err;
  const std::size_t found = said.find(text);
  REQUIRE(found != std::string::npos);
  CHECK(said.find(text, found + 1) == std::string::npos);
}

TEST_CASE("a launcher that MPI knows nothing of is no job of one", "[cluster]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const Outcome outcome =
      program.run_command({"env", "LSAN_OPTIONS=detect_leaks=0", "SLURM_STEP_NUM_TASKS=4",
                           STPT_EXECUTABLE, "--config", "run.json", "--output", "x"});
  CHECK(outcome.status == 1);
  CHECK(outcome.err.find("the launcher started 4 processes, but MPI sees 1") != std::string::npos);
  CHECK_FALSE(fs::exists(program.folder() / "x"));
}

/// The process id of a rank that was started below `launcher`; 0 if there is none.
pid_t find_rank(pid_t launcher, int rank) {
  const auto parent_of = [](const std::string& pid) {
    const std::string stat = read_file("/proc/" + pid + "/stat");
    const std::size_t end = stat.rfind(')');
    // ") S 123": the state, then the parent.
    return end == std::string::npos ? 0 : std::atoi(stat.c_str() + end + 4);
  };
  const std::string variable = "OMPI_COMM_WORLD_RANK=" + std::to_string(rank);
  for (const fs::directory_entry& entry : fs::directory_iterator("/proc")) {
    const std::string pid = entry.path().filename();
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    int ancestor = std::atoi(pid.c_str());
    while (ancestor > 1 && ancestor != launcher) ancestor = parent_of(std::to_string(ancestor));
    if (ancestor != launcher) continue;
    const std::string environment = read_file("/proc/" + pid + "/environ");
    const std::size_t found = environment.find(variable);
    if (found != std::string::npos && environment[found + variable.size()] == '\0')
      return std::atoi(pid.c_str());
  }
  return 0;
}

TEST_CASE("a rank that is killed ends the job, and the checkpoint stays", "[cluster]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  program.start_command(with(launcher(3), {STPT_EXECUTABLE, "--config", "run.json", "--output",
                                           "killed", "--set", "training.epochs=100000"}));
  const fs::path checkpoint = program.folder() / "killed" / "checkpoint.bin";
  while (!fs::exists(checkpoint) && !program.ended())
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const pid_t victim = find_rank(program.child(), 2);
  REQUIRE(victim > 0);
  const auto killed = std::chrono::steady_clock::now();
  REQUIRE(kill(victim, SIGKILL) == 0);
  const Outcome outcome = program.wait();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - killed;
  INFO(outcome.err);
  CHECK(took.count() < 30);
  CHECK(outcome.status != 0);
  // mpirun's word for it.
  CHECK(outcome.err.find("rank 2") != std::string::npos);
  CHECK(outcome.err.find("signal 9") != std::string::npos);
  CHECK(find_rank(program.child(), 0) == 0);
  const auto done = read_json(read_file(program.folder() / "killed" / "summary.json"));
  const auto epochs = done.at("epochs").to_number<int>();
  const Outcome resumed =
      program.run({"--resume", "killed", "--set", "training.epochs=" + std::to_string(epochs + 2)});
  INFO(resumed.err);
  CHECK(resumed.status == 0);
}

TEST_CASE("a signal to one rank stops all of them after the same step", "[cluster]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  program.start_command(with(launcher(2), {STPT_EXECUTABLE, "--config", "run.json", "--output",
                                           "stopped", "--set", "training.epochs=100000"}));
  const fs::path directory = program.folder() / "stopped";
  while (!fs::exists(directory / "checkpoint.bin") && !program.ended())
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const pid_t other = find_rank(program.child(), 1);
  REQUIRE(other > 0);
  REQUIRE(kill(other, SIGTERM) == 0);
  const Outcome outcome = program.wait();
  INFO(outcome.err);
  CHECK(outcome.status == 128 + SIGTERM);
  CHECK(read_json(read_file(directory / "summary.json")).at("status").as_string() == "stopped");
}

TEST_CASE("all ranks end where another process writes to the run's directory", "[cluster]") {
  Program program, second;
  const fs::path config = program.folder() / "run.json", directory = program.folder() / "out";
  write_file(config, small_run);
  // The job holds the directory, or is kept out of it.
  const bool job_is_first = GENERATE(true, false);
  const Arguments job = with(launcher(2), {STPT_EXECUTABLE}), alone = {STPT_EXECUTABLE};
  program.start_command(with(job_is_first ? job : alone, {"--config", "run.json", "--output", "out",
                                                          "--set", "training.epochs=100000"}));
  while (!fs::exists(directory / "checkpoint.bin") && !program.ended())
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const pid_t writer = job_is_first ? find_rank(program.child(), 0) : program.child();
  for (const Arguments& arguments :
       {Arguments{"--resume", directory.string()},
        Arguments{"--config", config.string(), "--output", directory.string()}}) {
    const Outcome outcome = second.run_command(with(job_is_first ? alone : job, arguments));
    INFO(outcome.err);
    CHECK(outcome.status == 2);
    const std::string line = directory.string() + ": another process, " + std::to_string(writer) +
                             " on " + runtime::Cluster::current().host() + ", is writing to it; ";
    const std::size_t found = outcome.err.find("stpt_starpu: ");
    REQUIRE(found != std::string::npos);
    CHECK(outcome.err.find("stpt_starpu: ", found + 1) == std::string::npos);
    CHECK(outcome.err.find(line) != std::string::npos);
    CHECK((outcome.err.find("stpt_starpu: rank 0 (") != std::string::npos) != job_is_first);
  }
  REQUIRE(kill(writer, SIGTERM) == 0);
  CHECK(program.wait().status == 128 + SIGTERM);
  CHECK_FALSE(fs::exists(directory / ".stpt.lock"));
}

#ifdef STPT_FXT_TOOL
TEST_CASE("traces of all ranks merge into one", "[cluster]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const std::string folder = program.folder().string() + "/";
  const Arguments trace = {"env", "STARPU_FXT_TRACE=1", "STARPU_FXT_PREFIX=" + folder};
  const Outcome outcome = program.run_command(
      with(with(trace, launcher(2)),
           {"-x", "STARPU_FXT_TRACE", "-x", "STARPU_FXT_PREFIX", STPT_EXECUTABLE, "--config",
            "run.json", "--set", "training.epochs=1"}));
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  Arguments merge = {STPT_FXT_TOOL};
  for (const fs::directory_entry& entry : fs::directory_iterator(program.folder())) {
    if (entry.path().filename().string().starts_with("prof_file"))
      merge = with(merge, {"-i", entry.path().string()});
  }
  REQUIRE(merge.size() == 5);
  REQUIRE(program.run_command(merge).status == 0);
  const std::string paje = read_file(program.folder() / "paje.trace");
  // A worker of each rank, and what they did.
  for (const char* part : {"\t0_w0\t", "\t1_w0\t", "sum gradients", "mpict"})
    CHECK(paje.find(part) != std::string::npos);
}
#endif

TEST_CASE("a rank that cannot go on says so through rank 0", "[cluster]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  // The loss is not finite after a few steps, on whichever rank sees it first.
  const Outcome outcome = program.run_command(with(
      with(launcher(2), {STPT_EXECUTABLE, "--config", "run.json", "--output", "broken"}),
      settings({"training.learning_rate.policy=fixed", "training.learning_rate.initial=1e30"})));
  INFO(outcome.err);
  CHECK(outcome.status == 1);
  CHECK(outcome.err.find("stpt_starpu: rank ") != std::string::npos);
  CHECK(outcome.err.find("the training loss is not finite") != std::string::npos);
  const auto summary = read_json(read_file(program.folder() / "broken" / "summary.json"));
  CHECK(summary.at("status").as_string() == "failed");
}

}  // namespace
}  // namespace stpt
