// The program as people start it: exit status, what it says and what it leaves behind.

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "models/state_dict.hpp"
#include "models/zoo.hpp"
#include "runtime/cluster.hpp"
#include "runtime/machine.hpp"
#include "runtime/runtime.hpp"
#include "stpt/config/config.hpp"
#include "stpt/config/json_text.hpp"
#include "stpt/files/checkpoint.hpp"
#include "stpt/files/safetensors.hpp"
#include "stpt/files/sha256.hpp"
#include "stpt/files/weights.hpp"
#include "tests/catch.hpp"
#include "tests/data/image_files.hpp"
#include "tests/data/testing.hpp"
#include "tests/gpu.hpp"
#include "tests/stpt/program.hpp"

namespace stpt {
namespace {

using namespace testing;

namespace json = boost::json;
using data::testing::TemporaryFolder;

std::size_t lines_in(const std::string& text) {
  return static_cast<std::size_t>(std::ranges::count(text, '\n'));
}

/// Every file below the folder with its contents.
std::map<std::string, std::string> snapshot(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    files[entry.path().string()] = entry.is_regular_file() ? read_file(entry.path()) : "";
  }
  return files;
}

/// 4 classes of 12x12 images; 18 iterations an epoch, in a fraction of a second.
constexpr const char* small_run = R"({
  "name": "small",
  "model": {"name": "mlp"},
  "data": {"format": "synthetic", "hold_out": 64,
           "synthetic": {"classes": 4, "channels": 1, "height": 12, "width": 12,
                         "train_images": 640, "test_images": 128}},
  "training": {"epochs": 2, "workers": 2, "batch_per_worker": 16,
               "learning_rate": {"initial": 0.05, "anneal": {"form": "none"}}},
  "stpt": {"alpha": 3, "candidates": [2, 1, 0.5]}
})";

/// Images of 12x12 and labels 0 to 3 in turn.
void write_idx(const fs::path& folder, const std::string& set, std::size_t count) {
  std::vector<std::uint8_t> labels(count);
  for (std::size_t i = 0; i < count; ++i) labels[i] = static_cast<std::uint8_t>(i % 4);
  data::testing::write_idx(folder, set, 12, labels);
}

json::object summary_of(const fs::path& run) {
  return read_json(read_file(run / "summary.json")).as_object();
}

std::string text_of(const json::object& object, const char* key) {
  const json::value& value = object.at(key);
  return value.is_string() ? std::string(value.as_string()) : compact_json(value);
}

/// The program with these arguments, as a shell would start it.
Arguments in_shell(const std::string& before, const std::string& arguments) {
  return {"sh", "-c", before + "\"$0\" " + arguments, STPT_EXECUTABLE};
}

