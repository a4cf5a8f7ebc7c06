#include "stpt/config/config.hpp"

#include <sys/stat.h>

#include <bit>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <sstream>
#include <thread>

#include "runtime/edit_distance.hpp"
#include "stpt/command_line.hpp"
#include "stpt/config/config_names.hpp"
#include "stpt/config/json_text.hpp"
#include "stpt/config/lr_sets.hpp"
#include "tests/catch.hpp"
#include "tests/data/testing.hpp"

namespace stpt {
namespace {

using Overrides = std::vector<std::string>;

const std::filesystem::path source_folder = STPT_SOURCE_DIR;

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string error_of(std::string_view text, const Overrides& overrides = {}) {
  try {
    (void)parse_config(text, "run.json", overrides);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

std::string override_error(const std::string& override) { return error_of("{}", {override}); }

TEST_CASE("an empty run file has the defaults", "[config]") {
  const Config config = parse_config("{}", "run.json");
  CHECK(config == Config{});
  CHECK(config.stpt.candidates.name == "refine");
  CHECK_FALSE(config.stpt.candidates.factors.empty());
}

TEST_CASE("values arrive where they belong", "[config]") {
  const Config config = parse_config(
      R"({
        "name": "a-1",
        "model": {"name": "resnet20"},
        "data": {"format": "synthetic", "limit": 9000, "augment": {"crop_padding": 4, "padding": "reflect", "flip": false},
                 "synthetic": {"classes": 7}},
        "training": {
          "epochs": 12, "workers": 3, "batch_per_worker": 1e2, "seed": 18446744073709551615,
          "learning_rate": {"initial": 1, "policy": "step", "milestones": [4, 8],
                            "warmup": {"epochs": 2, "form": "constant"},
                            "anneal": {"form": "cosine", "fraction": 0.25}},
          "optimizer": {"momentum": 0.8, "nesterov": true}
        },
        "stpt": {"alpha": 5, "candidates": [3, 1, 0.3],
                 "schedule": [{"from_epoch": 4, "candidates": "narrow"},
                              {"candidates": [1], "from_epoch": 9}],
                 "pretrain_batch": "worker", "lr_scaling": "square_root"},
        "runtime": {"fusion": "block", "scheduler": "dmda", "checkpoint": false}
      })",
      "run.json");
  CHECK(config.name == "a-1");
  CHECK(config.model.name == "resnet20");
  CHECK(config.data.format == DataFormat::synthetic);
  CHECK(config.data.limit == 9000);
  CHECK(config.data.crop_padding == 4);
  CHECK(config.data.padding == data::Padding::reflect);
  CHECK_FALSE(config.data.flip);
  CHECK(config.data.synthetic.classes == 7);
  CHECK(config.training.epochs == 12);
  CHECK(config.training.workers == 3);
  CHECK(config.training.batch_per_worker == 100);
  CHECK(config.training.seed == std::numeric_limits<std::uint64_t>::max());
  const LearningRateConfig& rate = config.training.learning_rate;
  CHECK(rate.initial == 1);
  CHECK(rate.policy == Policy::step);
  CHECK(rate.milestones == std::vector<int>{4, 8});
  CHECK(rate.warmup.epochs == 2);
  CHECK(rate.warmup.start == 0.005);
  CHECK(rate.warmup.form == WarmupForm::constant);
  CHECK(rate.anneal.form == AnnealForm::cosine);
  CHECK(rate.anneal.fraction == 0.25);
  CHECK(config.training.optimizer.momentum == 0.8);
  CHECK(config.training.optimizer.nesterov);
  CHECK(config.stpt.alpha == 5);
  CHECK(config.stpt.candidates == CandidateSet{"", {3, 1, 0.3}});
  REQUIRE(config.stpt.schedule.size() == 2);
  CHECK(config.stpt.schedule[0] == ScheduleEntry{4, named_candidate_set("narrow")});
  CHECK(config.stpt.schedule[1] == ScheduleEntry{9, {"", {1}}});
  CHECK(config.stpt.pretrain_batch == PretrainBatch::worker);
  CHECK(config.stpt.lr_scaling == LrScaling::square_root);
  CHECK(config.runtime.fusion == Fusion::block);
  CHECK(config.runtime.scheduler == "dmda");
  CHECK_FALSE(config.runtime.checkpoint);
}

TEST_CASE("a printed config reads back as the same config", "[config]") {
  Config config;
  CHECK(parse_config(print_config(config), "run.json") == config);
  config.name = "x";
  config.data.path = "/data/\"quoted\" \\ \xc3\xa9";
  config.data.limit = 100'000'000'000;
  config.training.seed = std::numeric_limits<std::uint64_t>::max();
  config.training.learning_rate.milestones = {3, 7};
  config.stpt.candidates = {"", {0.1 + 0.2, 1.0 / 3, 1e-300, 1e300, 10}};
  config.stpt.schedule = {{2, named_candidate_set("wide")}, {5, {"", {1.1}}}};
  config.runtime.fusion = Fusion::op;
  CHECK(parse_config(print_config(config), "run.json") == config);
  CHECK(print_config(parse_config(print_config(config), "run.json")) == print_config(config));
  // Any positive double comes back.
  std::mt19937_64 random(1);
  for (int i = 0; i < 20000; ++i) {
    const double value = std::bit_cast<double>(random() >> 1);
    if (!std::isfinite(value) || value == 0) continue;
    const boost::json::value read = read_json("[" + number_text(value) + "]").at(0);
    const double back = read.is_double() ? read.get_double() : read.to_number<double>();
    if (back != value) FAIL(number_text(value));
  }
}

TEST_CASE("a printed config has every key, also those at their default", "[config]") {
  const boost::json::value json = read_json(print_config(Config{}));
  CHECK(json.at("training").at("learning_rate").at("initial") == boost::json::value(0.1));
  CHECK(json.at("stpt").at("candidates") == boost::json::value("refine"));
  CHECK(json.at("data").at("augment").at("crop_padding") == boost::json::value(2));
}

TEST_CASE("numbers are written as short as they can be", "[config]") {
  CHECK(number_text(0) == "0");
  CHECK(number_text(10) == "10");
  CHECK(number_text(0.1) == "0.1");
  CHECK(number_text(5e-4) == "0.0005");
  CHECK(number_text(-1e-7) == "-1e-7");
  CHECK(number_text(2.5e20) == "2.5e20");
  CHECK(number_text(1e100) == "1e100");
}

TEST_CASE("JSON is written on one line or indented", "[json]") {
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK(compact_json({0.1, 1.0, -3, true, nullptr, "a\"b", infinity, std::nan("")}) ==
        R"([0.1, 1, -3, true, null, "a\"b", null, null])");
  const boost::json::object object{{"a", 1}, {"b", boost::json::array{}}};
  CHECK(compact_json(object) == R"({"a": 1, "b": []})");
  CHECK(brief_json(boost::json::string(50, 'a'), 12) == "\"aaaaaaa...\"");
  CHECK(brief_json(boost::json::string(10, 'a'), 12) == "\"aaaaaaaaaa\"");
  CHECK(brief_json(boost::json::string("aaaaaa\xc3\xa9\xc3\xa9\xc3\xa9"), 12) == R"("aaaaaa...")");
  CHECK(brief_json(boost::json::string("aaaaa\"bbbbbbb"), 12) == R"("aaaaa\"...")");
  CHECK(brief_json(boost::json::string("aaaaaa\"bbbbbb"), 12) == R"("aaaaaa...")");
  CHECK(brief_json(boost::json::string("aaaaaaa\xc3\xa9\xc3\xa9\xc3\xa9"), 12) ==
        R"("aaaaaaa...")");
  CHECK(brief_json({1, 2, 3, 4, 5, 6}, 12) == "[1, 2, 3,...");
  CHECK(utf8_text("caf\xc3\xa9 \"1\"\n") == "caf\xc3\xa9 \"1\"\n");
  CHECK(utf8_text("caf\xe9") == "caf?");
  CHECK(utf8_text("\xc3\xa9 \xe9").find_first_not_of("? ") == std::string::npos);
  CHECK(pretty_json(object) == "{\n  \"a\": 1,\n  \"b\": []\n}");
  CHECK(pretty_json(boost::json::array(40, "a")).starts_with("[\n  \"a\",\n"));
}

TEST_CASE("every enumerator has a name", "[config]") {
  CHECK(enum_name(Policy::random_winner) == "random_winner");
  CHECK(enum_name(Policy::always_one) == "always_one");
  CHECK(enum_name(TieRule::larger) == "larger");
  CHECK(enum_name(FewCandidates::idle) == "idle");
}

TEST_CASE("text that is not JSON", "[config]") {
  CHECK(error_of("") == "run.json:1:1: the text is empty; write at least {}");
  CHECK(error_of("{\n  \"name\": \"a\",\n}") ==
        "run.json:3:1: a comma stands before the closing bracket; remove the comma");
  CHECK(error_of("{\n  \"name\": \"a\" // mine\n}") ==
        "run.json:2:15: comments are not JSON; remove it");
  CHECK(error_of("{\"name\": \"a\" \"model\": {}}") ==
        "run.json:1:14: a comma is missing before this; separate members by commas");
  CHECK(error_of("{\"stpt\": {\"candidates\": [1, 2") ==
        "run.json:1:30: the text ends too early; close every brace, bracket and quotation mark");
  CHECK(error_of("{}}") == "run.json:1:3: there is text after the end; remove it");
  CHECK(error_of("{'name': 1}") == "run.json:1:2: ' is not JSON's quotation mark; write \"");
  CHECK(error_of("{\"name\": run}") ==
        "run.json:1:10: 'r' is not JSON here; check commas, colons and quotes");
  CHECK(error_of("{\"data\": {\"path\": \"a\nb\"}}") ==
        "run.json:1:21: a control character or line break inside a string; write \\n, \\t, ...");
  CHECK(error_of("\xef\xbb\xbf{}") ==
        "run.json:1:1: a character that is not JSON here; use UTF-8, and only inside strings");
  CHECK(error_of("{\"training\": {\"seed\": 1e999}}") ==
        "run.json:1:28: number 1e999 does not fit into a double; write one that does");
  CHECK(error_of(std::string(100, '[')) ==
        "run.json:1:33: brackets are nested too deeply; no key needs that");
  CHECK(error_of("{\"training\": {\"epochs\": 3,\n \"epochs\": 4}}") ==
        "run.json:2:9: key \"epochs\" is given twice; keep one of them");
}

TEST_CASE("keys that do not exist", "[config]") {
  CHECK(error_of(R"({"training": {"alpha": 3}})") ==
        "run.json: training.alpha: unknown key; did you mean stpt.alpha?");
  CHECK(error_of(R"({"training": {"epoch": 3}})") ==
        "run.json: training.epoch: unknown key; did you mean training.epochs?");
  CHECK(error_of(R"({"trainig": {}})") == "run.json: trainig: unknown key; did you mean training?");
  CHECK(error_of(R"({"epochs": 3})") ==
        "run.json: epochs: unknown key; did you mean training.epochs?");
  CHECK(error_of(R"({"training": {"momentum": 0.9}})") ==
        "run.json: training.momentum: unknown key; did you mean training.optimizer.momentum?");
  CHECK(error_of(R"({"training": {"learning_rate": {"intial": 1}}})") ==
        "run.json: training.learning_rate.intial: unknown key; did you mean "
        "training.learning_rate.initial?");
  CHECK(error_of(R"({"data": {"crop_padding": 1}})") ==
        "run.json: data.crop_padding: unknown key; did you mean data.augment.crop_padding?");
  // A wrong place is likelier than a wrong name.
  CHECK(error_of(R"({"stpt": {"scheduler": "eager"}})") ==
        "run.json: stpt.scheduler: unknown key; did you mean runtime.scheduler?");
  CHECK(error_of(R"({"training": {"qqq": 1}})") ==
        "run.json: training.qqq: unknown key; training has epochs, workers, batch_per_worker, "
        "gradient_reduction, "
        "label_smoothing, loss_scale, seed, learning_rate, optimizer");
  CHECK(error_of(R"({"qqq": 1})") ==
        "run.json: qqq: unknown key; a run file has name, model, data, training, stpt, runtime");
  CHECK(error_of(R"({"training.epochs": 3})") ==
        R"(run.json: training.epochs: is one name with dots; must be nested, {"a": {"b": ...}})");
  CHECK(error_of("{\"q\\nq\": 1}").find('\n') == std::string::npos);
}

TEST_CASE("values of the wrong type", "[config]") {
  CHECK(error_of("[]") == "run.json: is []; must be an object, {...}");
  CHECK(error_of("null") == "run.json: is null; must be an object, {...}");
  CHECK(error_of(R"({"training": 3})") == "run.json: training: is 3; must be an object, {...}");
  CHECK(error_of(R"({"training": {"epochs": "ten"}})") ==
        "run.json: training.epochs: is \"ten\"; must be a whole number from 1 to 1000000");
  CHECK(error_of(R"({"training": {"epochs": null}})") ==
        "run.json: training.epochs: is null; must be a whole number from 1 to 1000000");
  CHECK(error_of(R"({"training": {"epochs": 1.5}})") ==
        "run.json: training.epochs: is 1.5; must be a whole number from 1 to 1000000");
  CHECK(error_of(R"({"training": {"epochs": {}}})") ==
        "run.json: training.epochs: is an object; must be a whole number from 1 to 1000000");
  CHECK(error_of(R"({"data": {"augment": {"flip": 1}}})") ==
        "run.json: data.augment.flip: is 1; must be true or false");
  CHECK(error_of(R"({"data": {"path": 1}})") ==
        "run.json: data.path: is 1; must be a folder's path, or empty");
  CHECK(error_of(R"({"training": {"learning_rate": {"milestones": 3}}})") ==
        "run.json: training.learning_rate.milestones: is 3; must be a list of whole numbers of at "
        "least 2");
  CHECK(error_of(R"({"stpt": {"schedule": {}}})") ==
        "run.json: stpt.schedule: is an object; must be a list of {\"from_epoch\": ..., "
        "\"candidates\": ...}");
}

TEST_CASE("values out of range", "[config]") {
  CHECK(error_of(R"({"stpt": {"alpha": -1}})") ==
        "run.json: stpt.alpha: is -1; must be a whole number of at least 0");
  CHECK(error_of(R"({"stpt": {"alpha": 3000000000}})") ==
        "run.json: stpt.alpha: is 3000000000; must be a whole number from 0 to 2147483647");
  CHECK(error_of(R"({"data": {"limit": 9223372036854775808}})") ==
        "run.json: data.limit: is 9223372036854775808; must be a whole number from 0 to "
        "9223372036854775807");
  CHECK(error_of(R"({"training": {"seed": 18446744073709551616}})") ==
        "run.json: training.seed: is 1.8446744073709552e19; must be a whole number from 0 to "
        "18446744073709551615");
  CHECK(error_of(R"({"training": {"seed": -1}})") ==
        "run.json: training.seed: is -1; must be a whole number of at least 0");
  CHECK(error_of(R"({"training": {"workers": 0}})") ==
        "run.json: training.workers: is 0; must be a whole number from 1 to 4096");
  CHECK(error_of(R"({"training": {"learning_rate": {"initial": 0}}})") ==
        "run.json: training.learning_rate.initial: is 0; must be a number of at least 1e-30 and at "
        "most 1e30");
  CHECK(error_of(R"({"training": {"optimizer": {"momentum": 1}}})") ==
        "run.json: training.optimizer.momentum: is 1; must be a number of at least 0 and at most "
        "0.999999");
  CHECK(error_of(R"({"training": {"learning_rate": {"anneal": {"fraction": 1.5}}}})") ==
        "run.json: training.learning_rate.anneal.fraction: is 1.5; must be a number above 0 and at "
        "most 1");
  CHECK(error_of(R"({"data": {"format": "idxx"}})") ==
        "run.json: data.format: is \"idxx\"; must be one of idx, cifar10, cifar100, image_folder, "
        "synthetic");
  CHECK(error_of(R"({"model": {"data_type": "float64"}})") ==
        "run.json: model.data_type: is \"float64\"; must be one of float32, bfloat16, float16");
  CHECK(error_of(R"({"name": "../x"})") ==
        "run.json: name: is \"../x\"; must be 1 to 64 letters, digits, '.', '_' or '-', no '.' or "
        "'-' first");
  CHECK(error_of(R"({"training": {"learning_rate": {"milestones": [1]}}})") ==
        "run.json: training.learning_rate.milestones[0]: is 1; must be a whole number of at least "
        "2");
}

TEST_CASE("synthetic images that cannot be made", "[config]") {
  const auto error = [](const std::string& synthetic) {
    return error_of(R"({"data": {"format": "synthetic", "synthetic": {)" + synthetic + "}}}");
  };
  // Each key's range is that of the images, and docs/config.md has it.
  const std::string place = "run.json: data.synthetic.";
  CHECK(error(R"("height": 1025)") ==
        place + "height: is 1025; must be a whole number from 1 to 1024");
  CHECK(error(R"("width": 1025)") ==
        place + "width: is 1025; must be a whole number from 1 to 1024");
  CHECK(error(R"("channels": 65)") ==
        place + "channels: is 65; must be a whole number from 1 to 64");
  CHECK(error(R"("train_images": 10000000000)") ==
        place + "train_images: is 10000000000; must be a whole number from 1 to 10000000");
  CHECK(error(R"("classes": 3, "train_images": 2)") ==
        place + "train_images: is 2; must lie between 3 and 10000000");
  CHECK(error(R"("channels": 64, "height": 1024, "width": 1024)")
            .starts_with(place + "train_images: is 10000; with the test images 805306368000 "));
  // What nobody asks for may be as large as its range.
  CHECK(error_of(R"({"data": {"synthetic": {"classes": 200, "train_images": 100}}})") ==
        "no error");
}

TEST_CASE("candidates that cannot be", "[config]") {
  const std::string right =
      "must be a set's name (search, raise, refine, narrow, middle, wide, table2, unchanged) or a "
      "list of numbers above 0";
  CHECK(error_of(R"({"stpt": {"candidates": "narow"}})") ==
        "run.json: stpt.candidates: is \"narow\"; " + right);
  CHECK(error_of(R"({"stpt": {"candidates": 2}})") == "run.json: stpt.candidates: is 2; " + right);
  CHECK(error_of(R"({"stpt": {"candidates": []}})") ==
        "run.json: stpt.candidates: is an empty list; must have a candidate, say [1]");
  CHECK(error_of(R"({"stpt": {"candidates": [1, -2]}})") ==
        "run.json: stpt.candidates[1]: is -2; must be a number above 0");
  CHECK(error_of(R"({"stpt": {"candidates": [1, "2"]}})") ==
        "run.json: stpt.candidates[1]: is \"2\"; must be a number above 0");
  std::string many = "{\"stpt\": {\"candidates\": [1";
  for (int i = 0; i < 1024; ++i) many += ", 1";
  CHECK(error_of(many + "]}}") ==
        "run.json: stpt.candidates: has 1025 candidates; must have at most 1024");
  const auto schedule_error = [](const std::string& entries) {
    return error_of("{\"stpt\": {\"schedule\": [" + entries + "]}}");
  };
  CHECK(schedule_error("3") ==
        "run.json: stpt.schedule[0]: is 3; must be an object with the keys from_epoch and "
        "candidates");
  CHECK(schedule_error(R"({"from_epoch": 1})") ==
        "run.json: stpt.schedule[0]: has no candidates; add it");
  CHECK(schedule_error(R"({"from_epoch": 0, "candidates": "wide"})") ==
        "run.json: stpt.schedule[0].from_epoch: is 0; must be a whole number of at least 1");
  CHECK(schedule_error(R"({"from_epoch": 1, "candidates": "wide"}, {"epoch": 2})") ==
        "run.json: stpt.schedule[1].epoch: unknown key; an entry has from_epoch and candidates");
  CHECK(schedule_error(R"({"from_epoch": 1, "candidates": [0]})") ==
        "run.json: stpt.schedule[0].candidates[0]: is 0; must be a number above 0");
}

TEST_CASE("rules between keys", "[config]") {
  CHECK(error_of(R"({"data": {"hold_out": 0}})") ==
        "run.json: data.hold_out: is 0, but policy stpt scores candidates on the hold-out; must be "
        "above 0");
  CHECK(error_of(
            R"({"data": {"hold_out": 0}, "training": {"learning_rate": {"policy": "fixed"}}})") ==
        "no error");
  CHECK(error_of(R"({"data": {"hold_out": 0}, "stpt": {"score": "training_window"}})") ==
        "no error");
  CHECK(error_of(R"({"data": {"limit": 2000, "hold_out": 2000}})") ==
        "run.json: data.hold_out: is 2000 of the 2000 training images; must leave some to train "
        "on");
  CHECK(error_of(R"({"data": {"limit": 2100, "hold_out": 2000}})") ==
        "run.json: training.batch_per_worker: is 64, times training.workers, 8: 512 images an "
        "iteration; must be at most the 100 that are left to train on, with 2000 held out");
  // 2000 + 12 * 512 = 8144
  CHECK(error_of(R"({"data": {"limit": 8143, "hold_out": 2000}, "stpt": {"alpha": 12}})") ==
        "run.json: stpt.alpha: is 12; must be at most the iterations of an epoch, 11");
  CHECK(error_of(R"({"data": {"limit": 8144, "hold_out": 2000}, "stpt": {"alpha": 12}})") ==
        "no error");
  CHECK(error_of(R"({"data": {"limit": 8143}})") == "no error");
  CHECK(error_of(R"({"data": {"format": "synthetic", "hold_out": 2000,
                     "synthetic": {"train_images": 8143}}, "stpt": {"alpha": 12}})") ==
        "run.json: stpt.alpha: is 12; must be at most the iterations of an epoch, 11");
  CHECK(error_of(R"({"data": {"format": "synthetic"}})") == "no error");
  CHECK(error_of(R"({"data": {"augment": {"flip": false, "alternate_flip": true}}})") ==
        "run.json: data.augment.alternate_flip: is true, but data.augment.flip is false; set that "
        "to true, too");
  CHECK(error_of(R"({"training": {"epochs": 2, "learning_rate": {"warmup": {"epochs": 2}}}})") ==
        "run.json: training.learning_rate.warmup.epochs: is 2; must be below training.epochs, 2");
  CHECK(error_of(R"({"training": {"learning_rate":
                     {"warmup": {"epochs": 2, "form": "constant", "start": 0}}}})") ==
        "run.json: training.learning_rate.warmup.start: is 0, with which a constant warm-up learns "
        "nothing; must be above 0");
  CHECK(error_of(R"({"training": {"learning_rate": {"policy": "step"}}})") ==
        "run.json: training.learning_rate.milestones: is empty, but policy step needs epochs to "
        "decay at; say [5, 8]");
  CHECK(error_of(R"({"training": {"learning_rate": {"policy": "step", "milestones": [5, 5]}}})") ==
        "run.json: training.learning_rate.milestones[1]: is 5; must be above the one before it, 5");
  CHECK(error_of(R"({"training": {"learning_rate": {"policy": "step", "milestones": [2, 5],
                     "warmup": {"epochs": 2}}}})") ==
        "run.json: training.learning_rate.milestones[0]: is 2; must be above "
        "training.learning_rate.warmup.epochs, 2");
  CHECK(error_of(R"({"training": {"learning_rate": {"policy": "step", "milestones": [5, 11]}}})") ==
        "run.json: training.learning_rate.milestones[1]: is 11; must be at most training.epochs, "
        "10");
  CHECK(error_of(R"({"training": {"learning_rate": {"policy": "step", "milestones": [5, 10]}}})") ==
        "no error");
  CHECK(error_of(R"({"training": {"learning_rate":
                     {"policy": "cosine", "anneal": {"form": "linear"}}}})") ==
        "run.json: training.learning_rate.anneal.form: is \"linear\", but policy cosine goes to 0 "
        "by itself; must be none");
  const std::string no_epoch =
      "run.json: training.learning_rate.anneal.fraction: is 1; must be below 1 to leave policy "
      "stpt an epoch to choose in";
  CHECK(error_of(R"({"training": {"learning_rate":
                     {"warmup": {"epochs": 3}, "anneal": {"fraction": 1}}}})") == no_epoch);
  CHECK(error_of(R"({"training": {"learning_rate":
                     {"warmup": {"epochs": 3}, "anneal": {"fraction": 1}}},
                     "stpt": {"pretrain_during_warmup": true}})") == "no error");
  CHECK(error_of(R"({"training": {"learning_rate": {"anneal": {"fraction": 1}}}})") == no_epoch);
  CHECK(error_of(R"({"training": {"learning_rate": {"anneal": {"fraction": 1}}},
                     "stpt": {"pretrain_during_warmup": true}})") == no_epoch);
  CHECK(error_of(R"({"training": {"learning_rate": {"policy": "fixed",
                     "anneal": {"fraction": 1}}}})") == "no error");
  CHECK(error_of(R"({"training": {"optimizer":
                     {"nesterov": true, "momentum_form": "lr_in_velocity"}}})") ==
        "run.json: training.optimizer.nesterov: is true with momentum_form lr_in_velocity; must be "
        "false, or momentum_form velocity");
  CHECK(error_of(R"({"training": {"optimizer": {"name": "adamw", "nesterov": true}}})") ==
        "run.json: training.optimizer.nesterov: is true, which adamw does not know; must be false, "
        "or the optimizer's name sgd");
  CHECK(error_of(R"({"training": {"optimizer":
                     {"name": "adamw", "momentum_form": "lr_in_velocity"}}})") ==
        "run.json: training.optimizer.momentum_form: is lr_in_velocity, which adamw does not know; "
        "must be velocity, or the optimizer's name sgd");
  CHECK(error_of(R"({"training": {"optimizer": {"nesterov": true, "momentum": 0}}})") ==
        "run.json: training.optimizer.nesterov: is true without momentum; must be false, or "
        "momentum above 0");
  CHECK(error_of(R"({"stpt": {"schedule": [{"from_epoch": 3, "candidates": "wide"},
                                           {"from_epoch": 3, "candidates": "narrow"}]}})") ==
        "run.json: stpt.schedule[1].from_epoch: is 3; must be above the entry before it, 3");
  CHECK(error_of(R"({"stpt": {"schedule": [{"from_epoch": 11, "candidates": "wide"}]}})") ==
        "no error");  // so that any run file can be tried for an epoch
  CHECK(error_of(R"({"stpt": {"many_candidates": "reject"}, "training": {"workers": 2}})") ==
        "run.json: stpt.candidates: has 3 candidates; must have at most training.workers, 2, or "
        "set stpt.many_candidates to waves");
  CHECK(error_of(R"({"stpt": {"many_candidates": "reject", "candidates": [1],
                              "schedule": [{"from_epoch": 2, "candidates": "wide"}]},
                     "training": {"workers": 4}})") ==
        "run.json: stpt.schedule[0].candidates: has 8 candidates; must have at most "
        "training.workers, 4, or set stpt.many_candidates to waves");
  CHECK(error_of(R"({"stpt": {"candidates": [2, 0.5]},
                     "training": {"learning_rate": {"policy": "always_one"}}})") ==
        "run.json: stpt.candidates: has no candidate 1, which policy always_one goes on with; add "
        "it");
  for (const char* alpha : {"0", "12"}) {
    CHECK(error_of(R"({"data": {"limit": 8144}, "stpt": {"score": "training_window",
                       "score_window": 13, "alpha": )" +
                   std::string(alpha) + "}}") ==
          "run.json: stpt.score_window: is 13; must be at most the iterations of Pre-train, 12");
  }
  // One training image makes an iteration.
  const auto with_images = [](const char* hold_out) {
    return error_of(std::string(R"({"data": {"format": "synthetic", "hold_out": )") + hold_out +
                    R"(, "synthetic": {"classes": 2, "train_images": 9}},
                       "training": {"workers": 1, "batch_per_worker": 1}, "stpt": {"alpha": 1}})");
  };
  CHECK(with_images("8") == "no error");
  CHECK(with_images("9") ==
        "run.json: data.hold_out: is 9 of the 9 training images; must leave some to train on");
  CHECK(error_of(R"({"stpt": {"divergence_factor": 0.5}})") ==
        "run.json: stpt.divergence_factor: is 0.5; must be 0 or above 1");
  CHECK(error_of(R"({"stpt": {"divergence_factor": 1}})") ==
        "run.json: stpt.divergence_factor: is 1; must be 0 or above 1");
  CHECK(error_of(R"({"stpt": {"divergence_factor": 1.01}})") == "no error");
}

