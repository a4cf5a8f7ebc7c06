#include "stpt/files/report.hpp"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>
#include <vector>

#include "stpt/files/record_json.hpp"
#include "stpt/files/report_charts.hpp"
#include "stpt/files/report_style.hpp"
#include "stpt/files/report_text.hpp"

namespace stpt {
namespace {

using namespace report;

constexpr ChartSize kWide{976, 440, false};
constexpr ChartSize kNarrow{361, 290, true};
constexpr ChartSize kSmall{468, 210, false};
constexpr ChartSize kSmallNarrow{361, 190, true};
constexpr std::size_t kLongTable = 24;  // rows from which a table scrolls

std::string element(std::string_view tag, std::string_view css, const std::string& inner) {
  std::string html = "<" + std::string(tag);
  if (!css.empty()) html += " class=\"" + std::string(css) + "\"";
  return html + ">" + inner + "</" + std::string(tag) + ">";
}

std::string joined(const std::vector<std::string>& parts, std::string_view between) {
  std::string text;
  for (const std::string& part : parts) {
    if (part.empty()) continue;
    if (!text.empty()) text += between;
    text += part;
  }
  return text;
}

bool has_candidates(const RunRecord& run) {
  return std::any_of(run.epochs.begin(), run.epochs.end(),
                     [](const EpochRecord& epoch) { return !epoch.candidates.empty(); });
}

bool has_choices(const RunRecord& run) {
  return std::any_of(run.epochs.begin(), run.epochs.end(),
                     [](const EpochRecord& epoch) { return epoch.candidates.size() > 1; });
}

std::string whole_number(double value) {
  return std::isfinite(value) ? count(std::llround(std::clamp(value, 0.0, 1e15))) : "–";
}

std::string policy_name(const std::string& policy) {
  for (const auto& [key, name] : std::initializer_list<std::pair<const char*, const char*>>{
           {"stpt", "STPT"},
           {"fixed", "fixed learning rate"},
           {"step", "step decay"},
           {"plateau", "decay on a plateau"},
           {"cosine", "cosine schedule"},
           {"linear", "linear schedule"},
           {"random_winner", "random winner (control)"},
           {"always_one", "candidate 1.0 always wins (control)"}}) {
    if (policy == key) return name;
  }
  return escaped(policy);
}

std::string scaled(double value) {
  const double size = std::abs(value);
  if (size >= 1e9) return significant(value / 1e9) + "\u202fG";
  if (size >= 1e6) return significant(value / 1e6) + "\u202fM";
  if (size >= 1e4) return significant(value / 1e3) + "\u202fk";
  return significant(value);
}

std::string figure(const std::string& wide, const std::string& narrow) {
  return "<figure>" + wide + narrow + "</figure>\n";
}

std::string fact(std::string_view name, const std::string& value, std::string_view css = {}) {
  if (value.empty()) return {};
  return element("div", css, element("dt", "", std::string(name)) + element("dd", "", value));
}

std::string header(const RunRecord& run) {
  std::string status = escaped(run.status);
  std::string html = element(
      "p", "eyebrow", joined({"stpt_starpu " + escaped(run.version), date(run.started)}, " · "));
  html += element("h1", "",
                  (run.name.empty() ? "run" : escaped(run.name)) +
                      (status.empty() ? "" : " " + element("span", "status " + status, status)));
  html +=
      element("p", "subject",
              joined({run.model.empty() ? "" : element("b", "", escaped(run.model)),
                      run.dataset.empty() ? "" : "on " + element("b", "", escaped(run.dataset))},
                     " ") +
                  "<br>" + joined({policy_name(run.policy), escaped(run.device)}, " · "));
  if (!run.failure.empty() || run.status == "failed") {
    html += element(
        "p", "failure",
        element("b", "", "The run failed") +
            (run.epochs.empty() ? " before its first epoch ended"
                                : " after epoch " + std::to_string(run.epochs.back().epoch)) +
            (run.failure.empty() ? "." : ":<br>" + escaped(run.failure)));
  }
  return html;
}

std::string headline(std::string_view name, const std::string& value, const std::string& more) {
  return "<div><dt>" + std::string(name) + "</dt><dd>" + value +
         (more.empty() ? "" : "<small>" + more + "</small>") + "</dd></div>";
}

std::string figures(const RunRecord& run, const RunTotals& sum) {
  std::string html;
  const std::string none = "–";
  const bool trained = !run.epochs.empty();
  if (trained) {
    html += headline("Test accuracy", percent(run.epochs.back().test_top1),
                     "after epoch " + std::to_string(run.epochs.back().epoch) +
                         (run.epochs_planned > run.epochs.back().epoch
                              ? " of " + std::to_string(run.epochs_planned)
                              : ""));
    html +=
        headline("Best", percent(sum.best_test_top1), "epoch " + std::to_string(sum.best_epoch));
  } else {
    html += headline("Epochs", "0 of " + std::to_string(run.epochs_planned),
                     run.status == "running" ? "the first is under way" : "none has ended");
  }
  const std::string start = "started at " + significant(run.initial_learning_rate);
  if (sum.chosen_learning_rate > 0) {
    html += headline("Learning rate found", significant(sum.chosen_learning_rate), start);
  } else {
    html +=
        headline("Learning rate",
                 run.initial_learning_rate > 0 ? significant(run.initial_learning_rate) : none,
                 trained ? last_moment(run) + ": " + significant(run.epochs.back().learning_rate)
                         : "at the start");
  }
  if (trained || run.wall_seconds > 0) {
    html += headline(
        "Time", run.wall_seconds > 0 ? duration(run.wall_seconds) : none,
        trained ? duration(sum.seconds / static_cast<double>(run.epochs.size())) + " an epoch"
                : "");
  }
  if (trained) {
    html += headline("Training speed",
                     sum.images_per_second > 0 ? whole_number(sum.images_per_second) : none,
                     "images/s");
  }
  return "<dl class=\"figures\">" + html + "</dl>\n";
}

std::string key(const std::string& drawing, const std::string& words) {
  return "<li><svg viewBox=\"0 0 22 12\" aria-hidden=\"true\">" + drawing + "</svg>" + words +
         "</li>";
}

std::string key_line(std::string_view css) {
  return "<path class=\"" + std::string(css) + "\" d=\"M2 6L20 6\"/>";
}

std::string key_dot(std::string_view css, double radius = 4) {
  return "<circle class=\"" + std::string(css) + "\" cx=\"11\" cy=\"6\" r=\"" + fixed(radius, 1) +
         "\"/>";
}

bool any_curve(const RunRecord& run) {
  return std::any_of(run.epochs.begin(), run.epochs.end(), [](const EpochRecord& epoch) {
    return std::any_of(epoch.candidates.begin(), epoch.candidates.end(),
                       [](const CandidateRecord& c) { return !c.curve.empty(); });
  });
}

/// Which of the branches goes on, as the policy has it.
std::string about_winner(const RunRecord& run) {
  if (run.policy == "random_winner") return "The bold one was drawn at random.";
  if (run.policy == "always_one") return "The bold one, with the rate unchanged, always wins.";
  return "The bold one won; the table of choices says why.";
}

std::string accuracy(const RunRecord& run) {
  std::string legend = key(key_dot("test"), "test") + key(key_line("train"), "training");
  std::string lead;
  if (any_curve(run) && !has_room_for_branches(run, kWide)) {
    lead = element("p", "lead",
                   "So many epochs leave no room for the candidates’ branches; they are in the "
                   "table of choices.");
  } else if (any_curve(run)) {
    lead = element("p", "lead",
                   "An epoch with a choice starts with a short branch for each candidate learning "
                   "rate. " +
                       about_winner(run));
    legend += key(key_line("branch won up"), "winner: higher rate") +
              key(key_line("branch won same"), "unchanged") +
              key(key_line("branch won down"), "lower") +
              key("<path class=\"branch up\" d=\"M2 10L20 8\"/><path class=\"branch same\" "
                  "d=\"M2 10L20 5\"/><path class=\"branch down\" d=\"M2 10L20 2\"/>",
                  "losers");
  }
  return "<section><h2>Accuracy</h2>" + lead + element("ul", "legend", legend) +
         figure(accuracy_chart(run, kWide), accuracy_chart(run, kNarrow)) + "</section>\n";
}

std::string learning_rate(const RunRecord& run) {
  std::string legend = key(key_line("rate"), "in use");
  if (has_candidates(run)) {
    const bool diverged =
        std::any_of(run.epochs.begin(), run.epochs.end(), [](const EpochRecord& epoch) {
          return std::any_of(epoch.candidates.begin(), epoch.candidates.end(),
                             [](const CandidateRecord& c) { return c.diverged; });
        });
    if (has_choices(run)) {
      legend += key(key_dot("chosen up"), "chosen: higher") +
                key(key_dot("chosen same"), "unchanged") + key(key_dot("chosen down"), "lower") +
                key(key_dot("tried same", 3.2), "tried");
    }
    if (diverged) {
      legend += key("<path class=\"diverged-mark\" d=\"M8 3L14 9M8 9L14 3\"/>", "diverged");
    }
  }
  ChartSize wide = kWide;
  wide.height = 320;
  return "<section><h2>Learning rate</h2>" + element("ul", "legend", legend) +
         figure(learning_rate_chart(run, wide), learning_rate_chart(run, kNarrow)) + "</section>\n";
}

double share_of(double part, double whole) { return whole > 0 ? part / whole : 0; }

std::string width(double share) {
  const double within = std::isfinite(share) ? std::clamp(share, 0.0, 1.0) : 0;
  return " style=\"width:" + fixed(100 * within, 2) + "%\"";
}

std::string cost(const RunRecord& run, const RunTotals& sum) {
  if (!has_candidates(run)) {
    if (run.epochs.empty()) return {};
    return "<section><h2>Cost</h2><p>" + count(sum.iterations) + " iterations over " +
           count(sum.samples_winner) +
           " training samples. No candidates were tried, so nothing was discarded.</p></section>\n";
  }
  const std::int64_t iterations = sum.iterations + sum.iterations_discarded;
  const auto saved = [](std::int64_t spent, std::int64_t exhaustive) {
    return 1 - share_of(static_cast<double>(spent), static_cast<double>(exhaustive));
  };

  std::size_t least = 0, most = 0;
  for (const EpochRecord& epoch : run.epochs) {
    const std::size_t m = epoch.candidates.size();
    if (m == 0) continue;
    least = least == 0 ? m : std::min(least, m);
    most = std::max(most, m);
  }
  const std::string number =
      least == most ? std::to_string(most) : std::to_string(least) + " to " + std::to_string(most);
  const std::string tried =
      most == 1 ? "the one candidate rate" : "each of the " + number + " candidate rates";
  const auto compared = [](double share) {
    return percent(std::abs(share), 1) + (share >= 0 ? " fewer" : " more");
  };
  const std::string fewer = compared(saved(iterations, sum.iterations_exhaustive));
  const std::string fewer_samples =
      compared(saved(sum.samples_winner + sum.samples_discarded, sum.samples_exhaustive));
  std::string lead = "The run took " + count(iterations) + " iterations. Trying " + tried +
                     " for a whole epoch would have taken " + count(sum.iterations_exhaustive) +
                     ": " + fewer + ".";
  if (fewer_samples != fewer) {
    lead += " Counted in training samples it is " + fewer_samples +
            ", since Pre-train’s iterations take smaller batches.";
  }
  if (most > 1) {
    lead += " The most that can be saved of the iterations with " + std::to_string(most) +
            " candidates is 1 − 1/" + std::to_string(most) + " = " +
            percent(1 - 1.0 / static_cast<double>(most), 1) + ".";
  }

  const auto top =
      static_cast<double>(std::max({iterations, sum.iterations_exhaustive, std::int64_t{1}}));
  const auto bar = [&](std::string_view css, std::int64_t value) {
    return "<span class=\"" + std::string(css) + "\"" + width(static_cast<double>(value) / top) +
           "></span>";
  };
  std::string html = "<section><h2>What choosing cost</h2>" + element("p", "lead", lead);
  html += "<div class=\"cost\" aria-hidden=\"true\"><div>this run</div><div class=\"track\">" +
          bar("kept", sum.iterations) + bar("lost", sum.iterations_discarded) +
          "</div><div>every rate, a whole epoch</div><div class=\"track\">" +
          bar("all", sum.iterations_exhaustive) + "</div></div>";

  const auto row = [&](const char* name, std::int64_t kept, std::int64_t lost,
                       std::int64_t exhaustive) {
    const double share = saved(kept + lost, exhaustive);
    return "<tr><th class=\"name\" scope=\"row\">" + std::string(name) + "</th><td>" + count(kept) +
           "</td><td>" + count(lost) + "</td><td>" + count(kept + lost) + "</td><td>" +
           count(exhaustive) + "</td><td>" + (share < 0 ? "−" : "") + percent(std::abs(share), 1) +
           "</td></tr>";
  };
  html +=
      "<div class=\"scroll\"><table class=\"cost-table\"><thead><tr>"
      "<th class=\"name\" scope=\"col\"></th>"
      "<th scope=\"col\"><span class=\"swatch kept\"></span>winners, kept</th>"
      "<th scope=\"col\"><span class=\"swatch lost\"></span>losers, discarded</th>"
      "<th scope=\"col\">this run</th>"
      "<th scope=\"col\"><span class=\"swatch all\"></span>every rate, a whole epoch</th>"
      "<th scope=\"col\">saved</th></tr></thead><tbody>" +
      row("Iterations", sum.iterations, sum.iterations_discarded, sum.iterations_exhaustive) +
      row("Training samples", sum.samples_winner, sum.samples_discarded, sum.samples_exhaustive) +
      "</tbody></table></div></section>\n";
  return html;
}

std::string speed(const RunRecord& run, const RunTotals& sum) {
  if (run.epochs.empty()) return {};
  std::vector<double> rates, memory;
  bool has_memory = false;
  for (const EpochRecord& epoch : run.epochs) {
    rates.push_back(epoch.images_per_second);
    memory.push_back(static_cast<double>(epoch.memory_bytes) / 1e6);
    has_memory = has_memory || epoch.memory_bytes > 0;
  }
  std::string html =
      "<section><h2>Speed and memory</h2><div class=\"pair\"><div><h3>Training "
      "speed</h3><p class=\"lead\">images/s, winners and losers together</p>" +
      figure(epoch_bars(run, kSmall, rates, whole_number, "Images per second"),
             epoch_bars(run, kSmallNarrow, rates, whole_number, "Images per second")) +
      "</div>";
  if (has_memory) {
    html += "<div><h3>Memory</h3><p class=\"lead\">MB resident at the epoch’s end</p>" +
            figure(epoch_bars(run, kSmall, memory, whole_number, "Megabytes"),
                   epoch_bars(run, kSmallNarrow, memory, whole_number, "Megabytes")) +
            "</div>";
  }
  html += "</div></section>\n";

  const double parts = sum.seconds_pretrain + sum.seconds_score + sum.seconds_choose +
                       sum.seconds_main + sum.seconds_test;
  const double whole = std::max({run.wall_seconds, sum.seconds, parts});
  if (!(whole > 0) || !std::isfinite(whole)) return html;
  struct Part {
    const char* name;
    const char* css;
    double seconds;
  };
  std::vector<Part> split;
  if (has_candidates(run)) {
    split.push_back({"Pre-train", "t0", sum.seconds_pretrain});
    split.push_back({"Scoring the candidates", "t1", sum.seconds_score});
    split.push_back({"Choosing (snapshot, hand-over)", "t2", sum.seconds_choose});
  }
  split.push_back({has_candidates(run) ? "Main-train" : "Training", "t3", sum.seconds_main});
  split.push_back({"Test", "t4", sum.seconds_test});
  double named = 0;
  for (const Part& part : split) named += part.seconds;
  split.push_back({"Start-up, checkpoints and the rest", "t5", std::max(0.0, whole - named)});

  std::string strip, rows;
  for (const Part& part : split) {
    const double share = part.seconds / whole;
    strip += "<span class=\"" + std::string(part.css) + "\"" + width(share) + " title=\"" +
             part.name + ": " + percent(share, 1) + "\"></span>";
    rows += "<tr><td class=\"name\"><span class=\"swatch " + std::string(part.css) + "\"></span>" +
            part.name + "</td><td>" + duration(part.seconds) + "</td><td>" + percent(share, 1) +
            "</td></tr>";
  }
  std::string lead;
  if (has_candidates(run) && sum.seconds > 0) {
    lead = element("p", "lead",
                   "Choosing itself took " + percent(sum.seconds_choose / sum.seconds, 2) +
                       " of an epoch’s time.");
  }
  return html + "<section><h2>Where the time went</h2>" + lead +
         "<div class=\"strip\" aria-hidden=\"true\">" + strip +
         "</div><div class=\"scroll\"><table class=\"split\"><thead><tr><th class=\"name\" "
         "scope=\"col\">part</th>"
         "<th scope=\"col\">time</th><th scope=\"col\">share</th></tr></thead><tbody>" +
         rows + "</tbody></table></div></section>\n";
}

/// Main-train over several ranks: what a step moves, and how much of its time is spent waiting. Of
/// a run that went on on another number of ranks, as far as it had the present one.
std::string communication(const RunRecord& run) {
  if (run.ranks.size() < 2) return {};
  double bytes_sent = 0, messages = 0, steps = 0, busy = 0, seconds = 0;
  for (const EpochRecord& epoch : run.epochs) {
    if (epoch.rank_count != std::ssize(run.ranks)) continue;
    bytes_sent += static_cast<double>(epoch.bytes_sent);
    messages += static_cast<double>(epoch.messages_sent);
    steps += static_cast<double>(epoch.steps_main);
    busy += epoch.seconds_busy;
    seconds += epoch.seconds_main;
  }
  std::string html;
  if (steps > 0) {
    const double ranks = static_cast<double>(run.ranks.size());
    const std::string count = fixed(messages / steps, 0);
    html += fact("Sent per step", bytes(bytes_sent / steps) + " in " + count +
                                      (count == "1" ? " message, " : " messages, ") +
                                      bytes(bytes_sent / steps / ranks) + " by each rank");
    if (busy > 0) {  // not known of GPUs
      html += fact("Computing, per step", duration(busy / steps));
      html += fact("Waiting for messages and the rest, per step",
                   duration(std::max(0.0, seconds - busy) / steps) + " (" +
                       percent(std::max(0.0, seconds - busy) / seconds, 1) + ")");
    }
  }
  for (std::size_t rank = 0; rank < run.ranks.size(); ++rank) {
    html += fact("Rank " + std::to_string(rank),
                 escaped(run.ranks[rank].host) + ": " + escaped(run.ranks[rank].device), "whole");
  }
  return "<section><h2>Ranks</h2><dl class=\"facts\">" + html + "</dl></section>\n";
}

std::string table(std::string_view css, const std::string& head, const std::string& rows,
                  std::size_t length) {
  return element("div", length > kLongTable ? "scroll long" : "scroll",
                 "<table class=\"" + std::string(css) + "\"><thead><tr>" + head +
                     "</tr></thead><tbody>" + rows + "</tbody></table>");
}

std::string column(std::string_view name, std::string_view css = {}) {
  return "<th scope=\"col\"" + (css.empty() ? "" : " class=\"" + std::string(css) + "\"") + ">" +
         std::string(name) + "</th>";
}

std::string row_name(int epoch) { return "<th scope=\"row\">" + std::to_string(epoch) + "</th>"; }

/// What the numbers of the candidates are.
std::string about_score(const RunRecord& run) {
  const std::string metric = run.score_metric == "loss" ? "the loss" : "the accuracy, in %,";
  if (run.score == "training_window") return metric + " of its last batches of Pre-train";
  if (run.score == "validation") return metric + " it reached on the test images";
  return metric + " it reached on the scoring images";
}

std::string candidate(const CandidateRecord& candidate, bool by_loss) {
  const std::string css = std::string("candidate") + (candidate.winner ? " won" : "") +
                          (candidate.diverged ? " diverged" : "");
  std::string title = "learning rate " + significant(candidate.learning_rate);
  std::string score = "diverged";
  if (!candidate.diverged) {
    title += by_loss ? ", accuracy " + percent(candidate.score_top1)
                     : ", loss " + significant(candidate.score_loss, 4);
    score = by_loss ? significant(candidate.score_loss, 4) : fixed(100 * candidate.score_top1, 2);
  }
  return "<span class=\"" + css + "\" title=\"" + title + "\"><small>×" +
         significant(candidate.factor) + "</small>" + score + (candidate.winner ? " ✓" : "") +
         "</span>";
}

std::string times(int count) { return count == 1 ? "once" : std::to_string(count) + " times"; }

std::string choices(const RunRecord& run) {
  if (!has_candidates(run)) return {};
  std::string rows;
  for (const EpochRecord& epoch : run.epochs) {
    rows += "<tr>" + row_name(epoch.epoch);
    const std::string repeated =
        epoch.collapses == 0
            ? ""
            : "training came to nothing " + times(epoch.collapses) + " and was repeated with less";
    if (epoch.candidates.empty()) {
      rows += std::string("<td class=\"name quiet\" colspan=\"5\">") +
              joined({epoch.phase == "warmup" ? "warm-up, nothing to choose" : "no choice",
                      "learning rate at its end " + significant(epoch.learning_rate), repeated},
                     "; ") +
              "</td></tr>";
      continue;
    }
    double chosen = std::nan("");
    std::string tried;
    for (const CandidateRecord& each : epoch.candidates) {
      if (each.winner) chosen = each.learning_rate;
      tried += candidate(each, run.score_metric == "loss");
    }
    std::string why = escaped(epoch.choice_reason);
    if (epoch.retries > 0)
      why = joined({why, "all diverged " + times(epoch.retries) + " before"}, "; ");
    why = joined({why, repeated}, "; ");
    // The candidates last, and in lines: there may be dozens.
    rows += element("td", "name", escaped(epoch.candidate_set)) +
            element("td", "", significant(epoch.base_learning_rate)) +
            element("td", "", significant(chosen)) + element("td", "words", why) +
            element("td", "candidates", tried) + "</tr>";
  }
  return "<section><h2>Every choice</h2>" +
         element(
             "p", "lead",
             "Each candidate’s factor of the base learning rate, and " + about_score(run) + ".") +
         table("choices",
               column("epoch") + column("set", "name") + column("base") + column("chosen") +
                   column("why", "words") + column("candidates", "candidates"),
               rows, run.epochs.size()) +
         "</section>\n";
}

std::string epochs(const RunRecord& run) {
  if (run.epochs.empty()) return {};
  const RunTotals sum = totals(run);
  std::string rows;
  for (const EpochRecord& epoch : run.epochs) {
    const bool best = epoch.epoch == sum.best_epoch;
    rows += "<tr>" + row_name(epoch.epoch) + element("td", "", significant(epoch.learning_rate)) +
            element("td", "", fixed(epoch.train_loss, 4)) +
            element("td", "", percent(epoch.train_top1)) +
            element("td", "", fixed(epoch.test_loss, 4)) +
            element("td", best ? "candidate won" : "", percent(epoch.test_top1)) +
            element("td", "", percent(epoch.test_top5)) +
            element("td", "", whole_number(epoch.images_per_second)) +
            element("td", "", duration(epoch.seconds)) + "</tr>";
  }
  return "<section><h2>Every epoch</h2>" +
         element("p", "lead", "Learning rates are those of an epoch’s last iteration.") +
         table("wide-table",
               column("epoch") + column("learning rate") + column("training loss") +
                   column("training") + column("test loss") + column("test") + column("top-5") +
                   column("images/s") + column("time"),
               rows, run.epochs.size()) +
         "</section>\n";
}

std::string facts(const RunRecord& run) {
  const auto positive = [](std::int64_t value) { return value > 0 ? count(value) : std::string(); };
  std::string html;
  if (!run.policy.empty()) html += fact("Policy", policy_name(run.policy));
  html += fact("Optimizer", escaped(run.optimizer));
  html += fact("Workers × batch", run.workers > 0
                                      ? std::to_string(run.workers) + " × " +
                                            std::to_string(run.batch_per_worker) + " = " +
                                            count(std::int64_t{run.workers} * run.batch_per_worker)
                                      : "");
  html += fact("Iterations an epoch",
               run.iterations_per_epoch > 0
                   ? count(run.iterations_per_epoch) +
                         (has_candidates(run) && run.alpha > 0
                              ? ", of which Pre-train " + std::to_string(run.alpha)
                              : "")
                   : "");
  html += fact("Parameters", positive(run.parameters));
  html += fact("Work, forward", run.flops_per_image > 0 && std::isfinite(run.flops_per_image)
                                    ? scaled(run.flops_per_image) + "FLOP an image"
                                    : "");
  html += fact("Images",
               joined({run.training_images > 0 ? count(run.training_images) + " training" : "",
                       run.hold_out_images > 0 ? count(run.hold_out_images) + " held out" : "",
                       run.test_images > 0 ? count(run.test_images) + " test" : ""},
                      ", "));
  html += fact("Started", date(run.started));
  html += fact("Device", escaped(run.device), "whole");
  if (!run.model_digest.empty()) {
    html += fact("Model (SHA-256 of parameters and running statistics)",
                 element("code", "", escaped(run.model_digest)), "whole");
  }
  if (html.empty()) return {};
  return "<section><h2>This run</h2><dl class=\"facts\">" + html + "</dl></section>\n";
}

}  // namespace

std::string render_report(const RunRecord& run) {
  const RunTotals sum = totals(run);
  std::string html =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'\">\n" +
      // It is written anew after each epoch.
      std::string(run.status == "running" ? "<meta http-equiv=\"refresh\" content=\"10\">\n" : "") +
      "<title>" + (run.name.empty() ? "run" : escaped(run.name)) +
      " – stpt_starpu</title>\n<style>" + std::string(kStyle) +
      "</style>\n</head>\n<body>\n<main>\n";
  html += element("header", "", header(run) + figures(run, sum));
  if (run.epochs.empty()) {
    html += "<section>" +
            element("p", "lead",
                    run.status == "running"
                        ? "The first epoch is under way. What it did is drawn here when it ends: "
                          "this page is written anew after each epoch, and loads itself anew."
                        : "No epoch has ended, so there is nothing to draw.") +
            "</section>\n";
  } else {
    html += accuracy(run);
    html += learning_rate(run);
  }
  html += cost(run, sum);
  html += choices(run);
  html += speed(run, sum);
  html += communication(run);
  html += epochs(run);
  html += facts(run);
  return html + "</main>\n</body>\n</html>\n";
}

}  // namespace stpt
