// Reads folders of JPEG and PNG files, one folder for each class: ImageNet and its kin. Files are
// decoded as they are read.
#pragma once

#include <filesystem>

#include "data/dataset.hpp"

namespace stpt::data {

/// How an image of any size becomes a square.
enum class ResizeMode : std::uint8_t {
  stretch,  ///< both sides to the size
  crop,     ///< the largest centred square, to the size
};

struct ImageFolderOptions {
  int image_size = 256;  ///< side of the images that read() gives
  ResizeMode resize = ResizeMode::stretch;
  /// At most this share of a set's images may be unreadable. In the place of one that is comes the
  /// next readable one of its class, in the order of names, after the last the first: a matter of
  /// the files alone, so results do not depend on when it was met. Where there are more, reading
  /// throws.
  double bad_image_limit = 0.001;
};

/// `folder` holds train/ and one of val/, valid/, validation/ and test/ (the first of these that is
/// there), each with a folder for every class. Below it, at any depth, files whose names end in
/// .jpg, .jpeg or .png, in either case, are its images; names that begin with '.' are left out.
/// Classes are numbered in the order of their names, by bytes. Images are numbered in the mixed
/// order (class_order.hpp) of those sorted by class and path. Images are RGB.
///
/// Only names are read here; a file that is no image shows when it is read. Throws DataError.
[[nodiscard]] DatasetPair load_image_folder(const std::filesystem::path& folder,
                                            const ImageFolderOptions& options);

}  // namespace stpt::data
