#include "stpt/files/run_directory.hpp"

#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "runtime/cluster.hpp"
#include "stpt/config/json_text.hpp"
#include "stpt/files/record_json.hpp"
#include "stpt/run_output.hpp"
#include "tests/catch.hpp"

namespace {

namespace fs = std::filesystem;
using namespace stpt;

/// An empty directory that is the working directory while the test runs.
class Sandbox {
 public:
  Sandbox() : before_(fs::current_path()) {
    std::string pattern = (fs::temp_directory_path() / "stpt-test-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
    fs::current_path(path_);
  }
  Sandbox(const Sandbox&) = delete;
  Sandbox& operator=(const Sandbox&) = delete;
  ~Sandbox() {
    std::error_code ignored;
    fs::current_path(before_, ignored);
    fs::remove_all(path_, ignored);
  }

 private:
  fs::path before_, path_;
};

/// What is written there while it lives.
class Printed {
 public:
  explicit Printed(std::ostream& stream) : stream_(stream), before_(stream.rdbuf(text_.rdbuf())) {}
  Printed(const Printed&) = delete;
  Printed& operator=(const Printed&) = delete;
  ~Printed() { stream_.rdbuf(before_); }
  [[nodiscard]] std::string text() const { return text_.str(); }

 private:
  std::ostringstream text_;
  std::ostream& stream_;
  std::streambuf* before_;
};

std::string contents(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::ptrdiff_t entries(const fs::path& directory) {
  return std::distance(fs::directory_iterator(directory), fs::directory_iterator());
}

std::string message_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const OutputError& error) {
    return error.what();
  }
  return "no OutputError";
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

EpochRecord some_epoch(int number) {
  EpochRecord epoch;
  epoch.epoch = number;
  epoch.phase = "stpt";
  epoch.candidate_set = "narrow \"quoted\" \n é";
  epoch.retries = 1;
  epoch.base_learning_rate = 0.1;
  epoch.learning_rate = 0.1 * 1.17;
  epoch.choice_reason = "highest accuracy";
  epoch.train_loss = 1.0 / 3;
  epoch.train_top1 = 0.9;
  epoch.test_loss = 0.123456789012345678;
  epoch.test_top1 = 0.9012;
  epoch.test_top5 = 1;
  epoch.iterations = 58;
  epoch.iterations_discarded = 84;
  epoch.samples_winner = 29696;
  epoch.samples_discarded = std::int64_t{1} << 60;
  epoch.seconds = 16.25;
  epoch.seconds_pretrain = 4;
  epoch.seconds_score = 1;
  epoch.seconds_choose = 0.25;
  epoch.seconds_main = 10;
  epoch.seconds_test = 1;
  epoch.images_per_second = 4655.5;
  epoch.memory_bytes = ~std::uint64_t{0};
  CandidateRecord good;
  good.factor = 1.17;
  good.learning_rate = 0.117;
  good.score_top1 = 0.88;
  good.score_loss = 0.4;
  good.winner = true;
  good.curve = {{10, 0.117, 0.5, 0.8}, {12, 0.117, 5e-324, 1.7976931348623157e308}};
  CandidateRecord bad;
  bad.factor = 10;
  bad.diverged = true;
  bad.score_loss = std::numeric_limits<double>::quiet_NaN();
  epoch.candidates = {good, bad};
  epoch.curve = {{20, 0.117, 0.45, 0.85}, {58, 0.117, 0.4, 0.86}};
  return epoch;
}

EpochRecord round_trip(const EpochRecord& epoch) {
  return epoch_from_json(read_json(compact_json(to_json(epoch))));
}

RunRecord some_run() {
  RunRecord run;
  run.name = "quick";
  run.model = "resnet8";
  run.policy = "stpt";
  run.optimizer = "adamw";
  run.workers = 8;
  run.batch_per_worker = 64;
  run.iterations_per_epoch = 58;
  run.initial_learning_rate = 0.1;
  run.parameters = 78042;
  run.status = "complete";
  run.model_digest = "abc123";
  run.wall_seconds = 33;
  return run;
}

}  // namespace

TEST_CASE("an epoch survives JSON unchanged", "[record]") {
  const EpochRecord epoch = some_epoch(3);
  const EpochRecord copy = round_trip(epoch);
  CHECK(copy.epoch == 3);
  CHECK(copy.phase == epoch.phase);
  CHECK(copy.candidate_set == epoch.candidate_set);
  CHECK(copy.retries == 1);
  CHECK(copy.base_learning_rate == epoch.base_learning_rate);
  CHECK(copy.learning_rate == epoch.learning_rate);
  CHECK(copy.train_loss == epoch.train_loss);
  CHECK(copy.test_loss == epoch.test_loss);
  CHECK(copy.test_top5 == 1);
  CHECK(copy.iterations_discarded == 84);
  CHECK(copy.samples_discarded == epoch.samples_discarded);
  CHECK(copy.memory_bytes == epoch.memory_bytes);
  REQUIRE(copy.candidates.size() == 2);
  CHECK(copy.candidates[0].winner);
  CHECK_FALSE(copy.candidates[0].diverged);
  REQUIRE(copy.candidates[0].curve.size() == 2);
  CHECK(copy.candidates[0].curve[1].iteration == 12);
  CHECK(copy.candidates[0].curve[1].loss == 5e-324);
  CHECK(copy.candidates[0].curve[1].top1 == 1.7976931348623157e308);
  CHECK(copy.candidates[1].diverged);
  CHECK(std::isnan(copy.candidates[1].score_loss));
  REQUIRE(copy.curve.size() == 2);
  CHECK(copy.curve[0].top1 == 0.85);
  // Whatever the list above forgets.
  CHECK(compact_json(to_json(copy)) == compact_json(to_json(epoch)));
}

TEST_CASE("a run's header survives JSON unchanged", "[record]") {
  RunRecord run = some_run();
  run.version = "1.2";
  run.dataset = "d";
  run.device = "cores";
  run.started = "2025-11-23T18:53:00Z";
  run.flops_per_image = 2.5e7;
  run.training_images = 58000;
  run.hold_out_images = 2000;
  run.test_images = 10000;
  run.epochs_planned = 10;
  run.alpha = 12;
  run.score = "hold_out";
  run.score_metric = "loss";
  run.class_names = {"cat", "d\u00f6g"};
  const RunRecord copy = run_from_json(read_json(compact_json(to_json(run))));
  CHECK(copy.name == "quick");
  CHECK(copy.flops_per_image == 2.5e7);
  CHECK(copy.alpha == 12);
  CHECK(copy.score == "hold_out");
  CHECK(copy.score_metric == "loss");
  CHECK(copy.class_names == run.class_names);
  CHECK(compact_json(to_json(copy)) == compact_json(to_json(run)));
}

TEST_CASE("what is no record is refused, unknown keys are not", "[record]") {
  CHECK(epoch_from_json(read_json(R"({"epoch":2,"later":[1]})")).epoch == 2);
  CHECK_THROWS_AS(epoch_from_json(read_json(R"({"epoch":"2"})")), std::runtime_error);
  CHECK_THROWS_AS(epoch_from_json(read_json(R"({"epoch":2.5})")), std::runtime_error);
  CHECK_THROWS_AS(epoch_from_json(read_json(R"({"epoch":3000000000})")), std::runtime_error);
  CHECK_THROWS_AS(epoch_from_json(read_json(R"({"curve":[3]})")), std::runtime_error);
  CHECK_THROWS_AS(epoch_from_json(read_json("[1]")), std::runtime_error);
  CHECK_THROWS_AS(run_from_json(read_json(R"({"class_names":[1]})")), std::runtime_error);
}

TEST_CASE("a default directory is named by run and time and is never shared", "[run_directory]") {
  const Sandbox sandbox;
  RunDirectory::check({});
  CHECK(entries(".") == 0);

  const RunDirectory first = RunDirectory::create({}, "my-run_1");
  const RunDirectory second = RunDirectory::create({}, "my-run_1");
  const RunDirectory third = RunDirectory::create({}, "my-run_1");
  CHECK(first.path() != second.path());
  CHECK(second.path() != third.path());
  CHECK(first.path() != third.path());
  CHECK(entries("runs") == 3);
  const std::string name = first.path().filename().string();
  CHECK(name.starts_with("my-run_1-"));
  CHECK(name.size() == std::string("my-run_1-20251123-185300").size());
  CHECK(first.path().parent_path() == "runs");
}

TEST_CASE("a directory that is in use is refused", "[run_directory]") {
  const Sandbox sandbox;
  RunDirectory::check("new/deep");
  CHECK_FALSE(fs::exists("new"));
  CHECK(RunDirectory::create("new/deep/", "x").path() == "new/deep");
  CHECK(fs::is_directory("new/deep"));
  // Empty: fine.
  RunDirectory::check("new/deep");
  CHECK(RunDirectory::create("new/deep", "x").path() == "new/deep");

  std::ofstream("new/deep/file") << "mine";
  const std::string refusal = message_of([] { RunDirectory::check("new/deep"); });
  CHECK(has(refusal, "new/deep: "));
  CHECK(has(refusal, "another directory"));
  CHECK(has(refusal, "--resume"));
  CHECK_FALSE(has(refusal, "\n"));
  CHECK(message_of([] { RunDirectory::create("new/deep", "x"); }) == refusal);
  CHECK(contents("new/deep/file") == "mine");

  CHECK(has(message_of([] { RunDirectory::check("new/deep/file"); }), "is a file"));
  CHECK(has(message_of([] { RunDirectory::create("new/deep/file/below", "x"); }),
            "new/deep/file/below: "));
}

TEST_CASE("a directory has one writer at a time", "[run_directory]") {
  const Sandbox sandbox;
  const std::string refusal = "out: another process, " + std::to_string(::getpid()) + " on " +
                              runtime::Cluster::current().host() +
                              ", is writing to it; wait until it has ended, or use another "
                              "directory";
  {
    RunDirectory first = RunDirectory::create("out", "x");
    CHECK(first.locked());
    CHECK(message_of([] { RunDirectory::check("out"); }) == refusal);
    CHECK(message_of([] { RunDirectory::create("out", "x"); }) == refusal);
    first.begin_metrics(some_run());
    CHECK(message_of([] { RunDirectory::check("out"); }) == refusal);
    CHECK(message_of([] { RunDirectory::create("out", "x"); }) == refusal);
    // To read it needs no lock.
    RunDirectory second = RunDirectory::open("out");
    CHECK_FALSE(second.locked());
    CHECK(second.read_metrics().name == "quick");
    CHECK(message_of([&] { second.lock(); }) == refusal);
    CHECK_FALSE(second.locked());
    CHECK(entries("out") == 2);

    const RunDirectory moved = std::move(first);
    CHECK(moved.locked());
    CHECK(message_of([&] { second.lock(); }) == refusal);
  }
  CHECK(entries("out") == 1);
  RunDirectory next = RunDirectory::open("out");
  next.lock();
  next.lock();
  CHECK(next.locked());
  CHECK(message_of([] { RunDirectory::open("out").lock(); }) == refusal);
  next = RunDirectory::create("elsewhere", "x");
  CHECK_NOTHROW(RunDirectory::open("out").lock());
}

TEST_CASE("what stands in a lock locks nobody out", "[run_directory]") {
  const Sandbox sandbox;
  fs::create_directory("out");
  std::ofstream("out/.stpt.lock") << "4711 on node7\n";  // left behind
  CHECK_NOTHROW(RunDirectory::check("out"));
  {
    const RunDirectory directory = RunDirectory::create("out", "x");
    CHECK(contents("out/.stpt.lock") ==
          std::to_string(::getpid()) + " on " + runtime::Cluster::current().host() + "\n");
    // Nor does it matter to the lock; one that has not yet been signed keeps its secret.
    const std::string long_line(1000, '4');
    for (const std::string& text :
         std::vector<std::string>{"", "47", long_line, long_line + "\n"}) {
      std::ofstream("out/.stpt.lock") << text;
      CHECK(has(message_of([] { RunDirectory::check("out"); }),
                "out: another process is writing to it; "));
    }
  }
  CHECK(fs::is_empty("out"));
}

TEST_CASE("a lock stays with its directory", "[run_directory]") {
  const Sandbox sandbox;
  std::optional<RunDirectory> first = RunDirectory::create("out", "x");
  fs::rename("out", "renamed");
  CHECK(has(message_of([] { RunDirectory::check("renamed"); }), "renamed: another process, "));
  const RunDirectory second = RunDirectory::create("out", "x");
  first.reset();
  CHECK_NOTHROW(RunDirectory::check("renamed"));
  CHECK(has(message_of([] { RunDirectory::check("out"); }), "out: another process, "));
}

TEST_CASE("files are replaced in one step and leave nothing else behind", "[run_directory]") {
  const Sandbox sandbox;
  write_file_atomically("file", "one");
  CHECK(contents("file") == "one");
  // A reader that has the old file open goes on seeing the old contents.
  std::ifstream reader("file");
  write_file_atomically("file", std::string(100000, 'x'));
  std::string seen;
  reader >> seen;
  CHECK(seen == "one");
  CHECK(contents("file").size() == 100000);
  CHECK(entries(".") == 1);

  fs::create_directory("taken");
  std::ofstream("taken/x") << "x";
  CHECK(has(message_of([] { write_file_atomically("taken", "text"); }), "taken: cannot write"));
  CHECK(has(message_of([] { write_file_atomically("missing/file", "text"); }), "missing/"));
  CHECK(entries(".") == 2);
  CHECK(entries("taken") == 1);
}

TEST_CASE("a run directory holds what the run produced", "[run_directory]") {
  const Sandbox sandbox;
  RunDirectory directory = RunDirectory::create("out", "x");
  RunRecord run = some_run();
  directory.write_config("{\"name\": \"quick\"}");
  directory.begin_metrics(run);
  for (int number : {1, 2}) {
    run.epochs.push_back(some_epoch(number));
    directory.append_epoch(run.epochs.back());
    // On disk at once, not when the run ends.
    CHECK(directory.read_metrics().epochs.size() == static_cast<std::size_t>(number));
  }
  run.epochs[1].test_top1 = 0.89;
  directory.write_summary(run);
  directory.write_report(run);

  CHECK(contents("out/config.json") == "{\"name\": \"quick\"}\n");
  CHECK(contents("out/report.html").starts_with("<!DOCTYPE html>"));
  CHECK(entries("out") == 4 + 1);  // and the lock

  const boost::json::object summary = read_json(contents("out/summary.json")).as_object();
  CHECK(summary.at("test_top1").to_number<double>() == 0.89);
  CHECK(summary.at("best_test_top1").to_number<double>() == 0.9012);
  CHECK(summary.at("best_epoch").to_number<int>() == 1);
  CHECK(std::abs(summary.at("final_lr").to_number<double>() - 0.117) < 1e-12);
  CHECK(summary.at("epochs").to_number<int>() == 2);
  CHECK(summary.at("wall_seconds").to_number<double>() == 33);
  CHECK(summary.at("samples_discarded").to_number<std::int64_t>() == std::int64_t{1} << 61);
  CHECK(summary.at("samples_total").to_number<std::int64_t>() ==
        (std::int64_t{1} << 61) + 2 * 29696);
  CHECK(summary.at("images_per_second").to_number<double>() > 0);
  CHECK(summary.at("model_digest").as_string() == "abc123");
  CHECK(summary.at("status").as_string() == "complete");
  CHECK(summary.at("failure").is_null());
  CHECK(std::abs(summary.at("choose_share").to_number<double>() - 0.25 / 16.25) < 1e-12);
  CHECK(summary.at("seconds").at("main").to_number<double>() == 20);

  const RunRecord read = directory.read_metrics();
  CHECK(read.name == "quick");
  CHECK(read.parameters == 78042);
  REQUIRE(read.epochs.size() == 2);
  CHECK(compact_json(to_json(read.epochs[0])) == compact_json(to_json(run.epochs[0])));
}

TEST_CASE("a run without epochs has a summary that claims nothing", "[run_directory]") {
  RunRecord run = some_run();
  run.status = "failed";
  run.failure = "no memory";
  run.model_digest.clear();
  const boost::json::object summary = summary_json(run);
  CHECK(summary.at("test_top1").is_null());
  CHECK(summary.at("best_test_top1").is_null());
  CHECK(summary.at("final_lr").is_null());
  CHECK(summary.at("best_epoch").is_null());
  CHECK(summary.at("images_per_second").is_null());
  CHECK(summary.at("choose_share").is_null());
  CHECK(summary.at("memory_bytes").is_null());
  CHECK(summary.at("memory_bytes_peak").is_null());
  CHECK(summary.at("model_digest").is_null());
  CHECK(summary.at("epochs").to_number<int>() == 0);
  CHECK(summary.at("failure").as_string() == "no memory");
}

TEST_CASE("a run is resumed from what its metrics say", "[run_directory]") {
  const Sandbox sandbox;
  {
    RunDirectory directory = RunDirectory::create("out", "x");
    directory.begin_metrics(some_run());
    for (int number : {1, 2, 3}) directory.append_epoch(some_epoch(number));
  }
  // The crash came in the middle of a line.
  std::ofstream("out/metrics.jsonl", std::ios::app) << R"({"kind":"epoch","epoch":4,"tr)";

