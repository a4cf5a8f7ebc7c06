#include "data/idx.hpp"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <limits>
#include <memory>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "data/memory_dataset.hpp"

namespace stpt::data {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t max_side = 4096;
constexpr std::uint64_t max_payload = std::uint64_t{16} << 30U;
constexpr std::size_t chunk_bytes = std::size_t{1} << 20U;
constexpr std::uint64_t deflate_max_ratio = 1032;  // no deflate stream expands more than this

[[noreturn]] void fail(const fs::path& file, const std::string& what) {
  throw DataError(file.string() + ": " + what);
}

/// The bytes of a file, unpacked if it starts like a gzip file. Reads only as far as it is asked
/// to.
class ByteReader {
 public:
  explicit ByteReader(fs::path path) : path_(std::move(path)) {
    std::error_code error;
    if (!fs::is_regular_file(path_, error)) {
      fail(path_, "not a regular file");
    }
    file_size_ = fs::file_size(path_, error);
    stream_.open(path_, std::ios::binary);
    if (error || !stream_) {
      fail(path_, "cannot be opened for reading");
    }
    fill();
    if (available() >= 2 && buffer_[0] == gzip_magic[0] && buffer_[1] == gzip_magic[1]) {
      inflater_ = std::make_unique<Inflater>();
    }
  }

  [[nodiscard]] const fs::path& path() const { return path_; }

  /// Largest number of bytes that the file can hold, known before it is read.
  [[nodiscard]] std::uint64_t max_bytes() const {
    constexpr auto largest = std::numeric_limits<std::uint64_t>::max();
    if (!inflater_) {
      return file_size_;
    }
    return file_size_ > largest / deflate_max_ratio ? largest : file_size_ * deflate_max_ratio;
  }

  /// Total size if it is known without reading on: that of a plain file.
  [[nodiscard]] std::optional<std::uint64_t> known_bytes() const {
    return inflater_ ? std::nullopt : std::optional<std::uint64_t>(file_size_);
  }

  /// Whether the data ended before the gzip format says it may.
  [[nodiscard]] bool cut_off() const { return cut_off_; }

  /// Fills `out` or stops at the end of the data; returns the number of bytes.
  std::size_t read(std::span<std::uint8_t> out) {
    std::size_t done = 0;
    while (done < out.size()) {
      const std::size_t got = inflater_ ? inflate_some(out.subspan(done)) : copy(out.subspan(done));
      if (got == 0) {
        break;
      }
      done += got;
    }
    return done;
  }

 private:
  static constexpr std::array<std::uint8_t, 2> gzip_magic = {0x1f, 0x8b};

  struct Inflater {
    z_stream z{};
    bool at_end = false;
    Inflater() {
      if (inflateInit2(&z, 15 + 16) != Z_OK) {  // 15: largest window, 16: gzip wrapper with CRC
        throw DataError("zlib cannot be started");
      }
    }
    ~Inflater() { inflateEnd(&z); }
    Inflater(const Inflater&) = delete;
    Inflater& operator=(const Inflater&) = delete;
  };

  [[nodiscard]] std::size_t available() const { return end_ - begin_; }

  void fill() {
    stream_.read(reinterpret_cast<char*>(buffer_.data()),
                 static_cast<std::streamsize>(buffer_.size()));
    if (stream_.bad()) {
      fail(path_, "read error");
    }
    begin_ = 0;
    end_ = static_cast<std::size_t>(stream_.gcount());
  }

  std::size_t copy(std::span<std::uint8_t> out) {
    if (available() == 0) {
      fill();
    }
    const std::size_t count = std::min(out.size(), available());
    std::copy_n(buffer_.data() + begin_, count, out.data());
    begin_ += count;
    return count;
  }

