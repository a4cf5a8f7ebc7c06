#include "codelets/cudnn_cuda.hpp"

#include <cudnn_frontend.h>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <unordered_map>
#include <utility>
#include <vector>

#include "codelets/per_device_cuda.hpp"

namespace stpt::codelets::cudnn {
namespace {

namespace fe = cudnn_frontend;
using runtime::DataType;
using runtime::Shape;

/// Bytes that a plan may ask for. Where the limit bars all others, cuDNN's reference engine is
/// left, without a word and many times slower. In half precision ResNet-50 needs 202 MiB with 256
/// images of 224x224, 784 MiB with 1024; in float32, which cuDNN computes in nchw where it is not
/// rounded to TF32, 1.15 GiB with 256, 2.30 GiB with 512, VGG-16 1.53 GiB with 64.
std::size_t most_workspace(DataType type) {
  return std::size_t{type == DataType::float32 ? 3U : 1U} << 30;
}

/// Throws std::runtime_error unless all went well.
void check(fe::error_t error, const std::string& what) {
  if (error.is_bad()) throw std::runtime_error(what + ": cuDNN: " + error.get_message());
}

void check(cudnnStatus_t status, const std::string& what) {
  if (status != CUDNN_STATUS_SUCCESS)
    throw std::runtime_error(what + ": cuDNN: " + cudnnGetErrorString(status));
}

// ---- Handles ------------------------------------------------------------------------------------

struct DestroyHandle {
  void operator()(cudnnContext* handle) const {
    cudnnSetStream(handle, nullptr);  // its last one may be gone
    cudnnDestroy(handle);
  }
};
using Handle = std::unique_ptr<cudnnContext, DestroyHandle>;

/// The calling thread's handle on its current device: no two threads may share one.
cudnnHandle_t own_handle(const std::string& what) {
  return cuda::get_of_this_thread<Handle>([&] {
           cudnnHandle_t handle = nullptr;
           check(cudnnCreate(&handle), what);
           return Handle(handle);
         })
      .get();
}

// ---- Graphs -------------------------------------------------------------------------------------

enum Operand : std::int64_t { first_input, second_input, output };

fe::DataType_t type_of(DataType type, const std::string& what) {
  switch (type) {
    case DataType::float32:
      return fe::DataType_t::FLOAT;
    case DataType::bfloat16:
      return fe::DataType_t::BFLOAT16;
    case DataType::float16:
      return fe::DataType_t::HALF;
    default:
      cuda::refuse(type, what);
  }
}

/// Dimensions are given in nchw, the memory is that of nhwc.
void describe(fe::graph::Tensor_attributes& tensor, Operand operand, const Shape& shape) {
  const auto [n, c, h, w] = shape;
  tensor.set_uid(operand).set_dim({n, c, h, w}).set_stride({h * w * c, 1, w * c, c});
}

template <class Attributes>
Attributes geometry(const Convolution& convolution) {
  const auto& [kernel, stride, padding, dilation] = convolution.window;
  return Attributes()
      .set_padding({padding.h, padding.w})
      .set_stride({stride.h, stride.w})
      .set_dilation({dilation.h, dilation.w});
}

using Graph = std::unique_ptr<fe::graph::Graph>;

Graph make_graph(const Convolution& convolution, const std::string& what) {
  auto graph = std::make_unique<fe::graph::Graph>();
  graph->set_io_data_type(type_of(convolution.type, what))
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  const auto input = [&](Operand operand, const Shape& shape) {
    fe::graph::Tensor_attributes tensor;
    describe(tensor, operand, shape);
    return graph->tensor(tensor);
  };
  const auto add_output = [](const std::shared_ptr<fe::graph::Tensor_attributes>& tensor,
                             const Shape& shape) {
    describe(*tensor, output, shape);
    tensor->set_output(true);
  };
  const auto& [pass, type, src, weights, dst, window, tf32] = convolution;
  switch (pass) {
    case Pass::forward:
      add_output(graph->conv_fprop(input(first_input, src), input(second_input, weights),
                                   geometry<fe::graph::Conv_fprop_attributes>(convolution)),
                 dst);
      break;
    case Pass::backward_data: {
      const auto filters = input(first_input, weights);
      add_output(graph->conv_dgrad(input(second_input, dst), filters,
                                   geometry<fe::graph::Conv_dgrad_attributes>(convolution)),
                 src);
      break;
    }
    case Pass::backward_weights: {
      const auto image = input(first_input, src);
      add_output(graph->conv_wgrad(input(second_input, dst), image,
                                   geometry<fe::graph::Conv_wgrad_attributes>(convolution)),
                 weights);
      break;
    }
  }
  return graph;
}

/// What an engine must not do: give other bits at another run, sum in less than float32, transform
/// tiles, which rounds more and spreads a NaN over all of a tile, or, where float32 is to be that,
/// round what it multiplies.
std::vector<fe::NumericalNote_t> unwanted(const Convolution& convolution) {
  using Note = fe::NumericalNote_t;
  std::vector<Note> notes = {
      Note::NONDETERMINISTIC,   Note::REDUCED_PRECISION_REDUCTION, Note::FFT,
      Note::WINOGRAD,           Note::WINOGRAD_TILE_4x4,           Note::WINOGRAD_TILE_6x6,
      Note::WINOGRAD_TILE_13x13};
  if (convolution.type == DataType::float32) {
    notes.push_back(Note::DOWN_CONVERT_INPUTS);
    if (!convolution.tf32) notes.push_back(Note::TENSOR_CORE);
  }
  return notes;
}

[[noreturn]] void fail_without_engine(const std::string& what, const std::string& words) {
  cudaDeviceProp properties{};
  cuda::check(cudaGetDeviceProperties(&properties, cuda::current_device()), what);
  const std::size_t version = cudnnGetVersion();
  throw std::invalid_argument(
      what + ": cuDNN " + std::to_string(version / 10000) + "." +
      std::to_string(version / 100 % 100) + " has no engine for this on " + properties.name + " (" +
      words.substr(0, words.find('\n')) +
      "); another model.data_type, or channels in multiples of 8, may be supported");
}

/// Whether a plan is engine 0's, the reference: it can do everything, many times slower, and the
/// heuristics name it before others that a limit or a note leaves.
bool is_reference(const fe::graph::Graph& graph, std::int64_t plan) {
  std::string engine;
  return graph.get_plan_name_at_index(plan, engine).is_good() &&
         engine.substr(0, engine.find("_k")) == "eng0";
}

/// Gives a graph that knows its device a plan: the first that the heuristics name and that is
/// allowed, one of the reference after all others, unless it is their first. Measuring which is
/// fastest would give other bits at another run.
fe::error_t choose_plan(fe::graph::Graph& graph, const Convolution& convolution,
                        std::size_t workspace_limit) {
  fe::error_t status = graph.create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK});
  if (status.is_bad()) return status;
  graph.deselect_numeric_notes(unwanted(convolution));
  graph.deselect_workspace_greater_than(static_cast<std::int64_t>(workspace_limit));
  status = graph.check_support();
  if (status.is_bad()) return status;
  for (const bool last_resort : {false, true}) {
    for (std::int64_t plan = 0; plan < graph.get_execution_plan_count(); ++plan) {
      if ((plan > 0 && is_reference(graph, plan)) != last_resort) continue;
      status = graph.build_plan_at_index(plan);
      if (status.is_good()) return status;
    }
  }
  return status;
}

