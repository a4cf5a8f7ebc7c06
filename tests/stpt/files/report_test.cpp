#include "stpt/files/report.hpp"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "stpt/files/record_json.hpp"
#include "stpt/files/report_charts.hpp"
#include "stpt/files/report_text.hpp"
#include "tests/catch.hpp"

namespace {

using namespace stpt;

bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

std::size_t times(std::string_view text, std::string_view part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string_view::npos;
       at = text.find(part, at + part.size())) {
    ++count;
  }
  return count;
}

/// Every element closed in order, every attribute quoted and a drawing's all numbers; what is
/// wrong, or nothing.
std::string fault(std::string_view html) {
  std::vector<std::string> open;
  std::size_t at = 0;
  if (!html.starts_with("<!DOCTYPE html>")) return "no doctype";
  at = html.find('>') + 1;
  while ((at = html.find('<', at)) != std::string_view::npos) {
    const bool closing = html[at + 1] == '/';
    std::size_t i = at + (closing ? 2 : 1);
    std::string name;
    while (i < html.size() && std::isalnum(static_cast<unsigned char>(html[i])) != 0) {
      name += html[i++];
    }
    if (name.empty()) return "stray <: " + std::string(html.substr(at, 40));
    bool self_closed = false;
    while (i < html.size() && html[i] != '>') {
      if (html[i] == '/') {
        self_closed = true;
        ++i;
        continue;
      }
      if (html[i] == ' ' || html[i] == '\n') {
        ++i;
        continue;
      }
      std::string key;
      while (i < html.size() &&
             (std::isalnum(static_cast<unsigned char>(html[i])) != 0 || html[i] == '-')) {
        key += html[i++];
      }
      if (key.empty() || html.substr(i, 2) != "=\"") {
        return "attribute of " + name + ": " + std::string(html.substr(at, 60));
      }
      const std::size_t end = html.find('"', i + 2);
      const std::string_view value = html.substr(i + 2, end - i - 2);
      if (value.find('<') != std::string_view::npos) return "< in an attribute";
      for (const char* number :
           {"x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "d", "viewBox", "height"}) {
        if (key == number &&
            (value.empty() || value.find_first_not_of("0123456789.- MLh") != value.npos)) {
          return key + " of " + name + " is " + std::string(value);
        }
      }
      if (key == "width" && value.find_first_not_of("0123456789.") != value.npos) {
        return "width of " + name + " is " + std::string(value);
      }
      if (key == "style" && value.find_first_not_of("width:0123456789.%") != value.npos) {
        return "style of " + name + " is " + std::string(value);
      }
      i = end + 1;
    }
    at = i + 1;
    if (closing) {
      if (open.empty() || open.back() != name) return "</" + name + "> closes nothing";
      open.pop_back();
      // br and meta are never closed in HTML.
    } else if (!self_closed && name != "meta" && name != "br") {
      open.push_back(name);
      if (name == "style") at = html.find("</style>", at);
    }
  }
  return open.empty() ? "" : "<" + open.back() + "> is not closed";
}

void check_sound(const std::string& html) {
  const std::string wrong = fault(html);
  CHECK(wrong == "");
  for (const char* forbidden : {"<script", "http://", "https://", "url(", "@import", "<img", "nan%",
                                ">nan", ">inf", ">-nan", "NaN", "Infinity"}) {
    INFO(forbidden);
    CHECK_FALSE(has(html, forbidden));
  }
}

EpochRecord epoch_of(int number, int candidates, int winner, int alpha, int iterations) {
  EpochRecord epoch;
  epoch.epoch = number;
  epoch.phase = candidates > 0 ? "stpt" : "scheduled";
  epoch.candidate_set = candidates > 0 ? "narrow" : "";
  epoch.base_learning_rate = 0.1;
  epoch.learning_rate = 0.1;
  const std::int64_t start = std::int64_t{number - 1} * iterations;
  const double level = 1 - 1 / (1.0 + number);
  for (int k = 0; k < candidates; ++k) {
    CandidateRecord candidate;
    candidate.factor = 2.0 - 0.25 * k;
    candidate.learning_rate = 0.1 * candidate.factor;
    candidate.score_top1 = level - 0.01 * std::abs(k - winner);
    candidate.score_loss = 1;
    candidate.winner = k == winner;
    for (int i = 1; i <= 3; ++i) {
      candidate.curve.push_back(
          {start + i * alpha / 3, candidate.learning_rate, 1, candidate.score_top1});
    }
    epoch.candidates.push_back(candidate);
  }
  for (int i = 1; i <= 10; ++i) {
    epoch.curve.push_back(
        {start + alpha + i * (iterations - alpha) / 10, 0.1, 1, level + 0.001 * i});
  }
  epoch.choice_reason = candidates > 0 ? "highest accuracy" : "";
  epoch.train_top1 = level;
  epoch.test_top1 = level - 0.01;
  epoch.iterations = iterations;
  epoch.iterations_discarded = candidates > 0 ? std::int64_t{candidates - 1} * alpha : 0;
  epoch.samples_winner = 32 * epoch.iterations;
  epoch.samples_discarded = 32 * epoch.iterations_discarded;
  epoch.seconds = 10;
  epoch.seconds_pretrain = candidates > 0 ? 2 : 0;
  epoch.seconds_score = candidates > 0 ? 1 : 0;
  epoch.seconds_choose = candidates > 0 ? 0.125 : 0;
  epoch.seconds_main = 6;
  epoch.seconds_test = 0.5;
  epoch.images_per_second = 1000;
  epoch.memory_bytes = 400000000;
  return epoch;
}

RunRecord run_of(int epochs, int candidates) {
  RunRecord run;
  run.name = "demo";
  run.version = "1.0";
  run.model = "resnet8";
  run.dataset = "Fashion-MNIST";
  run.device = "2 cores";
  run.started = "2025-11-23T18:53:07Z";
  run.policy = candidates > 0 ? "stpt" : "fixed";
  run.optimizer = "adamw";
  run.workers = 8;
  run.batch_per_worker = 4;
  run.iterations_per_epoch = 50;
  run.alpha = 10;
  run.epochs_planned = epochs;
  run.initial_learning_rate = 0.1;
  run.status = "complete";
  run.wall_seconds = 10.0 * epochs + 3;
  for (int number = 1; number <= epochs; ++number) {
    run.epochs.push_back(epoch_of(number, candidates, 1, 10, 50));
  }
  return run;
}

}  // namespace

