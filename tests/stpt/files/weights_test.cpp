#include "stpt/files/weights.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <sstream>

#include "models/state_dict.hpp"
#include "models/zoo.hpp"
#include "stpt/config/config.hpp"
#include "stpt/files/safetensors.hpp"
#include "tests/catch.hpp"
#include "tests/data/testing.hpp"

namespace stpt {
namespace {

using data::testing::TemporaryFolder;
using models::ModelValues;
using models::Network;

/// Values that are all different.
ModelValues numbered(const Network& network, int workers) {
  ModelValues values = ModelValues::initial(network, workers, 1);
  float next = 1;
  for (const models::StateEntry& entry : models::state_dict(network)) {
    for (int worker = 0; worker < (entry.running ? workers : 1); ++worker) {
      for (float& value : entry.in(values, static_cast<std::size_t>(worker))) value = next++;
    }
  }
  return values;
}

std::string error_of(const std::filesystem::path& file, const Network& network) {
  try {
    check_weights(file, network);
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    REQUIRE(message.starts_with(file.string() + ": "));
    return message.substr(file.string().size() + 2);
  }
  return "no error";
}

const data::Normalization normalization{{0.25F, 0.1F}, {1, 0.3F}};

TEST_CASE("what is exported is imported with the same bits", "[weights]") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "model.safetensors";
  for (const char* name : {"resnet8", "resnet18", "plain_cnn"}) {
    INFO(name);
    const Network network = models::make_network(name, {1, 3, 32, 32}, 10);
    ModelValues values = numbered(network, 2);
    // Of equal statistics the mean is exactly they.
    if (network.has_batch_norm()) values.running[1] = values.running[0];
    export_weights(file, network, values, 123, normalization);
    CHECK(error_of(file, network) == "no error");
    ModelValues imported = ModelValues::initial(network, 2, 2);
    import_weights(file, network, imported);
    CHECK(imported.parameters == values.parameters);
    CHECK(imported.moments == values.moments);
    CHECK(imported.running == values.running);
  }
}

TEST_CASE("what is exported says what its images and classes are", "[weights]") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "model.safetensors";
  const Network network = models::make_network("mlp", {1, 2, 4, 4}, 2);
  const std::vector<std::string> classes = {"cat", "d\"g"};
  const auto text = [&] {
    std::ostringstream bytes;
    bytes << std::ifstream(file, std::ios::binary).rdbuf();
    return bytes.str();
  };
  export_weights(file, network, numbered(network, 1), 1, normalization, classes);
  CHECK_THAT(text(), Catch::Matchers::Contains(
                         R"({"__metadata__":{"classes":"[\"cat\", \"d\\\"g\"]","format":"pt",)"
                         R"("mean":"[0.25, 0.1]","model":"mlp","std":"[1, 0.3]"})"));
  export_weights(file, network, numbered(network, 1), 1, normalization);
  CHECK_THAT(text(), !Catch::Matchers::Contains("classes"));
}

