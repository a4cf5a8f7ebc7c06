#include "data/idx.hpp"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "data/memory_dataset.hpp"

namespace stpt::data {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t max_side = 4096;
constexpr std::uint64_t max_payload = std::uint64_t{16} << 30U;
constexpr std::uint64_t first_chunk_bytes = std::uint64_t{1} << 20U;

/// The bytes of a file, unpacked if it starts like a gzip file. What follows its gzip data but is
/// none is ignored, as gzip does.
class ByteReader {
 public:
  explicit ByteReader(fs::path path) : path_(std::move(path)) {
    std::error_code error;
    if (!fs::is_regular_file(path_, error)) throw DataError(path_, "not a regular file");
    file_.reset(gzopen(path_.c_str(), "rb"));
    if (!file_) throw DataError(path_, "cannot be opened for reading");
    gzbuffer(file_.get(), 1U << 17U);  // with zlib's own 8 KiB unpacking takes 5 % longer
  }

  [[nodiscard]] const fs::path& path() const { return path_; }

  /// Fills `out` or stops at the end of the data; returns the number of bytes.
  std::size_t read(std::span<std::uint8_t> out) {
    const std::size_t got = gzfread(out.data(), 1, out.size(), file_.get());
    int status = Z_OK;
    const std::string text = gzerror(file_.get(), &status);
    if (status == Z_DATA_ERROR || status == Z_BUF_ERROR) {
      // zlib says "<path>: <reason>"; a file that is cut off is a buffer error to it.
      const std::string reason = text.substr(text.rfind(": ") + 2);
      throw DataError(path_, "corrupt gzip file (" + reason + "); get the file again");
    }
    if (status != Z_OK) throw DataError(path_, "read error");
    return got;
  }

 private:
  struct Close {
    void operator()(gzFile file) const { gzclose(file); }
  };

