// Resamples planes of bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "data/dataset.hpp"

namespace stpt::data {

/// One channel of an image, rows from top to bottom.
struct PlaneView {
  const std::uint8_t* pixels = nullptr;
  Size size;
  std::size_t stride = 0;  ///< bytes from one row to the next
};

/// A rectangle in a plane; pixel i covers [i, i + 1).
struct Rectangle {
  double x = 0;
  double y = 0;
  double width = 0;
  double height = 0;
};

/// Writes the part of `source` as size.height rows of size.width bytes. Antialiased bilinear: the
/// weights are a triangle about the output pixel's centre that reaches one pixel of the coarser
/// side in each direction, cut off at the border of the plane; rows and columns are done one after
/// the other, each rounded to bytes. Weights are fixed-point numbers, so every instruction set
/// computes the same bytes. What keeps its size is copied. May be called from several threads.
void resize(const PlaneView& source, const Rectangle& part, Size size, std::uint8_t* out);

}  // namespace stpt::data
