#include "stpt/collapse.hpp"

#include <algorithm>
#include <cmath>

namespace stpt {
namespace {

struct Mean {
  double loss = 0;
  double images = 0;
};

/// Over the last quarter of the curve, or more of it where that is less than 64 images.
Mean mean_at_end(const LossCurve& curve) {
  constexpr double enough = 64;
  const std::span<const CurvePoint> points = curve.points;
  Mean mean;
  for (std::size_t taken = 1; taken <= points.size(); ++taken) {
    const std::size_t i = points.size() - taken;
    const std::int64_t begin = i == 0 ? curve.first : points[i - 1].iteration;
    const auto images = static_cast<double>((points[i].iteration - begin) * curve.batch);
    mean.loss += images * points[i].loss;
    mean.images += images;
    if (4 * taken >= points.size() && mean.images >= enough) break;
  }
  mean.loss /= mean.images;
  return mean;
}

}  // namespace

bool has_collapsed(const LossCurve& main, const LossCurve& before, const LossCurve& pretrain,
                   int classes) {
  if (main.points.empty() || main.points.back().iteration - main.first == 1) return false;
  const double guessing = std::log(static_cast<double>(classes));
  Mean best{guessing};
  double worst = guessing;
  for (const LossCurve& earlier : {before, pretrain}) {
    if (earlier.points.empty()) continue;
    if (const Mean end = mean_at_end(earlier); end.loss < best.loss) best = end;
    worst = std::max(worst, earlier.points.front().loss);
  }
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