TEST_CASE("a run file extends another", "[config]") {
  const data::testing::TemporaryFolder folder;
  const auto write = [&](const std::string& name, const std::string& text) {
    std::filesystem::create_directories((folder.path() / name).parent_path());
    std::ofstream(folder.path() / name) << text;
  };
  const std::string top = (folder.path() / "top.json").string();
  const auto error = [&](const std::string& text) -> std::string {
    try {
      (void)parse_config(text, top);
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "no error";
  };
  write("base.json", R"({"name": "base", "training": {"epochs": 5, "workers": 3},
                         "stpt": {"schedule": [{"from_epoch": 2, "candidates": "wide"}]}})");
  write("sub/middle.json", R"({"extends": "../base.json", "training": {"workers": 4}})");

  SECTION("what it says wins over what it extends, and overrides win over both") {
    const Config config =
        parse_config(R"({"extends": "sub/middle.json", "name": "top", "stpt": {"alpha": 7}})", top,
                     {"stpt.alpha=8"});
    CHECK(config.name == "top");
    CHECK(config.training.epochs == 5);
    CHECK(config.training.workers == 4);
    CHECK(config.stpt.alpha == 8);
    CHECK(config.stpt.schedule == std::vector{ScheduleEntry{2, named_candidate_set("wide")}});
  }
  SECTION("its candidates hold for all epochs, but for those of its own schedule") {
    CHECK(parse_config(R"({"extends": "base.json", "stpt": {"candidates": [1]}})", top)
              .stpt.schedule.empty());
    write("plain.json", R"({"stpt": {"candidates": [1]}})");
    CHECK(parse_config(R"({"extends": "plain.json"})", top).stpt.schedule.empty());
    CHECK(parse_config(R"({"extends": "base.json", "stpt": {"candidates": [1], "schedule":
                           [{"from_epoch": 3, "candidates": "narrow"}]}})",
                       top)
              .stpt.schedule.size() == 1);
  }
  SECTION("errors name the file that they are in") {
    const std::string base = (folder.path() / "base.json").string();
    write("base.json", R"({"training": {"epoch": 5}})");
    CHECK(error(R"({"extends": "base.json"})") ==
          base + ": training.epoch: unknown key; did you mean training.epochs?");
    write("base.json", "{");
    CHECK_THAT(error(R"({"extends": "base.json"})"), Catch::Matchers::StartsWith(base + ":1:2: "));
  }
  SECTION("what cannot be extended") {
    CHECK(error(R"({"extends": "none.json"})") ==
          (folder.path() / "none.json").string() + ": no such file; " + top + " extends it");
    CHECK(error(R"({"extends": 3})") ==
          top + ": extends: is 3; must be the path of a run file, from this one's folder");
    write("file7.json", R"({"name": "last"})");
    for (int file = 6; file > 0; --file)
      write("file" + std::to_string(file) + ".json",
            R"({"extends": "file)" + std::to_string(file + 1) + R"(.json"})");
    CHECK(parse_config(R"({"extends": "file1.json"})", top).name == "last");
    write("loop.json", R"({"extends": "loop.json"})");
    CHECK(error(R"({"extends": "loop.json"})") ==
          (folder.path() / "loop.json").string() +
              ": extends: is the end of a chain of 8 files; a file must not extend itself");
  }
}

