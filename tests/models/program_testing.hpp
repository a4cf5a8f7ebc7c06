// Runs programs on host values and hands back all that they computed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "codelets/softmax_cross_entropy.hpp"
#include "models/model_state.hpp"
#include "models/optimizer.hpp"
#include "models/program.hpp"
#include "runtime/random.hpp"
#include "runtime/runtime.hpp"
#include "tests/codelets/kernel_testing.hpp"

namespace stpt::testing {

using codelets::SampleScore;
using models::Grain;
using models::Lane;
using models::LoweringOptions;
using models::Mode;
using models::ModelState;
using models::ModelValues;
using models::Network;
using models::Optimizer;
using models::Program;
using models::ProgramInputs;
using runtime::Access;
using runtime::Home;
using runtime::HostView;

/// Small networks have a single one else.
inline Network with_a_bucket_per_block(Network network) {
  models::make_buckets(network, 1);
  return network;
}

/// What a program needs from outside.
struct Problem {
  Network network;
  int batch = 1;
  std::vector<float> images;
  std::vector<std::int32_t> labels;
  std::vector<runtime::PhiloxKey> keys;
  ModelValues values;

  /// Everything is left to the test; parameters are 0.
  Problem(Network net, int size) : network(std::move(net)), batch(size) {
    for (const std::size_t elements : network.buckets)
      values.parameters.emplace_back(elements, 0.0f);
    values.moments = values.parameters;
    values.running = {network.initial_running_statistics()};
  }

  Problem(Network net, int size, unsigned seed) : network(std::move(net)), batch(size) {
    images = random_values(size * network.input().elements(), seed);
    std::mt19937 generator(seed);
    for (int i = 0; i < size; ++i) {
      labels.push_back(
          static_cast<std::int32_t>(generator() % static_cast<unsigned>(network.classes)));
      keys.push_back({seed, static_cast<std::uint32_t>(i)});
    }
    values = ModelValues::initial(network, 1, seed);
    // Values that nothing can be mistaken for: biases that are not 0, gammas and variances not 1.
    for (const models::Parameter& parameter : network.parameters) {
      if (!parameter.initial) continue;
      float* value =
          values.parameters[static_cast<std::size_t>(parameter.bucket)].data() + parameter.offset;
      const auto noise = random_values(parameter.shape.elements(), ++seed, -0.3f, 0.3f);
      for (std::size_t i = 0; i < noise.size(); ++i) value[i] += noise[i];
    }
    for (auto& running : values.running) {
      const auto noise =
          random_values(static_cast<std::int64_t>(running.size()), ++seed, 0.0f, 0.5f);
      for (std::size_t i = 0; i < noise.size(); ++i) running[i] += noise[i];
    }
  }
};

/// The tensors of one execution.
struct Buffers {
  runtime::Tensor images, labels, keys, scores;
  std::vector<runtime::Tensor> gradients;

  explicit Buffers(const Problem& problem)
      : images({{problem.batch, problem.network.input().c, problem.network.input().h,
                 problem.network.input().w},
                runtime::DataType::float32,
                runtime::Layout::nchw},
               "images", Home::host),
        labels(runtime::vector_spec(problem.labels.size(), runtime::DataType::int32), "labels",
               Home::host),
        keys(runtime::bytes_spec(problem.labels.size() * sizeof(runtime::PhiloxKey)), "keys",
             Home::host),
        scores(runtime::bytes_spec(problem.labels.size() * sizeof(SampleScore)), "scores") {
    std::copy(problem.images.begin(), problem.images.end(),
              HostView(images, Access::write).as<float>().begin());
    std::copy(problem.labels.begin(), problem.labels.end(),
              HostView(labels, Access::write).as<std::int32_t>().begin());
    std::copy(problem.keys.begin(), problem.keys.end(),
              HostView(keys, Access::write).as<runtime::PhiloxKey>().begin());
    for (const std::size_t elements : problem.network.buckets) {
      gradients.emplace_back(runtime::vector_spec(elements), "gradient", Home::host);
    }
    // NaN wherever the program must write.
    for (const models::Parameter& parameter : problem.network.parameters) {
      const HostView view(gradients[static_cast<std::size_t>(parameter.bucket)],
                          Access::read_write);
      std::fill_n(view.as<float>().begin() + static_cast<std::ptrdiff_t>(parameter.offset),
                  parameter.shape.elements(), std::numeric_limits<float>::quiet_NaN());
    }
  }

