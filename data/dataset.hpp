// Labelled images, read by index. Formats implement Dataset; everything above works on this
// interface.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/input_error.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::data {

/// Bad data: one line that says which file, what is wrong and what would be right.
class DataError : public InputError {
 public:
  using InputError::InputError;
  DataError(const std::filesystem::path& file, const std::string& problem)
      : InputError(file.string() + ": " + problem) {}
};

/// In pixels.
struct Size {
  int width = 0;
  int height = 0;
  [[nodiscard]] std::size_t area() const {
    return static_cast<std::size_t>(width) * static_cast<std::size_t>(height);
  }
  friend bool operator==(const Size&, const Size&) = default;
};

/// A part of an image, in its pixels; lies within it and is not empty.
struct Window {
  int x = 0;
  int y = 0;
  int width = 0;
  int height = 0;
  friend bool operator==(const Window&, const Window&) = default;
};

/// Picks a part of an image of that size.
using ChooseWindow = std::function<Window(Size)>;

class Dataset {
 public:
  virtual ~Dataset() = default;
  [[nodiscard]] virtual std::string name() const = 0;
  [[nodiscard]] virtual std::size_t size() const = 0;
  [[nodiscard]] virtual int classes() const = 0;
  /// {1, channels, height, width}
  [[nodiscard]] virtual runtime::Shape image_shape() const = 0;
  /// That read() writes.
  [[nodiscard]] std::size_t image_bytes() const {
    return static_cast<std::size_t>(image_shape().elements());
  }
  [[nodiscard]] virtual int label(std::size_t index) const = 0;
  /// Writes the image as channels x height x width bytes, image_bytes() of them, of which `chw` has
  /// room; index < size(). May be called from several threads.
  virtual void read(std::size_t index, std::span<std::uint8_t> chw) const = 0;
  /// The part of the image that `choose` picks, resized to `size`, as bytes like those of read().
  /// Where read() gives a smaller version of what is stored (image_folder.hpp), this one is asked
  /// about the stored image, and cuts out of it. May be called from several threads.
  virtual void read_window(std::size_t index, const ChooseWindow& choose, Size size,
                           std::span<std::uint8_t> chw) const;
  /// The images met so far that cannot be read, in the order of their indices: "file: why". Others
  /// stand in for them.
  [[nodiscard]] virtual std::vector<std::string> unreadable() const { return {}; }
};

/// 0, 1, ... of all its images.
[[nodiscard]] std::vector<std::uint32_t> all_indices(const Dataset& dataset);

/// How many of these images each class has.
[[nodiscard]] std::vector<std::int64_t> images_of_class(const Dataset& dataset,
                                                        std::span<const std::uint32_t> images);

/// What the data set in that folder is called: as the folder, be it "." or with a slash at its end.
[[nodiscard]] std::string name_of(const std::filesystem::path& folder);

/// Training and test set of one source; classes and image shape agree.
struct DatasetPair {
  std::shared_ptr<const Dataset> train;
  std::shared_ptr<const Dataset> test;
  std::string name;                           ///< for people
  std::vector<std::string> class_names = {};  ///< by label; empty where the source has none
};

}  // namespace stpt::data
