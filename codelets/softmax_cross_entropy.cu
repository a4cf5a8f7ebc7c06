#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "codelets/launch.cuh"
#include "codelets/softmax_cross_entropy.hpp"

// The CUDA implementation: a block a sample. It computes what Cpu's does, in double, too: a batch
// of logits is tiny.

namespace stpt::codelets {
namespace {

constexpr unsigned warp = 32, most_warps = 8;

/// combine() over the values of all threads, for all of them. The block consists of whole warps.
template <class Value, class Combine>
__device__ Value reduce(Value value, Combine combine) {
  for (unsigned lanes = warp / 2; lanes > 0; lanes /= 2)
    value = combine(value, __shfl_xor_sync(0xffffffffu, value, static_cast<int>(lanes)));
  __shared__ Value of_warp[most_warps];
  if (threadIdx.x % warp == 0) of_warp[threadIdx.x / warp] = value;
  __syncthreads();
  value = of_warp[0];
  for (unsigned w = 1; w < blockDim.x / warp; ++w) value = combine(value, of_warp[w]);
  __syncthreads();  // before the next one writes
  return value;
}

template <class Value>
__device__ Value reduce_sum(Value value) {
  return reduce(value, [](Value a, Value b) { return a + b; });
}

__global__ void softmax_cross_entropy(const float* __restrict__ all_logits,
                                      const std::int32_t* __restrict__ labels, int classes,
                                      double gradient_scale, double label_smoothing,
                                      SampleScore* __restrict__ scores,
                                      float* __restrict__ all_d_logits) {
  const std::int64_t offset = std::int64_t{blockIdx.x} * classes;
  const float* logits = all_logits + offset;
  float* d_logits = all_d_logits ? all_d_logits + offset : nullptr;
  const std::int32_t label = labels[blockIdx.x];
  const int first = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);

  const bool valid_label = label >= 0 && label < classes;
  const float own = valid_label ? logits[label] : 0;
  float my_largest = -INFINITY;
  int my_above = 0, my_bad = 0;
  for (int c = first; c < classes; c += step) {
    const float logit = logits[c];
    my_bad += std::isfinite(logit) ? 0 : 1;
    my_above += logit > own || (logit == own && c < label) ? 1 : 0;
    my_largest = fmaxf(my_largest, logit);
  }
  const int above = reduce_sum(my_above), bad = reduce_sum(my_bad);
  const double largest = reduce(my_largest, [](float a, float b) { return fmaxf(a, b); });
  if (!valid_label || bad > 0) {
    if (first == 0) scores[blockIdx.x] = {NAN, classes};
    if (d_logits)
      for (int c = first; c < classes; c += step) d_logits[c] = NAN;
    return;
  }

  // The label's share as minus the sum of the others, so that neither a small loss nor a small
  // gradient drowns in the rounding of 1.
  double my_others = 0, my_below_own = 0;
  for (int c = first; c < classes; c += step) {
    if (c != label) my_others += exp(static_cast<double>(logits[c]) - largest);
    my_below_own += static_cast<double>(own) - static_cast<double>(logits[c]);
  }
  const double others = reduce_sum(my_others), below_own = reduce_sum(my_below_own);
  const double distance = largest - static_cast<double>(own), mine = exp(-distance);
  // Smoothing moves this share of the target from the label to each class.
  const double moved = label_smoothing / classes;
  if (first == 0) {
    // With the label on top mine is 1, and log1p keeps what a tiny sum of the others adds.
    const double loss = mine == 1 ? log1p(others) : log(mine + others) + distance;
    scores[blockIdx.x] = {static_cast<float>(loss + moved * below_own), above};
  }
  if (!d_logits) return;
  const double factor = gradient_scale / ((mine + others) * gridDim.x);
  const double scale = gradient_scale / gridDim.x;
  for (int c = first; c < classes; c += step) {
    d_logits[c] = static_cast<float>(
        c == label ? (label_smoothing - moved) * scale - others * factor
                   : exp(static_cast<double>(logits[c]) - largest) * factor - moved * scale);
  }
}

class Loss final : public Kernel {
 public:
  explicit Loss(const SoftmaxCrossEntropy& op)
      : what_("SoftmaxCrossEntropy " + op.logits.to_string()), op_(op) {
    require_valid(op);
    if (op.logits.shape.n > 0x7fffffff || op.logits.shape.c > 0x7fffffff)
      throw std::invalid_argument(what_ + ": n and classes must be below 2^31");
  }

  void run(std::span<void* const> args, void*, Stream stream) const override {
    const auto classes = static_cast<int>(op_.logits.shape.c);
    const unsigned threads = classes <= 128 ? warp : most_warps * warp;
    cuda::launch(
        what_, softmax_cross_entropy, static_cast<unsigned>(op_.logits.shape.n), threads, stream,
        static_cast<const float*>(args[0]), static_cast<const std::int32_t*>(args[1]), classes,
        static_cast<double>(op_.gradient_scale), static_cast<double>(op_.label_smoothing),
        static_cast<SampleScore*>(args[2]), op_.gradient ? static_cast<float*>(args[3]) : nullptr);
  }

 private:
  std::string what_;
  SoftmaxCrossEntropy op_;
};

}  // namespace

KernelPtr plan(const SoftmaxCrossEntropy& op, Cuda) { return std::make_unique<Loss>(op); }

}  // namespace stpt::codelets