TEST_CASE("new layers are not taken from the file", "[weights]") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "model.safetensors";
  const Network five = models::make_network("resnet8", {1, 3, 32, 32}, 5);
  const ModelValues written = numbered(five, 1);
  export_weights(file, five, written, 1, normalization);
  const Network two = models::make_network("resnet8", {1, 3, 32, 32}, 2);
  CHECK(error_of(file, two) ==
        "tensor \"fc.weight\" is 5x64; must be 2x64 for resnet8 with 2 classes and images of "
        "1x3x32x32, or its layer one of model.new_layers");
  const auto import = [&](const std::vector<std::string>& new_layers) {
    ModelValues values = ModelValues::initial(two, 2, 7);
    import_weights(file, two, values, new_layers);
    return values;
  };
  const ModelValues initial = ModelValues::initial(two, 2, 7);
  const auto check = [&](const std::vector<std::string>& new_layers,
                         const std::function<bool(const std::string&)>& is_new) {
    const ModelValues values = import(new_layers);
    std::size_t taken = 0, kept = 0;
    for (const models::StateEntry& entry : models::state_dict(two)) {
      for (std::size_t worker = 0; worker < (entry.running ? 2 : 1); ++worker) {
        const std::span<const float> now = entry.in(values, worker);
        INFO(entry.name);
        if (is_new(entry.name)) {
          CHECK(std::ranges::equal(now, entry.in(initial, worker)));
          ++kept;
        } else {
          CHECK_FALSE(std::ranges::equal(now, entry.in(initial, worker)));
          ++taken;
        }
      }
    }
    CHECK(taken > 0);
    CHECK(kept > 0);
  };
  check({"fc"}, [](const std::string& name) { return name.starts_with("fc."); });
  // A block has its running statistics, too.
  check({"fc", "stage3"}, [](const std::string& name) {
    return name.starts_with("fc.") || name.starts_with("stage3.");
  });

  CHECK(problem_with_layers(std::vector<std::string>{"fc", "stage3", "conv"}, two).empty());
  CHECK(problem_with_layers(std::vector<std::string>{"fc", "f"}, two) ==
        "has \"f\"; must have layers of resnet8 with parameters, of which the last is \"fc\"");
}

TEST_CASE("a new layer may be a scale, which has one tensor of its own name", "[weights]") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "model.safetensors";
  models::NetworkBuilder builder("scaled", {1, 3, 4, 4}, 2);
  const auto x = builder.scale("factors", builder.input());
  const Network network = builder.build(builder.fully_connected("fc", x, 2));
  export_weights(file, network, numbered(network, 1), 1, normalization);
  ModelValues values = ModelValues::initial(network, 1, 7);
  const std::vector<std::string> new_layers{"factors"};
  CHECK(problem_with_layers(new_layers, network).empty());
  import_weights(file, network, values, new_layers);
  const models::StateEntry factors = models::state_dict(network).front();
  CHECK(factors.name == "factors");
  CHECK(std::ranges::equal(factors.in(values), std::vector{1.0f, 1.0f, 1.0f}));
}

TEST_CASE("an export has the workers' mean and the count of batches", "[weights]") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "model.safetensors";
  const Network network = models::make_network("resnet8", {1, 1, 8, 8}, 10);
  ModelValues values = numbered(network, 3);
  for (std::size_t worker = 0; worker < 3; ++worker) {
    std::ranges::fill(values.running[worker], static_cast<float>(worker * worker));
  }
  export_weights(file, network, values, 123, normalization);
  const SafetensorsFile written(file);
  std::size_t counters = 0;
  for (const auto& [name, entry] : written.entries()) {
    if (!name.ends_with(".num_batches_tracked")) continue;
    CHECK(entry.data_type == "I64");
    CHECK(entry.shape.empty());
    std::int64_t count = 0;
    written.read(entry, std::as_writable_bytes(std::span(&count, 1)));
    CHECK(count == 123);
    ++counters;
  }
  CHECK(counters == 9);  // two a block, two shortcuts, and the stem's
  CHECK(written.entries().size() == models::state_dict(network).size() + counters);
  ModelValues imported = ModelValues::initial(network, 2, 1);
  import_weights(file, network, imported);
  CHECK(imported.running[0] == imported.running[1]);
  // (0 + 1 + 4) times the float32 that is nearest to 1/3.
  CHECK(imported.running[0][0] == 5 * (1.0f / 3));
}