  RunDirectory directory = RunDirectory::open("out/");
  CHECK(directory.path() == "out");
  RunRecord run = directory.read_metrics();
  REQUIRE(run.epochs.size() == 3);
  run.epochs.resize(2);
  directory.begin_metrics(run);
  directory.append_epoch(some_epoch(3));
  RunDirectory moved = std::move(directory);
  moved.append_epoch(some_epoch(4));
  run = moved.read_metrics();
  REQUIRE(run.epochs.size() == 4);
  CHECK(run.epochs[3].epoch == 4);
  CHECK(entries("out") == 1);
}

TEST_CASE("what a killed process left is removed by who has the lock alone", "[run_directory]") {
  const Sandbox sandbox;
  { RunDirectory::create("out", "x").begin_metrics(some_run()); }
  const fs::path left = "out/.checkpoint.bin.4711.stpt.tmp";
  const fs::path of_export = "out/.model.safetensors.4711.stpt.tmp";
  std::ofstream(left) << "half";
  std::ofstream(of_export) << "half";
  RunDirectory directory = RunDirectory::open("out");
  directory.begin_metrics(some_run());
  CHECK(fs::exists(left));
  directory.lock();
  directory.begin_metrics(some_run());
  CHECK_FALSE(fs::exists(left));
  CHECK(fs::exists(of_export));
}