  /// Unpacks until there is output; 0 at the end.
  std::size_t inflate_some(std::span<std::uint8_t> out) {
    z_stream& z = inflater_->z;
    const auto room = static_cast<uInt>(std::min(out.size(), chunk_bytes));
    z.next_out = out.data();
    z.avail_out = room;
    while (z.avail_out == room) {
      if (available() == 0) {
        fill();
        if (available() == 0) {
          cut_off_ = !inflater_->at_end;
          return 0;
        }
      }
      if (inflater_->at_end) {  // gzip files may be concatenated
        inflateReset(&z);
        inflater_->at_end = false;
      }
      z.next_in = buffer_.data() + begin_;
      z.avail_in = static_cast<uInt>(available());
      const int status = inflate(&z, Z_NO_FLUSH);
      begin_ = end_ - z.avail_in;
      if (status == Z_STREAM_END) {
        inflater_->at_end = true;
      } else if (status != Z_OK && status != Z_BUF_ERROR) {
        fail(path_, "corrupt gzip file (" +
                        std::string(z.msg != nullptr ? z.msg : "unknown reason") +
                        "); get the file again");
      }
    }
    return room - z.avail_out;
  }

  fs::path path_;
  std::uint64_t file_size_ = 0;
  std::ifstream stream_;
  std::vector<std::uint8_t> buffer_ = std::vector<std::uint8_t>(chunk_bytes / 8);
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  bool cut_off_ = false;
  std::unique_ptr<Inflater> inflater_;
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

struct IdxFile {
  fs::path path;
  std::vector<std::uint32_t> dimensions;
  std::vector<std::uint8_t> payload;
};

/// `what` is "images" or "labels"; images have 3 dimensions, labels 1.
IdxFile read_idx(const fs::path& path, const std::string& what, std::size_t dimension_count) {
  ByteReader reader(path);
  const std::size_t header_bytes = 4 + 4 * dimension_count;
  const std::string expected_magic = hex(0x0800U + static_cast<std::uint32_t>(dimension_count), 8);

  std::array<std::uint8_t, 16> header{};
  std::size_t found = reader.read(std::span(header).first(4));
  if (found == 4) {
    const std::uint32_t magic = big_endian(std::span(header).first<4>());
    const std::uint32_t type = (magic >> 8U) & 0xffU;
    const bool known_type = element_type_name(type) != "unknown";
    if ((magic >> 16U) != 0 || !known_type) {
      fail(path, "magic number " + hex(magic, 8) + " is not that of an IDX file; " + what +
                     " start with " + expected_magic);
    }
    if (type != 0x08) {
      fail(path, "element type " + hex(type, 2) + " (" + element_type_name(type) +
                     "); only 0x08 (unsigned byte) can be read");
    }
    if ((magic & 0xffU) != dimension_count) {
      fail(path, "magic number " + hex(magic, 8) + " tells of " + std::to_string(magic & 0xffU) +
                     " dimensions; " + what + " have " + std::to_string(dimension_count) +
                     " and start with " + expected_magic);
    }
    found += reader.read(std::span(header).subspan(4, header_bytes - 4));
  }
  if (found < header_bytes) {
    fail(path, "truncated header: expected " + std::to_string(header_bytes) + " bytes, found " +
                   std::to_string(found));
  }

  IdxFile file{path, {}, {}};
  for (std::size_t i = 0; i < dimension_count; ++i) {
    file.dimensions.push_back(big_endian(std::span<const std::uint8_t, 4>(&header[4 + 4 * i], 4)));
  }
  const std::uint64_t count = file.dimensions[0];
  if (count == 0) {
    fail(path, "holds no " + what);
  }
  std::uint64_t payload_bytes = count;
  if (dimension_count == 3) {
    const std::uint64_t height = file.dimensions[1];
    const std::uint64_t width = file.dimensions[2];
    if (height == 0 || width == 0 || height > max_side || width > max_side) {
      fail(path, "images of " + std::to_string(height) + "x" + std::to_string(width) +
                     " pixels; each side must lie between 1 and " + std::to_string(max_side));
    }
    payload_bytes *= height * width;  // < 2^32 * 2^24
  }
  if (payload_bytes > max_payload) {
    fail(path, "the header announces " + std::to_string(payload_bytes) + " bytes of " + what +
                   "; at most " + std::to_string(max_payload) + " can be read");
  }
  // A header alone must not make us allocate: the file has to be large enough to hold what it
  // announces, and a packed one grows the buffer only as it delivers.
  const std::uint64_t total_bytes = header_bytes + payload_bytes;
  if (const auto known = reader.known_bytes(); known && *known != total_bytes) {
    fail(path, std::string(*known < total_bytes ? "truncated" : "trailing bytes") +
                   ": the header announces " + std::to_string(total_bytes) +
                   " bytes, the file has " + std::to_string(*known));
  }
  if (reader.max_bytes() < total_bytes) {
    fail(path, "truncated: the header announces " + std::to_string(total_bytes) +
                   " bytes, the packed file can hold at most " +
                   std::to_string(reader.max_bytes()));
  }
  while (file.payload.size() < payload_bytes) {
    const std::size_t before = file.payload.size();
    const std::size_t wanted =
        std::min<std::size_t>(payload_bytes - before, std::max(chunk_bytes, before));
    file.payload.resize(before + wanted);
    const std::size_t got = reader.read(std::span(file.payload).subspan(before));
    if (got < wanted) {
      fail(path, "truncated: the header announces " + std::to_string(total_bytes) +
                     " bytes, the file has " + std::to_string(header_bytes + before + got));
    }
  }
  file.payload.shrink_to_fit();
  std::array<std::uint8_t, 1> more{};
  if (reader.read(more) != 0) {  // reading to the end also checks the CRC
    fail(path, "trailing bytes: the header announces " + std::to_string(total_bytes) +
                   " bytes, the file has more");
  }
  if (reader.cut_off()) {
    fail(path, "truncated gzip file: its checksum is missing; get the file again");
  }
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
  fail(folder / (base + "-" + ending),
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
    fail(labels_path, std::to_string(set.labels.dimensions[0]) + " labels for the " +
                          std::to_string(set.images.dimensions[0]) + " images in " +
                          images_path.filename().string() + "; the numbers must be equal");
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
    fail(path,
         "no such folder; set data.path to a folder with IDX files, or leave it empty and "
         "run `apt-get install dataset-fashion-mnist`");
  }
  ImageSet train = read_set(path, "train");
  ImageSet test = read_set(path, "t10k");

  const auto size_text = [](const IdxFile& images) {
    return std::to_string(images.dimensions[1]) + "x" + std::to_string(images.dimensions[2]);
  };
  if (size_text(train.images) != size_text(test.images)) {
    fail(test.images.path, "images of " + size_text(test.images) + " pixels, but those in " +
                               train.images.path.filename().string() + " have " +
                               size_text(train.images) + "; they must agree");
  }
  const int largest = *std::max_element(train.labels.payload.begin(), train.labels.payload.end());
  if (largest == 0) {
    fail(train.labels.path, "all labels are 0; at least 2 classes are needed");
  }
  const auto stray = std::find_if(test.labels.payload.begin(), test.labels.payload.end(),
                                  [largest](std::uint8_t label) { return label > largest; });
  if (stray != test.labels.payload.end()) {
    fail(test.labels.path, "label " + std::to_string(*stray) + " of image " +
                               std::to_string(stray - test.labels.payload.begin()) +
                               "; the training labels end at " + std::to_string(largest));
  }

  fs::path leaf = path.lexically_normal();
  if (leaf.filename().empty()) {  // a trailing slash
    leaf = leaf.parent_path();
  }
  const std::string name = leaf.filename().empty() ? "idx" : leaf.filename().string();
  return {to_dataset(name + " train", largest + 1, std::move(train)),
          to_dataset(name + " test", largest + 1, std::move(test)), name};
}

}  // namespace stpt::data
