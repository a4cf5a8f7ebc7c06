#include "stpt/progress.hpp"

#include <algorithm>
#include <limits>
#include <sstream>
#include <string>

#include "tests/catch.hpp"

namespace stpt {
namespace {

EpochRecord chosen_epoch() {
  EpochRecord record;
  record.epoch = 3;
  record.phase = "stpt";
  record.learning_rate = 0.25;
  record.candidates.resize(8);
  record.candidates[2].winner = true;
  record.candidates[2].factor = 2.5;
  record.train_top1 = 0.871;
  record.test_top1 = 0.88;
  record.images_per_second = 3120;
  record.seconds = 28;
  return record;
}

ProgressState some_state() {
  ProgressState state;
  state.epoch = 3;
  state.epochs = 10;
  state.phase = "main-train";
  state.done = 250;
  state.planned = 1000;
  state.images_per_second = 3120;
  state.learning_rate = 0.25;
  state.train_top1 = 0.871;
  state.test_top1 = 0.88;
  state.elapsed = 60;
  return state;
}

/// A line on a terminal or in a file, at a time that the test sets.
struct Screen {
  std::ostringstream out;
  double now = 100;
  int width = 120;
  ProgressLine line;

  explicit Screen(bool terminal)
      : line(
            out, terminal, [this] { return now; }, [this] { return width; }) {}

