// A network's parameters and running statistics in a safetensors file, under the names of
// models::state_dict: for networks that torchvision has, its own.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "data/augmentation.hpp"
#include "models/model_state.hpp"
#include "models/network.hpp"

namespace stpt {

/// Running statistics are the mean over the workers'. `batches` is what each BatchNorm's
/// num_batches_tracked says; the normalization is in the file's metadata, as lists "mean" and
/// "std", and so are the names of the classes, as "classes", where they are known. Replaces `file`.
/// Throws OutputError.
void export_weights(const std::filesystem::path& file, const models::Network& network,
                    const models::ModelValues& values, std::int64_t batches,
                    const data::Normalization& normalization,
                    std::span<const std::string> class_names = {});

/// What is wrong with a list of layers: each must have parameters, or be a block of such layers, as
/// "stage1" is for "stage1.0.conv1". Empty if nothing is.
[[nodiscard]] std::string problem_with_layers(std::span<const std::string> layers,
                                              const models::Network& network);

/// Throws ConfigError, naming the file and the tensor, unless the file has every tensor of the
/// network with its shape in float32, and no others but num_batches_tracked, which is not needed.
/// What it has of `new_layers` does not matter.
void check_weights(const std::filesystem::path& file, const models::Network& network,
                   std::span<const std::string> new_layers = {});

/// Checks and reads the file; every worker gets the running statistics. What else `values` hold
/// stays, and so do the new layers.
void import_weights(const std::filesystem::path& file, const models::Network& network,
                    models::ModelValues& values, std::span<const std::string> new_layers = {});

}  // namespace stpt