TEST_CASE("overrides", "[config]") {
  const auto with = [](const Overrides& overrides) {
    return parse_config(R"({"training": {"epochs": 5}})", "run.json", overrides);
  };
  CHECK(with({}).training.epochs == 5);
  CHECK(with({"training.epochs=6", "training.epochs=7"}).training.epochs == 7);
  CHECK(with({"stpt.candidates=narrow"}).stpt.candidates == named_candidate_set("narrow"));
  CHECK(with({"stpt.candidates=\"narrow\""}).stpt.candidates == named_candidate_set("narrow"));
  CHECK(with({"stpt.candidates=[2, 1]"}).stpt.candidates == CandidateSet{"", {2, 1}});
  CHECK(with({"training.learning_rate.initial=1e-3"}).training.learning_rate.initial == 0.001);
  CHECK(with({"data.path=/tmp/a=b c"}).data.path == "/tmp/a=b c");
  CHECK(with({"data.path="}).data.path.empty());
  CHECK(with({"name=10"}).name == "10");  // text, though it looks like a number
  CHECK(with({"training.optimizer.nesterov=true"}).training.optimizer.nesterov);
  CHECK(with({"stpt={\"alpha\": 4, \"momentum\": \"reset\"}"}).stpt.alpha == 4);
  // Files and overrides are judged together, not one after the other.
  CHECK(parse_config(R"({"data": {"hold_out": 0}})", "run.json", {"data.hold_out=100"})
            .data.hold_out == 100);
}