/// Waits until the run has come so far, or has ended, or four minutes have passed.
void wait_until(const Program& program, const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(4);
  while (!condition() && !program.ended() && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

// ---- Bad input -------------------------------------------------------------------------------

TEST_CASE("Bad input ends with status 2, one line and nothing written", "[executable]") {
  Program program;
  const fs::path folder = program.folder();
  write_file(folder / "run.json", small_run);
  Arguments arguments = {"--config", "run.json", "--output", "out"};
  const auto set = [&arguments](const std::string& override) {
    arguments.insert(arguments.end(), {"--set", override});
  };
  std::string expected;  // how the line starts after the program's name

  SECTION("unknown option") {
    arguments.emplace_back("--ouput=x");
    expected = "--ouput: unknown option; did you mean --output?";
  }
  SECTION("no run file") {
    arguments = {};
    expected = "no run file is given; ";
  }
  SECTION("missing run file") {
    arguments[1] = "none.json";
    expected = "none.json: no such file; ";
  }
  SECTION("a folder as run file") {
    arguments[1] = ".";
    expected = ".: is a directory; ";
  }
  SECTION("not JSON") {
    write_file(folder / "run.json", "{\"name\": }");
    expected = "run.json:1:10: ";
  }
  SECTION("empty run file") {
    write_file(folder / "run.json", "");
    expected = "run.json:1:1: the text is empty; ";
  }
  SECTION("unknown key in the file") {
    write_file(folder / "run.json", R"({"training": {"epoch": 3}})");
    expected = "run.json: training.epoch: unknown key; did you mean training.epochs?";
  }
  SECTION("unknown key on the command line, with a line break in it") {
    set("training\n.epoch=3");
    expected = "--set: training .epoch: unknown key; ";
  }
  SECTION("wrong type") {
    write_file(folder / "run.json", R"({"training": {"epochs": "three"}})");
    expected = "run.json: training.epochs: is \"three\"; must be a whole number ";
  }
  SECTION("out of range") {
    set("stpt.alpha=-1");
    expected = "--set: stpt.alpha: is -1; must be ";
  }
  SECTION("unknown model") {
    set("model.name=resnet9");
    expected = "--set: model.name: unknown model \"resnet9\", perhaps \"resnet8\"? (known: ";
  }
  SECTION("a model that is like none") {
    set("model.name=5");
    expected = "--set: model.name: unknown model \"5\" (known: ";
  }
  SECTION("a model in the file that the command line says nothing of") {
    write_file(folder / "run.json",
               R"({"model": {"name": "resnet9"}, "data": {"format": "synthetic"}})");
    set("data.synthetic.width=16");
    expected = "run.json: model.name: unknown model \"resnet9\"";
  }
  SECTION("a model that does not fit the images") {
    set("model.name=lenet5");
    set("data.synthetic.height=4");
    set("data.synthetic.width=4");
    expected = "--set: model.name: lenet5: layer conv2: ";
  }
  SECTION("unknown scheduler") {
    set("runtime.scheduler=swift");
    expected = "--set: runtime.scheduler: is \"swift\"; this StarPU has ";
  }
  SECTION("more CPU workers than StarPU has room for") {
    set("runtime.cpu_workers=4096");
    if (runtime::Runtime::most_cpu_workers() >= 4096) return;
    expected = "--set: runtime.cpu_workers: is 4096; this StarPU was built for at most ";
  }
  SECTION("empty hold-out with a policy that scores on it") {
    set("data.hold_out=0");
    expected = "--set: data.hold_out: is 0, but policy stpt scores candidates on the hold-out";
  }
  SECTION("a hold-out that leaves nothing to train on") {
    set("data.hold_out=640");
    expected = "--set: data.hold_out: ";
  }
  SECTION("Pre-train longer than an epoch") {
    set("stpt.alpha=19");
    expected = "--set: stpt.alpha: is 19; must be at most the iterations of an epoch, 18";
  }
  SECTION("more candidates than memory allows") {
    // 0.75 GiB for each of 1024 candidates.
    if (runtime::Machine::detect().available_bytes > std::uint64_t{500} << 30) return;
    std::string candidates = "[1";
    for (int i = 1; i < 1024; ++i) candidates += ",1";
    set("stpt.candidates=" + candidates + "]");
    for (const char* override :
         {"data.synthetic.height=512", "data.synthetic.width=512", "data.synthetic.train_images=16",
          "data.synthetic.test_images=4", "data.hold_out=4", "training.workers=1",
          "training.batch_per_worker=4", "runtime.steps_in_flight=1", "runtime.cpu_workers=1"}) {
      set(override);
    }
    expected = "--set: stpt.candidates: 1024 candidates need about ";
  }
  SECTION("more candidates than workers where that is refused") {
    set("stpt.many_candidates=reject");
    expected = "run.json: stpt.candidates: has 3 candidates; must have at most training.workers, 2";
  }
  SECTION("a crop larger than the images") {
    set("data.crop_size=13");
    expected = "--set: data.crop_size: is 13; must be at most the size of the images, 12x12";
  }
  SECTION("image_folder without a path") {
    set("data.format=image_folder");
    expected = "run.json: data.path: is empty; must be the folder of the image_folder data";
  }
  SECTION("output into a folder that is not empty") {
    write_file(folder / "out" / "precious.txt", "keep me");
    expected = "out: exists and is not empty; ";
  }
  SECTION("output into a file") {
    write_file(folder / "out", "keep me");
    expected = "out: is a file; ";
  }
  SECTION("output below a file") {
    arguments[3] = "run.json/out";
    expected = "run.json/out: ";
  }
  SECTION("resume without a run") {
    arguments = {"--resume", "none"};
    expected = "none: no such directory; ";
  }
  SECTION("resume in a folder that holds no run") {
    arguments = {"--resume", "."};
    expected = ".: holds no run ";
  }
  SECTION("the same with --validate") {
    arguments.emplace_back("--validate");
    set("data.hold_out=640");
    expected = "--set: data.hold_out: ";
  }

  const auto before = snapshot(folder);
  const Outcome outcome = program.run(arguments);
  CHECK(outcome.status == 2);
  CHECK(outcome.out.empty());
  CHECK(lines_in(outcome.err) == 1);
  CHECK_THAT(outcome.err, Catch::Matchers::StartsWith("stpt_starpu: " + expected));
  CHECK(snapshot(folder) == before);
}

TEST_CASE("An environment that StarPU cannot use is bad input", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const WithEnvironment no_gpus("STARPU_NCUDA", "0");
  const std::string most = std::to_string(runtime::Runtime::most_cpu_workers());
  const auto [variable, value] =
      GENERATE_COPY(table<std::string, std::string>({{"STARPU_NCPU", "abc"},
                                                     {"STARPU_NCPU", "-1"},
                                                     {"STARPU_NCPU", "0"},
                                                     {"STARPU_NCPUS", "1.5"},
                                                     {"STARPU_RESERVE_NCPU", "-1"},
                                                     {"STARPU_RESERVE_NCPU", most},
                                                     {"STARPU_NCUDA", "x"},
                                                     {"STARPU_NWORKER_PER_CUDA", "-1"},
                                                     {"STARPU_SCHED", "swift"}}));
  CAPTURE(variable, value);
  const WithEnvironment environment(variable, value);
  const auto before = snapshot(program.folder());
  for (const Arguments& arguments : {Arguments{"--config", "run.json", "--output", "out"},
                                     Arguments{"--config", "run.json", "--validate"}}) {
    const Outcome outcome = program.run(arguments);
    CHECK(outcome.status == 2);
    CHECK(outcome.out.empty());
    CHECK(lines_in(outcome.err) == 1);
    CHECK_THAT(outcome.err, Catch::Matchers::StartsWith("stpt_starpu: " + variable + ": is "));
    CHECK(snapshot(program.folder()) == before);
  }
}

TEST_CASE("Bad data end with status 2, one line and nothing written", "[executable]") {
  Program program;
  const fs::path folder = program.folder();
  const fs::path images = folder / "data";
  write_idx(images, "train", 640);
  write_idx(images, "t10k", 128);
  write_file(folder / "run.json", small_run);
  Arguments arguments = {"--config", "run.json",        "--output", "out",
                         "--set",    "data.format=idx", "--set",    "data.path=data"};
  std::string expected;
  const fs::path train_images = images / "train-images-idx3-ubyte";
  const fs::path train_labels = images / "train-labels-idx1-ubyte";

  SECTION("missing folder") {
    arguments.back() = "data.path=none";
    expected = "none: no such folder; ";
  }
  SECTION("missing file") {
    fs::remove(train_labels);
    expected = "data/train-labels";
  }
  SECTION("truncated images") {
    fs::resize_file(train_images, 5000);
    expected = "data/train-images-idx3-ubyte: truncated";
  }
  SECTION("truncated header") {
    fs::resize_file(train_images, 7);
    expected = "data/train-images-idx3-ubyte: truncated header";
  }
  SECTION("corrupt images") {
    write_file(train_images, "<html>404 Not Found</html>");
    expected = "data/train-images-idx3-ubyte: magic number ";
  }
  SECTION("corrupt gzip") {
    fs::remove(train_images);
    write_file(images / "train-images-idx3-ubyte.gz", "\x1f\x8b\x08 but no more than that");
    expected = "data/train-images-idx3-ubyte.gz: corrupt gzip file";
  }
  SECTION("labels for other images") {
    write_file(train_labels, data::testing::idx({0x801, 639}, std::string(639, '\1')));
    expected = "data/train-labels-idx1-ubyte: 639 labels for the 640 images";
  }
  SECTION("label out of range") {
    write_file(images / "t10k-labels-idx1-ubyte",
               data::testing::idx({0x801, 128}, std::string(128, '\4')));
    expected = "data/t10k-labels-idx1-ubyte: label 4 ";
  }
  SECTION("an image folder that is none") {
    arguments[5] = "data.format=image_folder";
    expected = "data/train: no such folder; ";
  }
  SECTION("CIFAR-10 that is none") {
    arguments[5] = "data.format=cifar10";
    expected = "data/data_batch_1.bin: no such file; ";
  }
  SECTION("more images asked for than there are") {
    arguments.insert(arguments.end(), {"--set", "data.limit=641"});
    expected = "--set: data.limit: is 641; must be at most the training images, 640, or 0";
  }
  SECTION("too few images for the hold-out") {
    arguments.insert(arguments.end(), {"--set", "data.hold_out=640"});
    expected = "--set: data.hold_out: is 640 of the 640 training images; must leave some";
  }

  const auto before = snapshot(folder);
  const Outcome outcome = program.run(arguments);
  CHECK(outcome.status == 2);
  CHECK(outcome.out.empty());
  CHECK(lines_in(outcome.err) == 1);
  CHECK_THAT(outcome.err, Catch::Matchers::StartsWith("stpt_starpu: " + expected));
  CHECK(snapshot(folder) == before);
}

// ---- Actions that do not train ---------------------------------------------------------------

TEST_CASE("Help, version, models and keys go to stdout", "[executable]") {
  Program program;
  const auto output_of = [&program](const Arguments& arguments) {
    const Outcome outcome = program.run(arguments);
    CHECK(outcome.status == 0);
    CHECK(outcome.err.empty());
    return outcome.out;
  };
  CHECK_THAT(output_of({"--help"}), Catch::Matchers::Contains("usage: stpt_starpu --config FILE"));
  const std::string version = output_of({"--version"});
  CHECK_THAT(version, Catch::Matchers::StartsWith("stpt_starpu "));
  CHECK(lines_in(version) == 1);

  const std::string models = output_of({"--list-models"});
  for (const char* name : {"mlp ", "lenet5 ", "resnet8 ", "resnet20 ", "resnet56 "}) {
    CHECK_THAT(models, Catch::Matchers::Contains(std::string("\n") + name));
  }
  // The columns stand below one another.
  const std::string header = models.substr(0, models.find('\n'));
  const std::string row = models.substr(header.size() + 1, models.find('\n', header.size() + 1));
  CHECK(row.substr(header.find("description") - 1, 1) == " ");
  CHECK(row.substr(header.find("description"), 1) != " ");

  CHECK(output_of({"--print-config-docs"}) ==
        read_file(fs::path(STPT_SOURCE_DIR) / "docs" / "config.md"));
  CHECK(fs::is_empty(program.folder()));
}

TEST_CASE("The printed config is a run file that prints itself", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const Outcome printed =
      program.run({"--print-config", "--config", "run.json", "--set", "stpt.candidates=narrow"});
  CHECK(printed.status == 0);
  CHECK(parse_config(printed.out, "printed") ==
        parse_config(small_run, "run.json", {"stpt.candidates=narrow"}));
  write_file(program.folder() / "printed.json", printed.out);
  CHECK(program.run({"--print-config", "--config", "printed.json"}).out == printed.out);
  CHECK(program.run({"--print-config"}).out == print_config(Config{}));
}

namespace {

/// Hides the machine's GPUs, and asks for eight.
struct MissingGpus {
  WithEnvironment hidden{"CUDA_VISIBLE_DEVICES", ""}, asked{"STARPU_NCUDA", "8"};
};

}  // namespace

TEST_CASE("GPUs that are not there are named, and cores do the work", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const MissingGpus missing;
  const Outcome outcome = program.run({"--config", "run.json", "--output", "out"});
  CHECK(outcome.status == 0);
  CHECK_THAT(outcome.err, Catch::Matchers::StartsWith("STARPU_NCUDA asks for 8 GPUs, "));
  CHECK_THAT(outcome.err.substr(0, outcome.err.find('\n')),
             Catch::Matchers::Contains("; training on ") && Catch::Matchers::Contains(" core"));
}

TEST_CASE("GPUs that are required and not there are an error", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const MissingGpus missing;
  const Outcome outcome = program.run(
      {"--config", "run.json", "--output", "out", "--set", "runtime.require_cuda=true"});
  CHECK(outcome.status == 2);
  CHECK_THAT(outcome.err,
             Catch::Matchers::StartsWith(
                 "stpt_starpu: --set: runtime.require_cuda: STARPU_NCUDA asks for 8 GPUs, "));
  CHECK_FALSE(fs::exists(program.folder() / "out"));
  const WithEnvironment none("STARPU_NCUDA", "0");
  CHECK_THAT(program.run({"--config", "run.json", "--set", "runtime.require_cuda=true"}).err,
             Catch::Matchers::Contains("STARPU_NCUDA is 0, which hides any GPU"));
}

TEST_CASE("half precision without a GPU is an error", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const MissingGpus missing;
  for (const std::string type : {"bfloat16", "float16"}) {
    const Outcome outcome = program.run(
        {"--config", "run.json", "--output", "out", "--set", "model.data_type=" + type});
    CHECK(outcome.status == 2);
    CHECK_THAT(outcome.err, Catch::Matchers::StartsWith(
                                "stpt_starpu: --set: model.data_type: is " + type +
                                "; cores compute in float32 only, and STARPU_NCUDA asks for "));
    CHECK_FALSE(fs::exists(program.folder() / "out"));
  }
}

TEST_CASE("a run is only checked by --validate, and nothing written", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const auto before = snapshot(program.folder());
  const Outcome outcome = program.run({"--validate", "--config", "run.json"});
  CHECK(outcome.status == 0);
  CHECK(outcome.err.empty());
  CHECK_THAT(outcome.out, Catch::Matchers::StartsWith("run.json: ok\nmlp: "));
  CHECK_THAT(outcome.out,
             Catch::Matchers::Contains("576 training, 64 hold-out and 128 test images; "
                                       "18 iterations per epoch; about "));
  CHECK(snapshot(program.folder()) == before);
  write_file(program.folder() / "used/file", "mine");
  const Outcome used = program.run({"--validate", "--config", "run.json", "--output", "used"});
  CHECK(used.status == 2);
  CHECK_THAT(used.err, Catch::Matchers::StartsWith("stpt_starpu: used: exists and is not empty; "));
}

TEST_CASE("a run says where its epochs are too short to choose in", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const std::string caution =
      "an epoch has only 9 iterations, too few to compare learning rates well; lower "
      "training.workers or training.batch_per_worker (64 images an iteration now)";
  const auto run = [&](Arguments arguments, const Arguments& keys) {
    for (const std::string& key : keys) arguments.insert(arguments.end(), {"--set", key});
    arguments.insert(arguments.end(), {"--config", "run.json"});
    return program.run(arguments);
  };
  const Arguments short_epochs = {"training.workers=2", "training.batch_per_worker=32",
                                  "training.epochs=1"};
  Arguments fixed = short_epochs;
  fixed.emplace_back("training.learning_rate.policy=fixed");
  Arguments one = short_epochs;
  one.emplace_back("stpt.candidates=[1]");
  CHECK(run({"--validate"}, short_epochs).out.ends_with("\n" + caution + "\n"));
  CHECK(run({"--validate"}, fixed).out.find("too few") == std::string::npos);
  CHECK(run({"--validate"}, one).out.find("too few") == std::string::npos);
  CHECK(run({"--validate"}, {}).out.find("too few") == std::string::npos);
  const Outcome outcome = run({"--output", "short"}, short_epochs);
  CHECK(outcome.status == 0);
  CHECK(outcome.err.find(caution + "\n") != std::string::npos);
}

TEST_CASE("Counts are whole numbers in what --validate says", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  Arguments arguments = {"--validate", "--config", "run.json"};
  for (const char* override : {"data.hold_out=8", "data.synthetic.test_images=7",
                               "data.synthetic.height=2", "data.synthetic.width=2"})
    arguments.insert(arguments.end(), {"--set", override});
  const std::string said = program.run(arguments).out;
  CHECK_THAT(said, Catch::Matchers::Contains("; 632 training, 8 hold-out and 7 test images; "));
  CHECK_THAT(said, Catch::Matchers::Contains(" MiB of memory for training, "));
}

TEST_CASE("A run file may begin with a byte order mark", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", std::string("\xef\xbb\xbf") + small_run);
  const Outcome outcome = program.run({"--print-config", "--config", "run.json"});
  CHECK(outcome.err.empty());
  CHECK(outcome.out == print_config(parse_config(small_run, "run.json")));
}

TEST_CASE("Output that cannot be written is a failure", "[executable]") {
  Program program;
  program.start({"--help"});
  CHECK(program.wait().status == 0);
  // A shell makes stdout the device that is always full.
  const std::string command =
      std::string("\"") + STPT_EXECUTABLE + "\" --help >/dev/full 2>/dev/null";
  const int status = std::system(command.c_str());
  CHECK(WEXITSTATUS(status) == 1);
}

// ---- Training --------------------------------------------------------------------------------

TEST_CASE("A run leaves all its files and says how it went", "[executable]") {
  Program program;
  const fs::path run = program.folder() / "out";
  std::string changed = "model.name=mlp";
  SECTION("of an MLP") {}
  SECTION("of a ResNet") { changed = "model.name=resnet8"; }
  SECTION("into an empty folder") { fs::create_directories(run); }
  write_file(program.folder() / "run.json", small_run);

  const Outcome outcome =
      program.run({"--config", "run.json", "--output", "out", "--set", changed});
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  CHECK(lines_in(outcome.out) == 1);
  CHECK_THAT(outcome.out, Catch::Matchers::StartsWith("out: test accuracy "));
  CHECK_THAT(outcome.out, Catch::Matchers::Contains("final learning rate "));
  CHECK_THAT(outcome.out, Catch::Matchers::Contains("report: out/report.html"));
  CHECK_THAT(outcome.err, Catch::Matchers::Contains("epoch 2/2  lr "));

  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(run)) names.push_back(entry.path().filename());
  std::ranges::sort(names);
  CHECK(names == std::vector<std::string>{"checkpoint.bin", "config.json", "metrics.jsonl",
                                          "report.html", "summary.json"});
  CHECK(parse_config(read_file(run / "config.json"), "config.json") ==
        parse_config(small_run, "run.json", {changed}));
  CHECK(lines_in(read_file(run / "metrics.jsonl")) == 3);
  CHECK_THAT(read_file(run / "report.html"), Catch::Matchers::Contains("</html>"));
  CHECK(load_checkpoint(run / "checkpoint.bin").epoch == 2);

  const json::object summary = summary_of(run);
  CHECK(text_of(summary, "status") == "complete");
  CHECK(text_of(summary, "epochs") == "2");
  CHECK(text_of(summary, "model_digest").size() == 64);
  CHECK("stpt_starpu " + text_of(summary, "version") + "\n" == program.run({"--version"}).out);
  for (const char* key : {"test_top1", "best_test_top1", "final_lr", "wall_seconds",
                          "images_per_second", "samples_total", "samples_discarded"}) {
    INFO(key);
    CHECK(summary.at(key).to_number<double>() > 0);
  }
  // 2 epochs of 15 iterations and 3 candidates' Pre-train of 3, 32 images each.
  CHECK(text_of(summary, "samples_total") == std::to_string(2 * (15 + 3 * 3) * 32));
  CHECK(text_of(summary, "samples_discarded") == std::to_string(2 * 2 * 3 * 32));
}

TEST_CASE("What a run prints does not get into its files where there is nobody to read it",
          "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const std::string closed = GENERATE("2>&-", ">&- 2>&-", "<&- >&- 2>&-");
  CAPTURE(closed);
  REQUIRE(program.run_command(in_shell("", "--config run.json --output out " + closed)).status ==
          0);
  CHECK(lines_in(read_file(program.folder() / "out" / "metrics.jsonl")) == 3);
  const Outcome outcome = program.run({"--export", "out"});
  INFO(outcome.err);
  CHECK(outcome.status == 0);
}

TEST_CASE("A run is complete even if its result cannot be printed", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const Outcome outcome =
      program.run_command(in_shell("", "--config run.json --output out >/dev/full"));
  CHECK(outcome.status == 1);
  CHECK_THAT(outcome.err,
             Catch::Matchers::EndsWith("\nstpt_starpu: cannot write to standard output\n"));
  CHECK(text_of(summary_of(program.folder() / "out"), "status") == "complete");
}

TEST_CASE("A run goes on when nobody reads what it prints any more", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const auto [stream, status] =
      GENERATE(table<std::string, std::string>({{"2>&1 >result", "0"}, {"", "1"}}));
  CAPTURE(stream);
  const std::string run =
      "{ \"$0\" --config run.json --output out " + stream + "; echo $? >status; }";
  (void)program.run_command({"sh", "-c", run + " | true", STPT_EXECUTABLE});
  CHECK(read_file(program.folder() / "status") == status + "\n");
  CHECK(text_of(summary_of(program.folder() / "out"), "status") == "complete");
}

TEST_CASE("A file that may grow no further fails the run in one line", "[executable]") {
  Program program;
  const fs::path run = program.folder() / "out";
  write_file(program.folder() / "run.json", small_run);
  // In blocks of 512 bytes: room for all files but the checkpoint.
  const Outcome outcome =
      program.run_command(in_shell("ulimit -f 200; ", "--config run.json --output out"));
  CHECK(outcome.status == 1);
  const std::string failure = "out/checkpoint.bin: cannot write: File too large";
  CHECK_THAT(outcome.err, Catch::Matchers::EndsWith("\nstpt_starpu: " + failure + "\n"));
  CHECK(text_of(summary_of(run), "failure") == failure);
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(run)) names.push_back(entry.path().filename());
  std::ranges::sort(names);
  CHECK(names ==
        std::vector<std::string>{"config.json", "metrics.jsonl", "report.html", "summary.json"});
}

