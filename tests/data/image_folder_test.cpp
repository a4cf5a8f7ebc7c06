#include "data/image_folder.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <thread>

#include "data/cached_dataset.hpp"
#include "tests/catch.hpp"
#include "tests/data/image_files.hpp"
#include "tests/data/testing.hpp"

namespace {

using namespace stpt::data;
using namespace stpt::data::testing;
namespace fs = std::filesystem;

const ImageFolderOptions small{8, ResizeMode::stretch, 0};

/// A gray PNG file of 4 x 4; what is read from it is that value throughout.
void write_gray(const fs::path& path, std::uint8_t value) {
  write_bytes(path, png_file({4, 4}, plain({value}), {.type = PNG_COLOR_TYPE_GRAY}));
}

void write_text(const fs::path& path) { write_bytes(path, {'t', 'e', 'x', 't'}); }

/// Classes a and b; training images of value 10, 11, 12 and 20, 21, test images 110 and 120.
void write_set(const fs::path& folder) {
  write_gray(folder / "train/b/two.png", 21);
  write_gray(folder / "train/b/one.png", 20);
  write_gray(folder / "train/a/3.PNG", 12);
  write_gray(folder / "train/a/1.png", 10);
  write_gray(folder / "train/a/2.png", 11);
  write_gray(folder / "val/a/x.png", 110);
  write_gray(folder / "val/b/x.png", 120);
}

/// The value of the image's first pixel.
int value_of(const Dataset& dataset, std::size_t index) {
  std::vector<std::uint8_t> image(static_cast<std::size_t>(dataset.image_shape().elements()));
  dataset.read(index, image);
  return image[0];
}

std::vector<int> values_of(const Dataset& dataset) {
  std::vector<int> values;
  for (std::size_t i = 0; i < dataset.size(); ++i) values.push_back(value_of(dataset, i));
  return values;
}

std::vector<int> labels_of(const Dataset& dataset) {
  std::vector<int> labels;
  for (std::size_t i = 0; i < dataset.size(); ++i) labels.push_back(dataset.label(i));
  return labels;
}

}  // namespace

TEST_CASE("An image folder is read in the order of names", "[image folder]") {
  const TemporaryFolder folder;
  write_set(folder.path());
  const DatasetPair pair = load_image_folder(folder.path(), small);
  CHECK(pair.name == folder.path().filename());
  CHECK(load_image_folder(folder.path() / "", small).name == pair.name);
  CHECK(load_image_folder(folder.path() / "train/..", small).name == pair.name);
  CHECK(name_of(".") == std::filesystem::current_path().filename());
  CHECK(name_of("..") == std::filesystem::current_path().parent_path().filename());
  CHECK(name_of("/") == "/");
  CHECK(pair.train->name() == pair.name + "/train");
  CHECK(pair.train->classes() == 2);
  CHECK(pair.class_names == std::vector<std::string>{"a", "b"});
  CHECK(cached(pair, 1000).class_names == pair.class_names);
  CHECK(pair.train->image_shape() == stpt::runtime::Shape{1, 3, 8, 8});
  CHECK(values_of(*pair.train) == std::vector{10, 20, 11, 21, 12});
  CHECK(labels_of(*pair.train) == std::vector{0, 1, 0, 1, 0});
  CHECK(values_of(*pair.test) == std::vector{110, 120});
  CHECK(labels_of(*pair.test) == std::vector{0, 1});
  CHECK(pair.train->unreadable().empty());
  std::vector<std::uint8_t> image(192);
  CHECK_THROWS_AS(pair.train->read(5, image), std::out_of_range);
  CHECK_THROWS_AS(pair.train->read(0, std::span(image).first(191)), std::out_of_range);
}

