#include "stpt/files/report_charts.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <string_view>

#include "stpt/files/report_text.hpp"

namespace stpt::report {
namespace {

/// A coordinate: a tenth of a pixel is finer than the eye.
std::string px(double value) {
  if (!std::isfinite(value)) return "0";
  std::string text = fixed(value, 1);
  if (text.ends_with(".0")) text.resize(text.size() - 2);
  return text;
}

std::string attribute(std::string_view name, double value) {
  return " " + std::string(name) + "=\"" + px(value) + "\"";
}

std::string text_at(double x, double y, std::string_view css, const std::string& words) {
  return "<text class=\"" + std::string(css) + "\"" + attribute("x", x) + attribute("y", y) + ">" +
         words + "</text>";
}

std::string line(double x1, double y1, double x2, double y2, std::string_view css) {
  return "<line class=\"" + std::string(css) + "\"" + attribute("x1", x1) + attribute("y1", y1) +
         attribute("x2", x2) + attribute("y2", y2) + "/>";
}

std::string circle(double x, double y, double r, std::string_view css) {
  return "<circle class=\"" + std::string(css) + "\"" + attribute("cx", x) + attribute("cy", y) +
         attribute("r", r) + "/>";
}

/// Epochs narrower than this, in pixels, have no room for their branches.
constexpr double kBranchRoom = 5;
/// In epochs narrower than this lines are drawn thinner, and dots do not cover them.
constexpr double kDense = 14;

struct Point {
  double x = 0, y = 0;
};

bool finite(const Point& point) { return std::isfinite(point.x) && std::isfinite(point.y); }

/// Path data through the points; where one is not finite the line breaks.
std::string path_data(const std::vector<Point>& points) {
  std::string data;
  bool broken = true;
  for (std::size_t i = 0; i < points.size(); ++i) {
    const Point& point = points[i];
    if (!finite(point)) {
      broken = true;
      continue;
    }
    const bool next = i + 1 < points.size() && finite(points[i + 1]);
    // Within a level stretch no point but its ends is needed.
    if (!broken && next && px(points[i - 1].y) == px(point.y) &&
        px(points[i + 1].y) == px(point.y)) {
      continue;
    }
    data += (broken ? "M" : "L") + px(point.x) + " " + px(point.y);
    if (broken && !next) data += "h0";  // by itself: a dot, as lines' ends are round
    broken = false;
  }
  return data;
}

std::string path(const std::vector<Point>& points, std::string_view css) {
  const std::string data = path_data(points);
  if (data.empty()) return {};
  return "<path class=\"" + std::string(css) + "\" d=\"" + data + "\"/>";
}

/// The points with those closer than `gap` pixels averaged: a long run has thousands.
std::vector<Point> thinned(const std::vector<Point>& points, double gap) {
  std::vector<Point> result;
  for (std::size_t i = 0; i < points.size();) {
    Point sum = points[i];
    std::size_t end = i + 1;
    while (end < points.size() && points[end].x - points[i].x < gap) {
      sum.x += points[end].x;
      sum.y += points[end].y;
      ++end;
    }
    const auto n = static_cast<double>(end - i);
    result.push_back({sum.x / n, sum.y / n});
    i = end;
  }
  return result;
}

/// The points but those within half a pixel of the one before; jumps stay upright.
std::vector<Point> thinned_steps(const std::vector<Point>& points) {
  std::vector<Point> result;
  for (const Point& point : points) {
    if (result.empty() || std::abs(point.x - result.back().x) >= 0.5 ||
        std::abs(point.y - result.back().y) >= 0.5 || !finite(point)) {
      result.push_back(point);
    }
  }
  return result;
}

/// Room on the right, for labels beside the last points.
double gutter(ChartSize size) { return size.narrow ? 12 : 84; }

/// Where things lie: epochs run along x, from the first shown to the end of the last.
class Frame {
 public:
  Frame(const RunRecord& run, ChartSize size, double right)
      : size_(size),
        left_(52),  // 0.0001 has room before it
        right_(size.width - right),
        top_(16),
        bottom_(size.height - 38) {
    first_ = run.epochs.front().epoch - 1;
    last_ = run.epochs.back().epoch;
    if (last_ <= first_) last_ = first_ + 1;
  }