#ifdef STPT_FXT_TOOL
TEST_CASE("A trace tells iterations and sizes apart", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const WithEnvironment trace("STARPU_FXT_TRACE", "1"),
      prefix("STARPU_FXT_PREFIX", program.folder().string() + "/");
  REQUIRE(program.run({"--config", "run.json", "--output", "out"}).status == 0);
  Arguments convert = {STPT_FXT_TOOL};
  for (const fs::directory_entry& entry : fs::directory_iterator(program.folder())) {
    if (entry.path().filename().string().starts_with("prof_file"))
      convert.insert(convert.end(), {"-i", entry.path().string()});
  }
  REQUIRE(program.run_command(convert).status == 0);
  // Records of lines "Key: value", with an empty line between them.
  std::istringstream tasks(read_file(program.folder() / "tasks.rec"));
  std::map<std::string, std::map<std::string, int>> count;       // by name and iteration
  std::map<std::string, std::map<std::string, int>> footprints;  // by name and footprint
  std::string line, name, iteration, footprint;
  while (std::getline(tasks, line)) {
    if (line.starts_with("Name: ")) name = line.substr(6);
    if (line.starts_with("Iteration: ")) iteration = line.substr(11);
    if (line.starts_with("Footprint: ")) footprint = line.substr(11);
    if (!line.empty()) continue;
    ++count[name][iteration];
    ++footprints[name][footprint];
    name = iteration = footprint = "";
  }
  // 18 iterations an epoch, of which the first 3 are Pre-train's, for 3 candidates.
  CHECK(count["report step"].size() == 36);
  for (int i = 0; i < 36; ++i)
    CHECK(count["report step"][std::to_string(i)] == (i % 18 < 3 ? 3 : 1));
  CHECK(count["gather scores"].size() == 1);
  CHECK(count["gather scores"].contains(""));
  // Tasks of different sizes have times of their own.
  for (const char* task : {"copy", "average parameters", "gather scores"}) {
    CAPTURE(task);
    CHECK_FALSE(footprints[task].empty());
    CHECK_FALSE(footprints[task].contains("0"));
  }
}
#endif