TEST_CASE("weights of something else are refused, and the tensor named", "[weights]") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "model.safetensors";
  const Network network = models::make_network("resnet8", {1, 3, 32, 32}, 10);
  const ModelValues values = ModelValues::initial(network, 1, 1);

  /// Writes the network's tensors after `change` has seen each; those without a name are left out.
  const auto write_changed = [&](const std::function<void(NamedTensor&)>& change,
                                 std::vector<NamedTensor> tensors = {}) {
    for (const models::StateEntry& entry : models::state_dict(network)) {
      NamedTensor tensor{entry.name, "F32", entry.dimensions, std::as_bytes(entry.in(values))};
      change(tensor);
      if (!tensor.name.empty()) tensors.push_back(tensor);
    }
    write_safetensors(file, tensors, {});
    return error_of(file, network);
  };
  const auto for_tensor = [&](const char* name, const std::function<void(NamedTensor&)>& change) {
    return write_changed([&](NamedTensor& tensor) {
      if (tensor.name == name) change(tensor);
    });
  };
  const auto nothing = [](NamedTensor&) {};
  CHECK(write_changed(nothing) == "no error");
  CHECK(for_tensor("bn.running_var", [](NamedTensor& t) { t.name.clear(); }) ==
        "tensor \"bn.running_var\" is missing; resnet8 needs it, of shape 16");
  CHECK(for_tensor("conv.weight",
                   [](NamedTensor& t) {
                     t.shape = {3, 16, 3, 3};
                   }) ==
        "tensor \"conv.weight\" is 3x16x3x3; must be 16x3x3x3 for resnet8 with 10 classes and "
        "images of 1x3x32x32, or its layer one of model.new_layers");
  CHECK(for_tensor("fc.bias", [](NamedTensor& t) {
          t.shape = {};
        }).starts_with("tensor \"fc.bias\" is a scalar; must be 10 for "));
  CHECK(for_tensor("fc.bias", [](NamedTensor& t) { t.data_type = "BF16"; }) ==
        "tensor \"fc.bias\" has the dtype BF16; must be F32");
  CHECK(for_tensor("fc.bias", [](NamedTensor& t) { t.data = t.data.first(39); }) ==
        "tensor \"fc.bias\" has 39 bytes, not those of 10; the file is damaged");
  CHECK(write_changed(nothing, {{"layer1.weight", "F32", {0}, {}}}) ==
        "tensor \"layer1.weight\" is none of resnet8's; remove it");
  CHECK(write_changed(nothing, {{"bn.num_batches_tracked", "I64", {0}, {}}}) == "no error");
  CHECK(write_changed(nothing, {{"fc.num_batches_tracked", "I64", {0}, {}}}) ==
        "tensor \"fc.num_batches_tracked\" is none of resnet8's; remove it");
}

TEST_CASE("weights that are not finite are refused", "[weights]") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "model.safetensors";
  const Network network = models::make_network("mlp", {1, 1, 4, 4}, 10);
  ModelValues values = ModelValues::initial(network, 1, 1);
  const models::StateEntry entry = models::state_dict(network).back();
  const auto value =
      GENERATE(std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity());
  entry.in(values)[3] = value;
  export_weights(file, network, values, 1, normalization);
  const std::string problem = error_of(file, network);
  CHECK(problem == "tensor \"" + entry.name + "\" has the value " + std::to_string(value) +
                       " at 3; all must be finite numbers");
  CHECK_THROWS_WITH(import_weights(file, network, values), file.string() + ": " + problem);
}

TEST_CASE("a negative variance is refused", "[weights]") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "model.safetensors";
  const Network network = models::make_network("resnet8", {1, 1, 8, 8}, 10);
  ModelValues values = ModelValues::initial(network, 1, 1);
  for (const models::StateEntry& entry : models::state_dict(network)) {
    if (entry.running) std::ranges::fill(entry.in(values), entry.name.ends_with("mean") ? -1 : 0);
  }
  export_weights(file, network, values, 1, normalization);
  CHECK(error_of(file, network) == "no error");
  const models::StateEntry entry = models::state_dict(network).at(4);
  REQUIRE(entry.name.ends_with(".running_var"));
  entry.in(values)[2] = -1;
  export_weights(file, network, values, 1, normalization);
  CHECK(error_of(file, network) ==
        "tensor \"" + entry.name + "\" has the value -1.000000 at 2; all must be at least 0");
}

}  // namespace
}  // namespace stpt
