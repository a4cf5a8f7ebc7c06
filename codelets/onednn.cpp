#include "codelets/onednn.hpp"

#include <omp.h>

#include <array>
#include <cstddef>
#include <utility>

#include "runtime/tensor.hpp"

namespace stpt::codelets::onednn {

namespace {

constexpr std::size_t most_operands = 8;

/// What each thread needs before it may use oneDNN.
struct ThreadState {
  ThreadState() { omp_set_num_threads(1); }
};

void prepare_thread() { static thread_local const ThreadState state; }

const dnnl::engine& shared_engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

const dnnl::stream& thread_stream() {
  static thread_local const dnnl::stream stream(engine());
  return stream;
}

dnnl::memory::format_tag tag_of(Layout layout) {
  using Tag = dnnl::memory::format_tag;
  switch (layout) {
    case Layout::any:
      return Tag::any;
    case Layout::nchw:
      return Tag::nchw;
    case Layout::nhwc:
      return Tag::nhwc;
    case Layout::nchw8c:
      return Tag::nChw8c;
    case Layout::nchw16c:
      return Tag::nChw16c;
  }
  throw std::logic_error("onednn: unknown layout");
}

}  // namespace

const dnnl::engine& engine() {
  prepare_thread();
  return shared_engine();
}

dnnl::primitive_attr user_scratchpad() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

void rectify(std::span<float> x) {
  for (float& value : x) value = value < 0 ? 0 : value;
}

MemoryDesc describe(const Shape& shape, Layout layout) {
  return {{shape.n, shape.c, shape.h, shape.w}, dnnl::memory::data_type::f32, tag_of(layout)};
}

MemoryDesc describe(const TensorSpec& spec) { return describe(spec.shape, spec.layout); }

Layout layout_of(const MemoryDesc& desc) {
  const dnnl::memory::dims dims = desc.dims();
  if (dims.size() != 4) return Layout::any;
  const Shape shape{dims[0], dims[1], dims[2], dims[3]};
  for (const Layout layout : layouts) {
    if (desc == describe(shape, layout)) return layout;
  }
  return Layout::any;
}

void fail(std::string_view op, const std::string& reason) {
  throw std::invalid_argument(std::string(op) + ": " + reason);
}

int cost(std::string_view implementation, int reorders) {
  const auto has = [&](std::string_view part) {
    return implementation.find(part) != std::string_view::npos;
  };
  if (has("ref") || has("simple")) return 100 + reorders;
  if (has("gemm:") && !has("brgemm")) return 3 + reorders;
  return reorders;
}

Program::Program(std::string name, std::size_t arguments)
    : name_(std::move(name)), arguments_(arguments) {}

Program::Place Program::reserve(std::size_t bytes) {
  const std::size_t offset = workspace_bytes_;
  workspace_bytes_ += runtime::align_up(bytes);
  return {true, offset};
}

Program::Place Program::temporary(const MemoryDesc& desc) { return reserve(desc.get_size()); }

void Program::append(const dnnl::primitive& primitive, const MemoryDesc& scratchpad,
                     std::vector<Operand> operands) {
  if (scratchpad.get_size() > 0)
    operands.push_back({DNNL_ARG_SCRATCHPAD, scratchpad, temporary(scratchpad)});
  if (operands.size() > most_operands) throw std::logic_error(name_ + ": too many operands");
  steps_.push_back({primitive, std::move(operands)});
}

void Program::copy(Place from, const MemoryDesc& from_desc, Place to, const MemoryDesc& to_desc) {
  const dnnl::reorder::primitive_desc pd(engine(), from_desc, engine(), to_desc, user_scratchpad());
  add(pd, dnnl::reorder(pd), {{DNNL_ARG_FROM, from_desc, from}, {DNNL_ARG_TO, to_desc, to}});
}

Program::Place Program::read_as(Place place, const MemoryDesc& stored, const MemoryDesc& wanted) {
  if (stored == wanted) return place;
  const Place reordered = temporary(wanted);
  copy(place, stored, reordered, wanted);
  return reordered;
}

Program::Place Program::write_as(Place place, const MemoryDesc& stored,
                                 const MemoryDesc& computed) {
  return stored == computed ? place : temporary(computed);
}

void Program::write_back(Place from, const MemoryDesc& computed, Place place,
                         const MemoryDesc& stored) {
  if (stored != computed) copy(from, computed, place, stored);
}

void Program::run(std::span<void* const> args, void* workspace, Stream) const {
  if (args.size() != arguments_) {
    fail(name_, std::to_string(args.size()) + " arguments where " + std::to_string(arguments_) +
                    " are needed");
  }
  const dnnl::engine& cpu = engine();
  const dnnl::stream& stream = thread_stream();
  auto* const temporaries = static_cast<std::byte*>(workspace);
  if (prepare_) prepare_(args, temporaries);
  for (const Step& step : steps_) {
    // The C interface takes an array; the C++ one would build a hash map at every run.
    std::array<dnnl::memory, most_operands> memories;
    std::array<dnnl_exec_arg_t, most_operands> operands;
    const std::size_t count = step.operands.size();
    for (std::size_t i = 0; i < count; ++i) {
      const Operand& operand = step.operands[i];
      void* pointer =
          operand.place.in_workspace ? temporaries + operand.place.at : args[operand.place.at];
      memories[i] = dnnl::memory(operand.desc, cpu, pointer);
      operands[i] = {operand.role, memories[i].get()};
    }
    const dnnl_status_t status = dnnl_primitive_execute(step.primitive.get(), stream.get(),
                                                        static_cast<int>(count), operands.data());
    if (status != dnnl_success)
      throw std::runtime_error(name_ + ": oneDNN: execution failed with status " +
                               std::to_string(status));
  }
  if (finish_) finish_(args);
}

}  // namespace stpt::codelets::onednn
