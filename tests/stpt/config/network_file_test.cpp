#include "stpt/config/network_file.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/string.hpp>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "models/program.hpp"
#include "models/zoo.hpp"
#include "runtime/runtime.hpp"
#include "stpt/config/json_text.hpp"
#include "tests/catch.hpp"

namespace stpt {
namespace {

namespace json = boost::json;
using models::LayerKind;
using models::Network;

Network network_of(const std::string& layers, const runtime::Shape& input = {1, 3, 8, 8},
                   int classes = 10) {
  return build_network(read_json(R"({"name": "net", "layers": [)" + layers + "]}"), "net.json",
                       input, classes);
}

/// What a text is refused for, without the file's name.
template <class Act>
std::string refusal(Act&& act) {
  try {
    (void)act();
  } catch (const ConfigError& error) {
    const std::string message = error.what();
    REQUIRE(message.starts_with("net.json: "));
    return message.substr(10);
  }
  return "no error";
}

std::string error_of(const std::string& layers) {
  return refusal([&] { return network_of(layers); });
}

std::string error_of_network(const std::string& text) {
  return refusal([&] { return build_network(read_json(text), "net.json", {1, 3, 8, 8}, 10); });
}

const std::string conv = R"({"name": "conv", "type": "convolution", "filters": 4, "kernel": 3}, )";
const std::string fc = R"({"name": "fc", "type": "fully_connected"})";

TEST_CASE("layers are what the file says", "[network_file]") {
  const Network network = network_of(R"(
    {"name": "c", "type": "convolution", "filters": 6, "kernel": 3, "stride": 2, "padding": 1,
     "bias": true},
    {"name": "b", "type": "batch_norm", "gamma": 0},
    {"type": "relu"},
    {"name": "g", "type": "convolution", "filters": 6, "kernel": 1, "groups": 2},
    {"type": "max_pool", "kernel": 2},
    {"type": "average_pool", "kernel": 2, "stride": 1, "padding": 1},
    {"type": "global_average_pool"},
    {"name": "fc", "type": "fully_connected", "outputs": 5},
    {"name": "last", "type": "fully_connected"})");
  CHECK(network.name == "net");
  CHECK(network.classes == 10);
  REQUIRE(network.layers.size() == 9);
  const auto shape_after = [&](std::size_t layer) {
    return network.activations[static_cast<std::size_t>(network.layers[layer].output)];
  };
  CHECK(shape_after(0) == runtime::Shape{1, 6, 4, 4});
  CHECK(network.layers[0].bias >= 0);
  CHECK(network.layers[0].groups == 1);
  CHECK(network.parameters[2].name == "b.weight");
  CHECK(network.parameters[2].initial == 0.0f);
  CHECK(network.layers[2].kind == LayerKind::relu);
  CHECK(network.layers[3].groups == 2);
  CHECK(network.layers[3].bias == -1);
  CHECK(network.parameters[4].shape == runtime::Shape{6, 3, 1, 1});
  CHECK(network.parameters[4].fan_in == 3);
  CHECK(shape_after(4) == runtime::Shape{1, 6, 2, 2});
  CHECK(network.layers[4].window.stride == 2);  // as the kernel, if nothing is said
  CHECK(shape_after(5) == runtime::Shape{1, 6, 3, 3});
  CHECK(shape_after(6) == runtime::Shape{1, 6, 1, 1});
  CHECK(shape_after(7) == runtime::Shape{1, 5, 1, 1});
  CHECK(shape_after(8) == runtime::Shape{1, 10, 1, 1});
  CHECK(network.logits == network.layers[8].output);
}

TEST_CASE("windows have a number for both axes, or one for each", "[network_file]") {
  const auto first = [](const std::string& keys) {
    const Network network = network_of("{" + keys + "}, " + fc);
    return network.layers[0];
  };
  const std::string convolution = R"("name": "c", "type": "convolution", "filters": 4, "kernel": )";
  CHECK(first(convolution + R"(3)").window == codelets::Window{3});
  CHECK(first(convolution + R"([3, 3], "stride": [1, 1])").window == codelets::Window{3});
  CHECK(first(convolution + R"([1, 7], "stride": [2, 1], "padding": [0, 3])").window ==
        codelets::Window{{1, 7}, {2, 1}, {0, 3}});
  CHECK(first(convolution + R"(3, "stride": 2, "dilation": 2, "padding": 2)").window ==
        codelets::Window{3, 2, 2, 2});
  const models::Layer dilated = first(convolution + R"([2, 3], "dilation": [3, 1e0])");
  CHECK(dilated.window == codelets::Window{{2, 3}, 1, 0, {3, 1}});
  const Network wide = network_of("{" + convolution + "[1, 7]}, " + fc);
  CHECK(wide.parameters[0].shape == runtime::Shape{4, 3, 1, 7});
  CHECK(wide.parameters[0].fan_in == 3 * 7);

  // A pool's stride is as its kernel.
  const models::Layer pool = first(R"("type": "max_pool", "kernel": [2, 3], "padding": [0, 1])");
  CHECK(pool.window == codelets::Window{{2, 3}, {2, 3}, {0, 1}});
  CHECK_FALSE(pool.ceil_mode);
  CHECK(first(R"("type": "max_pool", "kernel": 3, "ceil_mode": true)").ceil_mode);
  const models::Layer average = first(
      R"("type": "average_pool", "kernel": 3, "padding": 1, "count_padding": true,
         "ceil_mode": true)");
  CHECK(average.count_padding);
  CHECK(average.ceil_mode);
  CHECK(first(R"("type": "average_pool", "kernel": [2, 3], "stride": [1, 2], "padding": [1, 2])")
            .window == codelets::Window{{2, 3}, {1, 2}, {1, 2}});
  const Network rounded =
      network_of(R"({"type": "average_pool", "kernel": 3, "ceil_mode": true}, )" + fc);
  CHECK(rounded.shape(1) == runtime::Shape{1, 3, 3, 3});
  CHECK_FALSE(rounded.layers[0].count_padding);

  const auto error = [](const std::string& keys) { return error_of("{" + keys + "}, " + fc); };
  const std::string two = ", or two, [height, width]";
  const std::string window = "must be a whole number from 1 to 1024" + two;
  for (const char* value : {"0", "-1", "1.5", "\"3\"", "null", "[3]", "[]", "[1, 2, 3]", "[0, 3]",
                            "[3, 1025]", "[1, \"7\"]", "[[1, 7], 3]"}) {
    for (const char* key : {"kernel", "stride", "dilation"}) {
      const std::string keys = key == std::string("kernel")
                                   ? convolution + value
                                   : convolution + R"(3, ")" + key + R"(": )" + value;
      CHECK(error(keys) ==
            "layers[0] \"c\": " + std::string(key) + ": is " + value + "; " + window);
    }
  }
  CHECK(error(convolution + R"(3, "padding": [0, -1])") ==
        "layers[0] \"c\": padding: is [0, -1]; must be a whole number from 0 to 1024" + two);
  CHECK(error(R"("type": "max_pool")") ==
        "layers[0]: has no kernel; add it, a whole number from 1 to 1024" + two);
  CHECK(error(R"("type": "max_pool", "kernel": 2, "dilation": 2)") ==
        "layers[0]: dilation: unknown key; a max_pool has name, type, inputs, block, kernel, "
        "stride, padding and ceil_mode");
  CHECK(error(R"("type": "max_pool", "kernel": 2, "count_padding": true)")
            .starts_with("layers[0]: count_padding: unknown key; "));
  CHECK(error(R"("type": "average_pool", "kernel": 2, "ceil_mode": 1)") ==
        "layers[0]: ceil_mode: is 1; must be true or false");
  CHECK(error(R"("type": "max_pool", "kernel": [3, 2], "padding": [1, 2])") ==
        "layers[0]: pool2d of 1x3x8x8, kernel 3x2, stride 3x2, padding 1x2: the padding must be at "
        "least 0 and smaller than the kernel");
  CHECK(error(convolution + R"(3, "dilation": [1, 4])") ==
        "layers[0] \"c\": conv2d of 1x3x8x8, kernel 3x3, stride 1, padding 0, dilation 1x4: the "
        "kernel must not be larger than the padded source, 8x8, for it spans 3x9");
}

TEST_CASE("a fully connected layer has a bias unless it is told", "[network_file]") {
  const auto parameters = [](const std::string& keys) {
    return network_of(R"({"name": "fc", "type": "fully_connected")" + keys + "}").parameters.size();
  };
  CHECK(parameters("") == 2);
  CHECK(parameters(R"(, "bias": true)") == 2);
  CHECK(parameters(R"(, "bias": false)") == 1);
  CHECK(error_of(R"({"name": "fc", "type": "fully_connected", "bias": 0})") ==
        "layers[0] \"fc\": bias: is 0; must be true or false");
}

TEST_CASE("activations are layers of their names", "[network_file]") {
  for (const auto& [function, word] : codelets::named_activations) {
    const std::string type = R"({"type": ")" + std::string(word) + '"';
    const Network network = network_of(conv + type + "}, " + fc);
    CHECK(network.layers[1].kind == LayerKind::activation);
    CHECK(network.layers[1].function == function);
    CHECK(network.layers[1].slope == 0.01f);
    CHECK(network.shape(network.layers[1].output) == network.shape(network.layers[0].output));
    if (function == codelets::Activation::leaky_relu) {
      CHECK(network_of(conv + type + R"(, "slope": 0.2}, )" + fc).layers[1].slope == 0.2f);
      CHECK(network_of(conv + type + R"(, "slope": 1}, )" + fc).layers[1].slope == 1);
      for (const char* value : {"0", "-0.1", "1.5", "1e300", "\"a\"", "null"}) {
        INFO(value);
        const std::string error = error_of(type + R"(, "slope": )" + value + "}, " + fc);
        CHECK(error.starts_with("layers[0]: slope: is "));
        CHECK(error.ends_with("; must be a number above 0 and at most 1"));
      }
      CHECK(error_of(type + R"(, "slope": 1e-60}, )" + fc) ==
            "layers[0]: a slope of 0.000000; it must be above 0");
    } else {
      CHECK(error_of(type + R"(, "slope": 0.2}, )" + fc)
                .starts_with("layers[0]: slope: unknown key"));
    }
  }
}

TEST_CASE("channels of any number of layers can be joined", "[network_file]") {
  const std::string padded =
      R"({"name": "c", "type": "convolution", "filters": 4, "kernel": 3, "padding": 1}, )";
  std::string inputs = R"("c", "input")";
  for (int more = 0; more < 62; ++more) inputs += R"(, "c")";
  const Network network =
      network_of(padded + R"({"type": "concat", "inputs": [)" + inputs + "]}, " + fc);
  CHECK(network.layers[1].kind == LayerKind::concat);
  CHECK(network.layers[1].inputs.size() == 64);
  CHECK(network.layers[1].inputs[1] == 0);
  CHECK(network.activations[static_cast<std::size_t>(network.layers[1].output)].c == 63 * 4 + 3);
  CHECK(error_of(padded + R"({"type": "concat", "inputs": [)" + inputs + R"(, "c"]}, )" + fc)
            .ends_with("must be a list of 2 to 64 layers' names"));
}

TEST_CASE("a slice has some of the channels", "[network_file]") {
  const std::string slice = R"({"type": "slice", "channels": )";
  const Network network = network_of(conv + slice + R"(1, "first": 3}, )" + slice + "1}, " + fc);
  CHECK(network.layers[1].kind == LayerKind::slice);
  CHECK(network.layers[1].first_channel == 3);
  CHECK(network.layers[2].first_channel == 0);
  CHECK(network.activations[static_cast<std::size_t>(network.layers[1].output)] ==
        models::Shape{1, 1, 6, 6});
  CHECK_NOTHROW(network_of(conv + slice + R"(1, "first": 0}, )" + fc));
  CHECK_NOTHROW(
      network_of(R"({"name": "wide", "type": "convolution", "kernel": 1, "filters": 1025}, )" +
                 slice + "1025}, " + fc));
  CHECK(error_of(conv + slice + R"(2, "first": 3}, )" + fc) ==
        "layers[1]: cannot take channels 3 to 4 of 1x4x6x6");
  CHECK(error_of(conv + slice + "5}, " + fc) ==
        "layers[1]: cannot take channels 0 to 4 of 1x4x6x6");
  CHECK(error_of(conv + slice + R"(1, "first": 65535}, )" + fc) ==
        "layers[1]: cannot take channels 65535 to 65535 of 1x4x6x6");
  CHECK(error_of(conv + R"({"type": "slice"}, )" + fc)
            .starts_with("layers[1]: has no channels; add it, "));
  CHECK(error_of(conv + slice + "0}, " + fc).starts_with("layers[1]: channels: is 0; must be "));
  CHECK(error_of(conv + slice + R"(1, "first": -1}, )" + fc)
            .starts_with("layers[1]: first: is -1; must be "));
}

TEST_CASE("a network from PyTorch has the parameters of its state_dict", "[network_file][golden]") {
  std::ifstream file(STPT_TEST_DATA_DIR "/from_pytorch.json");
  std::stringstream text;
  text << file.rdbuf();
  const Network network = build_network(read_json(text.str()), "net.json", {1, 3, 32, 32}, 10);
  CHECK(network.name == "Net");
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> parameters,
      expected{
          {"stem.weight", {8, 3, 3, 5}},
          {"stem.bias", {8}},
          {"images.weight", {8}},
          {"images.bias", {8}},
          {"wide.weight", {12, 8, 1, 7}},
          {"dilated.weight", {4, 2, 3, 3}},
          {"dilated.bias", {4}},
          {"block.bn.weight", {16}},
          {"block.bn.bias", {16}},
          {"block.conv.weight", {16, 16, 3, 3}},
          {"block.last.weight", {16}},
          {"block.last.bias", {16}},
          {"gate.fc.0.weight", {4, 16}},
          {"gate.fc.2.weight", {16, 4}},
          {"even.weight", {16, 8, 2, 2}},
          {"even.bias", {16}},
          {"padded.weight", {16, 1, 3, 3}},
          {"padded.bias", {16}},
          {"mixer.conv.weight", {16, 1, 7, 7}},
          {"mixer.conv.bias", {16}},
          {"mixer.norm.weight", {16}},
          {"mixer.norm.bias", {16}},
          {"mixer.wide.weight", {32, 16}},
          {"mixer.wide.bias", {32}},
          {"mixer.inner", {32}},
          {"mixer.narrow.weight", {16, 32}},
          {"mixer.gamma", {1, 16, 1, 1}},
          {"depthwise.weight", {16, 1, 3, 3}},
          {"depthwise.bias", {16}},
          {"groups.weight", {16}},
          {"groups.bias", {16}},
          {"hidden.weight", {24, 128}},
          {"hidden.bias", {24}},
          {"vector.weight", {24}},
          {"vector.bias", {24}},
          {"bn.weight", {24}},
          {"bn.bias", {24}},
          {"head.weight", {10, 24}},
          {"head.bias", {10}},
      };
  for (const models::Parameter& parameter : network.parameters)
    parameters.emplace_back(parameter.name, parameter.dimensions);
  CHECK(parameters == expected);  // in the order of use, which is not that of the modules
}

TEST_CASE("a batch norm has PyTorch's options", "[network_file]") {
  const std::string type = R"({"name": "bn", "type": "batch_norm")";
  const auto norm_of = [&](const std::string& keys) {
    return network_of(type + keys + "}, " + fc).layers[0];
  };
  CHECK(norm_of("").epsilon == 1e-5f);
  CHECK(norm_of("").momentum == 0.1f);
  CHECK(norm_of(R"(, "epsilon": 0.001)").epsilon == 0.001f);
  CHECK(norm_of(R"(, "momentum": 1)").momentum == 1);
  for (const std::string key : {"epsilon", "momentum"}) {
    const std::string least = key == "epsilon" ? "of at least 1e-30" : "above 0";
    for (const char* value : {"0", "1.5", "-1", "[0.1]"}) {
      const std::string error = error_of(type + R"(, ")" + key + R"(": )" + value + "}, " + fc);
      CHECK(error == "layers[0] \"bn\": " + key + ": is " + value + "; must be a number " + least +
                         " and at most 1");
    }
  }
}

TEST_CASE("a group norm has groups that divide the channels", "[network_file]") {
  const std::string type = R"({"name": "gn", "type": "group_norm")";
  const Network network =
      network_of(conv + type + R"(, "groups": 2, "epsilon": 0.001, "gamma": 0}, )" + fc);
  const models::Layer& norm = network.layers[1];
  CHECK(norm.kind == LayerKind::group_norm);
  CHECK(norm.groups == 2);
  CHECK(norm.epsilon == 0.001f);
  CHECK(network.parameter(norm.weight).initial == 0.0f);
  CHECK_FALSE(network.has_batch_norm());
  CHECK(error_of(conv + type + "}, " + fc) ==
        "layers[1] \"gn\": has no groups; add it, a whole number from 1 to 65536");
  CHECK(error_of(conv + type + R"(, "groups": 3}, )" + fc) ==
        "layers[1] \"gn\": group norm of 1x4x6x6 in 3 groups: groups must divide the channels");
  CHECK(
      error_of(conv + R"({"type": "global_average_pool"}, )" + type + R"(, "groups": 4}, )" + fc) ==
      "layers[2] \"gn\": group norm of 1x4x1x1 in 4 groups: a group needs more than one value of "
      "an image");
}

TEST_CASE("a layer norm is of each pixel's channels", "[network_file]") {
  const std::string type = R"({"name": "ln", "type": "layer_norm")";
  const Network network = network_of(conv + type + R"(, "epsilon": 0.001}, )" + fc);
  CHECK(network.layers[1].kind == LayerKind::layer_norm);
  CHECK(network.layers[1].epsilon == 0.001f);
  CHECK_FALSE(network.has_batch_norm());
  CHECK(error_of(R"({"name": "c", "type": "convolution", "filters": 1, "kernel": 3}, )" + type +
                 "}, " + fc) ==
        "layers[1] \"ln\": layer norm of 1x1x6x6: a pixel needs more than one channel");
}

TEST_CASE("a scale has a number for each channel, in the shape that PyTorch has",
          "[network_file]") {
  const std::string type = R"({"name": "gamma", "type": "scale")";
  Network network = network_of(conv + type + R"(, "initial": 1e-6, "shape": [1, 4]}, )" + fc);
  const models::Parameter& factors = network.parameter(network.layers[1].weight);
  CHECK(factors.name == "gamma");
  CHECK(factors.initial == 1e-6f);
  CHECK(factors.dimensions == std::vector<std::int64_t>{1, 4});
  CHECK_FALSE(factors.decay);
  network = network_of(conv + type + "}, " + fc);
  const models::Parameter& usual = network.parameter(network.layers[1].weight);
  CHECK(usual.initial == 1.0f);
  CHECK(usual.dimensions == std::vector<std::int64_t>{4, 1, 1});
  CHECK(error_of(conv + type + R"(, "initial": 1e9}, )" + fc) ==
        "layers[1] \"gamma\": initial: is 1000000000; must be a number of at least -1000 and at "
        "most 1000");
  for (const char* shape : {"[2, 2]", "[4, 4]", "[1]", "[5]"}) {
    INFO(shape);
    CHECK(error_of(conv + type + ", \"shape\": " + shape + "}, " + fc) ==
          "layers[1] \"gamma\": the shape must be 4, a number for each channel of 1x4x6x6, beside "
          "any ones");
  }
  for (const char* shape : {"4", "[]", "[1, 1, 1, 1, 4]", "[0]", "[\"4\"]"}) {
    INFO(shape);
    CHECK(error_of(conv + type + ", \"shape\": " + shape + "}, " + fc)
              .ends_with("must be a list of 1 to 4 numbers, each a whole number from 1 to 65536"));
  }
  CHECK(error_of(conv + R"({"name": "conv.weight", "type": "scale"}, )" + fc) ==
        "layers[1] \"conv.weight\": two parameters are called conv.weight");
}

TEST_CASE("a fully connected layer can be of each pixel", "[network_file]") {
  const std::string type = R"({"name": "mlp", "type": "fully_connected", "outputs": 5)";
  const Network network = network_of(conv + type + R"(, "each_pixel": true}, )" + fc);
  const models::Layer& layer = network.layers[1];
  CHECK(network.shape(layer.output) == runtime::Shape{1, 5, 6, 6});
  CHECK(network.parameter(layer.weight).dimensions == std::vector<std::int64_t>{5, 4});
  CHECK(layer.bias >= 0);
  CHECK(network_of(conv + type + R"(, "each_pixel": true, "bias": false}, )" + fc).layers[1].bias <
        0);
}

TEST_CASE("channels are shuffled in groups that divide them", "[network_file]") {
  const auto shuffle = [](const std::string& groups) {
    return R"({"name": "shuffle", "type": "channel_shuffle", "groups": )" + groups + "}, ";
  };
  const Network network = network_of(conv + shuffle("2") + fc);
  CHECK(network.layers[1].kind == LayerKind::channel_shuffle);
  CHECK(network.layers[1].groups == 2);
  CHECK(error_of(conv + shuffle("3") + fc) ==
        "layers[1] \"shuffle\": channel shuffle: 3 groups do not divide the channels of 1x4x6x6");
  CHECK(error_of(conv + shuffle("0") + fc).ends_with("must be a whole number from 1 to 65536"));
}

TEST_CASE("channels can be multiplied by numbers", "[network_file]") {
  const std::string squeeze = R"({"name": "pool", "type": "global_average_pool"}, )";
  const auto product = [](const std::string& inputs) {
    return R"({"name": "product", "type": "multiply", "inputs": [)" + inputs + "]}, ";
  };
  const Network network = network_of(conv + squeeze + product(R"("conv", "pool")") + fc);
  CHECK(network.layers[2].kind == LayerKind::multiply);
  CHECK(network.layers[2].inputs ==
        std::vector{network.layers[0].output, network.layers[1].output});
  CHECK(error_of(conv + squeeze + product(R"("pool", "conv")") + fc) ==
        "layers[2] \"product\": cannot multiply 1x4x1x1 by 1x4x6x6: the second must have the "
        "first's shape, or be 1x4x1x1, a number for each channel");
  CHECK(network_of(conv + product(R"("conv", "conv")") + fc).layers[1].kind == LayerKind::multiply);
  CHECK(error_of(conv + product(R"("conv")") + fc).ends_with("must be a list of 2 layers' names"));
}

TEST_CASE("an affine has two numbers", "[network_file]") {
  const std::string type = R"({"name": "half", "type": "affine")";
  const Network network = network_of(conv + type + R"(, "factor": 0.5, "offset": -3}, )" + fc);
  CHECK(network.layers[1].kind == LayerKind::affine);
  CHECK(network.layers[1].factor == 0.5f);
  CHECK(network.layers[1].offset == -3.0f);
  CHECK(network_of(conv + type + "}, " + fc).layers[1].factor == 1.0f);
  CHECK(error_of(conv + type + R"(, "factor": 2000}, )" + fc) ==
        "layers[1] \"half\": factor: is 2000; must be a number of at least -1000 and at most 1000");
}

TEST_CASE("a pad has four sides", "[network_file]") {
  const std::string type = R"({"name": "pad", "type": "pad")";
  const Network network =
      network_of(conv + type + R"(, "top": 1, "bottom": 2, "left": 3, "right": 4}, )" + fc);
  const models::Layer& layer = network.layers[1];
  CHECK(layer.kind == LayerKind::pad);
  CHECK(network.shape(layer.output) == runtime::Shape{1, 4, 9, 13});
  CHECK(layer.before == codelets::PerAxis{1, 3});
  CHECK(error_of(conv + type + R"(, "left": -1}, )" + fc) ==
        "layers[1] \"pad\": left: is -1; must be a whole number from 0 to 1024");
}

TEST_CASE("a dropout has a rate", "[network_file]") {
  const Network network =
      network_of(R"({"type": "dropout", "rate": 0.2}, {"type": "dropout"}, )" + fc);
  CHECK(network.has_dropout());
  CHECK(network.layers[0].kind == LayerKind::dropout);
  CHECK(network.layers[0].rate == 0.2);
  CHECK(network.layers[1].rate == 0.5);
  CHECK(network.layers[1].dropped == codelets::Dropped::elements);
  const Network stochastic = network_of(R"({"type": "stochastic_depth", "rate": 0.2}, )" + fc);
  CHECK(stochastic.has_dropout());
  CHECK(stochastic.layers[0].rate == 0.2);
  CHECK(stochastic.layers[0].dropped == codelets::Dropped::images);
  const Network channels = network_of(R"({"type": "channel_dropout", "rate": 0.2}, )" + fc);
  CHECK(channels.layers[0].name == "channel_dropout");
  CHECK(channels.layers[0].rate == 0.2);
  CHECK(channels.layers[0].dropped == codelets::Dropped::channels);
  CHECK_FALSE(network_of(fc).has_dropout());
  CHECK_NOTHROW(network_of(R"({"type": "dropout", "rate": 0}, )" + fc));
  for (const char* rate : {"1", "-0.1", "\"0.5\"", "null"}) {
    INFO(rate);
    const std::string error =
        error_of(R"({"type": "dropout", "rate": )" + std::string(rate) + "}, " + fc);
    CHECK(error.starts_with("layers[0]: rate: is "));
    CHECK(error.ends_with("; must be a number of at least 0 and below 1"));
  }
}

TEST_CASE("the network in configs/ fits images and runs", "[network_file]") {
  const NetworkConfig file =
      read_network_file(std::string(STPT_SOURCE_DIR) + "/configs/networks/small_residual.json");
  for (const runtime::Shape& input :
       {runtime::Shape{1, 3, 32, 32}, runtime::Shape{1, 1, 28, 28}, runtime::Shape{1, 3, 7, 9}}) {
    const Network network = build_network(read_json(file.description), file.file, input, 10);
    CHECK(network.blocks == std::vector<std::string>{"conv1", "conv2", "conv4", "fc"});
  }
  const Network network = build_network(read_json(file.description), file.file, {1, 3, 8, 8}, 10);
  const runtime::Runtime runtime({.cpu_workers = 1, .scheduler = {}});
  for (const auto grain : {models::Grain::op, models::Grain::block, models::Grain::step}) {
    CHECK(models::Program(network, 2, models::Mode::train, {grain}).segments() > 0);
  }
}

TEST_CASE("the example in the documentation is a network", "[network_file]") {
  std::ifstream file(std::string(STPT_SOURCE_DIR) + "/docs/networks.md");
  std::ostringstream bytes;
  bytes << file.rdbuf();
  const std::string text = bytes.str();
  const std::size_t begin = text.find("```json\n") + 8;
  const std::string example = text.substr(begin, text.find("```", begin) - begin);
  CHECK(build_network(read_json(example), "docs", {1, 1, 28, 28}, 10).name == "tiny");
}

TEST_CASE("a description of ResNet-8 is ResNet-8", "[network_file]") {
  std::string text = R"({"name": "conv", "type": "convolution", "filters": 16, "kernel": 3,
                         "padding": 1}, {"name": "bn", "type": "batch_norm"},
                        {"name": "x0", "type": "relu"})";
  const auto convolution = [](const std::string& name, int filters, int kernel, int stride) {
    return R"(, {"name": ")" + name + R"(", "type": "convolution", "filters": )" +
           std::to_string(filters) + R"(, "kernel": )" + std::to_string(kernel) +
           R"(, "stride": )" + std::to_string(stride) + R"(, "padding": )" +
           std::to_string(kernel / 2);
  };
  for (int stage = 1; stage <= 3; ++stage) {
    const std::string block = "stage" + std::to_string(stage) + ".block1";
    const std::string x = "\"x" + std::to_string(stage - 1) + "\"";
    const int stride = stage > 1 ? 2 : 1, filters = 8 << stage;
    const auto norm = [&](const std::string& name) {
      return R"(, {"name": ")" + block + name + R"(", "type": "batch_norm"})";
    };
    text += convolution(block + ".conv1", filters, 3, stride) + "}" + norm(".bn1") +
            R"(, {"type": "relu"})" + convolution(block + ".conv2", filters, 3, 1) + "}" +
            norm(".bn2");
    std::string shortcut = x;
    if (stage > 1) {
      text += convolution(block + ".shortcut.conv", filters, 1, stride) + R"(, "inputs": [)" + x +
              "]}" + norm(".shortcut.bn");
      shortcut = "\"" + block + ".shortcut.bn\"";
    }
    text += R"(, {"type": "add", "inputs": [")" + block + R"(.bn2", )" + shortcut +
            R"(]}, {"name": "x)" + std::to_string(stage) + R"(", "type": "relu"})";
  }
  text += R"(, {"type": "global_average_pool"}, )" + fc;
  const Network own = network_of(text, {1, 3, 32, 32});
  const Network known = models::make_network("resnet8", {1, 3, 32, 32}, 10);
  // The same parameters in the same order and buckets: the same training.
  CHECK(own.activations == known.activations);
  REQUIRE(own.parameters.size() == known.parameters.size());
  for (std::size_t i = 0; i < known.parameters.size(); ++i) {
    CHECK(own.parameters[i].name == known.parameters[i].name);
    CHECK(own.parameters[i].bucket == known.parameters[i].bucket);
    CHECK(own.parameters[i].offset == known.parameters[i].offset);
  }
  CHECK(own.initial_parameters(3) == known.initial_parameters(3));
}

