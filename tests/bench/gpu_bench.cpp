// Times training on a GPU. Prints lines of JSON; scripts/bench.sh makes a table of them.
//   gpu_bench info                          the GPU and CUDA's versions
//   gpu_bench step MODEL BATCH TYPE         training steps as the program makes them, on StarPU
//   gpu_bench loop MODEL BATCH TYPE         the same kernels as one CUDA graph, in a plain loop
//   gpu_bench overhead MODEL BATCH TYPE     both in turn: what StarPU costs
//   gpu_bench ops MODEL BATCH TYPE          the model's convolutions, normalisations, ... each
//   alone
// TYPE is float32, bfloat16 or float16. Options:
//   --tf32                  float32 convolutions and products may use TF32
//   --grain op|block|step   how much goes into one task
//   --replicas R            R models are trained in turn, as by Pre-train; the sum counts
//   --workers-per-gpu W     StarPU workers of the GPU
//   --seconds S             of a round of step, loop and overhead
//   --rounds N
//   --serve                 a round of S seconds for each line "S" of the standard input instead
//   --side N                images of N x N
#include "tests/bench/gpu_bench.hpp"

#include <cudnn.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "models/zoo.hpp"
#include "runtime/cluster.hpp"
#include "runtime/runtime.hpp"

namespace stpt::bench {
namespace {

class UsageError : public std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

int positive(const std::string& text, const std::string& what) {
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  if (end == text.c_str() || *end != '\0' || value < 1 || value > 1'000'000)
    throw UsageError(what + ": \"" + text + "\" is no whole number of at least 1");
  return static_cast<int>(value);
}

double seconds(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (end == text.c_str() || *end != '\0' || !(value > 0))
    throw UsageError("\"" + text + "\" is no number of seconds");
  return value;
}

runtime::DataType parse_type(const std::string& name) {
  for (const auto type :
       {runtime::DataType::float32, runtime::DataType::bfloat16, runtime::DataType::float16}) {
    if (name == runtime::to_string(type)) return type;
  }
  throw UsageError("\"" + name + "\" is none of float32, bfloat16, float16");
}

models::Grain parse_grain(const std::string& name) {
  if (name == "op") return models::Grain::op;
  if (name == "block") return models::Grain::block;
  if (name == "step") return models::Grain::step;
  throw UsageError("\"" + name + "\" is none of op, block, step");
}

Options parse(const std::vector<std::string>& arguments) {
  Options options;
  if (arguments.size() < 4) throw UsageError("MODEL, BATCH and TYPE are missing");
  options.model = arguments[1];
  options.batch = positive(arguments[2], "BATCH");
  options.type = parse_type(arguments[3]);
  for (std::size_t i = 4; i < arguments.size(); ++i) {
    const std::string& name = arguments[i];
    const auto value = [&]() -> const std::string& {
      if (i + 1 == arguments.size()) throw UsageError(name + " needs a value");
      return arguments[++i];
    };
    if (name == "--tf32") {
      options.tf32 = true;
    } else if (name == "--serve") {
      options.serve = true;
    } else if (name == "--grain") {
      options.grain = parse_grain(value());
    } else if (name == "--replicas") {
      options.replicas = positive(value(), name);
    } else if (name == "--workers-per-gpu") {
      options.workers_per_gpu = positive(value(), name);
    } else if (name == "--seconds") {
      options.seconds = seconds(value());
    } else if (name == "--rounds") {
      options.rounds = positive(value(), name);
    } else if (name == "--side") {
      options.side = positive(value(), name);
    } else {
      throw UsageError("unknown option " + name);
    }
  }
  return options;
}

int info() {
  int driver = 0, runtime = 0, number = codelets::cuda::current_device();
  cudaDeviceProp properties{};
  codelets::cuda::check(cudaDriverGetVersion(&driver), "asking for the driver's version");
  codelets::cuda::check(cudaRuntimeGetVersion(&runtime), "asking for CUDA's version");
  codelets::cuda::check(cudaGetDeviceProperties(&properties, number), "asking for the GPU");
  JsonLine()
      .add("device", properties.name)
      .add("memory_bytes", static_cast<std::int64_t>(properties.totalGlobalMem))
      .add("compute_capability",
           std::to_string(properties.major) + "." + std::to_string(properties.minor))
      .add("multiprocessors", properties.multiProcessorCount)
      .add("l2_bytes", properties.l2CacheSize)
      .add("cuda_driver", driver)
      .add("cuda_runtime", runtime)
      .add("cudnn", static_cast<std::int64_t>(cudnnGetVersion()));
  return 0;
}

int run(const std::vector<std::string>& arguments) {
  const std::string what = arguments.empty() ? "" : arguments[0];
  if (what == "info") return info();
  if (what == "step") return bench_step(parse(arguments));
  if (what == "loop") return bench_loop(parse(arguments));
  if (what == "overhead") return bench_overhead(parse(arguments));
  if (what == "ops") return bench_operations(parse(arguments));
  throw UsageError("expected info, step, loop, overhead or ops");
}

}  // namespace

models::Network Options::network() const {
  for (const models::ModelInfo& info : models::available_models()) {
    if (info.name != model) continue;
    runtime::Shape input = info.usual_input;
    const int classes = input.h == 224 ? 1000 : 10;
    if (side > 0) input.h = input.w = side;
    models::Network network = models::make_network(model, input, classes);
    network.data_type = type;
    return network;
  }
  throw UsageError("no model is called " + model + "; stpt_starpu --list-models shows all");
}

models::LoweringOptions Options::lowering() const {
  return {grain, device(), type == runtime::DataType::float16 ? 1024.0f : 1.0f};
}

void for_each_round(const Options& options, const std::function<void(double)>& round) {
  JsonLine().add("ready", 1).add("parameters", options.network().parameter_count());
  if (!options.serve) {
    for (int i = 0; i < options.rounds; ++i) round(options.seconds);
    return;
  }
  const auto next = [](std::string& line) {
    // Workers of a StarPU for GPUs spin, and others are timed meanwhile.
    std::optional<runtime::WorkersPaused> quiet;
    if (runtime::Runtime::alive()) quiet.emplace();
    return static_cast<bool>(std::getline(std::cin, line));
  };
  for (std::string line; next(line);) round(seconds(line));
}

JsonLine::~JsonLine() {
  std::printf("{%s}\n", text_.c_str());
  std::fflush(stdout);
}

JsonLine& JsonLine::add(const char* key, const std::string& value) {
  return add_text(key, "\"" + value + "\"");
}

JsonLine& JsonLine::add(const char* key, double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", value);
  return add_text(key, std::isfinite(value) ? text : "null");
}

JsonLine& JsonLine::add(const char* key, std::int64_t value) {
  return add_text(key, std::to_string(value));
}

JsonLine& JsonLine::add_text(const char* key, const std::string& text) {
  text_ += (text_.empty() ? "\"" : ", \"") + std::string(key) + "\": " + text;
  return *this;
}

}  // namespace stpt::bench

int main(int argc, char** argv) {
  setenv("STARPU_SILENT", "1", 0);  // a value from outside wins
  try {
    const stpt::runtime::Cluster cluster;
    return stpt::bench::run({argv + 1, argv + argc});
  } catch (const std::invalid_argument& error) {
    std::fprintf(stderr, "gpu_bench: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpu_bench: %s\n", error.what());
    return 1;
  }
}