TEST_CASE("candidates on the command line hold for all epochs", "[config]") {
  const char* text = R"({"stpt": {"schedule": [{"from_epoch": 2, "candidates": "wide"}]}})";
  CHECK(parse_config(text, "run.json").stpt.schedule.size() == 1);
  CHECK(parse_config(text, "run.json", {"stpt.candidates=[1]"}).stpt.schedule.empty());
  const std::string schedule = "stpt.schedule=[{\"from_epoch\": 3, \"candidates\": [2, 1]}]";
  CHECK(parse_config(text, "run.json", {schedule, "stpt.candidates=[1]"}).stpt.schedule.size() ==
        1);
}

TEST_CASE("without a hold-out in the run file it is 2000 images, a tenth at most", "[config]") {
  DataConfig config;
  CHECK(hold_out_images(config, 60000) == 2000);
  CHECK(hold_out_images(config, 20000) == 2000);
  CHECK(hold_out_images(config, 9469) == 946);
  CHECK(hold_out_images(config, 3) == 1);
  config.limit = 500;
  CHECK(hold_out_images(config, 60000) == 50);
  CHECK(hold_out_images(config, 400) == 40);
  for (const std::int64_t given : {0, 5, 70000}) {
    config.hold_out = given;
    CHECK(hold_out_images(config, 60000) == given);
  }
}

