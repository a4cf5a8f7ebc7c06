#include "stpt/collapse.hpp"

#include <algorithm>
#include <cmath>

namespace stpt {
namespace {

struct Mean {
  double loss = 0;
  double images = 0;
};

/// Over a quarter of the curve that ends before point `end`, or more of it where that is less than
/// 64 images; of no images if there are not as many points before.
Mean mean_until(const LossCurve& curve, std::size_t end) {
  constexpr double enough = 64;
  const std::span<const CurvePoint> points = curve.points;
  Mean mean;
  for (std::size_t i = end; i-- > 0;) {
    const std::int64_t begin = i == 0 ? curve.first : points[i - 1].iteration;
    const auto images = static_cast<double>((points[i].iteration - begin) * curve.batch);
    mean.loss += images * points[i].loss;
    mean.images += images;
    const bool whole = 4 * (end - i) >= points.size() && mean.images >= enough;
    if (whole || (i == 0 && end == points.size())) return {mean.loss / mean.images, mean.images};
  }
  return {};
}

Mean mean_at_end(const LossCurve& curve) { return mean_until(curve, curve.points.size()); }

}  // namespace

bool has_collapsed(const LossCurve& main, const LossCurve& before, const LossCurve& pretrain,
                   int classes) {
  if (main.points.empty() || main.points.back().iteration - main.first == 1) return false;
  const double guessing = std::log(static_cast<double>(classes));
  Mean best{guessing};
  const auto consider = [&](const Mean& mean) {
    if (mean.images > 0 && mean.loss < best.loss) best = mean;
  };
  double worst = guessing;
  for (const LossCurve& earlier : {before, pretrain}) {
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

}  // namespace stpt
