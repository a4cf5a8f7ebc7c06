#include "stpt/files/run_directory.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>
#include <fstream>
#include <sstream>
#include <system_error>
#include <utility>

#include "runtime/cluster.hpp"
#include "runtime/file_descriptor.hpp"
#include "stpt/config/json_text.hpp"
#include "stpt/files/record_json.hpp"
#include "stpt/files/report.hpp"

namespace stpt {
namespace {

namespace fs = std::filesystem;
using runtime::FileDescriptor;

constexpr std::string_view lock_name = ".stpt.lock";
constexpr std::string_view temporary_end = ".stpt.tmp";  ///< ends a file's name while it is written
constexpr std::array own_names = {config_name, metrics_name, summary_name, report_name,
                                  checkpoint_name};

[[noreturn]] void fail(const fs::path& path, std::string_view what, int error) {
  throw OutputError(path.string() + ": " + std::string(what) + ": " +
                    std::generic_category().message(error));
}

/// Throws OutputError, which names `shown`.
FileDescriptor open_file(const fs::path& path, int flags, const fs::path& shown) {
  FileDescriptor file(::open(path.c_str(), flags | O_CLOEXEC, 0666));
  if (!file) fail(shown, "cannot open", errno);
  return file;
}
FileDescriptor open_file(const fs::path& path, int flags) { return open_file(path, flags, path); }

void write_all(const FileDescriptor& file, std::string_view contents, const fs::path& path) {
  while (!contents.empty()) {
    const ssize_t written = ::write(file.number(), contents.data(), contents.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail(path, "cannot write", errno);
    contents.remove_prefix(static_cast<std::size_t>(written));
  }
}

/// So that a renamed or new name in a directory survives a crash. Some file systems cannot do it,
/// and then there is nothing better to do.
void sync_directory(const fs::path& directory) {
  const FileDescriptor opened = open_file(directory, O_RDONLY | O_DIRECTORY);
  static_cast<void>(::fsync(opened.number()));
}

/// Removes the file again unless it was renamed away.
class Temporary {
 public:
  explicit Temporary(fs::path path) : path_(std::move(path)) {}
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;
  ~Temporary() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove(path_, ignored);
  }
  const fs::path& path() const { return path_; }
  void kept() { path_.clear(); }

 private:
  fs::path path_;
};

std::string time_stamp() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  ::localtime_r(&now, &local);
  std::array<char, 32> text{};
  return {text.data(), std::strftime(text.data(), text.size(), "%Y%m%d-%H%M%S", &local)};
}

/// Makes the directory and what is above it; true if it was not there before.
bool make_directory(const fs::path& directory) {
  std::error_code error;
  if (directory.has_parent_path()) fs::create_directories(directory.parent_path(), error);
  if (error) {
    throw OutputError(directory.string() + ": cannot make this directory: " + error.message());
  }
  const bool made = fs::create_directory(directory, error);
  if (error) {
    throw OutputError(directory.string() + ": cannot make this directory: " + error.message());
  }
  return made;
}

// ---- The lock --------------------------------------------------------------------------------
// Whoever writes to a directory has locked a file in it. The kernel, or an NFS server, gives the
// lock back however the process ends, so that a file which was left behind locks nobody out. What
// stands in it is for the message alone.

/// A lock of an open file description (not of a process, as fcntl's older ones), all of the file.
struct flock whole_file(short type) {
  struct flock range {};
  range.l_type = type;
  range.l_whence = SEEK_SET;
  return range;
}

/// What file systems answer that have no locks, or whose servers have none.
bool has_no_locks(int error) {
  return error == ENOSYS || error == ENOLCK || error == EOPNOTSUPP || error == EINVAL;
}

/// The file that was opened still stands under this name.
bool is_at(const FileDescriptor& file, const fs::path& path) {
  struct stat opened {};
  struct stat named {};
  return ::fstat(file.number(), &opened) == 0 && ::stat(path.c_str(), &named) == 0 &&
         opened.st_nlink > 0 && opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
}

[[noreturn]] void refuse_second_writer(const fs::path& directory) {
  // "4711 on node7"; it is not there yet if that process has only just come.
  std::string who;
  std::ifstream in(directory / lock_name, std::ios::binary);
  constexpr std::size_t most = 300;
  if (!std::getline(in, who) || in.eof() || who.size() > most) who.clear();
  throw OutputError(directory.string() + ": another process" +
                    (who.empty() ? "" : ", " + who + ",") +
                    " is writing to it; wait until it has ended, or use another directory");
}

/// Throws OutputError if another process has locked the directory. Takes no lock itself, not even
/// for a moment, in which that would lock out a process that may have it.
void check_unlocked(const fs::path& directory) {
  const FileDescriptor file(::open((directory / lock_name).c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return;
  struct flock range = whole_file(F_WRLCK);
  const bool known = ::fcntl(file.number(), F_OFD_GETLK, &range) == 0;
  if (known && range.l_type != F_UNLCK) refuse_second_writer(directory);
}

/// What a process that was killed as it wrote one of a run's files has left behind; no other
/// file's, as an export may be writing there.
bool is_temporary(const fs::path& file) {
  const std::string name = file.filename().string();
  return name.ends_with(temporary_end) && std::ranges::any_of(own_names, [&](std::string_view of) {
           return name.starts_with("." + std::string(of) + ".");
         });
}

/// But for what a killed process leaves behind.
void check_empty(const fs::path& directory) {
  std::error_code error;
  fs::directory_iterator entries(directory, error);
  if (error) {
    throw OutputError(directory.string() + ": cannot be used for output: " + error.message());
  }
  if (std::ranges::all_of(entries, [](const fs::directory_entry& entry) {
        return entry.path().filename() == lock_name || is_temporary(entry.path());
      })) {
    return;
  }
  throw OutputError(directory.string() +
                    ": exists and is not empty; use another directory, or --resume to go on with "
                    "the run in it");
}

std::string line(std::string_view kind, const boost::json::object& fields) {
  boost::json::object object;
  object["kind"] = kind;
  for (const auto& field : fields) object[field.key()] = field.value();
  return compact_json(object) + '\n';
}

}  // namespace

/// Holds the lock, and takes its file away in the end.
class RunDirectory::Lock {
 public:
  /// Null where the file system has no locks.
  static std::unique_ptr<Lock> take(const fs::path& directory) {
    const fs::path path = directory / lock_name;
    constexpr int attempts = 100;
    for (int attempt = 0; attempt < attempts; ++attempt) {
      FileDescriptor opened = open_file(path, O_RDWR | O_CREAT);
      struct flock range = whole_file(F_WRLCK);
      if (::fcntl(opened.number(), F_OFD_SETLK, &range) != 0) {
        if (errno == EAGAIN || errno == EACCES) refuse_second_writer(directory);
        if (errno == EINTR || errno == ESTALE) continue;
        if (!has_no_locks(errno)) fail(path, "cannot lock", errno);
        std::error_code ignored;
        fs::remove(path, ignored);
        return nullptr;
      }
      // Its last owner may have taken it away since it was opened.
      if (!is_at(opened, path)) continue;
      std::unique_ptr<Lock> lock(new Lock(path, std::move(opened)));
      lock->sign();
      return lock;
    }
    return nullptr;
  }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
  ~Lock() {
    // Before it is unlocked, so that nobody else locks what is about to go; and not another run's,
    // where this one's directory has been renamed.
    std::error_code ignored;
    if (is_at(file_, path_)) fs::remove(path_, ignored);
  }

 private:
  Lock(fs::path path, FileDescriptor file) : path_(std::move(path)), file_(std::move(file)) {}

  void sign() const {
    const std::string who =
        std::to_string(::getpid()) + " on " + runtime::Cluster::current().host() + '\n';
    if (::ftruncate(file_.number(), 0) != 0) fail(path_, "cannot write", errno);
    write_all(file_, who, path_);
    // For other hosts to read.
    if (::fsync(file_.number()) != 0) fail(path_, "cannot write", errno);
  }

  fs::path path_;
  FileDescriptor file_;
};

void write_file_atomically(const fs::path& file, std::string_view contents) {
  write_file_atomically(file, std::span(&contents, 1));
}

void write_file_atomically(const fs::path& file, std::span<const std::string_view> parts) {
  const fs::path directory = file.has_parent_path() ? file.parent_path() : fs::path(".");
  Temporary temporary(directory / ("." + file.filename().string() + "." +
                                   std::to_string(::getpid()) + std::string(temporary_end)));
  {
    const FileDescriptor out = open_file(temporary.path(), O_WRONLY | O_CREAT | O_TRUNC, file);
    for (const std::string_view part : parts) write_all(out, part, file);
    if (::fsync(out.number()) != 0) fail(file, "cannot write", errno);
  }
  if (::rename(temporary.path().c_str(), file.c_str()) != 0) fail(file, "cannot write", errno);
  temporary.kept();
  sync_directory(directory);
}

void RunDirectory::check(const fs::path& output) {
  if (output.empty()) return;
  std::error_code error;
  const fs::file_status status = fs::status(output, error);
  if (!fs::exists(status)) {
    if (error && error != std::errc::no_such_file_or_directory) {
      throw OutputError(output.string() + ": cannot be used for output: " + error.message());
    }
    return;
  }
  if (!fs::is_directory(status)) {
    throw OutputError(output.string() + ": is a file; --output needs a new or empty directory");
  }
  check_unlocked(output);
  check_empty(output);
}

RunDirectory RunDirectory::create(const fs::path& output, const std::string& name) {
  if (!output.empty()) {
    check(output);
    // "dir/" has an empty last component, which would make its parent of it.
    const fs::path directory = output.has_filename() ? output : output.parent_path();
    make_directory(directory);
    RunDirectory made(directory);
    made.lock();
    check_empty(directory);  // of another run that came and went meanwhile
    return made;
  }
  const fs::path base = fs::path("runs") / (name + "-" + time_stamp());
  fs::path directory = base;
  for (int attempt = 2; !make_directory(directory); ++attempt) {
    directory = base;
    directory += "-" + std::to_string(attempt);
  }
  RunDirectory made(directory);
  made.lock();
  return made;
}

RunDirectory RunDirectory::open(const fs::path& directory) {
  const fs::path path = directory.has_filename() ? directory : directory.parent_path();
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    throw OutputError(directory.string() + ": no such directory; must be that of a run");
  }
  // A run that was killed as it began has a config and nothing else.
  if (!fs::is_regular_file(path / config_name, error) &&
      !fs::is_regular_file(path / metrics_name, error)) {
    throw OutputError(directory.string() + ": holds no run (there is no " +
                      std::string(config_name) + "); must be the directory of a run");
  }
  return RunDirectory(path);
}

fs::path RunDirectory::other_file(const fs::path& wanted, const std::string& option) const {
  const auto refuse = [&](const std::string& what) {
    throw OutputError(wanted.string() + ": " + what + "; " + option +
                      " needs the name of a new file, or of one to be replaced");
  };
  std::error_code error;
  // Of a link what it leads to is replaced.
  const fs::path file =
      fs::is_symlink(wanted, error) ? fs::weakly_canonical(wanted, error) : wanted;
  const fs::file_status status = fs::status(file, error);
  if (fs::is_directory(status) || !file.has_filename()) refuse("is a directory");
  if (fs::exists(status) && !fs::is_regular_file(status)) refuse("is no ordinary file");
  const fs::path folder = file.has_parent_path() ? file.parent_path() : fs::path(".");
  const bool own = file.filename() == lock_name ||
                   std::ranges::find(own_names, file.filename()) != own_names.end();
  if (own && fs::equivalent(folder, path_, error)) refuse("belongs to the run");
  return file;
}

void RunDirectory::lock() {
  if (!lock_) lock_ = Lock::take(path_);
}

void RunDirectory::remove_temporaries() const {
  if (!lock_) return;  // another process may be writing
  std::error_code ignored;
  std::vector<fs::path> left;
  for (const fs::directory_entry& entry : fs::directory_iterator(path_, ignored)) {
    if (is_temporary(entry.path())) left.push_back(entry.path());
  }
  for (const fs::path& file : left) fs::remove(file, ignored);
}

RunDirectory::RunDirectory(fs::path path) : path_(std::move(path)) {}

// Where Lock is complete.
RunDirectory::RunDirectory(RunDirectory&&) noexcept = default;
RunDirectory& RunDirectory::operator=(RunDirectory&&) noexcept = default;
RunDirectory::~RunDirectory() = default;

void RunDirectory::write_config(std::string_view text) const {
  std::string contents(text);
  if (contents.empty() || contents.back() != '\n') contents += '\n';
  write_file_atomically(file(config_name), contents);
}

void RunDirectory::begin_metrics(const RunRecord& run) {
  remove_temporaries();
  std::string contents = line("run", to_json(run));
  for (const EpochRecord& epoch : run.epochs) contents += line("epoch", to_json(epoch));
  write_file_atomically(file(metrics_name), contents);

  metrics_ = open_file(file(metrics_name), O_WRONLY | O_APPEND);
}

void RunDirectory::append_epoch(const EpochRecord& epoch) {
  if (!metrics_) throw std::logic_error("append_epoch before begin_metrics");
  write_all(metrics_, line("epoch", to_json(epoch)), file(metrics_name));
  if (::fdatasync(metrics_.number()) != 0) fail(file(metrics_name), "cannot write", errno);
}

RunRecord RunDirectory::read_metrics() const {
  std::error_code ignored;
  if (fs::symlink_status(file(metrics_name), ignored).type() == fs::file_type::not_found) return {};
  std::ifstream in(file(metrics_name), std::ios::binary);
  if (!in || !fs::is_regular_file(file(metrics_name), ignored)) {
    throw OutputError(file(metrics_name).string() +
                      ": cannot be read; use a copy of it, or start a new run");
  }

  RunRecord run;
  std::string text;
  for (int number = 1; std::getline(in, text); ++number) {
    // A complete line ends with a line feed; what has none was being written in a crash.
    if (in.eof()) break;
    try {
      const boost::json::value value = read_json(text);
      if (number == 1) {
        run = run_from_json(value);
      } else {
        run.epochs.push_back(epoch_from_json(value));
      }
    } catch (const std::exception& error) {
      throw OutputError(file(metrics_name).string() + ":" + std::to_string(number) + ": " +
                        error.what() + "; use a copy of it, or start a new run");
    }
  }
  return run;
}

void RunDirectory::write_summary(const RunRecord& run) const {
  write_file_atomically(file(summary_name), pretty_json(summary_json(run)) + '\n');
}

bool RunDirectory::is_complete() const {
  std::ifstream in(file(summary_name), std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  try {
    return read_json(text.str()).at("status").as_string() == "complete";
  } catch (const std::exception&) {
    return false;  // there is none, or not a run's
  }
}

void RunDirectory::write_report(const RunRecord& run) const {
  write_file_atomically(file(report_name), render_report(run));
}

}  // namespace stpt