  double left() const { return left_; }
  double right() const { return right_; }
  double top() const { return top_; }
  double bottom() const { return bottom_; }
  double x(double epochs) const { return left_ + (right_ - left_) * (epochs - first_) / span(); }
  double span() const { return last_ - first_; }
  double epoch_width() const { return (right_ - left_) / span(); }

  /// Of a point of an epoch's curves.
  double x(const EpochRecord& epoch, std::int64_t start, std::int64_t iteration) const {
    const double done = static_cast<double>(iteration - start) /
                        static_cast<double>(std::max<std::int64_t>(1, epoch.iterations));
    return x(epoch.epoch - 1 + std::clamp(done, 0.0, 1.0));
  }

  std::string open(const std::string& label) const {
    return "<svg class=\"" + std::string(size_.narrow ? "narrow" : "wide") + "\" viewBox=\"0 0 " +
           px(size_.width) + " " + px(size_.height) + "\" role=\"img\" aria-label=\"" +
           escaped(label) + "\">";
  }

  /// Keeps what is drawn inside the axes. Nested, so that no identifier is needed.
  std::string open_clip() const {
    return "<svg" + attribute("x", left_) + attribute("y", top_ - 6) +
           attribute("width", right_ - left_ + 6) + attribute("height", bottom_ - top_ + 6) +
           " viewBox=\"" + px(left_) + " " + px(top_ - 6) + " " + px(right_ - left_ + 6) + " " +
           px(bottom_ - top_ + 6) + "\" overflow=\"hidden\">";
  }

  /// Whole epochs; `centred` where a mark stands for an epoch, not for its end.
  std::string epoch_axis(bool centred) const {
    const double room = size_.narrow ? 34 : 44;
    int step = 1;
    for (const int candidate : {1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, 5000}) {
      step = candidate;
      if (candidate * epoch_width() >= room) break;
    }
    std::string svg = line(left_, bottom_, right_, bottom_, "axis");
    const int from = static_cast<int>(first_) + (centred ? 1 : 0);
    for (int epoch = from; epoch <= static_cast<int>(last_); ++epoch) {
      const bool edge = centred && epoch == 1 && (step - 1) * epoch_width() >= 0.7 * room;
      if (epoch % step != 0 && !edge) continue;
      const double at = x(centred ? epoch - 0.5 : epoch);
      if (!centred) svg += line(at, bottom_, at, bottom_ + 4, "axis");
      svg += text_at(at, bottom_ + 17, "tick mid", std::to_string(epoch));
    }
    return svg + text_at((left_ + right_) / 2, bottom_ + 33, "tick mid name", "epoch");
  }