TEST_CASE("without an alpha Pre-train takes 8 % of an epoch", "[config]") {
  StptConfig config;
  CHECK(pretrain_iterations(config, 2500) == 200);
  CHECK(pretrain_iterations(config, 5000) == 400);
  CHECK(pretrain_iterations(config, 156) == 12);
  CHECK(pretrain_iterations(config, 157) == 13);  // 12.56
  CHECK(pretrain_iterations(config, 20) == 12);
  CHECK(pretrain_iterations(config, 7) == 7);
  CHECK(pretrain_iterations(config, 1) == 1);
  config.alpha = 3;
  CHECK(pretrain_iterations(config, 2500) == 3);
}

TEST_CASE("where nothing is said about the anneal there is one if the LR is chosen", "[config]") {
  const auto anneal_of = [](const std::vector<std::string>& overrides) {
    return parse_config("{}", "run.json", overrides).training.learning_rate.anneal;
  };
  const AnnealConfig half{AnnealForm::linear, 0.5}, none{AnnealForm::none, 0.5};
  const std::string policy = "training.learning_rate.policy=";
  const std::string anneal = "training.learning_rate.anneal.";
  for (const char* chooses : {"stpt", "random_winner", "always_one"})
    CHECK(anneal_of({policy + chooses}) == half);
  for (const char* other : {"fixed", "plateau", "cosine", "linear"})
    CHECK(anneal_of({policy + other}) == none);
  CHECK(anneal_of({anneal + "form=none"}) == none);
  CHECK(anneal_of({anneal + "fraction=0.2"}) == AnnealConfig{AnnealForm::linear, 0.2});
  CHECK(anneal_of({policy + "fixed", anneal + "fraction=0.2"}) ==
        AnnealConfig{AnnealForm::linear, 0.2});
  CHECK(anneal_of({policy + "fixed", anneal + "form=cosine"}) ==
        AnnealConfig{AnnealForm::cosine, 0.5});
}

