#include "codelets/cublaslt_cuda.hpp"

#include <cublasLt.h>

#include <cstddef>
#include <memory>
#include <stdexcept>
#include <utility>

#include "codelets/per_device_cuda.hpp"

namespace stpt::codelets::cublaslt {
namespace {

using runtime::DataType;

// What NVIDIA recommends for Hopper and later; others need less.
constexpr std::uint64_t most_workspace = std::uint64_t{32} << 20;

void check(cublasStatus_t status, const std::string& what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw std::runtime_error(what + ": cuBLASLt: " + cublasLtGetStatusString(status));
}

// ---- Handles and descriptors --------------------------------------------------------------------

struct Destroy {
  void operator()(cublasLtContext* handle) const { cublasLtDestroy(handle); }
  void operator()(cublasLtMatmulDescOpaque_t* desc) const { cublasLtMatmulDescDestroy(desc); }
  void operator()(cublasLtMatrixLayoutOpaque_t* layout) const {
    cublasLtMatrixLayoutDestroy(layout);
  }
  void operator()(cublasLtMatmulPreferenceOpaque_t* preference) const {
    cublasLtMatmulPreferenceDestroy(preference);
  }
};
using Handle = std::unique_ptr<cublasLtContext, Destroy>;
using Description = std::unique_ptr<cublasLtMatmulDescOpaque_t, Destroy>;
using MatrixLayout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, Destroy>;
using Preference = std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, Destroy>;

/// The calling thread's handle on its current device. Not one of the process, which would be
/// destroyed when CUDA may no longer be used.
cublasLtHandle_t own_handle(const std::string& what) {
  return cuda::get_of_this_thread<Handle>([&] {
           cublasLtHandle_t handle = nullptr;
           check(cublasLtCreate(&handle), what);
           return Handle(handle);
         })
      .get();
}

cudaDataType_t type_of(DataType type, const std::string& what) {
  switch (type) {
    case DataType::float32:
      return CUDA_R_32F;
    case DataType::bfloat16:
      return CUDA_R_16BF;
    case DataType::float16:
      return CUDA_R_16F;
    default:
      cuda::refuse(type, what);
  }
}

/// A row-major matrix, which is a transposed one for cuBLASLt: its columns are our rows.
MatrixLayout row_major(std::int64_t rows, std::int64_t columns, DataType type,
                       const std::string& what) {
  cublasLtMatrixLayout_t layout = nullptr;
  check(
      cublasLtMatrixLayoutCreate(&layout, type_of(type, what), static_cast<std::uint64_t>(columns),
                                 static_cast<std::uint64_t>(rows), columns),
      what);
  return MatrixLayout(layout);
}

Description describe(const Product& product, const std::string& what) {
  // The factors of half precision are exact in either; float32 is rounded to TF32 only if wanted.
  const auto compute = product.factors == DataType::float32 && product.tf32
                           ? CUBLAS_COMPUTE_32F_FAST_TF32
                           : CUBLAS_COMPUTE_32F;
  cublasLtMatmulDesc_t created = nullptr;
  check(cublasLtMatmulDescCreate(&created, compute, CUDA_R_32F), what);
  Description description(created);
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, bool transposed) {
    const cublasOperation_t operation = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(
        cublasLtMatmulDescSetAttribute(description.get(), attribute, &operation, sizeof operation),
        what);
  };
  // (a b)^T = b^T a^T: our second factor is cuBLASLt's first.
  set(CUBLASLT_MATMUL_DESC_TRANSA, product.b_transposed);
  set(CUBLASLT_MATMUL_DESC_TRANSB, product.a_transposed);
  return description;
}

Preference prefer(std::uint64_t workspace_limit, const std::string& what) {
  cublasLtMatmulPreference_t created = nullptr;
  check(cublasLtMatmulPreferenceCreate(&created), what);
  Preference preference(created);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof value),
          what);
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_limit);
  // A product that is split over its depth adds up float32 parts from the workspace. Left out are
  // in place, where blocks add to the result in the order in which they end, and parts that are
  // rounded to the result's type.
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  constexpr std::uint32_t kernel_arguments = 64;  // see Kernel::run
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    set(attribute, kernel_arguments);
  return preference;
}

// ---- Products -----------------------------------------------------------------------------------

struct Algorithm {
  cublasLtMatmulAlgo_t algorithm;
  std::size_t workspace_bytes;
};

class ProductKernel final : public Kernel {
 public:
  ProductKernel(const Product& product, std::string what)
      : what_(std::move(what)), description_(describe(product, what_)) {
    const auto layout = [&](std::int64_t rows, std::int64_t columns, bool transposed) {
      return transposed ? row_major(columns, rows, product.factors, what_)
                        : row_major(rows, columns, product.factors, what_);
    };
    a_ = layout(product.rows, product.depth, product.a_transposed);
    b_ = layout(product.depth, product.columns, product.b_transposed);
    d_ = row_major(product.rows, product.columns, product.result, what_);
    workspace_bytes_ = most_workspace;
    workspace_bytes_ = algorithm().workspace_bytes;  // on other devices no more
  }

  void run(std::span<void* const> args, void* workspace, Stream stream) const override {
    const Algorithm& chosen = algorithm();
    const float one = 1, zero = 0;
    check(cublasLtMatmul(own_handle(what_), description_.get(), &one, args[1], b_.get(), args[0],
                         a_.get(), &zero, args[2], d_.get(), args[2], d_.get(), &chosen.algorithm,
                         workspace, chosen.workspace_bytes, cuda::native(stream)),
          what_);
  }

 private:
  /// The current device's. Devices of one kind are asked the same, and so compute the same; another
  /// kind may want more workspace than there is.
  [[nodiscard]] const Algorithm& algorithm() const {
    return algorithms_.get([&] {
      const Algorithm best = choose(most_workspace);
      return best.workspace_bytes > workspace_bytes_ ? choose(workspace_bytes_) : best;
    });
  }

  /// The heuristic's first.
  [[nodiscard]] Algorithm choose(std::uint64_t workspace_limit) const {
    const Preference preference = prefer(workspace_limit, what_);
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(own_handle(what_), description_.get(), b_.get(), a_.get(),
                                       d_.get(), d_.get(), preference.get(), 1, &result, &found);
    const bool chosen = found > 0 && result.state == CUBLAS_STATUS_SUCCESS;
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && !chosen))
      throw std::invalid_argument(what_ +
                                  ": cuBLASLt has no algorithm for this on this GPU; "
                                  "another model.data_type may be supported");
    check(status, what_);
    return Algorithm{result.algo, result.workspaceSize};
  }

  std::string what_;
  Description description_;
  MatrixLayout a_, b_, d_;
  mutable cuda::PerDevice<Algorithm> algorithms_;
};

}  // namespace

KernelPtr plan(const Product& product, const std::string& what) {
  return std::make_unique<ProductKernel>(product, what);
}

}  // namespace stpt::codelets::cublaslt