TEST_CASE("the report is well formed for runs of every kind", "[report]") {
  for (const int epochs : {0, 1, 2, 10, 40, 200}) {
    for (const int candidates : {0, 1, 8}) {
      INFO(epochs << " epochs, " << candidates << " candidates");
      check_sound(render_report(run_of(epochs, candidates)));
    }
  }
  check_sound(render_report(RunRecord{}));
}

TEST_CASE("the report shows what the run did", "[report]") {
  const std::string html = render_report(run_of(3, 4));
  CHECK(has(html, "resnet8"));
  CHECK(has(html, "Fashion-MNIST"));
  CHECK(has(html, "23 November 2025, 18:53 UTC"));
  CHECK(has(html, "74.00\u202f%"));
  CHECK(has(html, "Learning rate found"));
  CHECK(has(html, ">0.175<"));  // 0.1 × 1.75
  CHECK(has(html, "highest accuracy"));
  // A winner a row, marked; and a branch for every candidate, all of them higher, in both widths.
  CHECK(times(html, "candidate won\" title") == 3);
  CHECK(times(html, "\"branch up won\" d=\"M") == 2 * 3);
  CHECK(times(html, "\"branch up\" d=\"M") == 2 * 3 * 3 + 1);  // and the legend's
}

TEST_CASE("a baseline's report speaks of no candidates but of what it did", "[report]") {
  const std::string html = render_report(run_of(5, 0));
  CHECK_FALSE(has(html, "Every choice"));
  CHECK_FALSE(has(html, "Pre-train"));
  CHECK_FALSE(has(html, "losers, discarded"));
  CHECK(has(html, "nothing was discarded"));
  CHECK(has(html, "fixed learning rate"));
  CHECK(has(html, "Every epoch"));
}

