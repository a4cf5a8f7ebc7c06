#include "stpt/collapse.hpp"

#include <algorithm>
#include <cmath>
#include <span>

namespace stpt {
namespace {

/// The mean over the last quarter of a curve.
double loss_at_end(std::span<const CurvePoint> curve) {
  const auto end = curve.last((curve.size() + 3) / 4);
  double sum = 0;
  for (const CurvePoint& point : end) sum += point.loss;
  return sum / static_cast<double>(end.size());
}

}  // namespace

bool has_collapsed(const EpochRecord& epoch, const EpochRecord* before, int classes) {
  // The loss of an epoch's first step is what the epochs before have left.
  if (epoch.curve.empty() || epoch.iterations == 1) return false;
  const double guessing = std::log(static_cast<double>(classes));
  double best = guessing, worst = guessing;
  const auto consider = [&](std::span<const CurvePoint> curve) {
    if (curve.empty()) return;
    best = std::min(best, loss_at_end(curve));
    worst = std::max(worst, curve.front().loss);
  };
  if (before != nullptr) consider(before->curve);
  for (const CandidateRecord& candidate : epoch.candidates) {
    if (candidate.winner) consider(candidate.curve);
  }
  if (before == nullptr && epoch.candidates.empty())
    worst = std::max(worst, epoch.curve.front().loss);
  const double end = loss_at_end(epoch.curve);
  const double learnt = guessing - best, left = guessing - end;
  // Where next to nothing had been learnt, noise is more than half of it.
  return !std::isfinite(end) || end > 2 * worst || (learnt > guessing / 10 && left < learnt / 2);
}

}  // namespace stpt