  /// What has been written since the last call.
  std::string take() {
    std::string text = out.str();
    out.str("");
    return text;
  }
};

TEST_CASE("numbers as people read them", "[progress]") {
  CHECK(format_duration(0) == "0:00");
  CHECK(format_duration(28.4) == "0:28");
  CHECK(format_duration(59.6) == "1:00");
  CHECK(format_duration(3723) == "1:02:03");
  CHECK(format_duration(400000) == "111:06:40");
  CHECK(format_duration(-1) == "?");
  CHECK(format_duration(std::numeric_limits<double>::infinity()) == "?");
  CHECK(format_count(0) == "0");
  CHECK(format_count(7) == "7");
  CHECK(format_count(312) == "312");
  CHECK(format_count(3120) == "3 120");
  CHECK(format_count(1234567) == "1 234 567");
  CHECK(format_rate(0) == "0");
  CHECK(format_rate(7.25) == "7.2");
  CHECK(format_rate(3120.4) == "3 120");
  CHECK(format_rate(std::numeric_limits<double>::infinity()) == "?");
  CHECK(format_learning_rate(0.25) == "0.25");
  CHECK(format_learning_rate(0.1 * 1.17) == "0.117");
  CHECK(format_learning_rate(0.0001) == "0.0001");
  CHECK(format_learning_rate(1e-6) == "1e-06");
}

TEST_CASE("an epoch's line", "[progress]") {
  EpochRecord record = chosen_epoch();
  CHECK(format_epoch(record, 10) ==
        "epoch  3/10  lr 0.25 (x2.5, best of 8)  train 87.1 %  test 88.0 %  3 120 img/s  0:28");
  record.candidates[0].diverged = record.candidates[1].diverged = true;
  record.retries = 1;
  CHECK(format_epoch(record, 10) ==
        "epoch  3/10  lr 0.25 (x2.5, best of 8, 2 diverged, 1 retry)  train 87.1 %  test 88.0 %  "
        "3 120 img/s  0:28");
  record.retries = 2;
  record.collapses = 1;
  CHECK(format_epoch(record, 10) ==
        "epoch  3/10  lr 0.25 (x2.5, best of 8, 2 diverged, 2 retries)  came to nothing, repeated  "
        "train 87.1 %  test 88.0 %  3 120 img/s  0:28");
  record.collapses = 2;
  CHECK_THAT(format_epoch(record, 10),
             Catch::Matchers::Contains("2 retries)  came to nothing, repeated 2 times  train"));
  record.retries = record.collapses = 0;
  record.candidates.resize(1);
  record.candidates[0] = {};
  record.candidates[0].winner = true;
  CHECK(format_epoch(record, 10) ==
        "epoch  3/10  lr 0.25 (unchanged)  train 87.1 %  test 88.0 %  3 120 img/s  0:28");
  record.candidates[0].factor = 2;
  CHECK_THAT(format_epoch(record, 10), Catch::Matchers::Contains(" (x2, best of 1)  train"));
  record.candidates.clear();
  record.phase = "warmup";
  record.images_per_second = 0;
  CHECK(format_epoch(record, 5) == "epoch 3/5  lr 0.25 (warm-up)  train 87.1 %  test 88.0 %  0:28");
  record.phase = "scheduled";
  record.test_top1 = std::numeric_limits<double>::quiet_NaN();
  CHECK(format_epoch(record, 0) == "epoch 3  lr 0.25  train 87.1 %  test n/a  0:28");
}

TEST_CASE("a terminal's line is redrawn in place", "[progress]") {
  Screen screen(true);
  ProgressState state = some_state();
  state.done = 200;
  state.elapsed = 50;
  screen.line.update(state);
  // Nothing is done yet, so the time left is not known.
  CHECK(screen.take() ==
        "\repoch  3/10  main-train  20 %  lr 0.25  train 87.1 %  test 88.0 %  3 120 img/s");

  screen.now += 0.05;
  state = some_state();
  screen.line.update(state);
  CHECK(screen.take().empty());

  screen.now += 0.06;
  screen.line.update(state);  // 50 of the rest's 750 + 50 iterations took 10 s
  CHECK(screen.take() ==
        "\repoch  3/10  main-train  25 %  lr 0.25  train 87.1 %  test 88.0 %  3 120 img/s  "
        "ETA 2:30");

  screen.now += 1;
  state.images_per_second = 0;
  state.test_top1.reset();
  screen.line.update(state);  // shorter, so the old line's rest is covered
  CHECK(screen.take() ==
        "\repoch  3/10  main-train  25 %  lr 0.25  train 87.1 %  ETA 2:30" + std::string(26, ' '));

  screen.line.finish();
  CHECK(screen.take() == "\r" + std::string(62, ' ') + "\r");
  screen.line.finish();
  CHECK(screen.take().empty());
}

TEST_CASE("a narrow terminal gets what matters most, and never a full line", "[progress]") {
  Screen screen(true);
  screen.line.update(some_state());
  for (int width = 1; width <= 120; ++width) {
    screen.width = width;
    screen.now += 1;
    screen.take();
    ProgressState state = some_state();
    state.done = 500;
    screen.line.update(state);
    const std::string text = screen.take();
    CHECK(text.size() - 1 < static_cast<std::size_t>(std::max(width, 2)));
    if (width == 40) CHECK(text.substr(0, 37) == "\repoch  3/10  50 %  lr 0.25  ETA 0:00");
  }
}

TEST_CASE("an epoch's line stands above the one that is redrawn", "[progress]") {
  Screen screen(true);
  ProgressState state;
  state.epoch = 3;
  state.epochs = 10;
  screen.line.update(state);
  CHECK(screen.take() == "\repoch  3/10  lr 0");
  screen.line.epoch_done(chosen_epoch());
  CHECK(screen.take() ==
        "\r" + std::string(17, ' ') + "\r" + format_epoch(chosen_epoch(), 10) + "\n");
  screen.line.update(state);  // at once, whatever the clock says
  CHECK(screen.take() == "\repoch  3/10  lr 0");
}

TEST_CASE("without a terminal there are plain lines now and then", "[progress]") {
  Screen screen(false);
  screen.width = 10;
  ProgressState state = some_state();
  screen.line.update(state);
  screen.now += 9.9;
  screen.line.update(state);
  CHECK(screen.take().empty());
  screen.now += 0.2;
  state.done = 500;
  state.elapsed = 120;
  screen.line.update(state);
  CHECK(screen.take() ==
        "epoch  3/10  main-train  50 %  lr 0.25  train 87.1 %  test 88.0 %  3 120 img/s  "
        "ETA 2:00\n");
  screen.now += 5;
  screen.line.epoch_done(chosen_epoch());
  CHECK(screen.take() == format_epoch(chosen_epoch(), 10) + "\n");
  screen.now += 9;  // counted from the epoch's line
  screen.line.update(state);
  screen.line.finish();
  CHECK(screen.take().empty());
}

TEST_CASE("the line goes with its object", "[progress]") {
  std::ostringstream out;
  {
    ProgressLine line(out, true, {}, [] { return 80; });
    line.update(some_state());
  }
  CHECK(out.str().back() == '\r');
}

}  // namespace
}  // namespace stpt