  fs::path path_;
  std::unique_ptr<gzFile_s, Close> file_;
};

std::string hex(std::uint32_t value, int digits) {
  std::string text = "0x";
  for (int i = digits - 1; i >= 0; --i) {
    text += "0123456789abcdef"[(value >> (4U * static_cast<unsigned>(i))) & 15U];
  }
  return text;
}

std::string element_type_name(std::uint32_t code) {
  switch (code) {
    case 0x08:
      return "unsigned byte";
    case 0x09:
      return "signed byte";
    case 0x0b:
      return "16-bit integer";
    case 0x0c:
      return "32-bit integer";
    case 0x0d:
      return "float";
    case 0x0e:
      return "double";
    default:
      return "unknown";
  }
}

std::uint32_t big_endian(std::span<const std::uint8_t, 4> bytes) {
  return (std::uint32_t{bytes[0]} << 24U) | (std::uint32_t{bytes[1]} << 16U) |
         (std::uint32_t{bytes[2]} << 8U) | std::uint32_t{bytes[3]};
}

void check_magic(const fs::path& path, std::uint32_t magic, const std::string& what,
                 std::size_t dimension_count) {
  const std::string expected = hex(0x0800U + static_cast<std::uint32_t>(dimension_count), 8);
  const std::uint32_t type = (magic >> 8U) & 0xffU;
  if ((magic >> 16U) != 0 || element_type_name(type) == "unknown") {
    throw DataError(path, "magic number " + hex(magic, 8) + " is not that of an IDX file; " + what +
                              " start with " + expected);
  }
  if (type != 0x08) {
    throw DataError(path, "element type " + hex(type, 2) + " (" + element_type_name(type) +
                              "); only 0x08 (unsigned byte) can be read");
  }
  if ((magic & 0xffU) != dimension_count) {
    throw DataError(path, "magic number " + hex(magic, 8) + " tells of " +
                              std::to_string(magic & 0xffU) + " dimensions; " + what + " have " +
                              std::to_string(dimension_count) + " and start with " + expected);
  }
}

/// The header: a magic number and the dimensions, which it returns.
std::vector<std::uint32_t> read_dimensions(ByteReader& reader, const std::string& what,
                                           std::size_t dimension_count) {
  std::vector<std::uint8_t> header(4 + 4 * dimension_count);
  const std::size_t found = reader.read(header);
  const auto number = [&header](std::size_t i) {
    return big_endian(std::span(header).subspan(4 * i).first<4>());
  };
  if (found >= 4) check_magic(reader.path(), number(0), what, dimension_count);
  if (found < header.size()) {
    throw DataError(reader.path(), "truncated header: expected " + std::to_string(header.size()) +
                                       " bytes, found " + std::to_string(found));
  }
  std::vector<std::uint32_t> dimensions;
  for (std::size_t i = 1; i <= dimension_count; ++i) dimensions.push_back(number(i));
  return dimensions;
}

/// Bytes behind the header, of which there is one per pixel or label.
std::uint64_t payload_size(const fs::path& path, const std::string& what,
                           const std::vector<std::uint32_t>& dimensions) {
  std::uint64_t bytes = dimensions[0];
  if (bytes == 0) throw DataError(path, "holds no " + what);
  if (dimensions.size() == 3) {
    const std::uint64_t height = dimensions[1];
    const std::uint64_t width = dimensions[2];
    if (height == 0 || width == 0 || height > max_side || width > max_side) {
      throw DataError(path, "images of " + std::to_string(height) + "x" + std::to_string(width) +
                                " pixels; each side must lie between 1 and " +
                                std::to_string(max_side));
    }
    bytes *= height * width;  // < 2^32 * 2^24
  }
  if (bytes > max_payload) {
    throw DataError(path, "the header announces " + std::to_string(bytes) + " bytes of " + what +
                              "; at most " + std::to_string(max_payload) + " can be read");
  }
  return bytes;
}

std::vector<std::uint8_t> read_payload(ByteReader& reader, std::uint64_t header_bytes,
                                       std::uint64_t payload_bytes) {
  const std::string announced =
      ": the header announces " + std::to_string(header_bytes + payload_bytes) + " bytes, ";
  std::vector<std::uint8_t> payload;
  // A header alone must not make us allocate: the buffer grows only as the file delivers.
  while (payload.size() < payload_bytes) {
    const std::size_t before = payload.size();
    payload.resize(std::min(payload_bytes, std::max(first_chunk_bytes, 2 * before)));
    const std::size_t now = before + reader.read(std::span(payload).subspan(before));
    if (now < payload.size()) {
      throw DataError(reader.path(), "truncated" + announced + "the file has " +
                                         std::to_string(header_bytes + now));
    }
  }
  payload.shrink_to_fit();
  std::array<std::uint8_t, 1> more{};
  if (reader.read(more) != 0) {  // reading to the end also checks the CRC
    throw DataError(reader.path(), "trailing bytes" + announced + "the file has more");
  }
  return payload;
}

struct IdxFile {
  fs::path path;
  std::vector<std::uint32_t> dimensions;
  std::vector<std::uint8_t> payload;
};

/// `what` is "images" or "labels"; images have 3 dimensions, labels 1.
IdxFile read_idx(const fs::path& path, const std::string& what, std::size_t dimension_count) {
  ByteReader reader(path);
  IdxFile file{path, read_dimensions(reader, what, dimension_count), {}};
  file.payload =
      read_payload(reader, 4 + 4 * dimension_count, payload_size(path, what, file.dimensions));
  return file;
}

/// The spelling that exists: - or . before idx, plain or .gz.
fs::path find_file(const fs::path& folder, const std::string& base, const std::string& ending) {
  for (const char* separator : {"-", "."}) {
    for (const char* suffix : {"", ".gz"}) {
      fs::path path = folder / (base + separator + ending + suffix);
      std::error_code error;
      if (fs::exists(path, error)) {
        return path;
      }
    }
  }
  throw DataError(
      folder / (base + "-" + ending),
      "no such file, neither plain nor .gz; the folder must hold train-images-idx3-ubyte, "
      "train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte");
}

struct ImageSet {
  IdxFile images;
  IdxFile labels;
};

ImageSet read_set(const fs::path& folder, const std::string& base) {
  // Both files are looked for before the large one is read.
  const fs::path images_path = find_file(folder, base + "-images", "idx3-ubyte");
  const fs::path labels_path = find_file(folder, base + "-labels", "idx1-ubyte");
  ImageSet set{{}, read_idx(labels_path, "labels", 1)};
  set.images = read_idx(images_path, "images", 3);
  if (set.images.dimensions[0] != set.labels.dimensions[0]) {
    throw DataError(labels_path, std::to_string(set.labels.dimensions[0]) + " labels for the " +
                                     std::to_string(set.images.dimensions[0]) + " images in " +
                                     images_path.filename().string() +
                                     "; the numbers must be equal");
  }
  return set;
}

std::shared_ptr<const Dataset> to_dataset(std::string name, int classes, ImageSet set) {
  const runtime::Shape shape{1, 1, set.images.dimensions[1], set.images.dimensions[2]};
  return make_mixed_dataset(std::move(name), classes, shape, std::move(set.images.payload),
                            std::move(set.labels.payload));
}

}  // namespace

fs::path default_idx_folder() { return "/usr/share/datasets/fashion-mnist"; }

DatasetPair load_idx(const fs::path& folder) {
  const fs::path path = folder.empty() ? default_idx_folder() : folder;
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    throw DataError(
        path,
        "no such folder; set data.path to a folder with IDX files, or leave it empty and "
        "run `apt-get install dataset-fashion-mnist`");
  }
  ImageSet train = read_set(path, "train");
  ImageSet test = read_set(path, "t10k");

  const auto size_text = [](const IdxFile& images) {
    return std::to_string(images.dimensions[1]) + "x" + std::to_string(images.dimensions[2]);
  };
  if (size_text(train.images) != size_text(test.images)) {
    throw DataError(test.images.path, "images of " + size_text(test.images) +
                                          " pixels, but those in " +
                                          train.images.path.filename().string() + " have " +
                                          size_text(train.images) + "; they must agree");
  }
  const int largest = *std::max_element(train.labels.payload.begin(), train.labels.payload.end());
  if (largest == 0) {
    throw DataError(train.labels.path, "all labels are 0; at least 2 classes are needed");
  }
  const auto stray = std::find_if(test.labels.payload.begin(), test.labels.payload.end(),
                                  [largest](std::uint8_t label) { return label > largest; });
  if (stray != test.labels.payload.end()) {
    throw DataError(test.labels.path, "label " + std::to_string(*stray) + " of image " +
                                          std::to_string(stray - test.labels.payload.begin()) +
                                          "; the training labels end at " +
                                          std::to_string(largest));
  }

  const std::string name = name_of(path);
  return {to_dataset(name + " train", largest + 1, std::move(train)),
          to_dataset(name + " test", largest + 1, std::move(test)), name};
}

}  // namespace stpt::data
