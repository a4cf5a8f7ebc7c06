// Labelled images, read by index. Formats implement Dataset; everything above works on this
// interface.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "runtime/tensor_spec.hpp"

namespace stpt::data {

/// Bad data: one line that says which file, what is wrong and what would be right.
class DataError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Dataset {
 public:
  virtual ~Dataset() = default;
  [[nodiscard]] virtual std::string name() const = 0;
  [[nodiscard]] virtual std::size_t size() const = 0;
  [[nodiscard]] virtual int classes() const = 0;
  /// {1, channels, height, width}
  [[nodiscard]] virtual runtime::Shape image_shape() const = 0;
  [[nodiscard]] virtual int label(std::size_t index) const = 0;
  /// Writes the image as channels x height x width bytes; may be called from several threads.
  virtual void read(std::size_t index, std::span<std::uint8_t> chw) const = 0;
};

/// Training and test set of one source; classes and image shape agree.
struct DatasetPair {
  std::shared_ptr<const Dataset> train;
  std::shared_ptr<const Dataset> test;
  std::string name;  ///< for people
};

}  // namespace stpt::data