TEST_CASE("what cannot be resumed says why", "[run_directory]") {
  const Sandbox sandbox;
  CHECK(has(message_of([] { RunDirectory::open("none"); }), "none: no such directory"));
  fs::create_directory("empty");
  CHECK(has(message_of([] { RunDirectory::open("empty"); }), "holds no run"));

  // Killed as it began: there is nothing to read, which is no error.
  fs::create_directory("begun");
  std::ofstream("begun/config.json") << "{}\n";
  CHECK(RunDirectory::open("begun").read_metrics().epochs.empty());

  std::ofstream("empty/metrics.jsonl")
      << "{\"name\":\"x\"}\n{\"epoch\":1}\nrubbish\n{\"epoch\":3}\n";
  const RunDirectory directory = RunDirectory::open("empty");
  CHECK(has(message_of([&] { (void)directory.read_metrics(); }),
            "empty/metrics.jsonl:3: 'r' is not JSON here"));
  CHECK(message_of([&] {
          (void)directory.read_metrics();
        }).ends_with("; use a copy of it, or start a new run"));
  fs::remove("empty/metrics.jsonl");
  fs::create_directory("empty/metrics.jsonl");
  CHECK(message_of([&] { (void)directory.read_metrics(); }) ==
        "empty/metrics.jsonl: cannot be read; use a copy of it, or start a new run");
}

