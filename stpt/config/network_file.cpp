#include "stpt/config/network_file.hpp"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/string.hpp>
#include <functional>
#include <initializer_list>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "models/zoo.hpp"
#include "runtime/edit_distance.hpp"
#include "stpt/config/config_schema.hpp"
#include "stpt/config/json_text.hpp"
#include "stpt/config/json_values.hpp"
#include "stpt/config/run_file.hpp"

namespace stpt {
namespace {

namespace json = boost::json;
using codelets::Activation;
using codelets::Dropped;
using codelets::PerAxis;
using config::is_layer_name;
using config::layer_name_text;
using config::Problem;
using config::refuse;
using models::ActivationId;
using models::NetworkBuilder;
using runtime::Shape;

// Far above what anybody trains, and far below what overflows.
constexpr std::size_t most_layers = 4096;
constexpr WholeRange<int> channel_range{1, 65536}, first_channel_range{0, 65535},
    window_range{1, 1024}, padding_range{0, 1024};
constexpr NumberRange rate_range{0, true, 1}, share_range{0, false, 1, true},
    epsilon_range{1e-30, true, 1, true},  // which is none of 0 in float32
    scale_range{-1000, true, 1000, true};
constexpr std::size_t most_dimensions = 4;
constexpr std::int64_t most_elements = std::numeric_limits<std::int32_t>::max();

constexpr std::string_view input_name = "input";
constexpr std::size_t from_images = std::numeric_limits<std::size_t>::max();

std::string in_quotes(std::string_view text) { return brief_json(json::string(text)); }

std::string with_article(std::string_view type) {
  return (type.starts_with('a') ? "an " : "a ") + std::string(type);
}

/// "a, b and c"
std::string enumerated(std::span<const std::string> words) {
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i) {
    text += (i == 0 ? "" : i + 1 < words.size() ? ", " : " and ") + words[i];
  }
  return text;
}

/// A layer's object and where it stands.
class LayerText {
 public:
  LayerText(std::size_t index, const json::value& value)
      : place_("layers[" + std::to_string(index) + "]") {
    if (!value.is_object()) refuse(place_, value, "an object, {...}");
    object_ = &value.get_object();
    if (const json::value* name = object_->if_contains("name")) {
      if (!name->is_string() || !is_layer_name(name->get_string())) {
        refuse(place_ + ": name", *name, layer_name_text);
      }
      name_ = std::string(name->get_string());
      if (name_ == input_name) fail("has the name of the network's input; take another");
      place_ += " " + in_quotes(name_);
    }
  }

