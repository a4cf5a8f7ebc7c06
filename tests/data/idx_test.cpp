#include "data/idx.hpp"

#include <sys/stat.h>
#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "data/augmentation.hpp"
#include "tests/catch.hpp"
#include "tests/data/testing.hpp"

namespace {

using namespace stpt::data;
using stpt::data::testing::error_of;
using stpt::data::testing::TemporaryFolder;
using Bytes = std::vector<std::uint8_t>;

Bytes idx(const std::vector<std::uint32_t>& header, const Bytes& payload) {
  const std::string bytes = stpt::data::testing::idx(header, {payload.begin(), payload.end()});
  return {bytes.begin(), bytes.end()};
}

Bytes gzip(const Bytes& bytes) {
  z_stream z{};
  REQUIRE(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  Bytes packed(deflateBound(&z, bytes.size()) + 64);
  Bytes source = bytes;
  z.next_in = source.data();
  z.avail_in = static_cast<uInt>(source.size());
  z.next_out = packed.data();
  z.avail_out = static_cast<uInt>(packed.size());
  REQUIRE(deflate(&z, Z_FINISH) == Z_STREAM_END);
  packed.resize(z.total_out);
  deflateEnd(&z);
  return packed;
}

void write(const std::filesystem::path& path, const Bytes& bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  REQUIRE(file.good());
}

Bytes joined(const std::vector<Bytes>& parts) {
  Bytes all;
  for (const Bytes& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

Bytes counting(std::size_t size) {
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; ++i) {
    bytes[i] = static_cast<std::uint8_t>(i * 7 + i / 256);
  }
  return bytes;
}

/// Four sound files: 3 training images and 2 test images of 2x3 pixels, 2 classes.
class Folder {
 public:
  Folder() {
    put("train-images-idx3-ubyte", idx({0x803, 3, 2, 3}, counting(18)));
    put("train-labels-idx1-ubyte", idx({0x801, 3}, {0, 1, 0}));
    put("t10k-images-idx3-ubyte", idx({0x803, 2, 2, 3}, counting(12)));
    put("t10k-labels-idx1-ubyte", idx({0x801, 2}, {1, 0}));
  }
  void put(const std::string& name, const Bytes& bytes) const { write(path() / name, bytes); }
  void drop(const std::string& name) const { std::filesystem::remove(path() / name); }
  [[nodiscard]] const std::filesystem::path& path() const { return folder_.path(); }
  /// The error without the folder in front, so that the whole text can be compared.
  [[nodiscard]] std::string error() const {
    std::string text = error_of([this] { (void)load_idx(path()); });
    const std::string prefix = path().string() + "/";
    REQUIRE(text.find('\n') == std::string::npos);
    return text.rfind(prefix, 0) == 0 ? text.substr(prefix.size()) : text;
  }

 private:
  TemporaryFolder folder_;
};

void check_sound(const DatasetPair& pair) {
  REQUIRE(pair.train->size() == 3);
  REQUIRE(pair.test->size() == 2);
  CHECK(pair.train->classes() == 2);
  CHECK(pair.test->classes() == 2);
  CHECK(pair.train->image_shape() == stpt::runtime::Shape{1, 1, 2, 3});
  CHECK(pair.test->image_shape() == pair.train->image_shape());
  CHECK(pair.train->label(1) == 1);
  CHECK(pair.test->label(0) == 1);
  Bytes image(6);
  pair.train->read(2, image);
  const Bytes all = counting(18);
  CHECK(image == Bytes(all.begin() + 12, all.end()));
}

constexpr const char* train_images = "train-images-idx3-ubyte";
constexpr const char* train_labels = "train-labels-idx1-ubyte";
constexpr const char* test_images = "t10k-images-idx3-ubyte";
constexpr const char* test_labels = "t10k-labels-idx1-ubyte";

}  // namespace

TEST_CASE("IDX files are read plain", "[idx]") {
  const Folder folder;
  const DatasetPair pair = load_idx(folder.path());
  check_sound(pair);
  CHECK(pair.train->name() == folder.path().filename().string() + " train");
  CHECK(load_idx(folder.path() / "").test->name() == folder.path().filename().string() + " test");
}

TEST_CASE("IDX files are read packed, whatever they are called", "[idx]") {
  const Folder folder;
  SECTION(".gz") {
    for (const char* name : {train_images, train_labels, test_images, test_labels}) {
      std::ifstream in(folder.path() / name, std::ios::binary);
      const Bytes bytes{std::istreambuf_iterator<char>(in), {}};
      folder.drop(name);
      folder.put(std::string(name) + ".gz", gzip(bytes));
    }
  }
  SECTION("packed without .gz") {
    folder.put(train_images, gzip(idx({0x803, 3, 2, 3}, counting(18))));
  }
  SECTION("plain with .gz") {
    folder.drop(train_labels);
    folder.put(std::string(train_labels) + ".gz", idx({0x801, 3}, {0, 1, 0}));
  }
  SECTION("a dot before idx") {
    std::filesystem::rename(folder.path() / train_images,
                            folder.path() / "train-images.idx3-ubyte");
    folder.drop(test_labels);
    folder.put("t10k-labels.idx1-ubyte.gz", gzip(idx({0x801, 2}, {1, 0})));
  }
  SECTION("two gzip files, one after the other") {
    folder.put(train_images, joined({gzip(idx({0x803, 3, 2, 3}, {})), gzip(counting(18))}));
  }
  SECTION("gzip files cut anywhere, an empty one among them") {
    folder.put(train_labels,
               joined({gzip({0, 0, 8}), gzip({1, 0, 0, 0, 3, 0}), gzip({}), gzip({1, 0})}));
  }
  SECTION("what is no gzip file behind one, ignored as gzip does") {
    folder.put(train_images, joined({gzip(idx({0x803, 3, 2, 3}, counting(18))), {'x', 'y'}}));
  }
  check_sound(load_idx(folder.path()));
}

TEST_CASE("IDX files sorted by class are mixed", "[idx]") {
  const Folder folder;
  const Bytes pixels = counting(36);
  folder.put(train_images, idx({0x803, 6, 2, 3}, pixels));
  folder.put(train_labels, idx({0x801, 6}, {0, 0, 0, 1, 1, 1}));
  const DatasetPair pair = load_idx(folder.path());
  CHECK(pair.train->label(1) == 1);
  Bytes second(6);
  pair.train->read(1, second);
  CHECK(second == Bytes(pixels.begin() + 18, pixels.begin() + 24));
}

TEST_CASE("Large packed IDX files grow the buffer piece by piece", "[idx]") {
  const Folder folder;
  constexpr std::uint32_t count = 5000;
  const Bytes pixels = counting(std::size_t{count} * 31 * 33);
  folder.put(train_images, gzip(idx({0x803, count, 31, 33}, pixels)));
  folder.put(train_labels, idx({0x801, count}, counting(count)));
  folder.put(test_images, idx({0x803, 2, 31, 33}, Bytes(2 * 31 * 33)));
  const DatasetPair pair = load_idx(folder.path());
  REQUIRE(pair.train->size() == count);
  CHECK(pair.train->classes() == 256);
  Bytes image(31 * 33);
  bool equal = true;
  for (std::size_t i = 0; i < count; ++i) {
    pair.train->read(i, image);
    equal = equal && std::equal(image.begin(), image.end(),
                                pixels.begin() + static_cast<std::ptrdiff_t>(i * image.size()));
  }
  CHECK(equal);
}

TEST_CASE("Missing IDX folder and files", "[idx]") {
  CHECK(error_of([] { (void)load_idx("/nowhere/at/all"); }) ==
        "/nowhere/at/all: no such folder; set data.path to a folder with IDX files, or leave it "
        "empty and run `apt-get install dataset-fashion-mnist`");
  const Folder folder;
  folder.drop(test_labels);
  CHECK(folder.error() ==
        "t10k-labels-idx1-ubyte: no such file, neither plain nor .gz; the folder must hold "
        "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
        "t10k-labels-idx1-ubyte");
  std::filesystem::create_directory(folder.path() / test_labels);
  CHECK(folder.error() == "t10k-labels-idx1-ubyte: not a regular file");
  folder.drop(test_labels);
  REQUIRE(mkfifo((folder.path() / test_labels).c_str(), 0600) == 0);
  CHECK(folder.error() == "t10k-labels-idx1-ubyte: not a regular file");
  folder.drop(test_labels);
  std::filesystem::create_symlink("/proc/self/mem", folder.path() / test_labels);
  CHECK(folder.error() == "t10k-labels-idx1-ubyte: read error");
}

TEST_CASE("Wrong IDX headers", "[idx]") {
  const Folder folder;
  SECTION("magic") {
    folder.put(train_images, idx({0x89504e47, 3, 2, 3}, counting(18)));
    CHECK(folder.error() ==
          "train-images-idx3-ubyte: magic number 0x89504e47 is not that of an IDX file; images "
          "start with 0x00000803");
  }
  SECTION("unknown element type") {
    folder.put(train_labels, idx({0x701, 3}, {0, 1, 0}));
    CHECK(folder.error() ==
          "train-labels-idx1-ubyte: magic number 0x00000701 is not that of an IDX file; labels "
          "start with 0x00000801");
  }
  SECTION("element type") {
    folder.put(train_images, idx({0xd03, 3, 2, 3}, counting(72)));
    CHECK(folder.error() ==
          "train-images-idx3-ubyte: element type 0x0d (float); only 0x08 (unsigned byte) can be "
          "read");
  }
  SECTION("labels in place of images") {
    folder.put(train_images, idx({0x801, 3}, {0, 1, 0}));
    CHECK(folder.error() ==
          "train-images-idx3-ubyte: magic number 0x00000801 tells of 1 dimensions; images have 3 "
          "and start with 0x00000803");
  }
  SECTION("no bytes") {
    folder.put(train_images, {});
    CHECK(folder.error() ==
          "train-images-idx3-ubyte: truncated header: expected 16 bytes, found 0");
  }
  SECTION("cut within the header") {
    folder.put(train_labels, {0, 0, 8, 1, 0, 0});
    CHECK(folder.error() == "train-labels-idx1-ubyte: truncated header: expected 8 bytes, found 6");
  }
  SECTION("no images") {
    folder.put(train_images, idx({0x803, 0, 2, 3}, {}));
    CHECK(folder.error() == "train-images-idx3-ubyte: holds no images");
  }
  SECTION("flat images") {
    folder.put(train_images, idx({0x803, 3, 0, 3}, {}));
    CHECK(folder.error() ==
          "train-images-idx3-ubyte: images of 0x3 pixels; each side must lie between 1 and 4096");
  }
  SECTION("huge images") {
    folder.put(train_images, idx({0x803, 3, 2, 0xffffffff}, {}));
    CHECK(folder.error() ==
          "train-images-idx3-ubyte: images of 2x4294967295 pixels; each side must lie between 1 "
          "and 4096");
  }
  SECTION("huge total") {
    folder.put(train_images, idx({0x803, 0xffffffff, 4096, 4096}, {}));
    CHECK(folder.error() ==
          "train-images-idx3-ubyte: the header announces 72057594021150720 bytes of images; at "
          "most 17179869184 can be read");
  }
  SECTION("large total, small file") {
    folder.put(train_images, idx({0x803, 1000000, 100, 100}, counting(18)));
    CHECK(folder.error() ==
          "train-images-idx3-ubyte: truncated: the header announces 10000000016 bytes, the file "
          "has 34");
  }
  SECTION("large total, small packed file") {
    folder.put(train_images, gzip(idx({0x803, 1000000, 100, 100}, counting(18))));
    CHECK(folder.error() ==
          "train-images-idx3-ubyte: truncated: the header announces 10000000016 bytes, the file "
          "has 34");
  }
  SECTION("2^31 labels in a small packed file") {
    folder.put(train_labels, gzip(idx({0x801, 0x80000000}, {0, 1, 0})));
    CHECK(folder.error() ==
          "train-labels-idx1-ubyte: truncated: the header announces 2147483656 bytes, the file has "
          "11");
  }
}

TEST_CASE("Truncated and overlong IDX files", "[idx]") {
  const Folder folder;
  SECTION("plain, short") {
    folder.put(train_images, idx({0x803, 3, 2, 3}, counting(17)));
    CHECK(folder.error() ==
          "train-images-idx3-ubyte: truncated: the header announces 34 bytes, the file has 33");
  }
  SECTION("packed, short inside") {
    folder.put(train_images, gzip(idx({0x803, 3, 2, 3}, counting(17))));
    CHECK(folder.error() ==
          "train-images-idx3-ubyte: truncated: the header announces 34 bytes, the file has 33");
  }
  SECTION("plain, long") {
    folder.put(train_labels, idx({0x801, 3}, {0, 1, 0, 1}));
    CHECK(folder.error() ==
          "train-labels-idx1-ubyte: trailing bytes: the header announces 11 bytes, the file has "
          "more");
  }
  SECTION("packed, long") {
    folder.put(train_labels, gzip(idx({0x801, 3}, {0, 1, 0, 1})));
    CHECK(folder.error() ==
          "train-labels-idx1-ubyte: trailing bytes: the header announces 11 bytes, the file has "
          "more");
  }
  SECTION("packed, long by a second gzip file") {
    folder.put(train_labels, joined({gzip(idx({0x801, 3}, {0, 1, 0})), gzip({1})}));
    CHECK(folder.error() ==
          "train-labels-idx1-ubyte: trailing bytes: the header announces 11 bytes, the file has "
          "more");
  }
  SECTION("a bomb: far more than the header says, not unpacked") {
    folder.put(train_labels, gzip(idx({0x801, 3}, Bytes(std::size_t{64} << 20U))));
    CHECK(folder.error() ==
          "train-labels-idx1-ubyte: trailing bytes: the header announces 11 bytes, the file has "
          "more");
  }
}

TEST_CASE("Corrupt gzip files", "[idx]") {
  const Folder folder;
  Bytes packed = gzip(idx({0x803, 3, 2, 3}, counting(18)));
  SECTION("wrong checksum") {
    packed[packed.size() - 6] ^= 1U;  // the CRC lies 8 to 4 bytes before the end
    folder.put(train_images, packed);
    CHECK(folder.error() ==
          "train-images-idx3-ubyte: corrupt gzip file (incorrect data check); get the file again");
  }
  SECTION("wrong length") {
    packed[packed.size() - 2] ^= 1U;
    folder.put(train_images, packed);
    CHECK(folder.error() ==
          "train-images-idx3-ubyte: corrupt gzip file (incorrect length check); get the file "
          "again");
  }
  SECTION("wrong checksum of the first of two") {
    packed = gzip(idx({0x803, 3, 2, 3}, {}));
    packed[packed.size() - 6] ^= 1U;
    folder.put(train_images, joined({packed, gzip(counting(18))}));
    CHECK(folder.error() ==
          "train-images-idx3-ubyte: corrupt gzip file (incorrect data check); get the file again");
  }
  SECTION("cut in the length, the checksum, the data and gzip's header") {
    const std::size_t all = packed.size();
    for (const std::size_t size :
         {all - 1, all - 5, all - 8, all / 2, std::size_t{10}, std::size_t{5}}) {
      packed.resize(size);
      folder.put(train_images, packed);
      CHECK(folder.error() ==
            "train-images-idx3-ubyte: corrupt gzip file (unexpected end of file); get the file "
            "again");
    }
  }
  SECTION("the second of two cut") {
    Bytes rest = gzip(counting(18));
    rest.resize(rest.size() - 9);
    folder.put(train_images, joined({gzip(idx({0x803, 3, 2, 3}, {})), rest}));
    CHECK(folder.error() ==
          "train-images-idx3-ubyte: corrupt gzip file (unexpected end of file); get the file "
          "again");
  }
  SECTION("a large one cut") {
    const Bytes pixels = counting(std::size_t{3} * 1024 * 1024);
    packed = gzip(idx({0x803, 3, 1024, 1024}, pixels));
    packed.resize(packed.size() / 2);
    folder.put(train_images, packed);
    CHECK(folder.error() ==
          "train-images-idx3-ubyte: corrupt gzip file (unexpected end of file); get the file "
          "again");
  }
  SECTION("rubbish after gzip's header") {
    for (std::size_t i = 10; i < packed.size(); ++i) {
      packed[i] = 0xff;
    }
    folder.put(train_images, packed);
    CHECK(folder.error() ==
          "train-images-idx3-ubyte: corrupt gzip file (invalid block type); get the file again");
  }
}

TEST_CASE("Every truncation and every changed byte is an error or a sound dataset", "[idx]") {
  const Folder folder;
  const Bytes plain = idx({0x803, 3, 2, 3}, counting(18));
  const Bytes packed = gzip(plain);
  for (const Bytes& bytes : {plain, packed}) {
    for (std::size_t size = 0; size < bytes.size(); ++size) {
      folder.put(train_images,
                 Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)));
      CHECK(folder.error() != "no error");
    }
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      for (const unsigned change : {0x01U, 0x80U, 0xffU}) {
        Bytes changed = bytes;
        changed[i] = static_cast<std::uint8_t>(changed[i] ^ change);
        folder.put(train_images, changed);
        (void)folder.error();  // throws nothing but DataError
      }
    }
  }
}

