// Reads the IDX format of MNIST, Fashion-MNIST and their kin, plain or compressed by gzip.
#pragma once

#include <filesystem>

#include "data/dataset.hpp"

namespace stpt::data {

/// Where Debian's package dataset-fashion-mnist puts its files.
[[nodiscard]] std::filesystem::path default_idx_folder();

/// Reads train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
/// t10k-labels-idx1-ubyte, each with or without .gz, also spelt train-images.idx3-ubyte and so on.
/// An empty path means default_idx_folder(). The number of classes is the largest training label
/// plus one. Throws DataError.
[[nodiscard]] DatasetPair load_idx(const std::filesystem::path& folder);

}  // namespace stpt::data
