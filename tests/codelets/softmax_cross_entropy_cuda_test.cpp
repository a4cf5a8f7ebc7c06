#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "codelets/softmax_cross_entropy.hpp"
#include "tests/codelets/cuda_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using codelets::Cpu;
using codelets::SampleScore;
using codelets::SoftmaxCrossEntropy;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

// Both sides compute in double and round once, 6e-8 each.
constexpr Tolerance rounded_once{1.2e-7, 1e-30};

struct Result {
  std::vector<float> loss, rank, d_logits;
};

Result result_of(const void* scores, std::size_t samples, std::vector<float> d_logits) {
  std::vector<SampleScore> each(samples);
  std::memcpy(each.data(), scores, samples * sizeof(SampleScore));
  Result result;
  for (const SampleScore& score : each) {
    result.loss.push_back(score.loss);
    result.rank.push_back(static_cast<float>(score.rank));
  }
  result.d_logits = std::move(d_logits);
  return result;
}

Result on_gpu(const SoftmaxCrossEntropy& op, const std::vector<float>& logits,
              const std::vector<std::int32_t>& labels) {
  DeviceTensor src(op.logits, logits), d_logits(op.logits);
  DeviceBuffer label_memory(labels.size() * sizeof(std::int32_t));
  label_memory.upload(labels.data(), label_memory.bytes());
  DeviceBuffer scores(labels.size() * sizeof(SampleScore));
  run_on_gpu(*plan(op, Cuda{}), {&src, &label_memory, &scores, op.gradient ? &d_logits : nullptr},
             {&scores, &d_logits});
  return result_of(scores.download().data(), labels.size(), d_logits.values());
}

Result on_cpu(const SoftmaxCrossEntropy& op, const std::vector<float>& logits,
              std::vector<std::int32_t> labels) {
  Tensor src(op.logits, logits), d_logits(op.logits);
  std::vector<SampleScore> scores(labels.size());
  run_kernel(*plan(op, Cpu{}), {src.pointer(), labels.data(), scores.data(), d_logits.pointer()});
  return result_of(scores.data(), labels.size(), d_logits.values());
}

void require_same(const Result& actual, const Result& expected) {
  require_close("loss", actual.loss, expected.loss, rounded_once);
  require_close("rank", actual.rank, expected.rank, exactly);
  require_close("d_logits", actual.d_logits, expected.d_logits, rounded_once);
}

}  // namespace

TEST_CASE("Softmax cross-entropy on a GPU agrees with the CPU", "[cuda][softmax_cross_entropy]") {
  NEEDS_GPUS(1);
  // One class, fewer and more than a warp, more than a block.
  for (const std::int64_t classes : {1, 3, 10, 32, 65, 128, 129, 1000}) {
    const std::int64_t n = 6;
    const TensorSpec spec = spec_of({n, classes, 1, 1});
    std::vector<float> logits = random_values(n * classes, 1, -4, 4);
    std::vector<std::int32_t> labels;
    for (std::int64_t i = 0; i < n; ++i) {
      labels.push_back(static_cast<std::int32_t>(i * 37 % classes));
      // The first sample has ties, the second a clear winner, which is right.
      auto* row = logits.data() + i * classes;
      if (i == 0)
        for (std::int64_t c = 0; c < classes; ++c) row[c] = std::round(row[c]);
      if (i == 1) row[labels.back()] = 40;
    }
    INFO(classes << " classes");
    struct Case {
      float gradient_scale, label_smoothing;
    };
    for (const auto& [gradient_scale, label_smoothing] :
         {Case{1, 0}, Case{1024, 0}, Case{1024, 0.1f}}) {
      const SoftmaxCrossEntropy op{spec, true, gradient_scale, label_smoothing};
      const Result expected = on_cpu(op, logits, labels), actual = on_gpu(op, logits, labels);
      require_same(actual, expected);
      if (label_smoothing > 0) continue;
      // The second sample's are far below the others, so look at them apart.
      for (std::int64_t c = 0; c < classes; ++c) {
        const auto i = static_cast<std::size_t>(classes + c);
        REQUIRE(std::abs(actual.d_logits[i] - expected.d_logits[i]) <=
                2e-7f * std::abs(expected.d_logits[i]));
      }
      REQUIRE(std::abs(actual.loss[1] - expected.loss[1]) <= 2e-7f * expected.loss[1]);
    }
    const Result score_only = on_gpu({spec, false}, logits, labels);
    const Result with_gradient = on_gpu({spec, true}, logits, labels);
    REQUIRE(score_only.loss == with_gradient.loss);
    REQUIRE(score_only.rank == with_gradient.rank);
    for (const float untouched : score_only.d_logits) REQUIRE(std::isnan(untouched));
  }
}

