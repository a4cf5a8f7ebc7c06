// Reads the binary versions of CIFAR-10 and CIFAR-100.
#pragma once

#include <filesystem>

#include "data/dataset.hpp"

namespace stpt::data {

/// Reads data_batch_1.bin to data_batch_5.bin and test_batch.bin, in `folder` or in its
/// cifar-10-batches-bin. Throws DataError.
[[nodiscard]] DatasetPair load_cifar10(const std::filesystem::path& folder);

/// Reads train.bin and test.bin, in `folder` or in its cifar-100-binary; the labels are the 100
/// fine ones. Throws DataError.
[[nodiscard]] DatasetPair load_cifar100(const std::filesystem::path& folder);

}  // namespace stpt::data
