#include "data/image_folder.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <map>
#include <mutex>
#include <system_error>
#include <utility>

#include "data/class_order.hpp"
#include "data/image_decoder.hpp"
#include "runtime/file_descriptor.hpp"

namespace stpt::data {
namespace {

namespace fs = std::filesystem;

std::string error_text(int number) { return std::generic_category().message(number); }

void read_file(const std::string& path, std::vector<std::uint8_t>& bytes) {
  // A pipe that nobody writes to would be waited for.
  const runtime::FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) throw ImageError("cannot be opened: " + error_text(errno));
  // Compressed images are smaller than this, and a device or a pipe must not be read for ever.
  constexpr std::int64_t most_bytes = std::int64_t{512} << 20U;
  struct stat status {};
  if (fstat(file.number(), &status) != 0) throw ImageError("cannot be read: " + error_text(errno));
  if (!S_ISREG(status.st_mode)) throw ImageError("is not a regular file");
  if (status.st_size > most_bytes) throw ImageError("is larger than 512 MiB");
  bytes.resize(static_cast<std::size_t>(status.st_size));
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = ::read(file.number(), bytes.data() + done, bytes.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw ImageError("cannot be read: " + error_text(errno));
    if (got == 0) throw ImageError("shrank while it was read");
    done += static_cast<std::size_t>(got);
  }
}

Window centred_square(Size size) {
  const int side = std::min(size.width, size.height);
  return {(size.width - side) / 2, (size.height - side) / 2, side, side};
}

class ImageFolder final : public Dataset {
 public:
  /// `files` by class; paths relative to `root`.
  ImageFolder(std::string name, fs::path root, std::vector<std::vector<std::string>> files,
              const ImageFolderOptions& options)
      : name_(std::move(name)), root_(root.string() + "/"), options_(options) {
    std::vector<std::uint32_t> labels;
    for (std::size_t k = 0; k < files.size(); ++k)
      labels.insert(labels.end(), files[k].size(), static_cast<std::uint32_t>(k));
    std::vector<std::size_t> taken(files.size());
    std::vector<std::uint32_t> first(files.size());
    std::vector<std::uint32_t> last(files.size());
    for (const std::uint32_t position : mixed_order(labels)) {
      const std::uint32_t k = labels[position];
      const auto index = static_cast<std::uint32_t>(files_.size());
      files_.push_back(std::move(files[k][taken[k]]));
      labels_.push_back(k);
      if (taken[k] == 0) first[k] = index;
      next_in_class_.push_back(first[k]);
      if (taken[k] > 0) next_in_class_[last[k]] = index;
      last[k] = index;
      ++taken[k];
    }
    classes_ = static_cast<int>(files.size());
    most_unreadable_ = static_cast<std::size_t>(
        std::floor(options_.bad_image_limit * static_cast<double>(files_.size())));
  }

  [[nodiscard]] std::string name() const override { return name_; }
  [[nodiscard]] std::size_t size() const override { return files_.size(); }
  [[nodiscard]] int classes() const override { return classes_; }
  [[nodiscard]] runtime::Shape image_shape() const override {
    return {1, 3, options_.image_size, options_.image_size};
  }
  [[nodiscard]] int label(std::size_t index) const override {
    return static_cast<int>(labels_.at(index));
  }

  void read(std::size_t index, std::span<std::uint8_t> chw) const override {
    const bool crop = options_.resize == ResizeMode::crop;
    read_window(
        index,
        [crop](Size size) {
          return crop ? centred_square(size) : Window{0, 0, size.width, size.height};
        },
        {options_.image_size, options_.image_size}, chw);
  }

  void read_window(std::size_t index, const ChooseWindow& choose, Size size,
                   std::span<std::uint8_t> chw) const override {
    if (index >= files_.size() || chw.size() < 3 * size.area()) {
      throw std::out_of_range("ImageFolder: image " + std::to_string(index) + " of " +
                              std::to_string(files_.size()) + " into " +
                              std::to_string(chw.size()) + " bytes");
    }
    std::size_t candidate = index;
    do {
      if (try_read(candidate, choose, size, chw)) return;
      candidate = next_in_class_[candidate];
    } while (candidate != index);
    throw DataError(root_ + files_[index], "no image of its class can be read");
  }

  [[nodiscard]] std::vector<std::string> unreadable() const override {
    const std::scoped_lock lock(mutex_);
    std::vector<std::string> result;
    for (const auto& [index, why] : unreadable_)
      result.push_back(root_ + files_[index] + ": " + why);
    return result;
  }

 private:
  bool try_read(std::size_t index, const ChooseWindow& choose, Size size,
                std::span<std::uint8_t> chw) const {
    thread_local std::string path;
    thread_local std::vector<std::uint8_t> bytes;
    path.assign(root_).append(files_[index]);
    try {
      read_file(path, bytes);
      decode_rgb(bytes, choose, size, chw);
      return true;
    } catch (const ImageError& error) {
      note_unreadable(index, error.what());
      return false;
    }
  }

  void note_unreadable(std::size_t index, const std::string& why) const {
    const std::scoped_lock lock(mutex_);
    unreadable_.emplace(index, why);
    if (unreadable_.size() <= most_unreadable_) return;
    const std::string others = std::to_string(unreadable_.size() - 1);
    throw DataError(
        root_ + files_[index],
        why + (unreadable_.size() == 1 ? "" : ", after " + others + " other unreadable images") +
            "; data.bad_image_limit allows " + std::to_string(most_unreadable_) + " of the " +
            std::to_string(files_.size()) + " in " + name_ +
            ": mend or remove the file, or raise the limit");
  }