 private:
  ChartSize size_;
  double left_, right_, top_, bottom_;
  double first_ = 0, last_ = 1;
};

std::vector<std::int64_t> epoch_starts(const RunRecord& run) {
  std::vector<std::int64_t> starts;
  // A record whose first epochs are gone still has a place for the rest.
  std::int64_t at = std::int64_t{run.epochs.front().epoch - 1} * run.iterations_per_epoch;
  for (const EpochRecord& epoch : run.epochs) {
    starts.push_back(at);
    at += epoch.iterations;
  }
  return starts;
}

const CandidateRecord* winner_of(const EpochRecord& epoch) {
  const auto found = std::find_if(epoch.candidates.begin(), epoch.candidates.end(),
                                  [](const CandidateRecord& c) { return c.winner; });
  return found == epoch.candidates.end() ? nullptr : &*found;
}

/// The surviving model's points of an epoch. Where the winner's progress was discarded, its branch
/// overlaps the Main-train line and is none of it.
std::vector<CurvePoint> surviving_points(const EpochRecord& epoch, std::int64_t start) {
  std::vector<CurvePoint> points;
  if (const CandidateRecord* winner = winner_of(epoch)) {
    for (const CurvePoint& point : winner->curve) {
      if (epoch.curve.empty() || point.iteration < epoch.curve.front().iteration) {
        points.push_back(point);
      }
    }
  }
  points.insert(points.end(), epoch.curve.begin(), epoch.curve.end());
  if (points.empty()) {
    points.push_back(
        {start + epoch.iterations, epoch.learning_rate, epoch.train_loss, epoch.train_top1});
  }
  return points;
}

const char* direction(double factor) {
  if (std::abs(factor - 1) < 1e-9) return "same";
  return factor > 1 ? "up" : "down";
}

struct Range {
  double low = 0, high = 1, step = 0.2;
};

/// From the lowest accuracy worth the room to the highest: the climb from chance, or a stray, must
/// not flatten the rest. A short run shows its first epoch from the first choice on.
Range accuracy_range(const RunRecord& run) {
  std::vector<double> trained, tested;
  const auto add = [](std::vector<double>& to, double value) {
    if (std::isfinite(value)) to.push_back(value);
  };
  const std::vector<std::int64_t> starts = epoch_starts(run);
  for (std::size_t i = 0; i < run.epochs.size(); ++i) {
    add(tested, run.epochs[i].test_top1);
    const bool has_branches = !run.epochs[i].candidates.empty() && !run.epochs[i].curve.empty();
    for (const CurvePoint& point :
         has_branches ? run.epochs[i].curve : surviving_points(run.epochs[i], starts[i])) {
      add(trained, point.top1);
    }
  }
  if (tested.empty() && trained.empty()) return {};
  double low = 1;
  double high = 0;
  if (!trained.empty()) {
    std::sort(trained.begin(), trained.end());
    high = trained[trained.size() - 1 - trained.size() / 200];
    const bool chosen = !run.epochs.front().candidates.empty();
    const std::size_t skip = run.epochs.size() > 16         ? trained.size() / 12
                             : chosen || trained.size() < 8 ? 0
                                                            : trained.size() / 20;
    low = std::min(low, trained[skip]);
  }
  std::sort(tested.begin(), tested.end());
  const std::size_t skip = tested.size() < 4 ? 0 : std::max<std::size_t>(1, tested.size() / 20);
  if (!tested.empty()) {
    low = std::min(low, tested[skip]);
    high = std::max(high, tested.back());
    if (tested.front() > low - (high - low) / 2) low = std::min(low, tested.front());
  }

  const double span = std::max(high - low, 0.02);
  Range range;
  for (const double step : {0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2}) {
    range.step = step;
    if (span / step <= 6) break;
  }
  range.low = std::max(0.0, std::floor(low / range.step + 1e-9) * range.step);
  range.high = std::min(1.0, high + 0.04 * (high - range.low));
  if (range.high - range.low < range.step) range.high = std::min(1.0, range.low + range.step);
  if (range.high - range.low < range.step) range.low = range.high - range.step;
  return range;
}

/// A line leaves through the bottom, but a test's dot would just be gone: an arrow stands for it,
/// and the lowest is named.
std::string tests_below(const RunRecord& run, const Frame& frame, double low) {
  const EpochRecord* lowest = nullptr;
  std::string svg;
  for (const EpochRecord& epoch : run.epochs) {
    if (!(epoch.test_top1 < low)) continue;
    const double x = frame.x(epoch.epoch);
    const double y = frame.bottom() - 3;
    svg += "<path class=\"below\" d=\"M" + px(x - 4) + " " + px(y - 7) + "L" + px(x + 4) + " " +
           px(y - 7) + "L" + px(x) + " " + px(y) + "\"/>";
    if (lowest == nullptr || epoch.test_top1 < lowest->test_top1) lowest = &epoch;
  }
  if (lowest == nullptr) return svg;
  const double x = frame.x(lowest->epoch);
  const bool on_the_left = x < (frame.left() + frame.right()) / 2;
  return svg + text_at(x + (on_the_left ? 8 : -8), frame.bottom() - 4,
                       on_the_left ? "label halo" : "label halo end",
                       "test " + percent(lowest->test_top1));
}

/// What an epoch did, for the tip shown over it.
std::string epoch_tip(const EpochRecord& epoch) {
  std::string tip = "Epoch " + std::to_string(epoch.epoch) + "\nTest " + percent(epoch.test_top1) +
                    ", training " + percent(epoch.train_top1) + "\nLearning rate " +
                    significant(epoch.learning_rate) + " at its end";
  if (const CandidateRecord* winner = winner_of(epoch)) {
    tip += epoch.candidates.size() == 1 ? "\nNo choice: "
                                        : "\nChose ×" + significant(winner->factor) + " of " +
                                              std::to_string(epoch.candidates.size()) + ": ";
    tip += significant(winner->learning_rate);
  }
  return tip;
}

std::string tips(const RunRecord& run, const Frame& frame) {
  std::string svg;
  for (const EpochRecord& epoch : run.epochs) {
    const double from = frame.x(epoch.epoch - 1);
    svg += "<rect class=\"tip\"" + attribute("x", from) + attribute("y", frame.top()) +
           attribute("width", frame.epoch_width()) +
           attribute("height", frame.bottom() - frame.top()) + "><title>" + epoch_tip(epoch) +
           "</title></rect>";
  }
  return svg;
}

/// Names the stretches of epochs that used different candidates, if there is more than one.
std::string stretches(const RunRecord& run, const Frame& frame) {
  struct Stretch {
    std::string name;
    double from = 0, to = 0;
  };
  std::vector<Stretch> found;
  for (const EpochRecord& epoch : run.epochs) {
    std::string name = !epoch.candidate_set.empty() ? epoch.candidate_set
                       : epoch.phase == "warmup"    ? "warm-up"
                       : epoch.phase == "scheduled" ? "no choice"
                                                    : epoch.phase;
    const double from = epoch.epoch - 1;
    const double to = epoch.epoch;
    if (found.empty() || found.back().name != name) {
      found.push_back({std::move(name), from, to});
    }
    found.back().to = to;
  }
  std::string svg;
  if (found.size() < 2) return svg;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double from = frame.x(found[i].from);
    const double room = frame.x(found[i].to) - from;
    if (i > 0) svg += line(from, frame.top() - 12, from, frame.bottom(), "divide");
    // About 6 pixels a letter at this size.
    if (6.2 * static_cast<double>(found[i].name.size()) + 8 <= room) {
      svg += text_at(from + 5, frame.top() - 3, "tick stretch", escaped(found[i].name));
    }
  }
  return svg;
}

/// Of a logarithmic axis. Annealing goes to 0, which none shows: the axis follows what was chosen
/// and tried, and the tail runs out at the bottom. But what more than a fiftieth of training went
/// with is no tail: so low a rate is a decay's.
std::pair<double, double> rate_range(const RunRecord& run,
                                     const std::vector<std::int64_t>& starts) {
  double low = 0, high = 0;
  std::vector<double> used;
  const auto extend = [](double& least, double& most, double value) {
    if (!(value > 0) || !std::isfinite(value)) return;
    least = least > 0 ? std::min(least, value) : value;
    most = std::max(most, value);
  };
  extend(low, high, run.initial_learning_rate);
  for (std::size_t i = 0; i < run.epochs.size(); ++i) {
    const EpochRecord& epoch = run.epochs[i];
    extend(low, high, epoch.base_learning_rate);
    for (const CandidateRecord& candidate : epoch.candidates) {
      extend(low, high, candidate.learning_rate);
    }
    for (const CurvePoint& point : surviving_points(epoch, starts[i])) {
      if (!(point.learning_rate > 0) || !std::isfinite(point.learning_rate)) continue;
      used.push_back(point.learning_rate);
    }
  }
  std::sort(used.begin(), used.end());
  if (!used.empty()) high = std::max(high, used.back());
  if (!(low > 0)) low = used.empty() ? 0.01 : used.front();
  if (!(high > 0)) high = low;
  if (!used.empty()) {
    const double kept = std::min({low / 8, high / 300, used[used.size() / 50]});
    low = std::min(low, std::max(used.front(), kept));
  }
  if (high / low < 1.5) {
    high *= 2;
    low /= 2;
  }
  const double room = std::pow(high / low, 0.04);
  return {low / room, high * room};
}

/// Beside the ends of the lines of test and training accuracy; `y` places a share.
template <class Place>
std::string accuracy_labels(const RunRecord& run, const Frame& frame,
                            const std::vector<std::int64_t>& starts, const Place& y) {
  const EpochRecord& last = run.epochs.back();
  const auto place = [&](double share) {
    return std::clamp(std::isfinite(share) ? y(share) : frame.bottom(), frame.top(),
                      frame.bottom());
  };
  double test = place(last.test_top1);
  // The line's end, not the epoch's mean: it is the line that the label stands beside.
  const double trained = surviving_points(last, starts.back()).back().top1;
  double train = place(trained);
  constexpr double apart = 34;  // two lines each
  if (std::abs(test - train) < apart) {
    const double middle =
        std::clamp((test + train) / 2, frame.top() + apart / 2, frame.bottom() - apart / 2);
    const bool test_above = test <= train;
    test = middle + (test_above ? -apart / 2 : apart / 2);
    train = middle + (test_above ? apart / 2 : -apart / 2);
  }
  const double x = frame.right() + 12;
  return text_at(x, test - 1, "label strong", percent(last.test_top1, 2)) +
         text_at(x, test + 13, "label", "test") +
         text_at(x, train - 1, "label train-label", percent(trained, 2)) +
         text_at(x, train + 13, "label", "training");
}

}  // namespace