TEST_CASE("blocks are those that the file names, or end where one output is left",
          "[network_file]") {
  const std::string a = R"({"name": "a", "type": "convolution", "filters": 3, "kernel": 3,
                            "padding": 1)";
  const std::string sum = R"({"type": "add", "inputs": ["a", "input"]}, )";
  CHECK(network_of(a + "}, " + fc).blocks == std::vector<std::string>{"a", "fc"});
  CHECK(network_of(a + "}, " + sum + fc).blocks == std::vector<std::string>{"a", "fc"});
  // The images are needed as well until "b" has read them.
  CHECK(network_of(a + R"(}, {"name": "b", "type": "convolution", "filters": 3, "kernel": 1,
                              "inputs": ["input"]}, {"type": "add", "inputs": ["a", "b"]}, )" +
                   fc)
            .blocks == std::vector<std::string>{"a", "fc"});
  CHECK(network_of(a + R"(, "block": "all"}, )" + fc).blocks == std::vector<std::string>{"all"});
  const std::string end = R"({"name": "fc", "type": "fully_connected", "block": )";
  CHECK(network_of(a + R"(, "block": "p"}, {"type": "relu", "block": "p"}, )" + end + "\"q\"}")
            .blocks == std::vector<std::string>{"p", "q"});
  CHECK(error_of(a + "}, " + end + "\"q\"}") ==
        "layers[1] \"fc\": block: layers[0] names no block; name one there, too, or nowhere");
  CHECK(error_of(a + R"(, "block": "p"}, {"type": "relu", "block": "q"}, )" + end + "\"p\"}") ==
        "layers[2] \"fc\": block: block \"p\" has ended already; its layers must follow one "
        "another");
  CHECK(error_of(a + R"(, "block": "a b"}, )" + fc)
            .starts_with("layers[0] \"a\": block: is \"a b\""));
  CHECK(error_of(a + R"(, "block": ""}, )" + fc).starts_with("layers[0] \"a\": block: is \"\""));
}