/// Two classes, light and dark JPEG files of several sizes.
void write_image_folder(const fs::path& folder, int train_images, int test_images) {
  using namespace data::testing;
  const auto write_half = [&folder](const char* half, int images) {
    for (int i = 0; i < images; ++i) {
      const bool light = i % 2 == 0;
      const auto shade = static_cast<std::uint8_t>((light ? 180 : 40) + i % 32);
      write_bytes(folder / half / (light ? "light" : "dark") / (std::to_string(1000 + i) + ".JPEG"),
                  jpeg_file({20 + i % 7, 16 + i % 5}, plain({shade, shade, shade})));
    }
  };
  write_half("train", train_images);
  write_half("val", test_images);
}

TEST_CASE("Image folders and CIFAR train", "[executable]") {
  Program program;
  const fs::path folder = program.folder();
  write_file(folder / "run.json", small_run);
  Arguments arguments = {"--config",       "run.json", "--set",
                         "data.path=data", "--set",    "training.epochs=1"};
  const auto set = [&arguments](const std::string& override) {
    arguments.insert(arguments.end(), {"--set", override});
  };
  SECTION("an image folder") {
    write_image_folder(folder / "data", 200, 40);
    set("data.format=image_folder");
    set("data.image_size=16");
    set("data.crop_size=12");
    SECTION("with random crops") {}
    SECTION("with random resized crops") { set("data.augment.random_resized_crop=true"); }
  }
  SECTION("CIFAR-10") {
    std::string records;
    for (int i = 0; i < 40; ++i) {
      records += static_cast<char>(i % 4);
      records += std::string(3072, static_cast<char>(60 * (i % 4)));
    }
    for (const char* file : {"data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4",
                             "data_batch_5", "test_batch"}) {
      write_file(folder / "data" / (std::string(file) + ".bin"), records);
    }
    set("data.format=cifar10");
  }
  // Without the cache and on other workers as with it, to the bit.
  arguments.insert(arguments.end(), {"--output", "out"});
  const Outcome first = program.run(arguments);
  INFO(first.err);
  REQUIRE(first.status == 0);
  // What the classes are called goes with the model.
  REQUIRE(program.run({"--export", "out"}).status == 0);
  const std::string model = read_file(folder / "out/model.safetensors");
  const bool named = fs::is_directory(folder / "data/train");
  CHECK((model.find(R"("classes":"[\"dark\", \"light\"]")") != std::string::npos) == named);
  arguments.back() = "again";
  set("data.cache=0");
  set("runtime.cpu_workers=1");
  REQUIRE(program.run(arguments).status == 0);
  CHECK(text_of(summary_of(folder / "out"), "model_digest") ==
        text_of(summary_of(folder / "again"), "model_digest"));
  CHECK_THAT(first.err, !Catch::Matchers::Contains("cannot be read"));
}

TEST_CASE("Unreadable images are named, and end the run where there are many", "[executable]") {
  Program program;
  const fs::path folder = program.folder();
  write_file(folder / "run.json", small_run);
  write_image_folder(folder / "data", 200, 40);
  write_file(folder / "data/train/light/1100.JPEG", "no image");
  write_file(folder / "data/val/dark/1001.JPEG", "");
  Arguments arguments = {"--config", "run.json",
                         "--output", "out",
                         "--set",    "data.path=data",
                         "--set",    "data.format=image_folder",
                         "--set",    "data.image_size=16",
                         "--set",    "training.epochs=1",
                         "--set",    "data.normalize=false"};
  SECTION("within the limit") {
    arguments.insert(arguments.end(), {"--set", "data.bad_image_limit=0.03"});
    const Outcome outcome = program.run(arguments);
    CHECK(outcome.status == 0);
    CHECK_THAT(outcome.err, Catch::Matchers::Contains(
                                "2 images cannot be read; others of the class stand in: "
                                "data/train/light/1100.JPEG: is neither a JPEG nor a PNG file; "
                                "data/val/dark/1001.JPEG: is empty\n"));
  }
  SECTION("beyond it, while training") {
    // So large that not all of them are read before.
    fs::rename(folder / "data/train/light/1100.JPEG", folder / "data/train/light/1098.JPEG");
    write_image_folder(folder / "data", 0, 40);
    arguments.insert(arguments.end(),
                     {"--set", "data.image_size=256", "--set", "data.crop_size=16"});
    const Outcome outcome = program.run(arguments);
    CHECK(outcome.status == 2);
    CHECK_THAT(outcome.err, Catch::Matchers::Contains(
                                "stpt_starpu: data/train/light/1098.JPEG: is neither a JPEG "
                                "nor a PNG file; data.bad_image_limit allows 0 of the 199 in "));
    CHECK(text_of(summary_of(folder / "out"), "status") == "failed");
  }
  SECTION("beyond it, before the training") {
    std::string file = "data/val/dark/1001.JPEG: is empty; ";
    SECTION("among the test images") { fs::remove(folder / "data/train/light/1100.JPEG"); }
    SECTION("among large test images") {
      // So large that the data's checksum is not taken of all of them.
      fs::remove(folder / "data/train/light/1100.JPEG");
      fs::rename(folder / "data/val/dark/1001.JPEG", folder / "data/val/dark/1011.JPEG");
      file = "data/val/dark/1011.JPEG: is empty; ";
      arguments.insert(arguments.end(),
                       {"--set", "data.image_size=600", "--set", "data.crop_size=16"});
    }
    SECTION("while the mean is taken") {
      arguments.back() = "data.normalize=true";
      file = "data/train/light/1100.JPEG: is neither ";
    }
    const Outcome outcome = program.run(arguments);
    CHECK(outcome.status == 2);
    CHECK_THAT(outcome.err, Catch::Matchers::StartsWith("stpt_starpu: " + file));
    CHECK(lines_in(outcome.err) == 1);
    CHECK_FALSE(fs::exists(folder / "out"));
  }
}

TEST_CASE("Without --output a run gets a folder of its own", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const Arguments arguments = {"--config", "run.json", "--set", "training.epochs=1"};
  REQUIRE(program.run(arguments).status == 0);
  REQUIRE(program.run(arguments).status == 0);
  std::size_t runs = 0;
  for (const auto& entry : fs::directory_iterator(program.folder() / "runs")) {
    CHECK_THAT(entry.path().filename().string(), Catch::Matchers::StartsWith("small-20"));
    CHECK(fs::exists(entry.path() / "summary.json"));
    ++runs;
  }
  CHECK(runs == 2);
}

TEST_CASE("A run without checkpoints cannot go on", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  // One epoch is not thrown away either.
  const std::string epochs = "training.epochs=" + std::string(GENERATE("1", "2"));
  REQUIRE(program
              .run({"--config", "run.json", "--output", "out", "--set", "runtime.checkpoint=false",
                    "--set", epochs})
              .status == 0);
  CHECK_FALSE(fs::exists(program.folder() / "out" / "checkpoint.bin"));
  const auto before = snapshot(program.folder());
  const Outcome outcome = program.run({"--resume", "out"});
  CHECK(outcome.status == 2);
  CHECK_THAT(outcome.err,
             Catch::Matchers::StartsWith("stpt_starpu: out/checkpoint.bin: no such file; "));
  CHECK(lines_in(outcome.err) == 1);
  CHECK(snapshot(program.folder()) == before);
}

// ---- Going on --------------------------------------------------------------------------------

TEST_CASE("A resumed run ends with the bits of one that was not interrupted", "[executable]") {
  Program program;
  std::string model = "model.name=mlp";
  SECTION("of an MLP") {}
  SECTION("of a ResNet") { model = "model.name=resnet8"; }
  write_file(program.folder() / "run.json", small_run);
  const Arguments fresh = {"--config", "run.json", "--set", model};
  const auto with = [](Arguments arguments, const Arguments& more) {
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  REQUIRE(program.run(with(fresh, {"--output", "whole", "--set", "training.epochs=4"})).status ==
          0);
  REQUIRE(program.run(with(fresh, {"--output", "parts"})).status == 0);
  // As if it had ended between the metrics and the checkpoint of an epoch, and within a line.
  std::ofstream(program.folder() / "parts" / "metrics.jsonl", std::ios::app)
      << "{\"kind\":\"epoch\",\"epoch\":3}\n{\"kind\":\"ep";
  const Outcome outcome = program.run({"--resume", "parts", "--set", "training.epochs=4", "--set",
                                       "runtime.scheduler=eager", "--set", "runtime.fusion=op"});
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);

  const json::object whole = summary_of(program.folder() / "whole");
  const json::object parts = summary_of(program.folder() / "parts");
  for (const char* key : {"model_digest", "status", "epochs", "test_top1", "best_test_top1",
                          "test_loss", "final_lr", "samples_total", "samples_discarded"}) {
    INFO(key);
    CHECK(text_of(whole, key) == text_of(parts, key));
  }
  CHECK(lines_in(read_file(program.folder() / "parts" / "metrics.jsonl")) == 5);
  const Config config =
      parse_config(read_file(program.folder() / "parts" / "config.json"), "config.json");
  CHECK(config.training.epochs == 4);
  CHECK(config.runtime.scheduler == "eager");
}

TEST_CASE("A run that goes on knows the LR with which it fell apart", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const auto train = [&](const Arguments& arguments) {
    const Outcome outcome = program.run(arguments);
    INFO(outcome.err);
    REQUIRE(outcome.status == 0);
  };
  const auto with_epochs = [](const char* run, int epochs) {
    return Arguments{"--config",
                     "run.json",
                     "--output",
                     run,
                     "--set",
                     "stpt.max_retries=100",
                     "--set",
                     R"(stpt.schedule=[{"from_epoch": 1, "candidates": [1]},
                                       {"from_epoch": 2, "candidates": [500]},
                                       {"from_epoch": 3, "candidates": [500, 1, 0.5]}])",
                     "--set",
                     "stpt.drift_limit=anchor",
                     "--set",
                     "stpt.max_collapses=100",
                     "--set",
                     "training.epochs=" + std::to_string(epochs)};
  };
  train(with_epochs("whole", 3));
  train(with_epochs("parts", 2));
  CHECK(load_checkpoint(program.folder() / "parts" / "checkpoint.bin").highest_learning_rate < 25);
  train({"--resume", "parts", "--set", "training.epochs=3"});
  CHECK(text_of(summary_of(program.folder() / "whole"), "model_digest") ==
        text_of(summary_of(program.folder() / "parts"), "model_digest"));
}

TEST_CASE("A run that was killed after its last epoch is brought to its end", "[executable]") {
  Program program;
  const fs::path run = program.folder() / "out";
  write_file(program.folder() / "run.json", small_run);
  const auto model = GENERATE(as<std::string>(), "mlp", "resnet8");
  const auto statistics = GENERATE(as<std::string>(), "winner", "recalibrate");
  CAPTURE(model, statistics);
  REQUIRE(program
              .run({"--config", "run.json", "--output", "out", "--set", "model.name=" + model,
                    "--set", "stpt.running_statistics=" + statistics})
              .status == 0);
  const std::string summary = read_file(run / "summary.json");
  std::string unfinished = summary;
  const std::string status = R"("status": "complete")";
  REQUIRE(unfinished.find(status) != std::string::npos);
  unfinished.replace(unfinished.find(status), status.size(), R"("status": "running")");
  SECTION("before its summary") { write_file(run / "summary.json", unfinished); }
  SECTION("in its summary") {
    write_file(run / "summary.json", unfinished);
    write_file(run / ".summary.json.4711.stpt.tmp", summary.substr(0, 100));
  }
  SECTION("in its first summary") {
    fs::remove(run / "summary.json");
    write_file(run / ".summary.json.4711.stpt.tmp", summary.substr(0, 100));
  }
  write_file(run / ".model.safetensors.4711.stpt.tmp", "of an export that is under way");
  const Outcome outcome = program.run({"--resume", "out"});
  INFO(outcome.err);
  CHECK(outcome.status == 0);
  CHECK(fs::exists(run / ".model.safetensors.4711.stpt.tmp"));
  for (const char* key : {"status", "model_digest", "epochs", "test_top1", "samples_total"}) {
    INFO(key);
    CHECK(text_of(summary_of(run), key) == text_of(read_json(summary).as_object(), key));
  }
  CHECK_FALSE(fs::exists(run / ".summary.json.4711.stpt.tmp"));
  CHECK(program.run({"--resume", "out"}).status == 2);
}

TEST_CASE("What a run that goes on refuses", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  REQUIRE(program.run({"--config", "run.json", "--output", "out"}).status == 0);
  Arguments arguments = {"--resume", "out", "--set", "training.epochs=3"};
  const fs::path checkpoint = program.folder() / "out" / "checkpoint.bin";
  std::string expected;

  SECTION("nothing to do") {
    arguments.resize(2);
    expected = "out/checkpoint.bin: it has completed epoch 2, and training.epochs is 2";
  }
  SECTION("another seed") {
    arguments.insert(arguments.end(), {"--set", "training.seed=2"});
    expected = "--set: training.seed: cannot change in a run that goes on";
  }
  SECTION("other candidates") {
    arguments.insert(arguments.end(), {"--set", "stpt.candidates=narrow"});
    expected = "--set: stpt.candidates: cannot change in a run that goes on";
  }
  SECTION("an unknown key") {
    arguments.insert(arguments.end(), {"--set", "stpt.beta=1"});
    expected = "--set: stpt.beta: unknown key";
  }
  SECTION("a truncated checkpoint") {
    fs::resize_file(checkpoint, fs::file_size(checkpoint) / 2);
    expected = "out/checkpoint.bin: is cut short";
  }
  SECTION("a damaged checkpoint") {
    std::string bytes = read_file(checkpoint);
    bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
    write_file(checkpoint, bytes);
    expected = "out/checkpoint.bin: is damaged";
  }
  SECTION("the checkpoint of another model") {
    REQUIRE(
        program.run({"--config", "run.json", "--output", "other", "--set", "model.name=resnet8"})
            .status == 0);
    fs::copy_file(program.folder() / "other" / "checkpoint.bin", checkpoint,
                  fs::copy_options::overwrite_existing);
    expected =
        "out/checkpoint.bin: was made with another model.name; the run's config.json must say";
  }
  SECTION("a config that was changed by hand") {
    const fs::path config = program.folder() / "out" / "config.json";
    std::string text = read_file(config);
    text.replace(text.find("\"batch_per_worker\": 16"), 22, "\"batch_per_worker\": 8 ");
    write_file(config, text);
    expected =
        "out/checkpoint.bin: was made with another training.batch_per_worker; the run's "
        "config.json";
    SECTION("to be resumed") {}
    SECTION("to be exported") { arguments = {"--export", "out"}; }
  }
  SECTION("a checkpoint that is gone after two epochs") {
    fs::remove(checkpoint);
    expected = "out/checkpoint.bin: no such file";
  }
  SECTION("no config") {
    fs::remove(program.folder() / "out" / "config.json");
    expected = "out/config.json: no such file";
  }
  SECTION("no config that can be used, nor anything else") {
    for (const char* file : {"checkpoint.bin", "metrics.jsonl", "summary.json", "report.html"})
      fs::remove(program.folder() / "out" / file);
    write_file(program.folder() / "out" / "config.json", "");
    expected = "out/config.json:1:1: the text is empty";
  }
  std::optional<WithEnvironment> environment;
  SECTION("no core to train on") {
    environment.emplace("STARPU_NCPU", "0");
    expected = "STARPU_NCPU: is 0, but cores load batches; must be at least 1";
  }
  SECTION("metrics that are gone") {
    fs::remove(program.folder() / "out" / "metrics.jsonl");
    expected = "out: metrics.jsonl has 0 of the 2 epochs";
  }
  SECTION("metrics that end before the checkpoint") {
    std::string metrics = read_file(program.folder() / "out" / "metrics.jsonl");
    metrics.erase(metrics.rfind('\n', metrics.size() - 2) + 1);
    write_file(program.folder() / "out" / "metrics.jsonl", metrics);
    expected = "out: metrics.jsonl has 1 of the 2 epochs";
  }

  const auto before = snapshot(program.folder());
  const Outcome outcome = program.run(arguments);
  CHECK(outcome.status == 2);
  CHECK(outcome.out.empty());
  CHECK(lines_in(outcome.err) == 1);
  CHECK_THAT(outcome.err, Catch::Matchers::StartsWith("stpt_starpu: " + expected));
  CHECK(snapshot(program.folder()) == before);
}

TEST_CASE("A run goes on with its data alone, wherever they lie", "[executable]") {
  Program program;
  const fs::path folder = program.folder();
  write_file(folder / "run.json", small_run);
  write_image_folder(folder / "data", 200, 40);
  REQUIRE(program
              .run({"--config", "run.json", "--output", "out", "--set", "data.path=data", "--set",
                    "data.format=image_folder", "--set", "data.image_size=16", "--set",
                    "training.epochs=1"})
              .status == 0);
  fs::rename(folder / "data", folder / "moved");
  const Arguments resume = {"--resume", "out", "--set", "data.path=moved"};
  const auto more = [&](const char* epochs) {
    Arguments arguments = resume;
    arguments.insert(arguments.end(), {"--set", std::string("training.epochs=") + epochs});
    return program.run(arguments);
  };
  CHECK(more("2").status == 0);
  const auto before = snapshot(folder / "out");
  SECTION("an image less") { fs::remove(folder / "moved/val/dark/1001.JPEG"); }
  SECTION("another image") {
    fs::copy_file(folder / "moved/train/light/1100.JPEG", folder / "moved/train/dark/1001.JPEG",
                  fs::copy_options::overwrite_existing);
  }
  const Outcome outcome = more("3");
  CHECK(outcome.status == 2);
  CHECK(outcome.err ==
        "stpt_starpu: data: the images or labels are not those that the run began with; "
        "give their folder with --set data.path=..., or start a new run\n");
  CHECK(snapshot(folder / "out") == before);
}

TEST_CASE("A run of a network of one's own needs its file no more", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  write_file(program.folder() / "net.json", R"({"name": "own", "layers": [
    {"name": "conv", "type": "convolution", "filters": 4, "kernel": 3},
    {"name": "bn", "type": "batch_norm"}, {"type": "relu"}, {"type": "global_average_pool"},
    {"name": "fc", "type": "fully_connected"}]})");
  const Arguments whole = {"--config", "run.json", "--set", "model.network=net.json", "--output"};
  const auto with = [](Arguments arguments, const Arguments& more) {
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  REQUIRE(program.run(with(whole, {"whole"})).status == 0);
  REQUIRE(program.run(with(whole, {"part", "--set", "training.epochs=1"})).status == 0);
  CHECK(text_of(summary_of(program.folder() / "whole"), "model") == "own");

  // Another network is another run.
  write_file(program.folder() / "net.json",
             R"({"name": "own", "layers": [{"name": "fc", "type": "fully_connected"}]})");
  const Arguments resume = {"--resume", "part", "--set", "training.epochs=2"};
  const Outcome changed = program.run(with(resume, {"--set", "model.network=net.json"}));
  CHECK(changed.status == 2);
  CHECK_THAT(changed.err, Catch::Matchers::StartsWith("stpt_starpu: --set: model.network: cannot "
                                                      "change in a run that goes on"));

  fs::remove(program.folder() / "net.json");
  REQUIRE(program.run(resume).status == 0);
  CHECK(text_of(summary_of(program.folder() / "part"), "model_digest") ==
        text_of(summary_of(program.folder() / "whole"), "model_digest"));
  const Outcome exported = program.run({"--export", "part"});
  CHECK(exported.status == 0);
  CHECK(exported.out == "part/model.safetensors: own after epoch 2, 64 parameters\n");
}