TEST_CASE("AdamW has learning rates and a decay of its own where nothing is said", "[config]") {
  const auto of = [](const std::string& training) {
    return parse_config(R"({"training": {"optimizer": {"name": "adamw")" + training + "}", "test")
        .training;
  };
  const TrainingConfig own = of("}}");
  CHECK(own.learning_rate.initial == 0.001);
  CHECK(own.learning_rate.warmup.start == 0.00005);
  CHECK(own.optimizer.weight_decay == 0.01);
  const TrainingConfig given = of(
      R"(, "weight_decay": 0.0005}, "learning_rate": {"initial": 0.1, "warmup": {"start": 0.005}}})");
  CHECK(given.learning_rate.initial == 0.1);
  CHECK(of(R"(}, "learning_rate": {"initial": 0.1}})").learning_rate.warmup.start == 0.00005);
  CHECK(given.learning_rate.warmup.start == 0.005);
  CHECK(given.optimizer.weight_decay == 0.0005);
}

TEST_CASE("networks without batch norm train by AdamW where the LR is left open", "[config]") {
  const auto optimizer_of = [](const std::string& text, const std::vector<std::string>& keys = {}) {
    return parse_config(text, "run.json", keys).training.optimizer.name;
  };
  const auto adamw = OptimizerName::adamw, sgd = OptimizerName::sgd;
  const std::string mlp = R"({"model": {"name": "mlp"}})";
  CHECK(optimizer_of(mlp) == adamw);
  CHECK(parse_config(mlp, "run.json").training.learning_rate.initial == 0.001);
  CHECK(optimizer_of(R"({"model": {"name": "vgg11"}})") == adamw);
  CHECK(optimizer_of(R"({"model": {"name": "vgg11_bn"}})") == sgd);
  CHECK(optimizer_of(R"({"model": {"name": "resnet20"}})") == sgd);
  CHECK(optimizer_of(R"({"model": {"name": "none_such"}})") == sgd);
  const auto with_network = [](const std::string& layers) {
    return R"({"model": {"network": )" + layers + "}}";
  };
  CHECK(optimizer_of(with_network(
            R"({"layers": [{"type": "relu"}, {"type": "fully_connected"}]})")) == adamw);
  CHECK(optimizer_of(with_network(R"({"layers": [{"type": "relu"}, {"type": "batch_norm"}]})")) ==
        sgd);
  for (const char* none : {R"({"layers": 1})", "{}"})
    CHECK(optimizer_of(with_network(none)) == sgd);
  // No type, or one that is no text, is refused by who builds the network.
  CHECK(optimizer_of(with_network(R"({"layers": [{}, 1, {"type": 1}]})")) == adamw);

  for (const char* key :
       {"training.learning_rate.initial=0.1", "training.learning_rate.policy=fixed",
        "training.optimizer.momentum=0.9", "training.optimizer.nesterov=true",
        "training.optimizer.weight_decay=0.0005", "training.optimizer.name=sgd",
        "training.optimizer.decay_all=false"}) {
    INFO(key);
    CHECK(optimizer_of(mlp, {key}) == sgd);
  }
  for (const char* key : {"training.learning_rate.policy=random_winner",
                          "training.learning_rate.warmup.epochs=1", "stpt.candidates=narrow"}) {
    INFO(key);
    CHECK(optimizer_of(mlp, {key}) == adamw);
  }
  // What a run has been given stays.
  const Config run = parse_config(mlp, "run.json");
  CHECK(parse_config(print_config(run), "config.json") == run);
}