TEST_CASE("the report of several ranks names them and what they sent", "[report]") {
  RunRecord run = run_of(2, 3);
  CHECK_FALSE(has(render_report(run), "<h2>Ranks</h2>"));
  run.ranks = {{"node1", "64 cores"}, {"node<2>", "32 cores"}};
  for (EpochRecord& epoch : run.epochs) {
    epoch.rank_count = 2;
    epoch.steps_main = 10;
    epoch.bytes_sent = 40'000'000;
    epoch.messages_sent = 400;
    epoch.seconds_main = 2;
    epoch.seconds_busy = 1.5;
  }
  run.epochs.push_back(run.epochs.back());  // by itself, before it had two ranks
  run.epochs.back().rank_count = 1;
  run.epochs.back().bytes_sent = 0;
  const std::string html = render_report(run);
  CHECK(fault(html) == "");
  for (const char* part : {"4.0\u00a0MB in 40 messages, 2.0\u00a0MB by each rank", "150\u00a0ms",
                           "50\u00a0ms", "node1: 64 cores", "node&lt;2&gt;: 32 cores"}) {
    INFO(part);
    CHECK(has(html, part));
  }
}

TEST_CASE("the axis of learning rates holds those of a decay, not an anneal's end", "[report]") {
  RunRecord run = run_of(20, 0);
  const auto set_rate = [&](const std::function<double(double)>& rate_at) {
    for (EpochRecord& epoch : run.epochs) {
      for (CurvePoint& point : epoch.curve)
        point.learning_rate = rate_at(static_cast<double>(point.iteration) / 50);
      epoch.learning_rate = epoch.curve.back().learning_rate;
    }
    return report::learning_rate_chart(run, {976, 320, false});
  };
  run.initial_learning_rate = 0.01;
  for (EpochRecord& epoch : run.epochs) epoch.base_learning_rate = 0.01;
  // The arrow says that the line has left the axis.
  const std::string step = set_rate(
      [](double epochs) { return 0.01 * std::pow(0.1, std::floor((std::ceil(epochs) - 1) / 5)); });
  CHECK(has(step, "1×10⁻⁵"));
  CHECK_FALSE(has(step, "↓"));
  const std::string anneal = set_rate([](double epochs) { return 0.01 * (20.0001 - epochs) / 20; });
  CHECK(has(anneal, "↓"));
  CHECK_FALSE(has(anneal, ">1×10⁻⁵<"));
}

TEST_CASE("marks of choices stay out of the way of the learning rate in use", "[report]") {
  const auto chart = [](int epochs, int candidates) {
    return report::learning_rate_chart(run_of(epochs, candidates), {976, 320, false});
  };
  CHECK(times(chart(10, 4), "\"chosen up\"") == 10);
  CHECK(chart(10, 4).find("\"rate\"") < chart(10, 4).find("\"chosen"));
  // Of many narrow epochs marks would cover the line; and one candidate is no choice.
  CHECK(chart(200, 4).find("\"rate\"") > chart(200, 4).rfind("\"chosen"));
  RunRecord run = run_of(10, 1);
  for (EpochRecord& epoch : run.epochs) epoch.candidates.front().winner = true;
  CHECK(times(report::learning_rate_chart(run, {976, 320, false}), "chosen") == 0);
  CHECK_FALSE(has(render_report(run), "chosen: higher"));
  CHECK(has(render_report(run_of(10, 4)), "chosen: higher"));
}

TEST_CASE("a training of one iteration is a dot", "[report]") {
  RunRecord run = run_of(1, 0);
  run.epochs[0].curve.resize(1);
  CHECK(has(report::accuracy_chart(run, {976, 320, false}), "h0\""));
}

TEST_CASE("tests below the axis of accuracies are pointed at", "[report]") {
  RunRecord run = run_of(12, 0);
  for (EpochRecord& epoch : run.epochs) {
    epoch.test_top1 = 0.9 + 0.005 * epoch.epoch;
    for (CurvePoint& point : epoch.curve) point.top1 = 0.95;
  }
  for (const bool narrow : {false, true}) {
    const report::ChartSize size{narrow ? 361.0 : 976.0, 300, narrow};
    run.epochs[0].test_top1 = 0.9;
    CHECK_FALSE(has(report::accuracy_chart(run, size), "\"below\""));
    run.epochs[0].test_top1 = 0.24;
    const std::string chart = report::accuracy_chart(run, size);
    CHECK(times(chart, "class=\"below\"") == 1);
    CHECK(has(chart, ">test 24.00\u202f%</text>"));
  }
}