  ProgramInputs inputs(const ModelState& state, const Lane& lane) const {
    ProgramInputs inputs;
    inputs.images = {&images, 1};
    inputs.labels = &labels;
    inputs.keys = &keys;
    inputs.scores = &scores;
    inputs.parameters = &state.parameters;
    inputs.gradients = &gradients;
    inputs.running = state.running.empty() ? nullptr : &state.running[0];
    inputs.lane = &lane;
    return inputs;
  }
};

struct Outcome {
  std::vector<SampleScore> scores;
  std::vector<std::vector<float>> gradients;
  ModelValues values;

  [[nodiscard]] double mean_loss() const {
    double sum = 0;
    for (const SampleScore& score : scores) sum += static_cast<double>(score.loss);
    return sum / static_cast<double>(scores.size());
  }
  [[nodiscard]] std::span<const float> gradient(const models::Parameter& parameter) const {
    return std::span(gradients[static_cast<std::size_t>(parameter.bucket)])
        .subspan(parameter.offset, static_cast<std::size_t>(parameter.shape.elements()));
  }
  [[nodiscard]] std::span<const float> value(const models::Parameter& parameter) const {
    return std::span(values.parameters[static_cast<std::size_t>(parameter.bucket)])
        .subspan(parameter.offset, static_cast<std::size_t>(parameter.shape.elements()));
  }

  static Outcome of(const Buffers& buffers, const ModelState& state, Mode mode) {
    Outcome outcome;
    if (mode != Mode::calibration) {
      const HostView view(buffers.scores, Access::read);
      const auto scores = view.as<SampleScore>();
      outcome.scores.assign(scores.begin(), scores.end());
    }
    for (const runtime::Tensor& gradient : buffers.gradients) {
      const HostView view(gradient, Access::read);
      outcome.gradients.emplace_back(view.as<float>().begin(), view.as<float>().end());
    }
    outcome.values = models::read(state);
    return outcome;
  }
};

/// Same bits in all that was computed.
inline bool same(const std::vector<std::vector<float>>& a,
                 const std::vector<std::vector<float>>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const auto& x, const auto& y) { return same_bits(x, y); });
}

inline bool same(const Outcome& a, const Outcome& b) {
  return a.scores.size() == b.scores.size() &&
         (a.scores.empty() || std::memcmp(a.scores.data(), b.scores.data(),
                                          a.scores.size() * sizeof(SampleScore)) == 0) &&
         same(a.gradients, b.gradients) && same(a.values.parameters, b.values.parameters) &&
         same(a.values.moments, b.values.moments) && same(a.values.running, b.values.running);
}

enum class How { tasks, here };

/// Runs the program `steps` times, each followed by an update if there is an optimizer.
inline Outcome execute(const Problem& problem, Mode mode, const LoweringOptions& options,
                       How how = How::tasks, const Optimizer* optimizer = nullptr, int steps = 1) {
  const Program program(problem.network, problem.batch, mode, options);
  ModelState state(problem.network, 1, "state");
  models::write(state, problem.values);
  const Buffers buffers(problem);
  const Lane lane = program.make_lane();
  AlignedBuffer scratch(program.scratch_bytes());
  for (int step = 0; step < steps; ++step) {
    if (how == How::tasks) {
      program.submit(buffers.inputs(state, lane), runtime::Runtime::current().worker_for(0));
    } else {
      program.run_here(buffers.inputs(state, lane),
                       {static_cast<std::byte*>(scratch.pointer()), scratch.bytes()});
    }
    for (std::size_t bucket = 0; optimizer != nullptr && bucket < buffers.gradients.size();
         ++bucket) {
      optimizer->step(state, bucket, buffers.gradients[bucket], 1, 0.1f);
    }
  }
  runtime::Runtime::current().wait_for_all();
  REQUIRE(scratch.guard_intact());
  return Outcome::of(buffers, state, mode);
}

/// On cores.
inline Outcome execute(const Problem& problem, Mode mode, Grain grain, How how = How::tasks,
                       const Optimizer* optimizer = nullptr, int steps = 1) {
  return execute(problem, mode, LoweringOptions{grain}, how, optimizer, steps);
}

}  // namespace stpt::testing