  [[nodiscard]] const std::string& place() const { return place_; }
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] const json::value* find(std::string_view key) const {
    return object_->if_contains(key);
  }
  [[nodiscard]] int whole(std::string_view key, WholeRange<int> range,
                          std::optional<int> otherwise = std::nullopt) const {
    const json::value* value = find(key);
    if (value == nullptr) {
      if (otherwise) return *otherwise;
      fail("has no " + std::string(key) + "; add it, " + range.text());
    }
    const std::optional<int> number = to_whole<int>(*value);
    if (!number || !range.has(*number)) refuse(at(key), *value, range.text());
    return *number;
  }
  /// A number for both axes, or a list of height's and width's.
  [[nodiscard]] PerAxis per_axis(std::string_view key, WholeRange<int> range,
                                 std::optional<PerAxis> otherwise = std::nullopt) const {
    const std::string right = range.text() + ", or two, [height, width]";
    const json::value* value = find(key);
    if (value == nullptr) {
      if (otherwise) return *otherwise;
      fail("has no " + std::string(key) + "; add it, " + right);
    }
    const auto one = [&](const json::value& axis) {
      const std::optional<int> number = to_whole<int>(axis);
      if (!number || !range.has(*number)) refuse(at(key), *value, right);
      return *number;
    };
    const json::array* both = value->if_array();
    if (both == nullptr) return one(*value);
    if (both->size() != 2) refuse(at(key), *value, right);
    return {one((*both)[0]), one((*both)[1])};
  }
  /// A list; empty if it is not there.
  [[nodiscard]] std::vector<std::int64_t> wholes(std::string_view key, WholeRange<int> range,
                                                 std::size_t most) const {
    const json::value* value = find(key);
    if (value == nullptr) return {};
    const std::string right =
        "a list of 1 to " + std::to_string(most) + " numbers, each " + range.text();
    const json::array* list = value->if_array();
    if (list == nullptr || list->empty() || list->size() > most) refuse(at(key), *value, right);
    std::vector<std::int64_t> numbers;
    for (const json::value& item : *list) {
      const std::optional<int> number = to_whole<int>(item);
      if (!number || !range.has(*number)) refuse(at(key), *value, right);
      numbers.push_back(*number);
    }
    return numbers;
  }
  [[nodiscard]] bool flag(std::string_view key, bool otherwise) const {
    const json::value* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_bool()) refuse(at(key), *value, "true or false");
    return value->get_bool();
  }
  [[nodiscard]] double number(std::string_view key, const NumberRange& range,
                              double otherwise) const {
    const json::value* value = find(key);
    if (value == nullptr) return otherwise;
    const std::optional<double> number = to_number(*value);
    if (!number || !range.has(*number)) refuse(at(key), *value, range.text());
    return *number;
  }
  [[nodiscard]] std::string word(std::string_view key, const std::string& right) const {
    const json::value* value = find(key);
    if (value == nullptr) fail("has no " + std::string(key) + "; add it, " + right);
    if (!value->is_string()) refuse(at(key), *value, right);
    return std::string(value->get_string());
  }
  void check_keys(std::span<const std::string> known, const std::string& what) const {
    for (const auto& [key, value] : *object_) {
      if (std::ranges::find(known, std::string_view(key)) != known.end()) continue;
      const std::string meant = runtime::nearest_word(key, known);
      throw Problem{at(key), "unknown key; " + (meant.empty() ? what + " has " + enumerated(known)
                                                              : "did you mean " + meant + "?")};
    }
  }
  [[nodiscard]] std::string at(std::string_view key) const {
    return place_ + ": " + std::string(key);
  }
  [[noreturn]] void fail(const std::string& problem) const { throw Problem{place_, problem}; }

 private:
  std::string place_;
  const json::object* object_ = nullptr;
  std::string name_;  ///< empty if it has none
};

using Inputs = std::span<const ActivationId>;
constexpr std::size_t any_number = 0;  ///< of inputs, but at least 2
constexpr std::size_t most_inputs = 64;

/// A kind of layer: its keys, and how it is built of them.
struct LayerType {
  std::string_view name;
  std::vector<std::string> keys;  ///< besides those that all have
  std::size_t inputs = 1;         ///< or any_number
  bool has_parameters = false;    ///< and therefore needs a name
  bool may_begin_block = false;
  std::function<ActivationId(NetworkBuilder&, const LayerText&, Inputs)> add;
};

/// Each factor is below 2^31, so that no product overflows before it is too large.
void check_weights(const LayerText& layer, std::initializer_list<std::int64_t> factors) {
  std::int64_t count = 1;
  for (const std::int64_t factor : factors) {
    count *= factor;
    if (count > most_elements)
      layer.fail("has too many weights; must have at most " + std::to_string(most_elements));
  }
}

ActivationId add_convolution(NetworkBuilder& net, const LayerText& layer, Inputs inputs) {
  const int filters = layer.whole("filters", channel_range);
  const PerAxis kernel = layer.per_axis("kernel", window_range);
  const int groups = layer.whole("groups", channel_range, 1);
  check_weights(layer, {net.shape(inputs[0]).c / groups, filters, kernel.h, kernel.w});
  return net.convolution(layer.name(), inputs[0], filters, kernel,
                         layer.per_axis("stride", window_range, 1),
                         layer.per_axis("padding", padding_range, 0),
                         {.bias = layer.flag("bias", false),
                          .groups = groups,
                          .dilation = layer.per_axis("dilation", window_range, 1)});
}

float gamma(const LayerText& layer) { return static_cast<float>(layer.whole("gamma", {0, 1}, 1)); }

ActivationId add_batch_norm(NetworkBuilder& net, const LayerText& layer, Inputs inputs) {
  models::BatchNormOptions options;
  options.gamma = gamma(layer);
  const auto set = [&](const char* key, const NumberRange& range, float& option) {
    option = static_cast<float>(layer.number(key, range, static_cast<double>(option)));
  };
  set("epsilon", epsilon_range, options.epsilon);
  set("momentum", share_range, options.momentum);
  return net.batch_norm(layer.name(), inputs[0], options);
}