TEST_CASE("the ticks of narrow charts have room for their numbers", "[report]") {
  RunRecord run = run_of(3, 2);
  for (EpochRecord& epoch : run.epochs) epoch.candidates[0].learning_rate = 1e-4;
  const std::string chart = report::learning_rate_chart(run, {361, 290, true});
  const std::string_view before = "class=\"tick end\" x=\"";
  const std::size_t number = chart.find(">0.0001</text>");
  REQUIRE(number != std::string::npos);
  const std::size_t at = chart.rfind(before, number) + before.size();
  CHECK(std::stod(chart.substr(at)) >= 41);  // six letters of 12 pixels' size
}

TEST_CASE("the report of a run that goes on shows itself anew", "[report]") {
  RunRecord run = run_of(2, 3);
  for (const char* status : {"running", "complete", "stopped", "failed"}) {
    run.status = status;
    const std::string html = render_report(run);
    check_sound(html);
    CHECK(has(html, "http-equiv=\"refresh\"") == (run.status == "running"));
    CHECK(has(html, ">at the end<") == (run.status == "complete"));
    CHECK(has(html, ">epoch 2</text>") == (run.status != "complete"));
  }

  run.status = "running";
  run.epochs.clear();
  run.wall_seconds = 0;
  const std::string html = render_report(run);
  check_sound(html);
  CHECK(has(html, "The first epoch is under way"));
  CHECK(has(html, "0 of 2"));
  CHECK(has(html, "0.1<small>at the start"));
  CHECK_FALSE(has(html, "<dd>–"));
}

TEST_CASE("a failed run's report says what failed", "[report]") {
  RunRecord run = run_of(2, 4);
  run.status = "failed";
  run.failure = "conv2d: <no> \"memory\" & more";
  const std::string html = render_report(run);
  check_sound(html);
  CHECK(has(html, "The run failed"));
  CHECK(has(html, "after epoch 2"));
  CHECK(has(html, "conv2d: &lt;no&gt; &quot;memory&quot; &amp; more"));

  run.epochs.clear();
  check_sound(render_report(run));
  CHECK(has(render_report(run), "before its first epoch ended"));
}

TEST_CASE("words from outside cannot break the page", "[report]") {
  RunRecord run = run_of(4, 3);
  const std::string evil = "</style><script>alert('x')</script>&\" onload=\"x";
  run.name = run.version = run.model = run.dataset = run.device = run.started = run.policy =
      run.optimizer = evil;
  run.status = run.failure = run.model_digest = evil;
  for (EpochRecord& epoch : run.epochs) {
    epoch.choice_reason = evil;
    epoch.candidate_set = evil + std::to_string(epoch.epoch % 2);
    epoch.phase = evil;
  }
  check_sound(render_report(run));
}

TEST_CASE("numbers that are none do not reach the drawings", "[report]") {
  for (const double odd :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
        -std::numeric_limits<double>::infinity(), 0.0, -1.0, 1e300, 1e-300}) {
    INFO(odd);
    RunRecord some = run_of(6, 4);
    some.epochs[2].candidates[0].diverged = true;
    some.epochs[2].candidates[0].learning_rate = odd;
    some.epochs[2].candidates[0].curve[1].top1 = odd;
    some.epochs[3].curve[2].top1 = odd;
    some.epochs[3].curve[2].learning_rate = odd;
    check_sound(render_report(some));

    RunRecord all = run_of(6, 4);
    all.flops_per_image = all.initial_learning_rate = all.wall_seconds = odd;
    for (EpochRecord& epoch : all.epochs) {
      epoch.base_learning_rate = epoch.learning_rate = epoch.images_per_second = odd;
      epoch.train_loss = epoch.train_top1 = epoch.test_loss = epoch.test_top1 = odd;
      epoch.test_top5 = epoch.seconds = epoch.seconds_pretrain = epoch.seconds_score = odd;
      epoch.seconds_choose = epoch.seconds_main = epoch.seconds_test = odd;
      for (CurvePoint& point : epoch.curve) point = {0, odd, odd, odd};
      for (CandidateRecord& candidate : epoch.candidates) {
        candidate.factor = candidate.learning_rate = odd;
        candidate.score_top1 = candidate.score_loss = odd;
        for (CurvePoint& point : candidate.curve) point = {0, odd, odd, odd};
      }
    }
    check_sound(render_report(all));
  }
}