TEST_CASE("a layer that is wrong is named, with its place", "[network_file]") {
  CHECK(error_of("5, " + fc) == "layers[0]: is 5; must be an object, {...}");
  CHECK(error_of(conv + "{}, " + fc).starts_with("layers[1]: has no type; add it, one of conv"));
  CHECK(error_of(R"({"type": "lstm"})") ==
        "layers[0]: type: is \"lstm\"; must be one of convolution, batch_norm, group_norm, "
        "layer_norm, scale, relu, relu6, leaky_relu, elu, silu, mish, gelu, hard_swish, "
        "hard_sigmoid, sigmoid, tanh, affine, "
        "dropout, "
        "channel_dropout, stochastic_depth, add, multiply, concat, slice, channel_shuffle, pad, "
        "max_pool, "
        "average_pool, global_average_pool, fully_connected");
  CHECK(error_of(R"({"type": 1})").starts_with("layers[0]: type: is 1; must be one of "));
  CHECK(error_of(R"({"name": "c", "type": "convolution", "filters": 4, "kernal": 3}, )" + fc) ==
        "layers[0] \"c\": kernal: unknown key; did you mean kernel?");
  CHECK(error_of(R"({"type": "relu", "slope": 0.1})") ==
        "layers[0]: slope: unknown key; a relu has name, type, inputs and block");
  CHECK(error_of(conv + R"({"type": "add", "scale": 2})") ==
        "layers[1]: scale: unknown key; an add has name, type, inputs and block");
  CHECK(error_of(R"({"type": "relu", "kernel": 3})").starts_with("layers[0]: kernel: unknown key"));
  CHECK(error_of(R"({"type": "batch_norm"}, )" + fc) ==
        "layers[0]: has no name; a batch_norm needs one, for it has parameters");
  CHECK(error_of(conv + conv + fc) ==
        "layers[1] \"conv\": has the name of layers[0]; take another");
  CHECK(error_of(R"({"name": "input", "type": "relu"})") ==
        "layers[0]: has the name of the network's input; take another");
  CHECK(error_of(R"({"name": "a\nb", "type": "relu"})").starts_with("layers[0]: name: is "));
  CHECK(error_of(R"({"name": 7, "type": "relu"})") ==
        "layers[0]: name: is 7; must be 1 to 64 letters, digits, '.', '_' or '-'");
  CHECK(error_of(R"({"name": "c", "type": "convolution", "kernel": 3}, )" + fc) ==
        "layers[0] \"c\": has no filters; add it, a whole number from 1 to 65536");
  for (const char* value : {"0", "-1", "1.5", "\"3\"", "1e9", "null", "[3]", "1e300"}) {
    INFO(value);
    const std::string text = R"({"name": "c", "type": "convolution", "filters": 4, "kernel": )" +
                             std::string(value) + "}, " + fc;
    CHECK(error_of(text).starts_with("layers[0] \"c\": kernel: is "));
  }
  CHECK(error_of(R"({"name": "b", "type": "batch_norm", "gamma": 2}, )" + fc) ==
        "layers[0] \"b\": gamma: is 2; must be a whole number from 0 to 1");
  CHECK(error_of(R"({"name": "c", "type": "convolution", "filters": 4, "kernel": 3, "bias": 1}, )" +
                 fc) == "layers[0] \"c\": bias: is 1; must be true or false");
}

