#include "codelets/softmax_cross_entropy.hpp"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/codelets/kernel_testing.hpp"

using namespace stpt;
using namespace stpt::testing;
using codelets::Cpu;
using codelets::SampleScore;
using codelets::SoftmaxCrossEntropy;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

// Everything is computed in double and rounded once: 6e-8, doubled for the reference's own
// rounding.
constexpr Tolerance rounded_once{1.2e-7, 1e-30};

struct Result {
  std::vector<float> loss, rank, d_logits;
};

Result run(std::int64_t n, std::int64_t classes, const std::vector<float>& logits,
           const std::vector<std::int32_t>& labels, bool gradient = true,
           float label_smoothing = 0) {
  const TensorSpec spec = spec_of({n, classes, 1, 1});
  Tensor src(spec, logits), d_logits(spec);
  AlignedBuffer label_memory(labels.size() * sizeof(std::int32_t));
  std::memcpy(label_memory.pointer(), labels.data(), label_memory.bytes());
  AlignedBuffer scores(labels.size() * sizeof(SampleScore));
  run_kernel(*plan(SoftmaxCrossEntropy{spec, gradient, 1, label_smoothing}, Cpu{}),
             {src.pointer(), label_memory.pointer(), scores.pointer(),
              gradient ? d_logits.pointer() : nullptr});
  REQUIRE(scores.guard_intact());
  REQUIRE(d_logits.guard_intact());
  Result result;
  const auto* score = static_cast<const SampleScore*>(scores.pointer());
  for (std::size_t i = 0; i < labels.size(); ++i) {
    result.loss.push_back(score[i].loss);
    result.rank.push_back(static_cast<float>(score[i].rank));
  }
  result.d_logits = d_logits.values();
  return result;
}

}  // namespace

TEST_CASE("Softmax cross-entropy matches PyTorch", "[softmax_cross_entropy]") {
  const GoldenFile golden = load_golden("softmax_cross_entropy.bin");
  for (const std::string& name : golden_cases(golden)) {
    INFO(name);
    const GoldenTensor& logits = golden.at(name + "/logits");
    std::vector<std::int32_t> labels;
    for (const float label : golden.at(name + "/labels").values)
      labels.push_back(static_cast<std::int32_t>(label));
    const float label_smoothing = golden.at(name + "/settings").values[0];
    const Result result =
        run(logits.dims[0], logits.dims[1], logits.values, labels, true, label_smoothing);
    require_close("loss", result.loss, golden.at(name + "/loss").values, rounded_once);
    require_close("rank", result.rank, golden.at(name + "/rank").values, {0, 0});
    require_close("d_logits", result.d_logits, golden.at(name + "/d_logits").values, rounded_once);
    const Result score_only =
        run(logits.dims[0], logits.dims[1], logits.values, labels, false, label_smoothing);
    REQUIRE(score_only.loss == result.loss);
    REQUIRE(score_only.rank == result.rank);
  }
}

TEST_CASE("Softmax cross-entropy's gradient is that of the mean loss", "[softmax_cross_entropy]") {
  struct Case {
    std::int64_t n;
    float label_smoothing;
  };
  for (const auto& [n, label_smoothing] : {Case{1, 0}, Case{5, 0}, Case{5, 0.25f}}) {
    INFO(n << " samples, label smoothing " << label_smoothing);
    const std::int64_t classes = 7;
    const std::vector<float> logits = random_values(n * classes, 1, -2, 2);
    std::vector<std::int32_t> labels;
    for (std::int64_t i = 0; i < n; ++i)
      labels.push_back(static_cast<std::int32_t>(i * 3 % classes));
    const auto loss = [&](std::span<const float> point) {
      double sum = 0;
      for (std::int64_t i = 0; i < n; ++i) {
        const auto row = point.subspan(static_cast<std::size_t>(i * classes), 7);
        double exps = 0, all = 0;
        for (const float value : row) {
          exps += std::exp(static_cast<double>(value));
          all += static_cast<double>(value);
        }
        const auto label = static_cast<std::size_t>(labels[static_cast<std::size_t>(i)]);
        const auto smoothing = static_cast<double>(label_smoothing);
        sum += std::log(exps) - (1 - smoothing) * static_cast<double>(row[label]) -
               smoothing / static_cast<double>(classes) * all;
      }
      return sum / static_cast<double>(n);
    };
    // The definition in double; curvature of at most 0.1 times the squared step remains, 1e-7.
    require_gradient("logits", loss, logits,
                     run(n, classes, logits, labels, true, label_smoothing).d_logits, 1e-3f,
                     {1e-6, 2e-7});
  }
}