std::vector<double> linear_ticks(double low, double high, int most) {
  std::vector<double> ticks;
  if (!std::isfinite(low) || !std::isfinite(high) || high <= low || most < 1) return ticks;
  const double raw = (high - low) / most;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  double step = 10 * power;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= raw * (1 - 1e-9)) {
      step = factor * power;
      break;
    }
  }
  for (double i = std::ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; ++i) {
    ticks.push_back(i * step);
  }
  return ticks;
}

std::vector<double> log_ticks(double low, double high, int most) {
  std::vector<double> ticks;
  if (!(low > 0) || !std::isfinite(high) || high < low) return ticks;
  const int first = static_cast<int>(std::floor(std::log10(low) + 1e-9));
  const int last = static_cast<int>(std::floor(std::log10(high) + 1e-9));
  const auto collect = [&](std::vector<double> mantissas, int stride) {
    ticks.clear();
    for (int exponent = first; exponent <= last; ++exponent) {
      if (((exponent % stride) + stride) % stride != 0) continue;
      for (const double mantissa : mantissas) {
        const double tick = mantissa * std::pow(10.0, exponent);
        if (tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9)) ticks.push_back(tick);
      }
    }
    return static_cast<int>(ticks.size()) <= most;
  };
  if (collect({1, 2, 5}, 1) || collect({1, 3}, 1)) return ticks;
  for (int stride = 1; stride < 400 && !collect({1}, stride); ++stride) {
  }
  return ticks;
}

