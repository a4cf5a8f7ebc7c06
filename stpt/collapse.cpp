#include "stpt/collapse.hpp"

#include <algorithm>
#include <cmath>

namespace stpt {
namespace {

struct Mean {
  double loss = 0;
  double images = 0;
  double top1 = 0;
};

/// Over a quarter of the curve that ends before point `end`, or more of it where that is less than
/// 64 images; of no images if there are not as many points before.
Mean mean_until(const TrainingCurve& curve, std::size_t end) {
  constexpr double enough = 64;
  const std::span<const CurvePoint> points = curve.points;
  Mean mean;
  for (std::size_t i = end; i-- > 0;) {
    const std::int64_t begin = i == 0 ? curve.first : points[i - 1].iteration;
    const auto images = static_cast<double>((points[i].iteration - begin) * curve.batch);
    mean.loss += images * points[i].loss;
    mean.top1 += images * points[i].top1;
    mean.images += images;
    const bool whole = 4 * (end - i) >= points.size() && mean.images >= enough;
    if (whole || (i == 0 && end == points.size()))
      return {mean.loss / mean.images, mean.images, mean.top1 / mean.images};
  }
  return {};
}

Mean mean_at_end(const TrainingCurve& curve) { return mean_until(curve, curve.points.size()); }

}  // namespace

bool has_collapsed(const TrainingCurve& main, const TrainingCurve& before,
                   const TrainingCurve& pretrain, int classes) {
  if (main.points.empty() || main.points.back().iteration - main.first == 1) return false;
  const double guessing = std::log(static_cast<double>(classes));
  Mean best{guessing};
  const auto consider = [&](const Mean& mean) {
    if (mean.images > 0 && mean.loss < best.loss) best = mean;
  };
  double worst = guessing;
  for (const TrainingCurve& earlier : {before, pretrain}) {
    if (earlier.points.empty()) continue;
    consider(mean_at_end(earlier));
    worst = std::max(worst, earlier.points.front().loss);
  }
  for (std::size_t end = 1; end < main.points.size(); ++end) consider(mean_until(main, end));
  if (before.points.empty() && pretrain.points.empty())
    worst = std::max(worst, main.points.front().loss);
  const Mean end = mean_at_end(main);
  if (!std::isfinite(end.loss) || end.loss > 2 * worst) return true;
  const double learnt = guessing - best.loss, lost = end.loss - best.loss;
  // Losses of single images differ by about 1. Asked for are three standard errors, and where next
  // to nothing had been learnt there is nothing to lose.
  const double chance = 3 * std::sqrt(1 / end.images + 1 / best.images);
  return learnt > guessing / 10 && lost > learnt / 2 && lost > chance;
}

bool has_learnt_nothing(const TrainingCurve& curve, const Guess& guess, int classes) {
  if (curve.points.empty() || guess.loss == 0) return false;
  // A network that learns slowly leads by a third of guessing or more: of so many images that is
  // at least two standard errors.
  const double enough = 50.0 * classes;
  const Mean end = mean_at_end(curve);
  return end.images >= enough && !exceeds_guessing(end.top1, end.loss, end.images, guess);
}

}  // namespace stpt
