#include "runtime/tensor_spec.hpp"

#include <stdexcept>

namespace stpt::runtime {

std::string Shape::to_string() const {
  return std::to_string(n) + "x" + std::to_string(c) + "x" + std::to_string(h) + "x" +
         std::to_string(w);
}

std::size_t size_of(DataType type) {
  switch (type) {
    case DataType::float32:
    case DataType::int32:
      return 4;
    case DataType::bfloat16:
    case DataType::float16:
      return 2;
    case DataType::uint8:
      return 1;
  }
  throw std::logic_error("size_of: unknown data type");
}

const char* to_string(DataType type) {
  switch (type) {
    case DataType::float32:
      return "float32";
    case DataType::bfloat16:
      return "bfloat16";
    case DataType::float16:
      return "float16";
    case DataType::int32:
      return "int32";
    case DataType::uint8:
      return "uint8";
  }
  throw std::logic_error("to_string: unknown data type");
}

const char* to_string(Layout layout) {
  switch (layout) {
    case Layout::any:
      return "any";
    case Layout::nchw:
      return "nchw";
    case Layout::nhwc:
      return "nhwc";
    case Layout::nchw8c:
      return "nchw8c";
    case Layout::nchw16c:
      return "nchw16c";
  }
  throw std::logic_error("to_string: unknown layout");
}

std::int64_t channel_block(Layout layout, std::int64_t channels) {
  switch (layout) {
    case Layout::nchw:
      return 1;
    case Layout::nhwc:
      return channels;
    case Layout::nchw8c:
      return 8;
    case Layout::nchw16c:
      return 16;
    case Layout::any:
      break;
  }
  throw std::logic_error("channel_block: the layout has not been chosen");
}

std::int64_t TensorSpec::stored_elements() const {
  const std::int64_t block = channel_block(layout, shape.c);
  const std::int64_t channels = (shape.c + block - 1) / block * block;
  return shape.n * channels * shape.spatial();
}

std::size_t TensorSpec::bytes() const {
  return static_cast<std::size_t>(stored_elements()) * size_of(type);
}

std::string TensorSpec::to_string() const {
  return shape.to_string() + " " + runtime::to_string(type) + " " + runtime::to_string(layout);
}

bool same_memory(const TensorSpec& a, const TensorSpec& b) {
  const auto plain = [](const TensorSpec& spec) {
    return spec.layout == Layout::nchw || spec.layout == Layout::nhwc;
  };
  const bool one_order = a.shape.spatial() == 1 || a.shape.c == 1;
  return a.shape == b.shape && a.type == b.type &&
         (a.layout == b.layout || (one_order && plain(a) && plain(b)));
}

}  // namespace stpt::runtime