std::string last_moment(const RunRecord& run) {
  if (run.status == "complete") return "at the end";
  return "epoch " + std::to_string(run.epochs.back().epoch);
}

bool has_room_for_branches(const RunRecord& run, ChartSize size) {
  return !run.epochs.empty() && Frame(run, size, gutter(size)).epoch_width() >= kBranchRoom;
}

std::string accuracy_chart(const RunRecord& run, ChartSize size) {
  if (run.epochs.empty()) return {};
  const Frame frame(run, size, gutter(size));
  const Range range = accuracy_range(run);
  const auto y = [&](double share) {
    return frame.bottom() -
           (frame.bottom() - frame.top()) * (share - range.low) / (range.high - range.low);
  };

  std::string svg = frame.open("Accuracy against epoch");
  const int steps = static_cast<int>((range.high - range.low) / range.step + 1e-6);
  for (int i = 0; i <= steps; ++i) {
    const double share = range.low + i * range.step;
    if (i > 0) svg += line(frame.left(), y(share), frame.right(), y(share), "grid");
    svg += text_at(frame.left() - 8, y(share) + 4, "tick end",
                   percent(share, range.step < 0.01 ? 1 : 0));
  }
  svg += frame.epoch_axis(false);

  const std::vector<std::int64_t> starts = epoch_starts(run);
  std::vector<Point> survivor;
  std::string losers, winners;
  for (std::size_t i = 0; i < run.epochs.size(); ++i) {
    const EpochRecord& epoch = run.epochs[i];
    const std::optional<Point> origin =
        survivor.empty() ? std::nullopt
                         : std::optional(Point{frame.x(epoch.epoch - 1), survivor.back().y});
    for (const CandidateRecord& candidate : epoch.candidates) {
      if (frame.epoch_width() < kBranchRoom) break;
      std::vector<Point> branch;
      if (origin) branch.push_back(*origin);
      for (const CurvePoint& point : candidate.curve) {
        branch.push_back({frame.x(epoch, starts[i], point.iteration), y(point.top1)});
      }
      if (branch.size() > 2) {
        // The ends stay where they are: in a long run they are all of the branch there is room for.
        const Point first = branch.front(), last = branch.back();
        branch = thinned({branch.begin() + 1, branch.end() - 1}, 0.8);
        branch.insert(branch.begin(), first);
        branch.push_back(last);
      }
      (candidate.winner ? winners : losers) +=
          path(branch, std::string("branch ") + direction(candidate.factor) +
                           (candidate.winner ? " won" : ""));
    }
    for (const CurvePoint& point : surviving_points(epoch, starts[i])) {
      survivor.push_back({frame.x(epoch, starts[i], point.iteration), y(point.top1)});
    }
  }
  const bool dense = frame.epoch_width() < kDense;
  svg += frame.open_clip();
  svg += std::string("<g class=\"branches") + (dense ? " dense" : "") + "\">" + losers + "</g>";
  svg += path(thinned(survivor, 1.2), dense ? "train dense" : "train");
  svg += std::string("<g class=\"branches") + (dense ? " dense" : "") + "\">" + winners + "</g>";

  std::vector<Point> tests;
  for (const EpochRecord& epoch : run.epochs) {
    tests.push_back({frame.x(epoch.epoch), y(epoch.test_top1)});
  }
  svg += path(tests, "test-line");
  const double radius = std::clamp(frame.epoch_width() / 5, 1.4, 4.0);
  for (const Point& point : tests) {
    if (std::isfinite(point.y)) svg += circle(point.x, point.y, radius, "test");
  }
  svg += "</svg>" + tests_below(run, frame, range.low);

  if (!size.narrow) svg += accuracy_labels(run, frame, starts, y);
  return svg + tips(run, frame) + "</svg>";
}