ActivationId add_group_norm(NetworkBuilder& net, const LayerText& layer, Inputs inputs) {
  models::GroupNormOptions options;
  options.gamma = gamma(layer);
  options.epsilon = static_cast<float>(
      layer.number("epsilon", epsilon_range, static_cast<double>(options.epsilon)));
  return net.group_norm(layer.name(), inputs[0], layer.whole("groups", channel_range), options);
}

ActivationId add_layer_norm(NetworkBuilder& net, const LayerText& layer, Inputs inputs) {
  return net.layer_norm(layer.name(), inputs[0],
                        static_cast<float>(layer.number("epsilon", epsilon_range, 1e-5)));
}

ActivationId add_scale(NetworkBuilder& net, const LayerText& layer, Inputs inputs) {
  return net.scale(layer.name(), inputs[0],
                   {.initial = static_cast<float>(layer.number("initial", scale_range, 1)),
                    .dimensions = layer.wholes("shape", channel_range, most_dimensions)});
}

ActivationId add_affine(NetworkBuilder& net, const LayerText& layer, Inputs inputs) {
  return net.affine(inputs[0], static_cast<float>(layer.number("factor", scale_range, 1)),
                    static_cast<float>(layer.number("offset", scale_range, 0)));
}

/// Of codelets::named_activations.
LayerType activation_type(Activation function, std::string_view name) {
  std::vector<std::string> keys;
  if (function == Activation::leaky_relu) keys.emplace_back("slope");
  const auto add = [function](NetworkBuilder& net, const LayerText& layer, Inputs inputs) {
    return net.activation(
        inputs[0], function,
        static_cast<float>(layer.number("slope", share_range, codelets::default_slope)));
  };
  return {name, std::move(keys), 1, false, false, add};
}

template <Dropped dropped>
ActivationId add_dropout(NetworkBuilder& net, const LayerText& layer, Inputs inputs) {
  return net.dropout(inputs[0], layer.number("rate", rate_range, 0.5), dropped);
}

ActivationId add_slice(NetworkBuilder& net, const LayerText& layer, Inputs inputs) {
  return net.slice(inputs[0], layer.whole("first", first_channel_range, 0),
                   layer.whole("channels", channel_range));
}

ActivationId add_channel_shuffle(NetworkBuilder& net, const LayerText& layer, Inputs inputs) {
  return net.channel_shuffle(inputs[0], layer.whole("groups", channel_range));
}

ActivationId add_pad(NetworkBuilder& net, const LayerText& layer, Inputs inputs) {
  const auto side = [&](const char* key) { return layer.whole(key, padding_range, 0); };
  return net.pad(inputs[0], {side("top"), side("left")}, {side("bottom"), side("right")});
}

template <auto pool>
ActivationId add_pool(NetworkBuilder& net, const LayerText& layer, Inputs inputs) {
  const PerAxis kernel = layer.per_axis("kernel", window_range);
  return (net.*pool)(inputs[0], kernel, layer.per_axis("stride", window_range, kernel),
                     layer.per_axis("padding", padding_range, 0),
                     {.count_padding = layer.flag("count_padding", false),
                      .ceil_mode = layer.flag("ceil_mode", false)});
}

ActivationId add_fully_connected(NetworkBuilder& net, const LayerText& layer, Inputs inputs) {
  const int outputs = layer.whole("outputs", channel_range, net.classes());
  const bool each_pixel = layer.flag("each_pixel", false), bias = layer.flag("bias", true);
  const Shape& in = net.shape(inputs[0]);
  check_weights(layer, {each_pixel ? in.c : in.elements(), outputs});
  return each_pixel ? net.fully_connected_pixels(layer.name(), inputs[0], outputs, bias)
                    : net.fully_connected(layer.name(), inputs[0], outputs, bias);
}