TEST_CASE("inputs that there are not", "[network_file]") {
  CHECK(error_of(conv + R"({"type": "add"}, )" + fc) ==
        "layers[1]: has no inputs; must name 2 layers, [\"a\", \"b\"]");
  CHECK(error_of(conv + R"({"type": "add", "inputs": ["conv"]}, )" + fc) ==
        "layers[1]: inputs: is [\"conv\"]; must be a list of 2 layers' names");
  CHECK(error_of(conv + R"({"type": "relu", "inputs": "conv"}, )" + fc) ==
        "layers[1]: inputs: is \"conv\"; must be a list of one layer's name");
  CHECK(error_of(conv + R"({"type": "relu", "inputs": [0]}, )" + fc) ==
        "layers[1]: inputs: is [0]; must be a list of one layer's name");
  CHECK(error_of(conv + R"({"type": "relu", "inputs": ["cnov"]}, )" + fc) ==
        "layers[1]: inputs: no layer before this one is called \"cnov\"; did you mean \"conv\"?");
  CHECK(error_of(conv + R"({"type": "relu", "inputs": ["inptu"]}, )" + fc) ==
        "layers[1]: inputs: no layer before this one is called \"inptu\"; did you mean \"input\"?");
  CHECK(error_of(conv + R"({"type": "relu", "inputs": ["fc"]}, )" + fc) ==
        "layers[1]: inputs: no layer before this one is called \"fc\"; name an earlier layer, or "
        "\"input\" for the images");
  CHECK(error_of(conv + R"({"type": "concat", "inputs": ["conv"]}, )" + fc) ==
        "layers[1]: inputs: is [\"conv\"]; must be a list of 2 to 64 layers' names");
  CHECK(error_of(conv + R"({"type": "concat"}, )" + fc) ==
        "layers[1]: has no inputs; must name 2 to 64 layers, [\"a\", \"b\"]");
  CHECK(error_of(R"({"name": "a", "type": "relu", "inputs": ["a"]}, )" + fc)
            .starts_with("layers[0] \"a\": inputs: no layer before this one is called \"a\""));
  CHECK(error_of(conv + R"({"name": "r", "type": "relu"}, {"name": "fc", "type":
                            "fully_connected", "inputs": ["conv"]})") ==
        "layers[1] \"r\": nothing uses its output; name it in the inputs of a later layer, or "
        "remove it");
}

