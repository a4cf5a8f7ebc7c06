#include "stpt/signals.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "runtime/cluster.hpp"
#include "stpt/messages.hpp"

namespace stpt {
namespace {

std::atomic<bool> stop_requested = false;
std::atomic<int> stop_signal = 0;
std::atomic<bool> on_terminal = false;  ///< then the cursor may stand behind a progress line
std::atomic<bool> speaks = true;        ///< one of a job's ranks does
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

extern "C" void stpt_on_stop_signal(int number) {
  const int saved = errno;
  stop_signal = number;
  stop_requested = true;
  std::string_view text =
      "\nstpt_starpu: stopping after this step; a second signal ends it at once\n";
  if (!on_terminal) text.remove_prefix(1);
  if (speaks && write(STDERR_FILENO, text.data(), text.size()) < 0) {
    // There is nobody to read it.
  }
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  errno = saved;
}

std::function<void()> last_words;

extern "C" void stpt_on_abort(int) {
  std::signal(SIGABRT, SIG_DFL);
  // They may wait for a lock that the thread which aborts holds, of malloc for one.
  constexpr unsigned seconds = 30;
  alarm(seconds);
  last_words();
  _exit(failed);
}

}  // namespace

void ignore_file_size_limit() { std::signal(SIGXFSZ, SIG_IGN); }

void ignore_broken_pipes() { std::signal(SIGPIPE, SIG_IGN); }

StopSignals::StopSignals() {
  stop_requested = false;
  on_terminal = isatty(STDERR_FILENO) == 1;
  speaks = runtime::Cluster::current().rank() == 0;
  struct sigaction action {};
  action.sa_handler = stpt_on_stop_signal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, &interrupt_);
  sigaction(SIGTERM, &action, &terminate_);
  // StarPU would put handlers of its own before these. A value from outside wins.
  setenv("STARPU_CATCH_SIGNALS", "0", 0);
}

StopSignals::~StopSignals() {
  sigaction(SIGINT, &interrupt_, nullptr);
  sigaction(SIGTERM, &terminate_, nullptr);
}

const std::atomic<bool>& StopSignals::requested() { return stop_requested; }

int StopSignals::last() { return stop_signal; }

BeforeAbort::BeforeAbort(std::function<void()> speak) {
  last_words = std::move(speak);
  before_ = std::signal(SIGABRT, stpt_on_abort);
}

BeforeAbort::~BeforeAbort() { std::signal(SIGABRT, before_); }

}  // namespace stpt