TEST_CASE("Images may lie deeper, other files do not matter", "[image folder]") {
  const TemporaryFolder folder;
  write_set(folder.path());
  write_gray(folder.path() / "train/a/images/0.jpeg", 13);  // what it is shows in the file
  write_gray(folder.path() / "train/a/.hidden.png", 1);
  write_gray(folder.path() / "train/a/.hidden/1.png", 1);
  write_gray(folder.path() / "train/.hidden/1.png", 1);
  write_text(folder.path() / "train/a/boxes.txt");
  write_text(folder.path() / "train/README");
  fs::create_directories(folder.path() / "train/a/folder.jpg");
  const DatasetPair pair = load_image_folder(folder.path(), small);
  CHECK(values_of(*pair.train) == std::vector{10, 20, 11, 12, 21, 13});
}

TEST_CASE("The test half has one of four names", "[image folder]") {
  const TemporaryFolder folder;
  write_set(folder.path());
  const std::string name = GENERATE("valid", "validation", "test");
  fs::rename(folder.path() / "val", folder.path() / name);
  CHECK(values_of(*load_image_folder(folder.path(), small).test) == std::vector{110, 120});
}

TEST_CASE("A folder that is laid out otherwise is refused", "[image folder]") {
  const TemporaryFolder folder;
  const fs::path root = folder.path() / "set";
  write_set(root);
  std::string expected;
  SECTION("missing") {
    fs::remove_all(root);
    expected = ": no such folder; set data.path to one with images";
  }
  SECTION("no train") {
    fs::remove_all(root / "train");
    expected = "/train: no such folder; must hold a folder of training images for each class";
  }
  SECTION("no val") {
    fs::remove_all(root / "val");
    expected = "/val: no such folder, nor valid, validation or test; must hold the test images";
  }
  SECTION("no classes") {
    fs::remove_all(root / "train/a");
    fs::remove_all(root / "train/b");
    expected = "/train: has no folders; must have one for each class, with its images in it";
  }
  SECTION("one class") {
    fs::remove_all(root / "train/b");
    fs::remove_all(root / "val/b");
    expected = "/train: has one class, a; at least 2 are needed";
  }
  SECTION("a class that only the training images have") {
    fs::remove_all(root / "val/b");
    expected = "/val: has no folder b, but train has; both must have the same classes";
  }
  SECTION("a class that only the test images have") {
    write_gray(root / "val/aa/1.png", 1);
    expected = "/train: has no folder aa, but val has; both must have the same classes";
  }
  SECTION("a class without images") {
    fs::remove_all(root / "train/b");
    fs::create_directories(root / "train/b");
    expected = "/train/b: has no images; must have files ending in .jpg, .jpeg or .png";
  }
  CHECK(error_of([&] { (void)load_image_folder(root, small); }) == root.string() + expected);
}

TEST_CASE("Links lead to images and folders elsewhere", "[image folder]") {
  const TemporaryFolder folder;
  const fs::path root = folder.path() / "set";
  write_set(root);
  write_gray(folder.path() / "more/deep/1.png", 13);
  write_gray(folder.path() / "c.png", 30);
  write_gray(folder.path() / "classes/c/2.png", 31);
  fs::create_directory_symlink(folder.path() / "more", root / "train/a/more");
  fs::create_symlink(folder.path() / "c.png", folder.path() / "classes/c/1.png");
  for (const char* half : {"train", "val"}) {
    fs::create_directory_symlink("../../classes/c", root / half / "c");
  }
  const DatasetPair pair = load_image_folder(root, small);
  CHECK(values_of(*pair.train) == std::vector{10, 20, 30, 11, 12, 21, 31, 13});
  CHECK(values_of(*pair.test) == std::vector{110, 120, 30, 31});
  // A link to a link is followed, too: the same folder twice, but not below itself.
  fs::create_directory_symlink("more", root / "train/a/again");
  CHECK(load_image_folder(root, small).train->size() == 9);
}