TEST_CASE("Softmax cross-entropy keeps small losses and large logits", "[softmax_cross_entropy]") {
  // exp(-20) = 2e-9 is far below the rounding of 1 in float32.
  const Result sure = run(1, 2, {20, 0}, {0});
  REQUIRE(std::abs(sure.loss[0] / std::exp(-20.0) - 1) < 1e-6);
  REQUIRE(std::abs(-sure.d_logits[0] / std::exp(-20.0) - 1) < 1e-6);
  const Result wrong = run(1, 3, {-3e38f, 3e38f, 0}, {0});
  REQUIRE(wrong.loss[0] == infinity);  // 6e38 is beyond float32
  REQUIRE(wrong.d_logits == std::vector<float>{-1, 1, 0});
  for (const float shift : {1e6f, -1e6f}) {
    const Result shifted = run(1, 3, {shift, shift, shift}, {1});
    REQUIRE(std::abs(static_cast<double>(shifted.loss[0]) - std::log(3.0)) < 1e-6);
  }
  const Result one_class = run(2, 1, {5, -5}, {0, 0});
  REQUIRE(one_class.loss == std::vector<float>{0, 0});
  REQUIRE(one_class.d_logits == std::vector<float>{0, 0});
}

TEST_CASE("Softmax cross-entropy ranks ties by index", "[softmax_cross_entropy]") {
  const std::vector<float> logits = {1, 2, 2, 0, 2, 1, 2, 2, 0, 2, 1, 2, 2, 0, 2};
  REQUIRE(run(3, 5, logits, {1, 4, 0}).rank == std::vector<float>{0, 2, 3});
}

TEST_CASE("Softmax cross-entropy marks samples that are not finite", "[softmax_cross_entropy]") {
  for (const float bad : {not_a_number, infinity, -infinity}) {
    const Result result = run(3, 4, {0, 1, 2, 3, 0, bad, 2, 3, 3, 2, 1, 0}, {3, 0, 0});
    REQUIRE(std::isnan(result.loss[1]));
    REQUIRE(result.rank == std::vector<float>{0, 4, 0});
    for (std::size_t i = 0; i < result.d_logits.size(); ++i)
      REQUIRE(std::isnan(result.d_logits[i]) == (i / 4 == 1));
    REQUIRE(result.loss[0] == result.loss[2]);
    REQUIRE(std::isfinite(result.loss[0]));
  }
}

TEST_CASE("Softmax cross-entropy marks labels that are no class", "[softmax_cross_entropy]") {
  const Result result = run(2, 3, {0, 1, 2, 0, 1, 2}, {3, -1});
  for (const float loss : result.loss) REQUIRE(std::isnan(loss));
  for (const float d : result.d_logits) REQUIRE(std::isnan(d));
  REQUIRE(result.rank == std::vector<float>{3, 3});
}

TEST_CASE("Softmax cross-entropy says what it cannot plan", "[softmax_cross_entropy]") {
  const auto message_of = [](const TensorSpec& spec, float label_smoothing = 0) -> std::string {
    try {
      (void)plan(SoftmaxCrossEntropy{spec, true, 1, label_smoothing}, Cpu{});
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "";
  };
  const auto contains = [](const std::string& text, const std::string& part) {
    INFO(text);
    REQUIRE(text.find(part) != std::string::npos);
  };
  contains(message_of({{2, 3, 1, 1}, DataType::int32}), "SoftmaxCrossEntropy 2x3x1x1 int32 nchw");
  contains(message_of({{2, 3, 1, 1}, DataType::int32}), "float32");
  contains(message_of(spec_of({2, 3, 1, 1}, Layout::nchw8c)), "must be nchw");
  contains(message_of(spec_of({2, 3, 2, 1})), "n x classes x 1 x 1");
  contains(message_of(spec_of({0, 3, 1, 1})), "at least one sample");
  for (const float label_smoothing : {-0.1f, 1.0f, not_a_number})
    contains(message_of(spec_of({2, 3, 1, 1}), label_smoothing), "label_smoothing must be");
}