TEST_CASE("shapes that do not fit are errors of their layer", "[network_file]") {
  CHECK(
      error_of(conv + R"({"name": "c2", "type": "convolution", "filters": 1, "kernel": 7}, )" + fc)
          .starts_with("layers[1] \"c2\": conv2d of 1x4x6x6, kernel 7x7, stride 1, padding 0: "));
  CHECK(
      error_of(conv + R"({"name": "c2", "type": "convolution", "filters": 8, "kernel": 1,
                            "groups": 3}, )" +
               fc) ==
      "layers[1] \"c2\": conv2d of 1x4x6x6, kernel 1x1, stride 1, padding 0, 3 groups: the groups "
      "must divide the 4 channels and the 8 filters");
  CHECK(error_of(R"({"type": "max_pool", "kernel": 9}, )" + fc)
            .starts_with("layers[0]: pool2d of 1x3x8x8, kernel 9x9"));
  CHECK(error_of(conv + R"({"type": "add", "inputs": ["conv", "input"]}, )" + fc) ==
        "layers[1]: cannot add 1x4x6x6 and 1x3x8x8: shapes must be equal");
  CHECK(error_of(conv + R"({"type": "concat", "inputs": ["conv", "input"]}, )" + fc) ==
        "layers[1]: concat: cannot join 1x4x6x6 and 1x3x8x8: only channels may differ");
  CHECK(error_of(conv + R"({"type": "relu"})") ==
        "layers[1]: its output is 1x4x6x6; that of the last layer must be one number for each of "
        "the 10 classes, 1x10x1x1");
  CHECK(error_of(R"({"name": "fc", "type": "fully_connected", "outputs": 9})")
            .starts_with("layers[0] \"fc\": its output is 1x9x1x1; "));
}