std::string learning_rate_chart(const RunRecord& run, ChartSize size) {
  if (run.epochs.empty()) return {};
  const Frame frame(run, size, gutter(size));
  const std::vector<std::int64_t> starts = epoch_starts(run);

  const auto [low, high] = rate_range(run, starts);
  const double log_low = std::log(low);
  const double log_span = std::log(high) - log_low;
  const auto y = [&](double rate) {
    // What is 0, or below the axis, leaves through its bottom.
    const double position = rate > 0 ? (std::log(rate) - log_low) / log_span : -0.1;
    return frame.bottom() - (frame.bottom() - frame.top()) * std::max(position, -0.1);
  };

  std::string svg = frame.open("Learning rate against epoch, on a logarithmic axis");
  for (const double tick : log_ticks(low, high, size.narrow ? 7 : 10)) {
    svg += line(frame.left(), y(tick), frame.right(), y(tick), "grid");
    svg += text_at(frame.left() - 8, y(tick) + 4, "tick end", significant(tick));
  }
  svg += frame.epoch_axis(false);

  svg += stretches(run, frame);
  std::vector<Point> effective;
  std::string tried, chosen;
  const double radius = std::clamp(frame.epoch_width() / 8, 1.2, 3.2);
  for (std::size_t i = 0; i < run.epochs.size(); ++i) {
    const EpochRecord& epoch = run.epochs[i];
    const std::vector<CurvePoint> points = surviving_points(epoch, starts[i]);
    const double before = i > 0 ? run.epochs[i - 1].learning_rate : 0;
    const double now = points.front().learning_rate;
    // A schedule glides from epoch to epoch; a choice, or a decay, is a jump at the epoch's start.
    const bool glides = epoch.candidates.empty() && now > before / 1.4 && now < before * 1.4;
    if (!glides) effective.push_back({frame.x(epoch.epoch - 1), y(now)});
    for (const CurvePoint& point : points) {
      effective.push_back({frame.x(epoch, starts[i], point.iteration), y(point.learning_rate)});
    }
    effective.push_back({frame.x(epoch.epoch), y(epoch.learning_rate)});

    const double pretrain = run.alpha > 0 ? static_cast<double>(run.alpha) : 0;
    const double at = frame.x(
        epoch.epoch - 1 +
        std::min(1.0, pretrain / static_cast<double>(std::max<std::int64_t>(1, epoch.iterations))));
    for (const CandidateRecord& candidate : epoch.candidates) {
      if (!(candidate.learning_rate > 0) || !std::isfinite(candidate.learning_rate)) continue;
      const double level = y(candidate.learning_rate);
      if (candidate.winner) {
        if (epoch.candidates.size() == 1) continue;  // there was no choice
        chosen +=
            circle(at, level, radius + 0.8, std::string("chosen ") + direction(candidate.factor));
      } else if (candidate.diverged) {
        const double arm = radius;
        tried += "<path class=\"diverged-mark\" d=\"M" + px(at - arm) + " " + px(level - arm) +
                 "L" + px(at + arm) + " " + px(level + arm) + "M" + px(at - arm) + " " +
                 px(level + arm) + "L" + px(at + arm) + " " + px(level - arm) + "\"/>";
      } else {
        tried += circle(at, level, radius, std::string("tried ") + direction(candidate.factor));
      }
    }
  }
  const std::string rate = path(thinned_steps(effective), "rate");
  svg += frame.open_clip() + tried +
         (frame.epoch_width() < kDense ? chosen + rate : rate + chosen) + "</svg>";
  if (!size.narrow) {
    const EpochRecord& last = run.epochs.back();
    const double at = std::clamp(effective.back().y, frame.top() + 4, frame.bottom() - 16);
    const bool off = effective.back().y > frame.bottom();
    svg += text_at(frame.right() + 12, at, "label strong",
                   significant(last.learning_rate, 2) + (off ? " ↓" : ""));
    svg += text_at(frame.right() + 12, at + 14, "label", last_moment(run));
  }
  return svg + tips(run, frame) + "</svg>";
}