TEST_CASE("A link to a folder that it lies in is refused", "[image folder]") {
  const TemporaryFolder folder;
  const fs::path root = fs::canonical(folder.path()) / "set";
  write_set(root);
  fs::path link = root / "train/a/loop";
  fs::path target = root / "train/a";
  SECTION("its class") {}
  SECTION("one between") {
    link = root / "train/a/deep/deeper/loop";
    target = root / "train/a/deep";
  }
  SECTION("all classes") { target = root / "train"; }
  SECTION("the set") { target = root; }
  SECTION("in the test images") {
    link = root / "val/a/loop";
    target = root / "val/a";
  }
  SECTION("as a class") {
    link = root / "train/loop";
    target = root / "train";
    write_gray(root / "val/loop/1.png", 1);
  }
  SECTION("through a folder elsewhere") {
    fs::create_directories(folder.path() / "more");
    fs::create_directory_symlink(folder.path() / "more", root / "train/a/more");
    link = root / "train/a/more/loop";
  }
  fs::create_directories(link.parent_path());
  fs::create_directory_symlink(fs::relative(target, fs::canonical(link.parent_path())), link);
  CHECK(error_of([&] { (void)load_image_folder(root, small); }) ==
        link.string() + ": links to " + target.string() +
            ", which it lies in; must lead elsewhere");
}

TEST_CASE("Images become squares by stretching or by a crop", "[image folder]") {
  const TemporaryFolder folder;
  write_set(folder.path());
  // 30 x 10: the left, middle and right third have values of their own.
  write_bytes(folder.path() / "train/a/1.png",
              png_file({30, 10},
                       [](int x, int) {
                         return Color{static_cast<std::uint8_t>(x < 10 ? 50 : x < 20 ? 100 : 150)};
                       },
                       {.type = PNG_COLOR_TYPE_GRAY}));
  const auto row = [&](ResizeMode mode) {
    std::vector<std::uint8_t> image(3 * 6 * 6);
    load_image_folder(folder.path(), {6, mode, 0}).train->read(0, image);
    return std::vector<std::uint8_t>(image.begin(), image.begin() + 6);
  };
  CHECK(row(ResizeMode::crop)[0] < 110);
  CHECK(row(ResizeMode::crop)[2] == 100);
  CHECK(row(ResizeMode::crop)[3] == 100);
  CHECK(row(ResizeMode::stretch)[0] == 50);
  CHECK(row(ResizeMode::stretch)[5] == 150);
}

TEST_CASE("The next readable image of the class stands in for one that is not", "[image folder]") {
  const TemporaryFolder folder;
  write_set(folder.path());
  write_text(folder.path() / "train/a/3.PNG");
  write_bytes(folder.path() / "train/b/one.png", {});
  const DatasetPair pair = load_image_folder(folder.path(), {8, ResizeMode::stretch, 0.4});
  // Backwards: what stands in does not depend on what was read before.
  for (const std::size_t index : {4, 3, 2, 1, 0, 2}) {
    const std::vector<int> expected{10, 21, 11, 21, 10};
    CHECK(value_of(*pair.train, index) == expected[index]);
  }
  const std::string train = (folder.path() / "train").string();
  CHECK(pair.train->unreadable() ==
        std::vector<std::string>{train + "/b/one.png: is empty",
                                 train + "/a/3.PNG: is neither a JPEG nor a PNG file"});
  CHECK(pair.test->unreadable().empty());

  // A third one is too much: 0.4 of 5 are 2.
  fs::remove(folder.path() / "train/a/2.png");
  CHECK(error_of([&] { (void)values_of(*pair.train); }) ==
        train +
            "/a/2.png: cannot be opened: No such file or directory, after 2 other unreadable "
            "images; data.bad_image_limit allows 2 of the 5 in " +
            pair.train->name() + ": mend or remove the file, or raise the limit");
}

TEST_CASE("With a limit of 0 the first unreadable image is an error", "[image folder]") {
  const TemporaryFolder folder;
  write_set(folder.path());
  const fs::path file = folder.path() / "train/a/1.png";
  std::string reason;
  SECTION("text") {
    write_text(file);
    reason = "is neither a JPEG nor a PNG file";
  }
  SECTION("a broken link") {
    fs::remove(file);
    fs::create_symlink("nowhere", file);
    reason = "cannot be opened: No such file or directory";
  }
  SECTION("what is too large for an image") {
    fs::resize_file(file, (std::uintmax_t{512} << 20U) + 1);  // all of it a hole
    reason = "is larger than 512 MiB";
  }
  SECTION("a device") {
    fs::remove(file);
    fs::create_symlink("/dev/zero", file);
    reason = "is not a regular file";
  }
  SECTION("a pipe") {
    fs::remove(file);
    REQUIRE(mkfifo(file.c_str(), 0600) == 0);
    reason = "is not a regular file";
  }
  const DatasetPair pair = load_image_folder(folder.path(), small);
  CHECK_THAT(error_of([&] { (void)value_of(*pair.train, 0); }),
             Catch::Matchers::StartsWith(file.string() + ": " + reason +
                                         "; data.bad_image_limit allows 0 of the 5 in "));
}