TEST_CASE("where nothing is said about candidates the first Pre-train searches", "[config]") {
  const auto schedule_of = [](const char* text, const std::vector<std::string>& overrides = {}) {
    return parse_config(text, "run.json", overrides).stpt.schedule;
  };
  const ScheduleEntry search{1, named_candidate_set("search")};
  CHECK(schedule_of("{}") == std::vector{search,
                                         {2, named_candidate_set("raise")},
                                         {3, named_candidate_set("unchanged")}});
  CHECK(schedule_of("{}", {"training.epochs=1"}) == schedule_of("{}"));

  const char* warmup = R"({"training": {"learning_rate": {"warmup": {"epochs": 3}}}})";
  CHECK(schedule_of(warmup) == default_schedule(4));
  CHECK(schedule_of(warmup, {"stpt.pretrain_during_warmup=true"}) == default_schedule(1));

  CHECK(schedule_of(R"({"stpt": {"candidates": "refine"}})").empty());
  CHECK(schedule_of("{}", {"stpt.candidates=refine"}).empty());
  CHECK(schedule_of("{}", {"stpt.schedule=[]"}).empty());
}

// A run that goes on for longer has the defaults of its first resolved config.
TEST_CASE("no default depends on the number of epochs", "[config]") {
  for (const char* text : {"{}", R"({"training": {"learning_rate": {"warmup": {"epochs": 3}}}})",
                           R"({"training": {"learning_rate": {"policy": "fixed"}}})"}) {
    const std::string longer = "training.epochs=40";
    const Config shorter = parse_config(text, "run.json", {"training.epochs=4"});
    CHECK(parse_config(print_config(shorter), "config.json", {longer}) ==
          parse_config(text, "run.json", {longer}));
  }
}

TEST_CASE("near-ties go to the larger LR in the default schedule alone", "[config]") {
  const auto rule_of = [](const char* text, const std::vector<std::string>& overrides = {}) {
    return parse_config(text, "run.json", overrides).stpt.tie_rule;
  };
  CHECK(rule_of("{}") == TieRule::larger);
  CHECK(rule_of(R"({"stpt": {"alpha": 20}})") == TieRule::larger);
  CHECK(rule_of("{}", {"stpt.tie_rule=none"}) == TieRule::none);
  CHECK(rule_of(R"({"stpt": {"candidates": "refine"}})") == TieRule::prefer_unchanged);
  CHECK(rule_of("{}", {"stpt.schedule=[]"}) == TieRule::prefer_unchanged);
  CHECK(rule_of(R"({"stpt": {"candidates": "refine"}})", {"stpt.tie_rule=larger"}) ==
        TieRule::larger);
}

TEST_CASE("overrides that are wrong", "[config]") {
  CHECK(override_error("training.epochs") ==
        "--set: training.epochs: is no key=value; must be as in training.epochs=20");
  CHECK(override_error("=3") == "--set: =3: is no key=value; must be as in training.epochs=20");
  CHECK(override_error("training.alpha=3") ==
        "--set: training.alpha: unknown key; did you mean stpt.alpha?");
  CHECK(override_error("training.epochs=ten") ==
        "--set: training.epochs: is \"ten\"; must be a whole number from 1 to 1000000");
  CHECK(override_error("training.epochs=") ==
        "--set: training.epochs: is \"\"; must be a whole number from 1 to 1000000");
  CHECK(override_error("training=3") == "--set: training: is 3; must be an object, {...}");
  CHECK(override_error("stpt.candidates=[1, 2") ==
        "--set: stpt.candidates: is not JSON at column 6: the text ends too early; close every "
        "brace, bracket and quotation mark");
  CHECK(override_error("data.path=\xff") ==
        "--set: data.path: is not UTF-8; must be text in UTF-8");
  // A rule between keys names where the key that breaks it was set.
  CHECK(override_error("data.hold_out=0").substr(0, 21) == "--set: data.hold_out:");
  CHECK(error_of(R"({"data": {"hold_out": 0}})", {"training.epochs=4"}).substr(0, 23) ==
        "run.json: data.hold_out");
  CHECK(override_error("stpt.schedule=[{\"from_epoch\": 2, \"candidates\": [1]}, "
                       "{\"from_epoch\": 2, \"candidates\": [2]}]") ==
        "--set: stpt.schedule[1].from_epoch: is 2; must be above the entry before it, 2");
}

TEST_CASE("new layers are a name or several, beside weights", "[config]") {
  const auto layers = [](const std::string& value) {
    return parse_config("{}", "run.json", {"model.weights=a.st", "model.new_layers=" + value})
        .model.new_layers;
  };
  CHECK(layers("fc") == std::vector<std::string>{"fc"});
  CHECK(layers(R"(["fc", "stage3.block1"])") == std::vector<std::string>{"fc", "stage3.block1"});
  CHECK(layers(R"([".f", "-f"])") == std::vector<std::string>{".f", "-f"});  // as layers may be
  CHECK(layers("[]").empty());
  const Config config =
      parse_config("{}", "run.json", {"model.weights=a.st", "model.new_layers=fc"});
  CHECK(parse_config(print_config(config), "printed") == config);
  CHECK(error_of("{}", {"model.new_layers=fc"}) ==
        "--set: model.new_layers: is given without model.weights, so that all layers are new; must "
        "be []");
  for (const char* wrong : {"5", R"([5])", R"([""])", R"(["a b"])"}) {
    CHECK(error_of("{}", {"model.weights=a.st", std::string("model.new_layers=") + wrong})
              .ends_with("; must be the name of a layer or a list of such"));
  }
}

TEST_CASE("a network file is read once, so that it may be a pipe", "[config]") {
  const data::testing::TemporaryFolder folder;
  const std::string pipe = (folder.path() / "pipe").string();
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  std::thread writer(
      [&] { std::ofstream(pipe) << R"({"name": "n", "layers": [{"type": "relu"}]})"; });
  const ParsedConfig parsed = parse_run_file("{}", "run.json", {"model.network=" + pipe});
  writer.join();
  CHECK(parsed.config.model.network.description.find("relu") != std::string::npos);
  CHECK(parsed.source.of("model.network") == "--set");
  CHECK(parsed.source.of("model.name") == "run.json");
}