TEST_CASE("diverged candidates and retries are shown as such", "[report]") {
  RunRecord run = run_of(2, 3);
  run.epochs[1].candidates[0].diverged = true;
  run.epochs[1].candidates[0].curve.clear();
  run.epochs[1].retries = 2;
  const std::string html = render_report(run);
  check_sound(html);
  CHECK(has(html, "</small>diverged<"));
  CHECK(has(html, "all diverged 2 times before"));
  CHECK(has(html, "diverged-mark"));
}

TEST_CASE("a choice and its reason stand before any number of candidates", "[report]") {
  RunRecord run = run_of(2, 31);
  run.epochs[1].candidates.resize(3);
  const std::string html = render_report(run);
  check_sound(html);
  CHECK(times(html,
              "<td>0.175</td><td class=\"words\">highest accuracy</td>"
              "<td class=\"candidates\"><span class=\"candidate\"") == 2);
  CHECK(times(html, "<span class=\"candidate") == 31 + 3);
}

TEST_CASE("candidates are shown by what they are compared by", "[report]") {
  RunRecord run = run_of(1, 2);
  run.epochs[0].candidates[0].score_top1 = 0.8765;
  run.epochs[0].candidates[0].score_loss = 0.4321;
  const auto shows = [&](const std::string& score) {
    return has(render_report(run), "</small>" + score);
  };

  CHECK(shows("87.65"));  // a record of before the metric was in it
  run.score = "hold_out";
  run.score_metric = "accuracy";
  CHECK(shows("87.65"));
  CHECK(has(render_report(run), "and the accuracy, in %, it reached on the scoring images."));
  run.score_metric = "loss";
  CHECK(shows("0.4321"));
  CHECK_FALSE(shows("87.65"));
  CHECK(has(render_report(run), "and the loss it reached on the scoring images."));
  run.score = "training_window";
  CHECK(has(render_report(run), "and the loss of its last batches of Pre-train."));
  run.score = "validation";
  CHECK(has(render_report(run), "and the loss it reached on the test images."));
}

TEST_CASE("the report says how a branch wins", "[report]") {
  RunRecord run = run_of(2, 3);
  CHECK(has(render_report(run), "The bold one won; the table of choices says why."));
  run.policy = "random_winner";
  CHECK(has(render_report(run), "The bold one was drawn at random."));
  run.policy = "always_one";
  CHECK(has(render_report(run), "The bold one, with the rate unchanged, always wins."));
}

TEST_CASE("epochs without a choice stand in the table of choices", "[report]") {
  RunRecord run = run_of(3, 4);
  run.epochs[0] = epoch_of(1, 0, 0, 0, 50);
  run.epochs[0].phase = "warmup";
  const std::string html = render_report(run);
  check_sound(html);
  CHECK(has(html, "warm-up, nothing to choose; learning rate at its end 0.1<"));
}

