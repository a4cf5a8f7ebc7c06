// Networks that a person describes in JSON; docs/networks.md says how.
#pragma once

#include <boost/json/value.hpp>
#include <string>

#include "models/network.hpp"
#include "stpt/config/config.hpp"

namespace stpt {

/// Throws ConfigError if there is no such file, or it is not a JSON object. What the object says is
/// looked at by build_network alone.
[[nodiscard]] NetworkConfig read_network_file(const std::string& path);

/// `input` is channels x height x width of the images. `source` is what errors name first:
///   net.json: layers[3] "conv2": filters: is 0; must be a whole number from 1 to 65536
/// Throws ConfigError.
[[nodiscard]] models::Network build_network(const boost::json::value& description,
                                            const std::string& source, const runtime::Shape& input,
                                            int classes);

/// Whether the network that the config names or describes has batch normalisation. Of what is no
/// network, which build_network refuses, that is true.
[[nodiscard]] bool has_batch_norm(const ModelConfig& model);

}  // namespace stpt