std::vector<LayerType> make_layer_types() {
  std::vector<LayerType> types = {
      {"convolution",
       {"filters", "kernel", "stride", "padding", "dilation", "bias", "groups"},
       1,
       true,
       true,
       add_convolution},
      {"batch_norm", {"gamma", "epsilon", "momentum"}, 1, true, false, add_batch_norm},
      {"group_norm", {"groups", "gamma", "epsilon"}, 1, true, false, add_group_norm},
      {"layer_norm", {"epsilon"}, 1, true, false, add_layer_norm},
      {"scale", {"initial", "shape"}, 1, true, false, add_scale},
      {"relu",
       {},
       1,
       false,
       false,
       [](NetworkBuilder& net, const LayerText&, Inputs inputs) { return net.relu(inputs[0]); }},
      {"affine", {"factor", "offset"}, 1, false, false, add_affine},
      {"dropout", {"rate"}, 1, false, false, add_dropout<Dropped::elements>},
      {"channel_dropout", {"rate"}, 1, false, false, add_dropout<Dropped::channels>},
      {"stochastic_depth", {"rate"}, 1, false, false, add_dropout<Dropped::images>},
      {"add",
       {},
       2,
       false,
       false,
       [](NetworkBuilder& net, const LayerText&, Inputs inputs) {
         return net.add(inputs[0], inputs[1]);
       }},
      {"multiply",
       {},
       2,
       false,
       false,
       [](NetworkBuilder& net, const LayerText&, Inputs inputs) {
         return net.multiply(inputs[0], inputs[1]);
       }},
      {"concat",
       {},
       any_number,
       false,
       false,
       [](NetworkBuilder& net, const LayerText&, Inputs inputs) {
         return net.concat({inputs.begin(), inputs.end()});
       }},
      {"slice", {"first", "channels"}, 1, false, false, add_slice},
      {"channel_shuffle", {"groups"}, 1, false, false, add_channel_shuffle},
      {"pad", {"top", "bottom", "left", "right"}, 1, false, false, add_pad},
      {"max_pool",
       {"kernel", "stride", "padding", "ceil_mode"},
       1,
       false,
       false,
       add_pool<&NetworkBuilder::max_pool>},
      {"average_pool",
       {"kernel", "stride", "padding", "count_padding", "ceil_mode"},
       1,
       false,
       false,
       add_pool<&NetworkBuilder::average_pool>},
      {"global_average_pool",
       {},
       1,
       false,
       false,
       [](NetworkBuilder& net, const LayerText&, Inputs inputs) {
         return net.global_average_pool(inputs[0]);
       }},
      {"fully_connected", {"outputs", "bias", "each_pixel"}, 1, true, true, add_fully_connected},
  };
  const auto behind_relu = std::ranges::find(types, "relu", &LayerType::name) + 1;
  std::vector<LayerType> activations;
  for (const auto& [function, name] : codelets::named_activations)
    activations.push_back(activation_type(function, name));
  types.insert(behind_relu, activations.begin(), activations.end());
  return types;
}

const std::vector<LayerType>& layer_types() {
  static const std::vector<LayerType> types = make_layer_types();
  return types;
}

const LayerType& type_of(const LayerText& layer) {
  std::vector<std::string> names;
  for (const LayerType& type : layer_types()) names.emplace_back(type.name);
  const std::string right = "one of " + config::list(names);
  const std::string word = layer.word("type", right);
  const auto found = std::ranges::find(layer_types(), word, &LayerType::name);
  if (found != layer_types().end()) return *found;
  // Names of activations are so alike that the nearest may be another one: swish is no hard_swish.
  throw Problem{layer.at("type"), "is " + in_quotes(word) + "; must be " + right};
}

/// A layer as far as it can be understood without the shapes.
struct ParsedLayer {
  LayerText text;
  const LayerType* type;
  std::vector<std::size_t> inputs;  ///< indices of layers, or from_images
  std::string block;                ///< the one that it begins; empty if none
};

class NetworkReader {
 public:
  explicit NetworkReader(const json::object& description) {
    for (const auto& [key, value] : description) {
      const std::vector<std::string> known = {"name", "layers"};
      if (std::ranges::find(known, std::string_view(key)) == known.end()) {
        throw Problem{std::string(key), "unknown key; a network has name and layers"};
      }
    }
    const json::value* name = description.if_contains("name");
    if (name == nullptr) throw Problem{"", "has no name; add \"name\": \"...\""};
    if (!name->is_string() || !is_layer_name(name->get_string())) {
      refuse("name", *name, layer_name_text);
    }
    name_ = std::string(name->get_string());
    const json::value* layers = description.if_contains("layers");
    if (layers == nullptr) throw Problem{"", "has no layers; add \"layers\": [{...}, ...]"};
    if (!layers->is_array()) refuse("layers", *layers, "a list, [{...}, ...]");
    if (layers->get_array().empty()) throw Problem{"layers", "is empty; must have a layer"};
    if (layers->get_array().size() > most_layers) {
      throw Problem{"layers", "has " + std::to_string(layers->get_array().size()) +
                                  " layers; must have at most " + std::to_string(most_layers)};
    }
    for (const json::value& layer : layers->get_array()) read_layer(layer);
    find_last_uses();
  }

