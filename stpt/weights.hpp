// A network's parameters and running statistics in a safetensors file, under the names of
// models::state_dict: for the ResNets of ImageNet and VGG those of torchvision.
#pragma once

#include <cstdint>
#include <filesystem>

#include "data/augmentation.hpp"
#include "models/model_state.hpp"
#include "models/network.hpp"

namespace stpt {

/// Running statistics are the mean over the workers'. `batches` is what each BatchNorm's
/// num_batches_tracked says; the normalization is in the file's metadata, as lists "mean" and
/// "std". Replaces `file`. Throws OutputError.
void export_weights(const std::filesystem::path& file, const models::Network& network,
                    const models::ModelValues& values, std::int64_t batches,
                    const data::Normalization& normalization);

/// Throws ConfigError, naming the file and the tensor, unless the file has every tensor of the
/// network with its shape in float32, and no others but num_batches_tracked, which is not needed.
void check_weights(const std::filesystem::path& file, const models::Network& network);

/// Checks and reads the file; every worker gets the running statistics. What else `values` hold
/// stays.
void import_weights(const std::filesystem::path& file, const models::Network& network,
                    models::ModelValues& values);

}  // namespace stpt