TEST_CASE("a network takes the place of a named model", "[config]") {
  const std::string network = R"({"name": "n", "layers": [{"type": "relu"}]})";
  const std::string with_network = R"({"model": {"network": )" + network + "}}";
  const Config own = parse_config(with_network, "run.json");
  CHECK(own.model.name.empty());
  CHECK(read_json(own.model.network.description) == read_json(network));
  CHECK(parse_config(print_config(own), "printed") == own);

  // On the command line either replaces the other.
  const Config named = parse_config(with_network, "run.json", {"model.name=mlp"});
  CHECK(named.model.name == "mlp");
  CHECK(named.model.network.description.empty());
  const Config again =
      parse_config(R"({"model": {"name": "mlp"}})", "run.json", {"model.network=" + network});
  CHECK(again == own);
  CHECK(parse_config(print_config(own), "printed", {"model.name=mlp"}) == named);
  CHECK(error_of(with_network, {"model.network="}) ==
        "run.json: model.name: is empty; must be the name of a model");

  CHECK(error_of(R"({"model": {"name": "mlp", "network": )" + network + "}}") ==
        "run.json: model.network: is given beside model.name, mlp; give one of them");
  CHECK(error_of(R"({"model": {"name": ""}})") ==
        "run.json: model.name: is empty; must be the name of a model");
  CHECK(error_of(with_network, {"model.zero_gamma=true"})
            .starts_with("--set: model.zero_gamma: is true; must be false with model.network"));
  CHECK(error_of(R"({"model": {"network": 5}})")
            .starts_with("run.json: model.network: is 5; must be a network file's path, or "));
  CHECK(
      error_of(R"({"model": {"network": [1]}})").starts_with("run.json: model.network: is [1]; "));
  CHECK(error_of("{}", {"model.network=none.json"}) ==
        "none.json: no such file; model.network needs a network file");
}

TEST_CASE("a network's file is read once and kept", "[config]") {
  const data::testing::TemporaryFolder folder;
  const std::string path = (folder.path() / "net.json").string();
  const auto write = [&](const std::string& text) { std::ofstream(path) << text; };
  write("{\"name\": \"n\",\n \"layers\": []}");
  const Config config = parse_config("{}", "run.json", {"model.network=" + path});
  CHECK(config.model.network.file == path);
  std::filesystem::remove(path);
  CHECK(parse_config(print_config(config), "printed") == config);

  write("{\"name\": \"n\",\n \"layers\": [}");
  CHECK(error_of("{}", {"model.network=" + path}).starts_with(path + ":2:13: "));
  write("[]");
  CHECK(error_of("{}", {"model.network=" + path}) == path + ": is no object; must be {...}");
}

TEST_CASE("what depends on the data set", "[config]") {
  Config config;
  config.stpt.alpha = 12;
  config.data.hold_out = 2000;
  CHECK_NOTHROW(validate_for_images(config, 60000));
  CHECK_NOTHROW(validate_for_images(config, 8144));
  CHECK_THROWS_WITH(validate_for_images(config, 8143, "run.json"),
                    "run.json: stpt.alpha: is 12; must be at most the iterations of an epoch, 11");
  CHECK_THROWS_WITH(validate_for_images(config, 1999),
                    "data.hold_out: is 2000 of the 1999 training images; must leave some to train "
                    "on");
  Config limited = config;
  limited.data.limit = 8143;
  CHECK_THROWS_AS(validate_for_images(limited, 60000), ConfigError);
  limited.data.limit = 60001;
  CHECK_THROWS_WITH(validate_for_images(limited, 60000, "run.json"),
                    "run.json: data.limit: is 60001; must be at most the training images, 60000, "
                    "or 0 for all");
}

TEST_CASE("docs/config.md is what the program prints", "[config]") {
  // To bring it up to date: ./stpt_starpu --print-config-docs > docs/config.md
  CHECK(read_file(source_folder / "docs/config.md") == config_documentation());
}

TEST_CASE("the example in the documentation is a run file", "[config]") {
  const std::string text = config_documentation();
  const std::size_t begin = text.find("```json\n") + 8;
  const std::string example = text.substr(begin, text.find("```", begin) - begin);
  CHECK(error_of(example) == "no error");
}

TEST_CASE("the command lines in the help can be run", "[config]") {
  std::istringstream help(help_text());
  int examples = 0;
  for (std::string line; std::getline(help, line);) {
    if (!line.starts_with("  ./stpt_starpu ")) continue;
    INFO(line);
    std::vector<std::string> words(1);
    bool quoted = false;
    for (const char c : line.substr(16)) {
      if (c == '"') {
        quoted = !quoted;
      } else if (c == ' ' && !quoted) {
        words.emplace_back();
      } else {
        words.back() += c;
      }
    }
    const CommandLine parsed =
        parse_command_line(std::vector<std::string_view>(words.begin(), words.end()));
    const std::string text = parsed.config ? read_file(source_folder / *parsed.config) : "{}";
    CHECK(error_of(text, parsed.overrides) == "no error");
    ++examples;
  }
  CHECK(examples >= 5);
}

TEST_CASE("the nearest word is the one that was meant", "[config]") {
  const std::vector<std::string> known = {"kernel", "stride", "padding", "name"};
  CHECK(runtime::nearest_word("kernal", known) == "kernel");
  CHECK(runtime::nearest_word("nmae", known) == "name");
  CHECK(runtime::nearest_word("nema", known) == "name");  // two edits
  CHECK(runtime::nearest_word("groups", known).empty());
  CHECK(runtime::nearest_word("pad", known) == "padding");  // a part of it
  CHECK(runtime::nearest_word("pa", known).empty());
  const std::vector<std::string> short_word = {"ab"};
  CHECK(runtime::nearest_word("xy", short_word).empty());  // nothing of it would be left
  CHECK(runtime::nearest_word("", known).empty());
  CHECK(runtime::nearest_word(std::string(100000, 'a'), known).empty());
}

TEST_CASE("edit distance", "[config]") {
  CHECK(runtime::edit_distance("", "") == 0);
  CHECK(runtime::edit_distance("", "abc") == 3);
  CHECK(runtime::edit_distance("abc", "abc") == 0);
  CHECK(runtime::edit_distance("abc", "acb") == 1);
  CHECK(runtime::edit_distance("kitten", "sitting") == 3);
}

}  // namespace
}  // namespace stpt