TEST_CASE("A run starts from what another one exported", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const Arguments first = {"--config",           "run.json", "--set",
                           "model.name=resnet8", "--set",    "training.epochs=1"};
  Arguments arguments = first;
  arguments.insert(arguments.end(), {"--output", "first"});
  REQUIRE(program.run(arguments).status == 0);
  REQUIRE(program.run({"--export", "first", "--to", "a.safetensors"}).status == 0);

  arguments = first;
  arguments.insert(arguments.end(), {"--set", "model.weights=a.safetensors", "--output", "second"});
  REQUIRE(program.run(arguments).status == 0);
  CHECK(text_of(summary_of(program.folder() / "second"), "model_digest") !=
        text_of(summary_of(program.folder() / "first"), "model_digest"));
  // From a trained model the first epoch is a better one.
  const auto loss = [&](const char* run) {
    std::istringstream metrics(read_file(program.folder() / run / "metrics.jsonl"));
    std::string line;
    std::getline(metrics, line);
    std::getline(metrics, line);
    return read_json(line).as_object().at("train_loss").as_double();
  };
  CHECK(loss("second") < loss("first"));

  // The weights were for the start: the run goes on without them.
  fs::remove(program.folder() / "a.safetensors");
  CHECK(program.run({"--resume", "second", "--set", "training.epochs=2"}).status == 0);
  const Outcome gone = program.run(arguments);
  CHECK(gone.status == 2);
  CHECK(gone.err ==
        "stpt_starpu: second: exists and is not empty; use another directory, or --resume to go on "
        "with the run in it\n");
  arguments.back() = "third";
  const Outcome missing = program.run(arguments);
  CHECK(missing.status == 2);
  CHECK(missing.err == "stpt_starpu: a.safetensors: no such file; must be a safetensors file\n");
  CHECK_FALSE(fs::exists(program.folder() / "third"));
}