TEST_CASE("networks larger than any computer are refused, not computed with", "[network_file]") {
  CHECK(error_of(R"({"name": "c", "type": "convolution", "filters": 65536, "kernel": 1024,
                     "padding": 1024}, )" +
                 fc) == "layers[0] \"c\": has too many weights; must have at most 2147483647");
  CHECK(error_of(R"({"name": "c", "type": "convolution", "filters": 65536, "kernel": 1,
                     "padding": 1024}, )" +
                 fc)
            .starts_with("layers[0] \"c\": its output is 1x65536x2056x2056; must have at most "));
  CHECK(error_of(R"({"name": "c", "type": "convolution", "filters": 65536, "kernel": 1},
                    {"name": "fc", "type": "fully_connected", "outputs": 65536})") ==
        "layers[1] \"fc\": has too many weights; must have at most 2147483647");
  // 2^27 channels, 2^16 filters and 2^20 taps are 2^63.
  const auto copies = [](int count, const std::string& of) {
    std::string inputs = "\"" + of + "\"";
    for (int i = 1; i < count; ++i) inputs += ", \"" + of + "\"";
    return "\"type\": \"concat\", \"inputs\": [" + inputs + "]}, ";
  };
  CHECK(error_of(R"({"name": "p", "type": "global_average_pool"},
                    {"name": "a", "type": "convolution", "filters": 65536, "kernel": 1},
                    {"name": "b", )" +
                 copies(64, "a") + R"({"name": "c", )" + copies(32, "b") +
                 R"({"name": "d", "type": "convolution", "filters": 65536, "kernel": 1024,
                     "padding": 512, "stride": 1024}, )" +
                 fc) == "layers[4] \"d\": has too many weights; must have at most 2147483647");
  std::string many;
  for (int i = 0; i < 5000; ++i) many += R"({"type": "relu"}, )";
  CHECK(error_of(many + fc) == "layers: has 5001 layers; must have at most 4096");
}

TEST_CASE("what is no network at all", "[network_file]") {
  CHECK(error_of_network("{}") == "has no name; add \"name\": \"...\"");
  CHECK(error_of_network("[]") == "is []; must be an object, {...}");
  CHECK(error_of_network(R"({"name": "n"})") == "has no layers; add \"layers\": [{...}, ...]");
  CHECK(error_of_network(R"({"name": "n", "layers": {}})") ==
        "layers: is an object; must be a list, [{...}, ...]");
  CHECK(error_of_network(R"({"name": "n", "layers": []})") ==
        "layers: is empty; must have a layer");
  CHECK(error_of_network(R"({"name": "n", "layer": []})") ==
        "layer: unknown key; a network has name and layers");
  CHECK(error_of_network(R"({"name": "", "layers": []})").starts_with("name: is \"\"; must be "));
  // Images of one channel per class and no weights.
  CHECK(refusal([] {
          return build_network(
              read_json(R"({"name": "n", "layers": [{"type": "global_average_pool"}]})"),
              "net.json", {1, 3, 8, 8}, 3);
        }) == "layers: have no weights; add a convolution or a fully_connected");
}

}  // namespace
}  // namespace stpt
