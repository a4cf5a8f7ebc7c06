#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "codelets/concat.hpp"
#include "codelets/nhwc.cuh"

// The CUDA implementation, in nhwc: each part is columns of the whole's rows of channels.

namespace stpt::codelets {
namespace {

template <class T>
struct Columns {
  T* part;    ///< null for zeros
  T* whole;   ///< its first column of the part
  int count;  ///< the part's columns, in vectors
  int rows;
  int stride;  ///< from a row of the whole to the next, in vectors
  unsigned blocks;
};

/// Threads of a block lie side by side in a row's vectors, as far as it has some, and take several
/// rows.
template <class T, int width, bool to_whole>
__global__ void copy_columns(cuda::Pieces<Columns<T>> pieces) {
  const auto own = pieces.own();
  const Columns<T>& columns = own.piece;
  const auto across = min(static_cast<unsigned>(columns.count), blockDim.x);
  const unsigned rows_a_block = blockDim.x / across;
  const unsigned first_row = threadIdx.x / across;
  if (first_row >= rows_a_block) return;
  for (std::int64_t row = std::int64_t{own.block} * rows_a_block + first_row; row < columns.rows;
       row += std::int64_t{columns.blocks} * rows_a_block) {
    for (int column = static_cast<int>(threadIdx.x % across); column < columns.count;
         column += static_cast<int>(across)) {
      const std::int64_t in_part = (row * columns.count + column) * width;
      T* const whole = columns.whole + (row * columns.stride + column) * width;
      if constexpr (to_whole) {
        cuda::store(whole, columns.part != nullptr ? cuda::load<width>(columns.part + in_part)
                                                   : cuda::Vector<T, width>{});
      } else {
        cuda::store(columns.part + in_part, cuda::load<width>(whole));
      }
    }
  }
}

template <class T, int width, bool to_whole>
class CopyColumns final : public Kernel {
 public:
  CopyColumns(std::string what, const Concat& concat)
      : what_(std::move(what)),
        rows_(static_cast<int>(concat.whole.shape.n * concat.whole.shape.spatial())),
        stride_(static_cast<int>(concat.whole.shape.c / width)) {
    for (const TensorSpec& part : concat.parts)
      counts_.push_back(static_cast<int>(part.shape.c / width));
  }

  void run(std::span<void* const> args, void*, Stream stream) const override {
    auto* whole = static_cast<T*>(args[to_whole ? counts_.size() : 0]);
    auto batches = cuda::in_batches<Columns<T>>([&](const cuda::Pieces<Columns<T>>& batch) {
      cuda::launch(what_, copy_columns<T, width, to_whole>, batch.blocks, cuda::block_threads,
                   stream, batch);
    });
    for (std::size_t i = 0; i < counts_.size(); whole += counts_[i++] * width) {
      auto* part = static_cast<T*>(args[to_whole ? i : 1 + i]);
      if (part == nullptr && !to_whole) continue;
      const int across = std::min(counts_[i], static_cast<int>(cuda::block_threads));
      const unsigned blocks =
          cuda::blocks_for(rows_, cuda::block_threads / static_cast<unsigned>(across));
      batches.add({part, whole, counts_[i], rows_, stride_, blocks}, blocks);
    }
    batches.finish();
  }

 private:
  std::string what_;
  int rows_, stride_;
  std::vector<int> counts_;  ///< [part], of vectors
};

template <bool to_whole>
KernelPtr plan_copy(const char* op, const Concat& concat) {
  const std::string what = describe_op(op, concat);
  cuda::require_nhwc(what, concat.whole);
  require_consistent(what, concat);
  return cuda::with_type(concat.whole.type, what, [&](auto element) -> KernelPtr {
    using T = decltype(element);
    constexpr int widest = 16 / sizeof element;
    const bool in_vectors = std::ranges::all_of(
        concat.parts, [](const TensorSpec& part) { return part.shape.c % widest == 0; });
    if (in_vectors) return std::make_unique<CopyColumns<T, widest, to_whole>>(what, concat);
    return std::make_unique<CopyColumns<T, 1, to_whole>>(what, concat);
  });
}

}  // namespace

void choose_layout(Concat& concat, Cuda) {
  for (TensorSpec& part : concat.parts) part.layout = runtime::Layout::nhwc;
  concat.whole.layout = runtime::Layout::nhwc;
}

KernelPtr plan(const ConcatForward& op, Cuda) {
  return plan_copy<true>("concat forward", op.concat);
}

KernelPtr plan(const ConcatBackward& op, Cuda) {
  return plan_copy<false>("concat backward", op.concat);
}

}  // namespace stpt::codelets