TEST_CASE("IDX files that do not belong together", "[idx]") {
  const Folder folder;
  SECTION("counts") {
    folder.put(train_labels, idx({0x801, 2}, {0, 1}));
    CHECK(folder.error() ==
          "train-labels-idx1-ubyte: 2 labels for the 3 images in train-images-idx3-ubyte; the "
          "numbers must be equal");
  }
  SECTION("sizes") {
    folder.put(test_images, idx({0x803, 2, 3, 2}, counting(12)));
    CHECK(folder.error() ==
          "t10k-images-idx3-ubyte: images of 3x2 pixels, but those in train-images-idx3-ubyte "
          "have 2x3; they must agree");
    folder.put(test_images, idx({0x803, 2, 2, 4}, counting(16)));
    CHECK(folder.error() ==
          "t10k-images-idx3-ubyte: images of 2x4 pixels, but those in train-images-idx3-ubyte "
          "have 2x3; they must agree");
  }
  SECTION("one class") {
    folder.put(train_labels, idx({0x801, 3}, {0, 0, 0}));
    CHECK(folder.error() ==
          "train-labels-idx1-ubyte: all labels are 0; at least 2 classes are needed");
  }
  SECTION("a test label that training lacks") {
    folder.put(test_labels, idx({0x801, 2}, {1, 2}));
    CHECK(folder.error() ==
          "t10k-labels-idx1-ubyte: label 2 of image 1; the training labels end at 1");
  }
}

TEST_CASE("Fashion-MNIST as Debian installs it", "[idx]") {
  if (!std::filesystem::exists(default_idx_folder())) {
    WARN("not installed: dataset-fashion-mnist");
    return;
  }
  const DatasetPair pair = load_idx({});
  CHECK(pair.train->name() == "fashion-mnist train");
  REQUIRE(pair.train->size() == 60000);
  REQUIRE(pair.test->size() == 10000);
  CHECK(pair.train->classes() == 10);
  CHECK(pair.train->image_shape() == stpt::runtime::Shape{1, 1, 28, 28});
  std::vector<int> counts(10);
  for (std::size_t i = 0; i < pair.train->size(); ++i) {
    ++counts.at(static_cast<std::size_t>(pair.train->label(i)));
  }
  CHECK(counts == std::vector<int>(10, 6000));
  CHECK(pair.train->label(0) == 9);  // an ankle boot
  const Normalization normalization =
      compute_normalization(*pair.train, stpt::data::testing::all_indices(60000));
  CHECK(std::abs(normalization.mean[0] - 0.2860F) < 1e-4F);
  CHECK(std::abs(normalization.stddev[0] - 0.3530F) < 1e-4F);
}