TEST_CASE("a network is trained on for other classes", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  Arguments run = {"--config", "run.json",          "--output", "four",
                   "--set",    "training.epochs=1", "--set",    "model.name=resnet8"};
  REQUIRE(program.run(run).status == 0);
  REQUIRE(program.run({"--export", "four", "--to", "a.safetensors"}).status == 0);
  run[3] = "three";
  run.insert(run.end(), {"--set", "model.weights=a.safetensors", "--set",
                         "data.synthetic.classes=3", "--set", "model.new_layers=head"});
  const Outcome wrong = program.run(run);
  CHECK(wrong.status == 2);
  CHECK(wrong.err ==
        "stpt_starpu: --set: model.new_layers: has \"head\"; must have layers of resnet8 with "
        "parameters, of which the last is \"fc\"\n");
  CHECK_FALSE(fs::exists(program.folder() / "three"));
  run.back() = "model.new_layers=fc";
  CHECK(program.run(run).status == 0);
  // A resumed run has what it needs.
  fs::remove(program.folder() / "a.safetensors");
  CHECK(program.run({"--resume", "three", "--set", "training.epochs=2"}).status == 0);
  CHECK(program.run({"--export", "three"}).status == 0);
}

TEST_CASE("What is exported is the model that was tested", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const auto statistics = GENERATE(as<std::string>(), "winner", "recalibrate");
  const auto resumed = GENERATE(false, true);
  CAPTURE(statistics, resumed);
  REQUIRE(program
              .run({"--config", "run.json", "--output", "out", "--set", "model.name=resnet8",
                    "--set", "stpt.running_statistics=" + statistics, "--set",
                    "training.epochs=" + std::string(resumed ? "1" : "2")})
              .status == 0);
  if (resumed) REQUIRE(program.run({"--resume", "out", "--set", "training.epochs=2"}).status == 0);
  REQUIRE(program.run({"--export", "out", "--to", "a.safetensors"}).status == 0);

  const SafetensorsFile file(program.folder() / "a.safetensors");
  const models::Network network = models::make_network("resnet8", {1, 1, 12, 12}, 4);
  models::ModelValues values = models::ModelValues::initial(network, 1, 1);
  import_weights(program.folder() / "a.safetensors", network, values);
  // As the digest takes them: parameters, then running statistics, in the order of the layers.
  Sha256 hash;
  for (const bool running : {false, true}) {
    for (const models::StateEntry& entry : models::state_dict(network)) {
      if (entry.running == running) hash.update(std::as_bytes(entry.in(values)));
    }
  }
  CHECK(hash.hex_digest() == text_of(summary_of(program.folder() / "out"), "model_digest"));
  std::vector<std::int64_t> batches(1);
  file.read(file.entries().at("bn.num_batches_tracked"),
            std::as_writable_bytes(std::span(batches)));
  CHECK(std::to_string(batches[0]) == text_of(summary_of(program.folder() / "out"), "iterations"));
  const std::string bytes = read_file(program.folder() / "a.safetensors");
  CHECK_THAT(bytes,
             Catch::Matchers::Contains(R"("mean":"[)") && Catch::Matchers::Contains(R"("std":"[)"));
}

TEST_CASE("A model is tested without training", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  const auto statistics = GENERATE(as<std::string>(), "winner", "recalibrate");
  CAPTURE(statistics);
  const Arguments model = {"--set", "model.name=resnet8", "--set",
                           "stpt.running_statistics=" + statistics};
  Arguments run = {"--config", "run.json", "--output", "out", "--set", "training.epochs=1"};
  run.insert(run.end(), model.begin(), model.end());
  REQUIRE(program.run(run).status == 0);
  REQUIRE(program.run({"--export", "out", "--to", "a.safetensors"}).status == 0);
  const json::value summary = summary_of(program.folder() / "out");
  std::ostringstream loss;
  loss << summary.at("test_loss").to_number<double>();  // six digits
  const auto before = snapshot(program.folder());
  for (const bool imported : {false, true}) {
    Arguments arguments = {"--test"};
    if (imported) {
      arguments.insert(arguments.end(),
                       {"--config", "run.json", "--set", "model.weights=a.safetensors"});
      arguments.insert(arguments.end(), model.begin(), model.end());
    } else {
      arguments.insert(arguments.end(), {"--resume", "out"});
    }
    const Outcome outcome = program.run(arguments);
    CHECK(outcome.err == "");
    REQUIRE(outcome.status == 0);
    CHECK_THAT(outcome.out,
               Catch::Matchers::StartsWith("resnet8 on 128 test images of synthetic") &&
                   Catch::Matchers::EndsWith(", loss " + loss.str() + "\n"));
  }
  CHECK(snapshot(program.folder()) == before);
}

TEST_CASE("A run is tested without the weights that it began with", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  REQUIRE(program.run({"--config", "run.json", "--output", "first"}).status == 0);
  REQUIRE(program.run({"--export", "first", "--to", "a.safetensors"}).status == 0);
  REQUIRE(
      program
          .run({"--config", "run.json", "--output", "out", "--set", "model.weights=a.safetensors"})
          .status == 0);
  fs::remove(program.folder() / "a.safetensors");
  CHECK(program.run({"--test", "--resume", "out"}).status == 0);
}

TEST_CASE("What cannot be tested", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  std::string expected, lost;
  Arguments arguments = {"--test", "--resume", "out"};
  Arguments run = {"--config", "run.json", "--output", "out", "--set", "training.epochs=1"};
  SECTION("no run") {
    run = {"--print-config"};
    expected = "out: no such directory; must be that of a run";
  }
  SECTION("a run without checkpoints") {
    run.insert(run.end(), {"--set", "runtime.checkpoint=false"});
    expected = "out/checkpoint.bin: no such file";
  }
  SECTION("a run without its metrics") {
    lost = "out/metrics.jsonl";
    expected = "out: metrics.jsonl has 0 of the 1 epochs of the checkpoint";
  }
  SECTION("with another network") {
    arguments.insert(arguments.end(), {"--set", "model.name=resnet8"});
    expected = "--set: model.name: cannot change in a run that goes on";
  }
  SECTION("weights of another network") {
    arguments = {"--test", "--config", "run.json", "--set", "model.weights=none.safetensors"};
    expected = "none.safetensors: no such file";
  }
  REQUIRE(program.run(run).status == 0);
  if (!lost.empty()) fs::remove(program.folder() / lost);
  const Outcome outcome = program.run(arguments);
  CHECK(outcome.status == 2);
  CHECK(outcome.out == "");
  CHECK_THAT(outcome.err, Catch::Matchers::StartsWith("stpt_starpu: " + expected));
  CHECK(std::ranges::count(outcome.err, '\n') == 1);
}

TEST_CASE("What cannot be exported", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  Arguments arguments = {"--export", "out", "--to", "a.safetensors"};
  Arguments run = {"--config", "run.json", "--output", "out", "--set", "training.epochs=1"};
  std::string expected;
  SECTION("no run") {
    run = {"--print-config"};
    expected = "out: no such directory; must be that of a run";
  }
  SECTION("a run without checkpoints") {
    run.insert(run.end(), {"--set", "runtime.checkpoint=false"});
    expected = "out/checkpoint.bin: no such file";
  }
  SECTION("a place that is none") {
    arguments.back() = "none/a.safetensors";
    expected = "none/a.safetensors: cannot open";
  }
  SECTION("onto a directory") {
    SECTION("by its name") { arguments.back() = "out"; }
    SECTION("by its path") { arguments.back() = "out/"; }
    expected = arguments.back() + ": is a directory; --to needs the name of a new file";
  }
  SECTION("onto what is no file") {
    REQUIRE(mkfifo((program.folder() / "pipe").c_str(), 0600) == 0);
    fs::create_symlink("pipe", program.folder() / "link");
    SECTION("itself") { arguments.back() = "pipe"; }
    SECTION("through a link") { arguments.back() = "link"; }
    expected = arguments.back() + ": is no ordinary file; --to needs the name of a new file";
  }
  SECTION("onto the run's own files") {
    SECTION("the checkpoint") { arguments.back() = "out/checkpoint.bin"; }
    SECTION("the config, through a link") {
      fs::create_symlink("out/config.json", program.folder() / "link");
      arguments.back() = "link";
    }
    SECTION("the report, in another way") { arguments.back() = "out/../out/report.html"; }
    SECTION("the lock") { arguments.back() = "out/.stpt.lock"; }
    expected = arguments.back() + ": belongs to the run; --to needs the name of a new file";
  }
  REQUIRE(program.run(run).status == 0);
  const auto before = snapshot(program.folder());
  const Outcome outcome = program.run(arguments);
  CHECK(outcome.status == 2);
  CHECK(lines_in(outcome.err) == 1);
  CHECK_THAT(outcome.err, Catch::Matchers::StartsWith("stpt_starpu: " + expected));
  CHECK(snapshot(program.folder()) == before);
}

TEST_CASE("The same values may be set again when a run goes on", "[executable]") {
  Program program;
  write_file(program.folder() / "run.json", small_run);
  REQUIRE(program.run({"--config", "run.json", "--output", "out"}).status == 0);
  const Outcome outcome = program.run({"--resume", "out", "--set", "training.epochs=3", "--set",
                                       "training.seed=1", "--set", "stpt.alpha=3"});
  CHECK(outcome.status == 0);
  CHECK(text_of(summary_of(program.folder() / "out"), "epochs") == "3");
}

TEST_CASE("A signal stops a run that can then go on", "[executable]") {
  Program program;
  const fs::path run = program.folder() / "out";
  write_file(program.folder() / "run.json", small_run);
  int signal = SIGINT;
  SECTION("SIGINT") {}
  SECTION("SIGTERM") { signal = SIGTERM; }
  program.start({"--config", "run.json", "--output", "out", "--set", "training.epochs=100000"});
  wait_until(program, [&] { return fs::exists(run / "checkpoint.bin"); });
  program.send(signal);
  const Outcome outcome = program.wait();
  INFO(outcome.err);
  REQUIRE(outcome.status == 128 + signal);
  CHECK_THAT(outcome.out, Catch::Matchers::StartsWith("out: stopped after "));
  CHECK_THAT(outcome.out, Catch::Matchers::EndsWith("go on: stpt_starpu --resume out\n"));
  CHECK_THAT(outcome.err, Catch::Matchers::Contains("stopping after this step"));
  CHECK_THAT(read_file(run / "report.html"), Catch::Matchers::Contains("</html>"));
  const json::object summary = summary_of(run);
  CHECK(text_of(summary, "status") == "stopped");
  const int done = load_checkpoint(run / "checkpoint.bin").epoch;
  CHECK(done >= 1);
  CHECK(text_of(summary, "epochs") == std::to_string(done));

  const std::string epochs = "training.epochs=" + std::to_string(done + 1);
  REQUIRE(program.run({"--resume", "out", "--set", epochs}).status == 0);
  REQUIRE(program.run({"--config", "run.json", "--output", "whole", "--set", epochs}).status == 0);
  CHECK(text_of(summary_of(run), "status") == "complete");
  CHECK(text_of(summary_of(run), "model_digest") ==
        text_of(summary_of(program.folder() / "whole"), "model_digest"));
}

TEST_CASE("A killed run can go on from its last checkpoint", "[executable]") {
  Program program;
  const fs::path run = program.folder() / "out";
  write_file(program.folder() / "run.json", small_run);
  program.start({"--config", "run.json", "--output", "out", "--set", "training.epochs=100000"});
  wait_until(program, [&] { return fs::exists(run / "checkpoint.bin"); });
  program.send(SIGKILL);
  REQUIRE(program.wait().status == 1000 + SIGKILL);
  CHECK(fs::exists(run / ".stpt.lock"));  // which locks nobody out
  const int done = load_checkpoint(run / "checkpoint.bin").epoch;
  const std::string epochs = "training.epochs=" + std::to_string(done + 1);
  const Outcome outcome = program.run({"--resume", "out", "--set", epochs});
  INFO(outcome.err);
  CHECK(outcome.status == 0);
  CHECK(text_of(summary_of(run), "epochs") == std::to_string(done + 1));
  CHECK_FALSE(fs::exists(run / ".stpt.lock"));
}

/// Makes of a finished run what one leaves that is killed when its metrics have so many lines.
void take_back(const fs::path& run, std::size_t lines) {
  fs::remove(run / "checkpoint.bin");
  std::istringstream metrics(read_file(run / "metrics.jsonl"));
  std::string kept, line;
  for (std::size_t i = 0; i < lines && std::getline(metrics, line); ++i) kept += line + '\n';
  if (lines > 0) return write_file(run / "metrics.jsonl", kept);
  for (const char* file : {"metrics.jsonl", "summary.json", "report.html"}) fs::remove(run / file);
}

TEST_CASE("A run that ended before its first checkpoint starts from the beginning",
          "[executable]") {
  Program program;
  const fs::path run = program.folder() / "out";
  write_file(program.folder() / "run.json", small_run);
  // An epoch of 1998 iterations: long enough to be ended in it.
  Arguments fresh = {"--config", "run.json"};
  const Arguments longer = {"--set", "data.synthetic.train_images=64000"};
  Arguments resume = {"--resume", "out"};
  const auto make = [&] {
    Arguments arguments = fresh;
    arguments.insert(arguments.end(), {"--output", "out"});
    return arguments;
  };
  const auto end_by = [&](int signal) {
    fresh.insert(fresh.end(), longer.begin(), longer.end());
    program.start(make());
    wait_until(program, [&] { return fs::exists(run / "metrics.jsonl"); });
    program.send(signal);
    return program.wait();
  };
  SECTION("killed") { REQUIRE(end_by(SIGKILL).status == 1000 + SIGKILL); }
  SECTION("stopped") {
    const Outcome stopped = end_by(SIGTERM);
    REQUIRE(stopped.status == 128 + SIGTERM);
    CHECK_THAT(stopped.out, Catch::Matchers::StartsWith("out: stopped after 0 of 2 epochs; "));
    CHECK_THAT(stopped.out, Catch::Matchers::EndsWith("go on: stpt_starpu --resume out\n"));
  }
  SECTION("killed before the metrics") {
    REQUIRE(program.run(make()).status == 0);
    take_back(run, 0);
  }
  SECTION("killed between the first epoch's metrics and its checkpoint") {
    REQUIRE(program.run(make()).status == 0);
    take_back(run, 2);
    std::ofstream(run / "metrics.jsonl", std::ios::app) << "{\"kind\":\"ep";
  }
  SECTION("of those that it does not save") {
    fresh.insert(fresh.end(), {"--set", "runtime.checkpoint=false"});
    REQUIRE(program.run(make()).status == 0);
    take_back(run, 1);
  }
  SECTION("with weights to start from") {
    REQUIRE(program.run({"--config", "run.json", "--output", "other"}).status == 0);
    REQUIRE(program.run({"--export", "other", "--to", "a.safetensors"}).status == 0);
    fresh.insert(fresh.end(), {"--set", "model.weights=a.safetensors"});
    REQUIRE(program.run(make()).status == 0);
    take_back(run, 1);
    // Which it still needs.
    fs::rename(program.folder() / "a.safetensors", program.folder() / "b.safetensors");
    const auto before = snapshot(program.folder());
    const Outcome missing = program.run(resume);
    CHECK(missing.status == 2);
    CHECK(missing.err == "stpt_starpu: a.safetensors: no such file; must be a safetensors file\n");
    CHECK(snapshot(program.folder()) == before);
    fs::rename(program.folder() / "b.safetensors", program.folder() / "a.safetensors");
  }
  SECTION("with a longer goal") {
    REQUIRE(program.run(make()).status == 0);
    take_back(run, 1);
    for (Arguments* arguments : {&fresh, &resume})
      arguments->insert(arguments->end(), {"--set", "training.epochs=3"});
  }

  // It is still the same run. Refused, it takes away nothing of what a killed process has left but
  // the lock.
  fs::remove(run / ".stpt.lock");
  write_file(run / ".summary.json.4711.stpt.tmp", "{");
  const auto before = snapshot(program.folder());
  const Outcome changed = program.run({"--resume", "out", "--set", "training.seed=2"});
  CHECK(changed.status == 2);
  CHECK_THAT(changed.err, Catch::Matchers::StartsWith("stpt_starpu: --set: training.seed: cannot "
                                                      "change in a run that goes on"));
  CHECK(snapshot(program.folder()) == before);

  const Outcome outcome = program.run(resume);
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  CHECK_THAT(outcome.err, Catch::Matchers::StartsWith(
                              "out: the run ended before its first checkpoint; it starts from the "
                              "beginning\nwriting to out; "));
  fresh.insert(fresh.end(), {"--output", "whole"});
  REQUIRE(program.run(fresh).status == 0);
  const json::object whole = summary_of(program.folder() / "whole");
  const json::object again = summary_of(run);
  for (const char* key : {"model_digest", "status", "epochs", "test_top1", "test_loss", "final_lr",
                          "samples_total", "samples_discarded"}) {
    INFO(key);
    CHECK(text_of(whole, key) == text_of(again, key));
  }
  CHECK(lines_in(read_file(run / "metrics.jsonl")) ==
        lines_in(read_file(program.folder() / "whole" / "metrics.jsonl")));
  CHECK(read_file(run / "config.json") == read_file(program.folder() / "whole" / "config.json"));
}

TEST_CASE("A second process writes nothing to a run's directory", "[executable]") {
  Program program, second;
  const fs::path run = program.folder() / "out";
  write_file(program.folder() / "run.json", small_run);
  program.start({"--config", "run.json", "--output", "out", "--set", "training.epochs=100000"});
  wait_until(program, [&] { return fs::exists(run / "checkpoint.bin"); });
  // Stopped, so that what changes in the directory is the second one's work.
  program.send(SIGSTOP);
  siginfo_t stopped{};
  REQUIRE(waitid(P_PID, static_cast<id_t>(program.child()), &stopped, WSTOPPED | WNOWAIT) == 0);
  const int done = load_checkpoint(run / "checkpoint.bin").epoch;
  Arguments arguments = {"--resume", run.string(), "--set",
                         "training.epochs=" + std::to_string(done + 1)};
  SECTION("to go on with it") {}
  SECTION("to start another run") {
    arguments = {"--config", (program.folder() / "run.json").string(), "--output", run.string()};
    SECTION("at once") {}
    SECTION("after a look") { arguments.emplace_back("--validate"); }
  }
  const auto before = snapshot(program.folder());
  const Outcome outcome = second.run(arguments);
  CHECK(snapshot(program.folder()) == before);
  CHECK(outcome.status == 2);
  CHECK(outcome.out.empty());
  CHECK(outcome.err == "stpt_starpu: " + run.string() + ": another process, " +
                           std::to_string(program.child()) + " on " +
                           runtime::Cluster::current().host() +
                           ", is writing to it; wait until it has ended, or use another "
                           "directory\n");
  program.send(SIGTERM);
  program.send(SIGCONT);
  CHECK(program.wait().status == 128 + SIGTERM);
  CHECK_FALSE(fs::exists(run / ".stpt.lock"));
  const std::string epochs =
      "training.epochs=" + std::to_string(load_checkpoint(run / "checkpoint.bin").epoch + 1);
  CHECK(second.run({"--resume", run.string(), "--set", epochs}).status == 0);
}

TEST_CASE("Of two processes that begin at once in one directory one writes it", "[executable]") {
  Program first, second;
  const fs::path run = first.folder() / "out", config = first.folder() / "run.json";
  write_file(config, small_run);
  const Arguments arguments = {"--config", config.string(), "--output", run.string()};
  std::string digest;
  for (int round = 0; round < 5; ++round) {
    fs::remove_all(run);
    first.start(arguments);
    second.start(arguments);
    std::array<Outcome, 2> outcomes = {first.wait(), second.wait()};
    if (outcomes[0].status != 0) std::swap(outcomes[0], outcomes[1]);
    INFO(outcomes[0].err << outcomes[1].err);
    CHECK(outcomes[0].status == 0);
    CHECK(outcomes[1].status == 2);
    CHECK(lines_in(outcomes[1].err) == 1);
    CHECK(lines_in(read_file(run / "metrics.jsonl")) == 3);
    const std::string of_round = text_of(summary_of(run), "model_digest");
    if (round == 0) digest = of_round;
    CHECK(of_round == digest);
  }
}

// ---- Failures --------------------------------------------------------------------------------

TEST_CASE("A run in which every candidate diverges fails in one line", "[executable]") {
  Program program;
  const fs::path run = program.folder() / "out";
  write_file(program.folder() / "run.json", small_run);
  Arguments arguments = {"--config", "run.json", "--output", "out", "--set"};
  int done = 0;
  SECTION("from the start") { arguments.emplace_back("training.learning_rate.initial=1e30"); }
  SECTION("later, with the checkpoint kept") {
    arguments.emplace_back(R"(stpt.schedule=[{"from_epoch": 2, "candidates": [1e30, 1e35]}])");
    done = 1;
  }
  const Outcome outcome = program.run(arguments);
  INFO(outcome.err);
  CHECK(outcome.status == 1);
  CHECK(outcome.out.empty());
  // After a line that says where, and one for each epoch.
  CHECK(lines_in(outcome.err) == static_cast<std::size_t>(2 + done));
  const std::string failure = "epoch " + std::to_string(done + 1) + ": all ";
  CHECK_THAT(outcome.err, Catch::Matchers::Contains("\nstpt_starpu: " + failure));
  const json::object summary = summary_of(run);
  CHECK(text_of(summary, "status") == "failed");
  CHECK_THAT(text_of(summary, "failure"), Catch::Matchers::StartsWith(failure));
  CHECK(text_of(summary, "epochs") == std::to_string(done));
  CHECK_THAT(read_file(run / "report.html"), Catch::Matchers::Contains("candidates diverged"));
  CHECK(fs::exists(run / "checkpoint.bin") == (done > 0));
  if (done > 0) CHECK(load_checkpoint(run / "checkpoint.bin").epoch == done);
}

TEST_CASE("A run that StarPU aborts is recorded as failed", "[executable]") {
  Program program;
  const fs::path run = program.folder() / "out";
  write_file(program.folder() / "run.json", small_run);
  // Its watchdog finds that no task has ended for a while: one takes longer.
  const WithEnvironment timeout("STARPU_WATCHDOG_TIMEOUT", "1000"),
      crash("STARPU_WATCHDOG_CRASH", "1"), no_gpus("STARPU_NCUDA", "0");
  const Outcome outcome =
      program.run({"--config", "run.json", "--output", "out", "--set", "model.name=resnet20",
                   "--set", "data.synthetic.height=64", "--set", "data.synthetic.width=64"});
  INFO(outcome.err);
  CHECK(outcome.status == 1);
  CHECK(text_of(summary_of(run), "status") == "failed");
  CHECK_THAT(text_of(summary_of(run), "failure"),
             Catch::Matchers::StartsWith("the program was aborted, by StarPU"));
  CHECK_THAT(outcome.err, Catch::Matchers::EndsWith(text_of(summary_of(run), "failure") + "\n"));
  // There is none.
  CHECK_THAT(outcome.err, !Catch::Matchers::Contains("checkpoint"));
}

TEST_CASE("A run whose directory goes away fails in one line", "[executable]") {
  Program program;
  const fs::path run = program.folder() / "out";
  write_file(program.folder() / "run.json", small_run);
  program.start({"--config", "run.json", "--output", "out", "--set", "training.epochs=100000"});
  wait_until(program, [&] { return fs::exists(run / "checkpoint.bin"); });
  fs::rename(run, program.folder() / "gone");
  const Outcome outcome = program.wait();
  CHECK(outcome.status == 1);
  const std::string last = outcome.err.substr(outcome.err.rfind('\n', outcome.err.size() - 2) + 1);
  CHECK_THAT(last, Catch::Matchers::StartsWith("stpt_starpu: out"));
  CHECK_NOTHROW(load_checkpoint(program.folder() / "gone" / "checkpoint.bin"));
  CHECK_FALSE(fs::exists(run));
}

}  // namespace
}  // namespace stpt