  [[nodiscard]] models::Network build(const Shape& input, int classes) const {
    NetworkBuilder net(name_, input, classes);
    std::vector<ActivationId> outputs;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const ParsedLayer& layer = layers_[i];
      if (const std::string block = block_that_begins(i); !block.empty()) net.begin_block(block);
      std::vector<ActivationId> inputs;
      for (const std::size_t from : layer.inputs) {
        inputs.push_back(from == from_images ? net.input() : outputs[from]);
      }
      try {
        outputs.push_back(layer.type->add(net, layer.text, inputs));
      } catch (const models::LayerError& error) {
        layer.text.fail(error.problem());
      }
      if (const Shape& shape = net.shape(outputs.back()); shape.elements() > most_elements) {
        layer.text.fail("its output is " + shape.to_string() + "; must have at most " +
                        std::to_string(most_elements) + " elements");
      }
    }
    const Shape expected{1, classes, 1, 1};
    if (const Shape& shape = net.shape(outputs.back()); shape != expected) {
      layers_.back().text.fail("its output is " + shape.to_string() + "; that of the last layer " +
                               "must be one number for each of the " + std::to_string(classes) +
                               " classes, " + expected.to_string());
    }
    models::Network network = net.build(outputs.back());
    if (network.parameters.empty()) {
      throw Problem{"layers", "have no weights; add a convolution or a fully_connected"};
    }
    return network;
  }

 private:
  void read_layer(const json::value& value) {
    const std::size_t index = layers_.size();
    ParsedLayer layer{LayerText(index, value), nullptr, {}, {}};
    const LayerText& text = layer.text;
    layer.type = &type_of(text);
    std::vector<std::string> known = {"name", "type", "inputs", "block"};
    known.insert(known.end(), layer.type->keys.begin(), layer.type->keys.end());
    text.check_keys(known, with_article(layer.type->name));
    if (text.name().empty() && layer.type->has_parameters) {
      text.fail("has no name; " + with_article(layer.type->name) +
                " needs one, for it has parameters");
    }
    read_inputs(layer);
    if (text.find("block") != nullptr) read_block(layer);
    if (!text.name().empty() && !index_of_.emplace(text.name(), index).second) {
      text.fail("has the name of layers[" + std::to_string(index_of_[text.name()]) +
                "]; take another");
    }
    layers_.push_back(std::move(layer));
  }

  [[nodiscard]] static bool is_count(std::size_t inputs, std::size_t wanted) {
    return wanted == any_number ? inputs >= 2 && inputs <= most_inputs : inputs == wanted;
  }
  [[nodiscard]] static std::string count_text(std::size_t wanted) {
    return wanted == any_number ? "2 to " + std::to_string(most_inputs) : std::to_string(wanted);
  }

  void read_inputs(ParsedLayer& layer) const {
    const LayerText& text = layer.text;
    const std::size_t wanted = layer.type->inputs;
    const json::value* names = text.find("inputs");
    if (names == nullptr) {
      if (wanted != 1) {
        text.fail("has no inputs; must name " + count_text(wanted) + " layers, [\"a\", \"b\"]");
      }
      layer.inputs = {layers_.empty() ? from_images : layers_.size() - 1};
      return;
    }
    const std::string right = wanted == 1 ? "a list of one layer's name"
                                          : "a list of " + count_text(wanted) + " layers' names";
    if (!names->is_array() || !is_count(names->get_array().size(), wanted)) {
      refuse(text.at("inputs"), *names, right);
    }
    for (const json::value& name : names->get_array()) {
      if (!name.is_string()) refuse(text.at("inputs"), *names, right);
      layer.inputs.push_back(find_layer(std::string(name.get_string()), text));
    }
  }

  [[nodiscard]] std::size_t find_layer(const std::string& name, const LayerText& reader) const {
    if (name == input_name) return from_images;
    if (const auto found = index_of_.find(name); found != index_of_.end()) return found->second;
    std::vector<std::string> known = {std::string(input_name)};
    for (const auto& [other, index] : index_of_) known.push_back(other);
    const std::string meant = runtime::nearest_word(name, known);
    throw Problem{reader.at("inputs"),
                  "no layer before this one is called " + in_quotes(name) + "; " +
                      (meant.empty() ? "name an earlier layer, or \"input\" for the images"
                                     : "did you mean " + in_quotes(meant) + "?")};
  }

  /// A layer names the block that it begins, or again the one that it is in.
  void read_block(ParsedLayer& layer) {
    const LayerText& text = layer.text;
    const std::string right = layer_name_text;
    const std::string block = text.word("block", right);
    if (!is_layer_name(block)) refuse(text.at("block"), *text.find("block"), right);
    if (blocks_.empty() && !layers_.empty()) {
      throw Problem{text.at("block"), "layers[0] names no block; name one there, too, or nowhere"};
    }
    if (block == current_block_) return;
    if (!blocks_.insert(block).second) {
      throw Problem{text.at("block"), "block " + in_quotes(block) +
                                          " has ended already; its layers must follow one another"};
    }
    layer.block = current_block_ = block;
  }

  void find_last_uses() {
    last_use_.assign(layers_.size(), 0);
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      for (const std::size_t from : layers_[i].inputs) {
        (from == from_images ? last_use_of_images_ : last_use_[from]) = i;
      }
    }
    for (std::size_t i = 0; i + 1 < layers_.size(); ++i) {
      if (last_use_[i] > 0) continue;
      layers_[i].text.fail(
          "nothing uses its output; name it in the inputs of a later layer, or "
          "remove it");
    }
  }

  /// Empty if the layer goes on with the block before. Where the description names no blocks, one
  /// begins at each convolution and fully connected layer before which a single output is still
  /// needed: a residual block is one.
  [[nodiscard]] std::string block_that_begins(std::size_t index) const {
    const ParsedLayer& layer = layers_[index];
    if (!blocks_.empty()) return layer.block;
    if (!layer.type->may_begin_block) return "";
    std::size_t needed = index == 0 || last_use_of_images_ >= index ? 1 : 0;
    for (std::size_t earlier = 0; earlier < index; ++earlier) needed += last_use_[earlier] >= index;
    return needed == 1 ? layer.text.name() : "";
  }

  std::string name_;
  std::vector<ParsedLayer> layers_;
  std::map<std::string, std::size_t> index_of_;
  std::set<std::string> blocks_;  ///< named so far; empty if the description names none
  std::string current_block_;
  std::vector<std::size_t> last_use_;  ///< of each layer's output, by which layer
  std::size_t last_use_of_images_ = 0;
};

}  // namespace

