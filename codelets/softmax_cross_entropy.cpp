#include "codelets/softmax_cross_entropy.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>

namespace stpt::codelets {
namespace {

class Loss final : public Kernel {
 public:
  explicit Loss(const SoftmaxCrossEntropy& op)
      : samples_(op.logits.shape.n),
        classes_(op.logits.shape.c),
        gradient_(op.gradient),
        gradient_scale_(static_cast<double>(op.gradient_scale)),
        label_smoothing_(static_cast<double>(op.label_smoothing)) {
    require_valid(op);
  }

  void run(std::span<void* const> args, void*, Stream) const override {
    const auto* logits = static_cast<const float*>(args[0]);
    const auto* labels = static_cast<const std::int32_t*>(args[1]);
    auto* scores = static_cast<SampleScore*>(args[2]);
    auto* d_logits = gradient_ ? static_cast<float*>(args[3]) : nullptr;
    for (std::int64_t n = 0; n < samples_; ++n) {
      scores[n] =
          score(logits + n * classes_, labels[n], d_logits ? d_logits + n * classes_ : nullptr);
    }
  }

 private:
  SampleScore score(const float* logits, std::int32_t label, float* d_logits) const {
    bool valid = label >= 0 && label < classes_;
    for (std::int64_t c = 0; c < classes_; ++c) valid = valid && std::isfinite(logits[c]);
    if (!valid) {
      constexpr float nan = std::numeric_limits<float>::quiet_NaN();
      if (d_logits) std::fill_n(d_logits, classes_, nan);
      return {nan, static_cast<std::int32_t>(classes_)};
    }

    const float own = logits[label];
    std::int32_t rank = 0;
    for (std::int64_t c = 0; c < classes_; ++c)
      rank += logits[c] > own || (logits[c] == own && c < label) ? 1 : 0;

    // In double, and with the label's share as minus the sum of the others, so that neither a small
    // loss nor a small gradient drowns in the rounding of 1.
    const auto largest = static_cast<double>(*std::max_element(logits, logits + classes_));
    double others = 0, below_own = 0;
    for (std::int64_t c = 0; c < classes_; ++c) {
      if (c != label) others += std::exp(static_cast<double>(logits[c]) - largest);
      below_own += static_cast<double>(own) - static_cast<double>(logits[c]);
    }
    const double distance = largest - static_cast<double>(own), mine = std::exp(-distance);
    // With the label on top mine is 1, and log1p keeps what a tiny sum of the others adds.
    const double loss = mine == 1 ? std::log1p(others) : std::log(mine + others) + distance;
    // Smoothing moves this share of the target from the label to each class.
    const double moved = label_smoothing_ / static_cast<double>(classes_);

    if (d_logits) {
      const double factor = gradient_scale_ / ((mine + others) * static_cast<double>(samples_));
      const double scale = gradient_scale_ / static_cast<double>(samples_);
      for (std::int64_t c = 0; c < classes_; ++c) {
        const double exponential = std::exp(static_cast<double>(logits[c]) - largest);
        d_logits[c] = static_cast<float>(exponential * factor - moved * scale);
      }
      d_logits[label] = static_cast<float>((label_smoothing_ - moved) * scale - others * factor);
    }
    return {static_cast<float>(loss + moved * below_own), rank};
  }

  std::int64_t samples_, classes_;
  bool gradient_;
  double gradient_scale_, label_smoothing_;
};

}  // namespace

void require_valid(const SoftmaxCrossEntropy& op) {
  const auto fail = [&](const std::string& what) {
    throw std::invalid_argument("SoftmaxCrossEntropy " + op.logits.to_string() + ": " + what);
  };
  const runtime::Shape& shape = op.logits.shape;
  if (op.logits.type != runtime::DataType::float32) fail("the logits must be float32");
  if (op.logits.layout != runtime::Layout::nchw) fail("the layout must be nchw");
  if (shape.spatial() != 1) fail("the shape must be n x classes x 1 x 1");
  if (shape.n < 1 || shape.c < 1) fail("at least one sample and one class are needed");
  if (!(op.label_smoothing >= 0 && op.label_smoothing < 1))
    fail("label_smoothing must be at least 0 and below 1");
}

KernelPtr plan(const SoftmaxCrossEntropy& op, Cpu) { return std::make_unique<Loss>(op); }

}  // namespace stpt::codelets
