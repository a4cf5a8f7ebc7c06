#include "stpt/progress.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <utility>
#include <vector>

#include "stpt/messages.hpp"

namespace stpt {
namespace {

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int stderr_columns() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

std::string percent(double share) {
  return std::isfinite(share) ? format("%.1f %%", 100 * share) : "n/a";
}

/// "epoch  3/10"
std::string epoch_text(int epoch, int epochs) {
  if (epochs <= 0) return "epoch " + std::to_string(epoch);
  const std::string total = std::to_string(epochs);
  std::string number = std::to_string(epoch);
  if (number.size() < total.size()) number.insert(0, total.size() - number.size(), ' ');
  return "epoch " + number + "/" + total;
}

/// Columns that UTF-8 text takes, as long as its characters are one column wide.
std::size_t columns(const std::string& text) {
  return static_cast<std::size_t>(
      std::ranges::count_if(text, [](unsigned char c) { return (c & 0xc0) != 0x80; }));
}

struct Part {
  std::string text;
  int rank;  ///< the highest goes first where the line is too narrow
};

/// Joins the parts by two spaces, without those that the width has no room for.
std::string fit(std::vector<Part> parts, std::size_t width) {
  std::erase_if(parts, [](const Part& part) { return part.text.empty(); });
  const auto join = [&parts] {
    std::string line;
    for (const Part& part : parts) line += (line.empty() ? "" : "  ") + part.text;
    return line;
  };
  std::string line = join();
  while (parts.size() > 1 && columns(line) > width) {
    parts.erase(std::ranges::max_element(parts, {}, &Part::rank));
    line = join();
  }
  while (columns(line) > width) line.pop_back();
  return line;
}

}  // namespace

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  const long long whole = std::llround(std::min(seconds, 3.6e9));
  const long long hours = whole / 3600;
  const long long minutes = whole / 60 % 60;
  if (hours > 0) return format("%lld:%02lld:%02lld", hours, minutes, whole % 60);
  return format("%lld:%02lld", minutes, whole % 60);
}

std::string format_count(std::uint64_t value) {
  std::string digits = std::to_string(value);
  for (std::size_t place = digits.size(); place > 3;) {
    place -= 3;
    digits.insert(place, 1, ' ');
  }
  return digits;
}

std::string format_rate(double value) {
  if (!std::isfinite(value) || value < 0) return "?";
  if (value > 0 && value < 10) return format("%.1f", value);
  return format_count(static_cast<std::uint64_t>(std::llround(std::min(value, 1e15))));
}

std::string format_learning_rate(double value) { return format("%.3g", value); }

std::string format_epoch(const EpochRecord& record, int epochs) {
  std::string line = epoch_text(record.epoch, epochs);
  line += "  lr " + format_learning_rate(record.learning_rate);
  const auto winner = std::ranges::find(record.candidates, true, &CandidateRecord::winner);
  if (winner != record.candidates.end()) {
    line += record.candidates.size() == 1 && winner->factor == 1
                ? std::string(" (unchanged")
                : " (x" + format_learning_rate(winner->factor) + ", best of " +
                      std::to_string(record.candidates.size());
    const auto diverged = std::ranges::count(record.candidates, true, &CandidateRecord::diverged);
    if (diverged > 0) line += ", " + std::to_string(diverged) + " diverged";
    if (record.retries > 0) {
      line += ", " + std::to_string(record.retries) + (record.retries == 1 ? " retry" : " retries");
    }
    line += ")";
  } else if (record.phase == "warmup") {
    line += " (warm-up)";
  }
  if (record.collapses > 0) {
    line += record.collapses == 1
                ? "  came to nothing, repeated"
                : "  came to nothing, repeated " + std::to_string(record.collapses) + " times";
  }
  line += "  train " + percent(record.train_top1) + "  test " + percent(record.test_top1);
  if (record.images_per_second > 0) line += "  " + format_rate(record.images_per_second) + " img/s";
  return line + "  " + format_duration(record.seconds);
}

ProgressLine::ProgressLine(std::ostream& out, bool terminal, Clock clock, Width width)
    : out_(out),
      terminal_(terminal),
      clock_(clock ? std::move(clock) : Clock(steady_seconds)),
      width_(width ? std::move(width) : Width(stderr_columns)),
      last_drawn_(clock_()) {}

ProgressLine::~ProgressLine() {
  try {
    finish();
  } catch (...) {  // an output that throws must not end the program
  }
}

void ProgressLine::update(const ProgressState& state) {
  constexpr double terminal_interval = 0.1;
  constexpr double plain_interval = 10;
  epochs_ = state.epochs;
  if (!first_) first_ = {state.done, state.elapsed};
  const double now = clock_();
  // The first line on a terminal comes at once; plain ones only where there is a wait to fill.
  const double interval = terminal_ ? (ever_drawn_ ? terminal_interval : 0) : plain_interval;
  if (now - last_drawn_ < interval) return;
  last_drawn_ = now;
  ever_drawn_ = true;

  std::string left;
  if (state.planned > 0) {
    const double share = static_cast<double>(state.done) / static_cast<double>(state.planned);
    left = format("%.0f %%", std::floor(100 * std::clamp(share, 0.0, 1.0)));
  }
  std::string eta;
  if (const auto done = state.done - first_->done; done > 0) {
    const double rest = static_cast<double>(std::max<std::int64_t>(0, state.planned - state.done));
    eta = "ETA " +
          format_duration((state.elapsed - first_->elapsed) / static_cast<double>(done) * rest);
  }
  // A line that fills the last column would wrap.
  const auto room = terminal_ ? static_cast<std::size_t>(std::max(width_() - 1, 1)) : 1000;
  const std::string line =
      fit({{epoch_text(state.epoch, state.epochs), 0},
           {state.phase, 5},
           {left, 2},
           {"lr " + format_learning_rate(state.learning_rate), 3},
           {state.train_top1 ? "train " + percent(*state.train_top1) : "", 4},
           {state.test_top1 ? "test " + percent(*state.test_top1) : "", 6},
           {state.images_per_second > 0 ? format_rate(state.images_per_second) + " img/s" : "", 7},
           {eta, 1}},
          room);
  if (terminal_) {
    const std::size_t wide = columns(line);
    out_ << '\r' << line;
    const std::size_t old = std::min(drawn_columns_, room);
    if (wide < old) out_ << std::string(old - wide, ' ');
    drawn_columns_ = wide;
  } else {
    out_ << line << '\n';
  }
  out_.flush();
}

void ProgressLine::epoch_done(const EpochRecord& record) { message(format_epoch(record, epochs_)); }

void ProgressLine::message(const std::string& line) {
  erase();
  out_ << line << '\n';
  out_.flush();
  last_drawn_ = clock_();
  // On a terminal the next update may draw at once: there is no line to see.
  ever_drawn_ = false;
}

void ProgressLine::finish() {
  erase();
  out_.flush();
}

void ProgressLine::erase() {
  if (drawn_columns_ == 0) return;
  const auto room = static_cast<std::size_t>(std::max(width_() - 1, 1));
  out_ << '\r' << std::string(std::min(drawn_columns_, room), ' ') << '\r';
  drawn_columns_ = 0;
}

}  // namespace stpt