NetworkConfig read_network_file(const std::string& path) {
  const std::string text = read_run_file(path, "model.network needs a network file");
  try {
    const json::value value = read_json(text);
    if (!value.is_object()) throw ConfigError(path, "", "is no object; must be {...}");
    return {compact_json(value), path};
  } catch (const JsonError& error) {
    throw ConfigError(
        path + ":" + std::to_string(error.line()) + ":" + std::to_string(error.column()), "",
        error.what());
  }
}

models::Network build_network(const json::value& description, const std::string& source,
                              const Shape& input, int classes) {
  try {
    if (!description.is_object()) refuse("", description, "an object, {...}");
    return NetworkReader(description.get_object()).build(input, classes);
  } catch (const Problem& problem) {
    throw ConfigError(source, problem.path, problem.text);
  }
}

bool has_batch_norm(const ModelConfig& model) {
  if (model.network.description.empty()) {
    const auto& all = models::available_models();
    const auto info = std::ranges::find(all, model.name, &models::ModelInfo::name);
    return info == all.end() ||
           models::make_network(info->name, info->usual_input, 10).has_batch_norm();
  }
  const json::value description = read_json(model.network.description);
  const json::object* network = description.if_object();
  const json::value* layers = network == nullptr ? nullptr : network->if_contains("layers");
  if (layers == nullptr || !layers->is_array()) return true;
  return std::ranges::any_of(layers->get_array(), [](const json::value& layer) {
    const json::value* type = layer.is_object() ? layer.get_object().if_contains("type") : nullptr;
    return type != nullptr && *type == "batch_norm";
  });
}

}  // namespace stpt