TEST_CASE("Softmax cross-entropy on a GPU matches PyTorch", "[cuda][softmax_cross_entropy]") {
  NEEDS_GPUS(1);
  const GoldenFile golden = load_golden("softmax_cross_entropy.bin");
  for (const std::string& name : golden_cases(golden)) {
    INFO(name);
    const GoldenTensor& logits = golden.at(name + "/logits");
    std::vector<std::int32_t> labels;
    for (const float label : golden.at(name + "/labels").values)
      labels.push_back(static_cast<std::int32_t>(label));
    const TensorSpec spec = spec_of({logits.dims[0], logits.dims[1], 1, 1});
    const float label_smoothing = golden.at(name + "/settings").values[0];
    require_same(on_gpu({spec, true, 1, label_smoothing}, logits.values, labels),
                 {golden.at(name + "/loss").values, golden.at(name + "/rank").values,
                  golden.at(name + "/d_logits").values});
  }
}

TEST_CASE("Softmax cross-entropy on a GPU keeps large logits", "[cuda][softmax_cross_entropy]") {
  NEEDS_GPUS(1);
  const SoftmaxCrossEntropy op{spec_of({1, 3, 1, 1})};
  const Result wrong = on_gpu(op, {-3e38f, 3e38f, 0}, {0});
  REQUIRE(wrong.loss[0] == infinity);  // 6e38 is beyond float32
  REQUIRE(wrong.d_logits == std::vector<float>{-1, 1, 0});
  for (const float shift : {1e6f, -1e6f}) {
    const Result shifted = on_gpu(op, {shift, shift, shift}, {1});
    REQUIRE(std::abs(static_cast<double>(shifted.loss[0]) - std::log(3.0)) < 1e-6);
  }
}

TEST_CASE("Softmax cross-entropy on a GPU marks what is not finite and labels that are no class",
          "[cuda][softmax_cross_entropy]") {
  NEEDS_GPUS(1);
  for (const std::int64_t classes : {4, 300}) {
    const SoftmaxCrossEntropy op{spec_of({5, classes, 1, 1})};
    for (const float bad : {not_a_number, infinity, -infinity}) {
      std::vector<float> logits = random_values(5 * classes, 3);
      logits[static_cast<std::size_t>(2 * classes - 1)] = bad;
      const Result result = on_gpu(op, logits, {0, 0, -1, static_cast<std::int32_t>(classes), 3});
      INFO(classes << " classes, " << bad);
      for (std::size_t n = 0; n < 5; ++n) {
        const bool marked = n >= 1 && n <= 3;
        REQUIRE(std::isnan(result.loss[n]) == marked);
        REQUIRE((result.rank[n] == static_cast<float>(classes)) == marked);
        for (std::size_t c = 0; c < static_cast<std::size_t>(classes); ++c)
          REQUIRE(std::isnan(result.d_logits[n * static_cast<std::size_t>(classes) + c]) == marked);
      }
    }
  }
}

TEST_CASE("Softmax cross-entropy on a GPU says what it cannot plan",
          "[cuda][softmax_cross_entropy]") {
  const auto complain = [](const TensorSpec& spec, std::initializer_list<std::string_view> parts) {
    require_complaint([&] { (void)plan(SoftmaxCrossEntropy{spec}, Cuda{}); }, parts);
  };
  complain({{2, 3, 1, 1}, DataType::bfloat16}, {"SoftmaxCrossEntropy 2x3x1x1 bfloat16", "float32"});
  complain(spec_of({2, 3, 1, 1}, Layout::nchw8c), {"must be nchw"});
  complain(spec_of({2, 3, 2, 1}), {"n x classes x 1 x 1"});
  complain(spec_of({2, 3, 1, 2}), {"n x classes x 1 x 1"});
  complain(spec_of({0, 3, 1, 1}), {"at least one sample"});
  complain(spec_of({2, 0, 1, 1}), {"at least one sample and one class"});
  complain(spec_of({1, std::int64_t{1} << 31, 1, 1}), {"below 2^31"});
  for (const float label_smoothing : {1.0f, -0.1f, not_a_number}) {
    require_complaint(
        [&] {
          (void)plan(SoftmaxCrossEntropy{spec_of({2, 3, 1, 1}), true, 1, label_smoothing}, Cuda{});
        },
        {"label_smoothing must be"});
  }
}