TEST_CASE("what failed stays failed, whatever another thread is about to write", "[run_output]") {
  const Sandbox sandbox;
  RunDirectory directory = RunDirectory::create("out", "quick");
  RunRecord run = some_run();
  RunOutput output(directory, run, "1.2", {});
  output.fail("rank 2 (node7) has not been heard of");
  const auto status = [] {
    std::ifstream in("out/summary.json");
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    return std::string(read_json(text).at("status").as_string());
  };
  CHECK(status() == "failed");
  // What it took before it went on counts.
  CHECK(read_json(contents("out/summary.json")).at("wall_seconds").to_number<double>() >= 33);
  output.begin({});
  CHECK(status() == "failed");
  run.status = "complete";
  CHECK_FALSE(output.finish(run));
  CHECK(status() == "failed");
}

TEST_CASE("what fails behind a run's end changes nothing", "[run_output]") {
  const Sandbox sandbox;
  RunDirectory directory = RunDirectory::create("out", "quick");
  RunOutput output(directory, some_run(), "1.2", {});
  REQUIRE(output.finish(some_run()));
  const std::string summary = contents("out/summary.json");
  CHECK(has(summary, "\"complete\""));
  const Printed printed(std::cerr);
  output.fail("too late");
  CHECK(has(printed.text(), "stpt_starpu: too late\n"));
  CHECK(contents("out/summary.json") == summary);
}