std::size_t workspace_of(const fe::graph::Graph& graph, const std::string& what) {
  std::int64_t bytes = 0;
  check(graph.get_workspace_size(bytes), what);
  return static_cast<std::size_t>(bytes);
}

/// A graph that can be executed on the current device.
Graph build(const Convolution& convolution, std::size_t workspace_limit, const std::string& what) {
  Graph graph = make_graph(convolution, what);
  check(graph->validate(), what);
  check(graph->build_operation_graph(own_handle(what)), what);
  fe::error_t status = choose_plan(*graph, convolution, workspace_limit);
  if (status.is_bad()) fail_without_engine(what, status.get_message());
  return graph;
}

// ---- Sharing ------------------------------------------------------------------------------------

/// One convolution's graphs, one for each device. A network has few kinds of convolutions, but
/// many of each, and there may be several programs of one network.
class SharedGraphs {
 public:
  SharedGraphs(const Convolution& convolution, const std::string& what)
      : convolution_(convolution) {
    workspace_bytes_ = most_workspace(convolution.type);
    workspace_bytes_ = own(what).workspace_bytes;  // on other devices no more
  }

  [[nodiscard]] std::size_t workspace_bytes() const { return workspace_bytes_; }

  /// Makes what the current device needs.
  void prepare(const std::string& what) { own(what); }