TEST_CASE("A class without any readable image is an error at any limit", "[image folder]") {
  const TemporaryFolder folder;
  write_set(folder.path());
  write_text(folder.path() / "val/b/x.png");
  const DatasetPair pair = load_image_folder(folder.path(), {8, ResizeMode::stretch, 1});
  CHECK(error_of([&] { (void)value_of(*pair.test, 1); }) ==
        (folder.path() / "val/b/x.png").string() + ": no image of its class can be read");
}

TEST_CASE("The cache changes no bytes", "[image folder]") {
  const TemporaryFolder folder;
  write_set(folder.path());
  const DatasetPair pair = load_image_folder(folder.path(), small);
  constexpr std::size_t image_bytes = 3 * 8 * 8;
  const std::size_t room = GENERATE(0, 1, 3, 5, 100);
  const CachedDataset cache(pair.train, room * image_bytes + 7);
  CHECK(cache.kept() == 0);
  CHECK(values_of(cache) == values_of(*pair.train));
  CHECK(cache.kept() == std::min<std::size_t>(room, 5));
  // What is kept does not go back to the file.
  for (const char* file : {"a/1.png", "a/2.png", "a/3.PNG", "b/one.png", "b/two.png"}) {
    if (room >= 5) fs::remove(folder.path() / "train" / file);
  }
  CHECK(values_of(cache) == std::vector{10, 20, 11, 21, 12});
  CHECK(labels_of(cache) == labels_of(*pair.train));
  CHECK(cache.image_shape() == pair.train->image_shape());
}

TEST_CASE("Threads share a cache", "[image folder]") {
  const std::size_t images = 100;
  constexpr std::size_t image_bytes = 50;
  std::vector<std::uint8_t> pixels(images * image_bytes);
  for (std::size_t i = 0; i < pixels.size(); ++i) {
    pixels[i] = static_cast<std::uint8_t>(i / image_bytes);
  }
  const auto source = std::make_shared<MemoryDataset>("test", 2, stpt::runtime::Shape{1, 2, 5, 5},
                                                      pixels, std::vector<std::uint8_t>(images));
  const CachedDataset cache(source, 60 * image_bytes);
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      std::vector<std::uint8_t> image(image_bytes);
      for (std::size_t round = 0; round < 20; ++round) {
        for (std::size_t i = 0; i < images; ++i) {
          const std::size_t index = (i * (2 * t + 1) + round) % images;
          cache.read(index, image);
          wrong[t] += std::ranges::count(image, index) == image_bytes ? 0 : 1;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4));
  CHECK(cache.kept() == 60);
}

TEST_CASE("Both sets share the cache's limit", "[image folder]") {
  const TemporaryFolder folder;
  write_set(folder.path());
  const DatasetPair pair = load_image_folder(folder.path(), small);
  constexpr std::size_t image_bytes = 3 * 8 * 8;
  CHECK(cache_bytes(pair, 3 * image_bytes) == 3 * image_bytes);
  CHECK(cache_bytes(pair, 1000 * image_bytes) == 7 * image_bytes);
  CHECK(cached(pair, 0).train == pair.train);
  const DatasetPair kept = cached(pair, 7 * image_bytes);
  (void)values_of(*kept.train);
  (void)values_of(*kept.test);
  fs::remove_all(folder.path() / "train");
  fs::remove_all(folder.path() / "val");
  CHECK(values_of(*kept.train) == std::vector{10, 20, 11, 21, 12});
  CHECK(values_of(*kept.test) == std::vector{110, 120});
}