TEST_CASE("a run's result names its best epoch, and how it can go on", "[run_output]") {
  const Sandbox sandbox;
  RunDirectory directory = RunDirectory::create("out", "quick");
  RunRecord run = some_run();
  run.epochs_planned = 5;
  for (const double accuracy : {0.5, 0.9, 0.7}) {
    run.epochs.push_back(some_epoch(static_cast<int>(run.epochs.size()) + 1));
    run.epochs.back().test_top1 = accuracy;
  }
  const auto result = [&] {
    const Printed printed(std::cout);
    RunOutput(directory, run, "1.2", {}).print_result(run);
    return printed.text();
  };
  const std::string accuracies =
      "test accuracy 70.00 % (best 90.00 % in epoch 2), final learning rate 0.117, 0:33; report: "
      "out/report.html";
  CHECK(result() == "out: " + accuracies + "\n");
  run.status = "stopped";
  CHECK(result() == "out: stopped after 3 of 5 epochs; " + accuracies + "\n");
  std::ofstream("out/checkpoint.bin") << "saved";
  CHECK(result() ==
        "out: stopped after 3 of 5 epochs; " + accuracies + "; go on: stpt_starpu --resume out\n");
}

TEST_CASE("images that cannot be read are named when there are more", "[run_output]") {
  CHECK(unreadable_line({"a: is empty"}) ==
        "1 image cannot be read; others of the class stand in: a: is empty");
  CHECK(unreadable_line({"a", "b", "c"}) ==
        "3 images cannot be read; others of the class stand in: a; b; c");
  CHECK(unreadable_line({"a", "b", "c", "d"}) ==
        "4 images cannot be read; others of the class stand in: a; b; c; and 1 more");
  const Sandbox sandbox;
  RunDirectory directory = RunDirectory::create("out", "quick");
  RunOutput output(directory, some_run(), "1.2", {});
  const Printed printed(std::cerr);
  output.name_unreadable({});
  output.name_unreadable({"a"});
  output.name_unreadable({"a"});
  output.name_unreadable({"a", "b"});
  CHECK(printed.text() == unreadable_line({"a"}) + "\n" + unreadable_line({"a", "b"}) + "\n");
}
