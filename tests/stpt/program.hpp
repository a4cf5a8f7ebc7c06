// Starts the program, or one that starts it, in a folder of its own; for tests.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/catch.hpp"
#include "tests/data/testing.hpp"

namespace stpt::testing {

namespace fs = std::filesystem;
using data::testing::TemporaryFolder;
using Arguments = std::vector<std::string>;

inline std::string read_file(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

inline void write_file(const fs::path& file, const std::string& bytes) {
  fs::create_directories(file.parent_path());
  std::ofstream out(file, std::ios::binary | std::ios::trunc);
  out << bytes;
  REQUIRE(out.good());
}

struct Outcome {
  int status = -1;  ///< of the exit; 1000 + the signal that killed it
  std::string out, err;
};

/// The program in a folder of its own.
class Program {
 public:
  [[nodiscard]] const fs::path& folder() const { return work_.path(); }
  [[nodiscard]] pid_t child() const { return child_; }

  void start(Arguments arguments) {
    arguments.insert(arguments.begin(), STPT_EXECUTABLE);
    start_command(std::move(arguments));
  }

  void start_command(Arguments arguments) {
    std::vector<char*> pointers;
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
    const std::string out = (logs_.path() / "out").string();
    const std::string err = (logs_.path() / "err").string();
    child_ = fork();
    REQUIRE(child_ >= 0);
    if (child_ > 0) return;
    // A shell that starts the tests in the background has SIGINT ignored.
    std::signal(SIGINT, SIG_DFL);
    const int out_file = open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const int err_file = open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (chdir(work_.path().c_str()) != 0 || dup2(out_file, 1) < 0 || dup2(err_file, 2) < 0) {
      _exit(99);
    }
    // hwloc's plugins (PCI, OpenCL, X11) leak as they are unloaded: a sanitized program would say
    // so.
    setenv("HWLOC_PLUGINS_PATH", "/", 0);
    execvp(pointers[0], pointers.data());
    _exit(99);
  }

  void send(int signal) const { REQUIRE(kill(child_, signal) == 0); }

  Outcome wait() {
    int status = 0;
    REQUIRE(waitpid(child_, &status, 0) == child_);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status),
            read_file(logs_.path() / "out"), read_file(logs_.path() / "err")};
  }

  Outcome run(Arguments arguments) {
    start(std::move(arguments));
    return wait();
  }

  Outcome run_command(Arguments arguments) {
    start_command(std::move(arguments));
    return wait();
  }

  [[nodiscard]] bool ended() const {
    siginfo_t info{};
    return waitid(P_PID, static_cast<id_t>(child_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == child_;
  }

 private:
  TemporaryFolder work_, logs_;
  pid_t child_ = -1;
};

}  // namespace stpt::testing