  void run(std::span<void* const> args, void* workspace, Stream stream, const std::string& what) {
    OfDevice& device = own(what);
    const cudnnHandle_t handle = own_handle(what);
    std::unordered_map<std::int64_t, void*> pack = {
        {first_input, args[0]}, {second_input, args[1]}, {output, args[2]}};
    // cuDNN promises that threads with handles of their own do not disturb each other, but not that
    // they may execute one plan at once. Replayed graphs do not come here.
    const std::scoped_lock lock(device.executing);
    check(cudnnSetStream(handle, cuda::native(stream)), what);
    check(device.graph->execute(handle, pack, workspace), what);
  }

 private:
  struct OfDevice {
    Graph graph;
    std::size_t workspace_bytes = 0;
    std::mutex executing;
  };

  /// Devices of one kind are asked the same, and so compute the same; another kind may want more
  /// workspace than there is.
  OfDevice& own(const std::string& what) {
    return *of_devices_.get([&] {
      auto made = std::make_unique<OfDevice>();
      const auto make = [&](std::size_t workspace_limit) {
        made->graph = build(convolution_, workspace_limit, what);
        made->workspace_bytes = workspace_of(*made->graph, what);
      };
      make(most_workspace(convolution_.type));
      if (made->workspace_bytes > workspace_bytes_) make(workspace_bytes_);
      return made;
    });
  }

  Convolution convolution_;
  std::size_t workspace_bytes_ = 0;  ///< on the first device
  cuda::PerDevice<std::unique_ptr<OfDevice>> of_devices_;
};

/// The graphs of all convolutions that there are kernels of. They live as long as those: what
/// cuDNN makes must be gone before the process ends, when CUDA may no longer be used.
class Registry {
 public:
  std::shared_ptr<SharedGraphs> get(const Convolution& convolution, const std::string& what) {
    const std::scoped_lock lock(mutex_);
    std::erase_if(graphs_, [](const auto& entry) { return entry.second.expired(); });
    std::weak_ptr<SharedGraphs>& known = graphs_[convolution];
    std::shared_ptr<SharedGraphs> graphs = known.lock();
    if (!graphs) known = graphs = std::make_shared<SharedGraphs>(convolution, what);
    return graphs;
  }

  std::size_t alive() {
    const std::scoped_lock lock(mutex_);
    std::erase_if(graphs_, [](const auto& entry) { return entry.second.expired(); });
    return graphs_.size();
  }

 private:
  std::mutex mutex_;
  std::map<Convolution, std::weak_ptr<SharedGraphs>> graphs_;
};

Registry& registry() {
  static Registry all;
  return all;
}

class ConvolutionKernel final : public Kernel {
 public:
  ConvolutionKernel(std::shared_ptr<SharedGraphs> graphs, std::string what)
      : graphs_(std::move(graphs)), what_(std::move(what)) {
    graphs_->prepare(what_);
    workspace_bytes_ = graphs_->workspace_bytes();
  }

  void run(std::span<void* const> args, void* workspace, Stream stream) const override {
    graphs_->run(args, workspace, stream, what_);
  }

 private:
  std::shared_ptr<SharedGraphs> graphs_;
  std::string what_;
};

}  // namespace

KernelPtr plan(const Convolution& convolution, const std::string& what) {
  return std::make_unique<ConvolutionKernel>(registry().get(convolution, what), what);
}

Choice choice_on(const Convolution& convolution, const std::string& properties, int architecture,
                 const std::string& what) {
  const auto device = std::make_shared<fe::DeviceProperties>();
  check(device->deserialize({properties.begin(), properties.end()}), what);
  const Graph graph = make_graph(convolution, what);
  graph->set_device_properties(device).set_sm_version(architecture);
  check(graph->validate(), what);
  check(graph->build_operation_graph(), what);
  fe::error_t status = choose_plan(*graph, convolution, most_workspace(convolution.type));
  if (status.is_bad()) throw std::invalid_argument(what + ": " + status.get_message());
  Choice choice;
  check(graph->get_plan_name(choice.engine), what);
  choice.workspace_bytes = workspace_of(*graph, what);
  return choice;
}

std::size_t planned_convolutions() { return registry().alive(); }

}  // namespace stpt::codelets::cudnn
