// Softmax and cross-entropy against integer labels, with what is counted per sample.
//   loss[n] = logsumexp(logits[n,:]) - sum over c of target[n,c] logits[n,c]
//   target[n,c] = (1 - label_smoothing) [c = label[n]] + label_smoothing / classes
// Label smoothing: Szegedy et al. 2016, "Rethinking the Inception architecture", section 7.
#pragma once

#include <cstdint>

#include "codelets/kernel.hpp"
#include "runtime/tensor_spec.hpp"

namespace stpt::codelets {

using runtime::TensorSpec;

/// Result for one sample. A sample whose logits are not all finite, or whose label is no class, has
/// loss NaN, rank = number of classes and a gradient of NaN.
struct SampleScore {
  float loss = 0;
  /// Classes with a logit above the label's (ties: classes with a smaller index count as above): 0
  /// means that top-1 is right, less than 5 that top-5 is.
  std::int32_t rank = 0;
};

/// run(logits, labels, scores, d_logits)
/// logits: n x classes float32 nchw; labels: n int32 in [0, classes); scores: n SampleScore.
/// d_logits = gradient of the mean loss over the n samples, times gradient_scale (the loss scale of
/// half precision); nullptr unless `gradient`.
struct SoftmaxCrossEntropy {
  TensorSpec logits;
  bool gradient = true;
  float gradient_scale = 1;
  float label_smoothing = 0;  ///< in [0, 1); of the loss and of its gradient
};

/// Throws std::invalid_argument unless the op is as described, on any device.
void require_valid(const SoftmaxCrossEntropy& op);

[[nodiscard]] KernelPtr plan(const SoftmaxCrossEntropy& op, Cpu);
[[nodiscard]] KernelPtr plan(const SoftmaxCrossEntropy& op, Cuda);

}  // namespace stpt::codelets