std::string epoch_bars(const RunRecord& run, ChartSize size, const std::vector<double>& values,
                       std::string (*text)(double), const std::string& name) {
  if (run.epochs.empty()) return {};
  const Frame frame(run, size, 12);
  double high = 0;
  for (const double value : values) {
    if (std::isfinite(value)) high = std::max(high, value);
  }
  if (!(high > 0)) high = 1;
  high *= 1.04;
  const auto y = [&](double value) {
    return frame.bottom() - (frame.bottom() - frame.top()) * value / high;
  };
  std::string svg = frame.open(name + " of each epoch");
  for (const double tick : linear_ticks(0, high, 4)) {
    if (tick > 0) svg += line(frame.left(), y(tick), frame.right(), y(tick), "grid");
    svg += text_at(frame.left() - 8, y(tick) + 4, "tick end", tick > 0 ? text(tick) : "0");
  }
  const double width = std::min(0.72 * frame.epoch_width(), 46.0);
  for (std::size_t i = 0; i < run.epochs.size() && i < values.size(); ++i) {
    if (!std::isfinite(values[i]) || values[i] < 0) continue;
    const double middle = frame.x(run.epochs[i].epoch - 0.5);
    svg += "<rect class=\"bar\"" + attribute("x", middle - width / 2) +
           attribute("y", y(values[i])) + attribute("width", std::max(0.6, width)) +
           attribute("height", frame.bottom() - y(values[i])) + "><title>Epoch " +
           std::to_string(run.epochs[i].epoch) + ": " + text(values[i]) + "</title></rect>";
  }
  svg += frame.epoch_axis(true);
  return svg + "</svg>";
}

}  // namespace stpt::report