  std::string name_;
  std::string root_;  ///< with a slash at the end
  ImageFolderOptions options_;
  std::vector<std::string> files_;
  std::vector<std::uint32_t> labels_;
  std::vector<std::uint32_t> next_in_class_;  ///< after the last one the first
  int classes_ = 0;
  std::size_t most_unreadable_;
  mutable std::mutex mutex_;  ///< of the next one; taken for unreadable images alone
  mutable std::map<std::size_t, std::string> unreadable_;
};

bool is_hidden(const fs::path& path) { return path.filename().native().starts_with('.'); }

bool has_image_name(const fs::path& path) {
  std::string ending = path.extension().string();
  std::ranges::transform(ending, ending.begin(), [](char c) {
    return 'A' <= c && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return ending == ".jpg" || ending == ".jpeg" || ending == ".png";
}

std::vector<std::string> class_names(const fs::path& half) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(half)) {
    if (entry.is_directory() && !is_hidden(entry)) names.push_back(entry.path().filename());
  }
  if (names.empty()) {
    throw DataError(half, "has no folders; must have one for each class, with its images in it");
  }
  std::ranges::sort(names);
  return names;
}

/// A link to a folder that it lies in would bring in the same images again, and those of other
/// classes with them. `link` lies below `half`, perhaps through other links.
void check_leads_elsewhere(const fs::path& link, const fs::path& half) {
  const fs::path target = fs::canonical(link);
  for (fs::path above = link; above != half;) {
    above = above.parent_path();
    const fs::path place = fs::canonical(above);
    if (std::ranges::mismatch(target, place).in1 != target.end()) continue;
    throw DataError(link,
                    "links to " + target.string() + ", which it lies in; must lead elsewhere");
  }
}

/// The images of each class, as paths relative to `half`.
std::vector<std::vector<std::string>> image_files(const fs::path& half,
                                                  const std::vector<std::string>& classes) {
  std::vector<std::vector<std::string>> files;
  const std::size_t root_length = half.native().size() + 1;
  for (const std::string& name : classes) {
    std::vector<std::string>& members = files.emplace_back();
    if (fs::is_symlink(half / name)) check_leads_elsewhere(half / name, half);
    auto entry = fs::recursive_directory_iterator(half / name,
                                                  fs::directory_options::follow_directory_symlink);
    for (; entry != fs::recursive_directory_iterator(); ++entry) {
      if (is_hidden(entry->path())) {
        entry.disable_recursion_pending();
      } else if (entry->is_directory()) {
        if (entry->is_symlink()) check_leads_elsewhere(entry->path(), half);
      } else if (has_image_name(entry->path())) {
        members.push_back(entry->path().native().substr(root_length));
      }
    }
    if (members.empty()) {
      throw DataError(half / name, "has no images; must have files ending in .jpg, .jpeg or .png");
    }
    std::ranges::sort(members);
  }
  return files;
}

/// Where the two lists part.
void check_same_classes(const fs::path& train, const std::vector<std::string>& train_classes,
                        const fs::path& test, const std::vector<std::string>& test_classes) {
  const auto [a, b] = std::ranges::mismatch(train_classes, test_classes);
  if (a == train_classes.end() && b == test_classes.end()) return;
  const bool only_in_test = a == train_classes.end() || (b != test_classes.end() && *b < *a);
  const fs::path& has = only_in_test ? test : train;
  const fs::path& lacks = only_in_test ? train : test;
  const std::string& name = only_in_test ? *b : *a;
  throw DataError(lacks, "has no folder " + name + ", but " + has.filename().string() +
                             " has; both must have the same classes");
}

fs::path find_test_half(const fs::path& folder) {
  for (const char* name : {"val", "valid", "validation", "test"}) {
    if (fs::is_directory(folder / name)) return folder / name;
  }
  throw DataError(folder / "val",
                  "no such folder, nor valid, validation or test; must hold the test images");
}

DatasetPair scan(const fs::path& folder, const ImageFolderOptions& options) {
  if (!fs::is_directory(folder))
    throw DataError(folder, "no such folder; set data.path to one with images");
  const fs::path train = folder / "train";
  if (!fs::is_directory(train)) {
    throw DataError(train, "no such folder; must hold a folder of training images for each class");
  }
  const fs::path test = find_test_half(folder);
  const std::vector<std::string> classes = class_names(train);
  if (classes.size() < 2) {
    throw DataError(train, "has one class, " + classes.front() + "; at least 2 are needed");
  }
  check_same_classes(train, classes, test, class_names(test));
  const std::string name = name_of(folder);
  return {std::make_shared<ImageFolder>(name + "/" + train.filename().string(), train,
                                        image_files(train, classes), options),
          std::make_shared<ImageFolder>(name + "/" + test.filename().string(), test,
                                        image_files(test, classes), options),
          name, classes};
}

}  // namespace

DatasetPair load_image_folder(const fs::path& folder, const ImageFolderOptions& options) {
  try {
    return scan(folder, options);
  } catch (const fs::filesystem_error& error) {
    throw DataError(error.path1().empty() ? folder : error.path1(),
                    "cannot be listed: " + error.code().message());
  }
}

}  // namespace stpt::data