TEST_CASE("what choosing cost is counted right", "[report]") {
  // m = 4, α = 10, β = 40 for two epochs, after one of warm-up: 50 + 2 (4·10 + 40) iterations
  // against 50 + 2·4·50.
  RunRecord run = run_of(3, 4);
  run.epochs[0] = epoch_of(1, 0, 0, 0, 50);
  const RunTotals sum = totals(run);
  CHECK(sum.iterations == 150);
  CHECK(sum.iterations_discarded == 60);
  CHECK(sum.iterations_exhaustive == 450);
  CHECK(sum.samples_winner == 150 * 32);
  CHECK(sum.samples_discarded == 60 * 32);
  CHECK(sum.samples_exhaustive == 450 * 32);
  CHECK(sum.seconds_choose == 0.25);
  CHECK(sum.images_per_second == 210 * 32 / 22.0);
  CHECK(std::abs(sum.chosen_learning_rate - 0.175) < 1e-12);
  CHECK(sum.best_epoch == 3);

  const std::string html = render_report(run);
  CHECK(has(html, "took 210 iterations"));
  CHECK(has(html, "would have taken 450: 53.3\u202f% fewer"));
  CHECK(has(html, "1\u00a0−\u00a01/4\u00a0=\u00a075.0\u202f%"));
  CHECK(has(html, "<td>6\u202f720</td><td>14\u202f400</td>"));  // samples spent, and of every rate
  CHECK(has(html, "took 0.83\u202f% of an epoch’s time"));

  // Pre-train on a worker's batch of 4 in place of 32: trying a rate for an epoch is still done in
  // full batches.
  for (EpochRecord& epoch : run.epochs) {
    if (epoch.candidates.empty()) continue;
    epoch.samples_winner = 10 * 4 + 40 * 32;
    epoch.samples_discarded = 30 * 4;
  }
  CHECK(totals(run).samples_exhaustive == 450 * 32);
  CHECK_FALSE(has(html, "Counted in training samples"));
  // 1600 + 2 (40 + 1280 + 120) samples.
  CHECK(has(render_report(run),
            "53.3\u202f% fewer. Counted in training samples it is 68.9\u202f% fewer"));

  CHECK(has(
      render_report(run_of(2, 1)),
      "Trying the one candidate rate for a whole epoch would have taken 100: 0.0\u202f% fewer."));
}

TEST_CASE("axis ticks are round numbers", "[report]") {
  using report::linear_ticks;
  using report::log_ticks;
  CHECK(linear_ticks(0, 4850, 4) == std::vector<double>{0, 2000, 4000});
  CHECK(linear_ticks(0, 0, 4).empty());
  const auto same = [](const std::vector<double>& a, const std::vector<double>& b) {
    return a.size() == b.size() &&
           std::equal(a.begin(), a.end(), b.begin(),
                      [](double x, double y) { return std::abs(x - y) <= 1e-9 * y; });
  };
  CHECK(same(log_ticks(0.009, 0.6, 10), {0.01, 0.02, 0.05, 0.1, 0.2, 0.5}));
  CHECK(same(log_ticks(0.001, 2, 8), {0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1}));
  CHECK(same(log_ticks(1e-6, 1, 8), {1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1}));
  CHECK(log_ticks(1e-300, 1e300, 8).size() <= 8);
  CHECK(log_ticks(0, 1, 8).empty());
}

TEST_CASE("numbers are written for people", "[report]") {
  using namespace report;
  CHECK(significant(0.08333) == "0.0833");
  CHECK(significant(0.1) == "0.1");
  CHECK(significant(12.5) == "12.5");
  CHECK(significant(100) == "100");
  CHECK(significant(9.999) == "10");
  CHECK(significant(3e-5) == "3×10⁻⁵");
  CHECK(significant(2.5e12) == "2.5×10¹²");
  CHECK(significant(0) == "0");
  CHECK(significant(std::nan("")) == "–");
  CHECK(fixed(-0.0001, 2) == "0.00");
  CHECK(percent(0.90625) == "90.62\u202f%");
  CHECK(count(0) == "0");
  CHECK(count(999) == "999");
  CHECK(count(1234567) == "1\u202f234\u202f567");
  CHECK(count(-1000) == "−1\u202f000");
  CHECK(duration(0.25) == "250\u00a0ms");
  CHECK(duration(12.34) == "12.3\u00a0s");
  CHECK(duration(245) == "4\u00a0min\u00a005\u00a0s");
  CHECK(duration(3780) == "1\u00a0h\u00a003\u00a0min");
  CHECK(date("2025-11-23T18:53:07Z") == "23 November 2025, 18:53 UTC");
  CHECK(date("2025-13-23T18:53:07Z") == "2025-13-23T18:53:07Z");
  CHECK(date("<now>") == "&lt;now&gt;");
  CHECK(escaped("a<b>&\"'\x01") == "a&lt;b&gt;&amp;&quot;&#39; ");
}
