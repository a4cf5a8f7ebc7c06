// The emulated cuBLASLt, against plain loops.
#include <cublasLt.h>
#include <cuda_bf16.h>

#include <vector>

#include "tests/emulated_cuda/testing.hpp"

namespace stpt::testing {
namespace {

void good(cublasStatus_t status) {
  if (status != CUBLAS_STATUS_SUCCESS) throw std::runtime_error(cublasLtGetStatusName(status));
}

/// A handle of cuBLASLt's, with its function to destroy it.
template <typename Opaque, cublasStatus_t (*destroy)(Opaque*)>
struct Destroy {
  void operator()(Opaque* handle) const { destroy(handle); }
};
template <typename Opaque, cublasStatus_t (*destroy)(Opaque*)>
using Owned = std::unique_ptr<Opaque, Destroy<Opaque, destroy>>;

using Handle = Owned<cublasLtContext, cublasLtDestroy>;
using Layout = Owned<cublasLtMatrixLayoutOpaque_t, cublasLtMatrixLayoutDestroy>;
using Description = Owned<cublasLtMatmulDescOpaque_t, cublasLtMatmulDescDestroy>;
using Preference = Owned<cublasLtMatmulPreferenceOpaque_t, cublasLtMatmulPreferenceDestroy>;

Layout layout(cudaDataType_t type, std::uint64_t rows, std::uint64_t columns,
              std::int64_t leading) {
  cublasLtMatrixLayout_t made{};
  good(cublasLtMatrixLayoutCreate(&made, type, rows, columns, leading));
  return Layout(made);
}

Handle handle() {
  cublasLtHandle_t made{};
  good(cublasLtCreate(&made));
  return Handle(made);
}

Description description(bool transpose_a) {
  cublasLtMatmulDesc_t made{};
  good(cublasLtMatmulDescCreate(&made, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  Description result(made);
  const cublasOperation_t operation = transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
  good(cublasLtMatmulDescSetAttribute(made, CUBLASLT_MATMUL_DESC_TRANSA, &operation,
                                      sizeof operation));
  return result;
}

constexpr std::size_t workspace_floats = 1024;

/// The one algorithm for column-major matrices whose pointers are aligned to `alignment` bytes.
cublasLtMatmulAlgo_t algorithm(cublasLtHandle_t handle, const Description& product, const Layout& a,
                               const Layout& b, const Layout& c, std::uint32_t alignment,
                               std::uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) {
  cublasLtMatmulPreference_t made{};
  good(cublasLtMatmulPreferenceCreate(&made));
  const Preference preference(made);
  const std::size_t most = workspace_floats * sizeof(float);
  good(cublasLtMatmulPreferenceSetAttribute(made, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most,
                                            sizeof most));
  good(cublasLtMatmulPreferenceSetAttribute(made, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                            &reductions, sizeof reductions));
  for (const auto name :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    good(cublasLtMatmulPreferenceSetAttribute(made, name, &alignment, sizeof alignment));
  cublasLtMatmulHeuristicResult_t result{};
  int count = 0;
  good(cublasLtMatmulAlgoGetHeuristic(handle, product.get(), a.get(), b.get(), c.get(), c.get(),
                                      made, 1, &result, &count));
  REQUIRE(count == 1);
  REQUIRE(result.workspaceSize == most);
  return result.algo;
}

TEST_CASE("cuBLASLt multiplies", "[cublaslt]") {
  const bool transpose = GENERATE(false, true);
  const Handle lt = handle();
  const Description product = description(transpose);
  // a is 2 x 3 with a gap after each column, or its transpose; b is 3 x 2.
  const Layout a_layout = transpose ? layout(CUDA_R_32F, 3, 2, 4) : layout(CUDA_R_32F, 2, 3, 4);
  const Layout b_layout = layout(CUDA_R_32F, 3, 2, 3), c_layout = layout(CUDA_R_32F, 2, 2, 2);
  const DeviceFloats a(transpose ? std::vector<float>{1, 2, 3, -1, 4, 5, 6, -1}
                                 : std::vector<float>{1, 4, -1, -1, 2, 5, -1, -1, 3, 6, -1, -1}),
      b({1, 0, 2, 0, 1, 3}), c({10, 20, 30, 40}), workspace(workspace_floats);
  const cublasLtMatmulAlgo_t algo = algorithm(lt.get(), product, a_layout, b_layout, c_layout, 16);
  const float alpha = 2, beta = 1;
  const auto run = [&](cudaStream_t stream) {
    good(cublasLtMatmul(lt.get(), product.get(), &alpha, a.pointer(), a_layout.get(), b.pointer(),
                        b_layout.get(), &beta, c.pointer(), c_layout.get(), c.pointer(),
                        c_layout.get(), &algo, workspace.pointer(), workspace.bytes(), stream));
  };
  run(nullptr);
  // a b = (7 11; 16 23)
  CHECK(c.values() == std::vector<float>{24, 52, 52, 86});
  const Stream stream;
  const auto graph = captured(stream, run);
  CHECK(c.values()[0] == 24);
  check(cudaGraphLaunch(graph.get(), stream));
  CHECK(c.values() == std::vector<float>{38, 84, 74, 132});
}

TEST_CASE("cuBLASLt rounds to bfloat16 once, and keeps float32 where asked", "[cublaslt]") {
  const Handle lt = handle();
  const Description product = description(false);
  const Layout row = layout(CUDA_R_16BF, 1, 3, 1), column = layout(CUDA_R_16BF, 3, 1, 3);
  const bool wide = GENERATE(false, true);
  const Layout one = layout(wide ? CUDA_R_32F : CUDA_R_16BF, 1, 1, 1);
  const std::vector<__nv_bfloat16> values{__float2bfloat16_rn(256), __float2bfloat16_rn(1),
                                          __float2bfloat16_rn(1)};
  const std::vector<__nv_bfloat16> ones(3, __float2bfloat16_rn(1));
  const DeviceFloats a(2), b(2), d(1);
  check(cudaMemcpy(a.pointer(), values.data(), 6, cudaMemcpyHostToDevice));
  check(cudaMemcpy(b.pointer(), ones.data(), 6, cudaMemcpyHostToDevice));
  const float alpha = 1, beta = 0;
  good(cublasLtMatmul(lt.get(), product.get(), &alpha, a.pointer(), row.get(), b.pointer(),
                      column.get(), &beta, d.pointer(), one.get(), d.pointer(), one.get(), nullptr,
                      nullptr, 0, nullptr));
  if (wide) {
    CHECK(d.values()[0] == 258);
  } else {
    __nv_bfloat16 result;
    check(cudaMemcpy(&result, d.pointer(), sizeof result, cudaMemcpyDeviceToHost));
    CHECK(__bfloat162float(result) == 258);  // 257 in between has no bfloat16
  }
}

TEST_CASE("cuBLASLt's reductions show where they are not barred", "[cublaslt]") {
  const Handle lt = handle();
  const Description product = description(false);
  const bool half = GENERATE(false, true);
  const Layout one = layout(half ? CUDA_R_16BF : CUDA_R_32F, 1, 1, 1);
  const __nv_bfloat16 one_in_half = __float2bfloat16_rn(1);
  const DeviceFloats factor(std::vector<float>{1}), d(1), workspace(workspace_floats);
  if (half) check(cudaMemcpy(factor.pointer(), &one_in_half, 2, cudaMemcpyHostToDevice));
  const auto twice = [&](std::uint32_t reductions) {
    const auto algo = algorithm(lt.get(), product, one, one, one, 16, reductions);
    const float alpha = 1, beta = 0;
    std::vector<float> results;
    for (int i = 0; i < 2; ++i) {
      good(cublasLtMatmul(lt.get(), product.get(), &alpha, factor.pointer(), one.get(),
                          factor.pointer(), one.get(), &beta, d.pointer(), one.get(), d.pointer(),
                          one.get(), &algo, workspace.pointer(), workspace.bytes(), nullptr));
      __nv_bfloat16 result;
      check(cudaMemcpy(&result, d.pointer(), sizeof result, cudaMemcpyDeviceToHost));
      results.push_back(half ? __bfloat162float(result) : d.values()[0]);
    }
    return results;
  };
  const std::vector<float> exact{1, 1};
  CHECK(twice(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) == exact);
  CHECK((twice(CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE) == exact) == !half);
  if (!half) CHECK(twice(CUBLASLT_REDUCTION_SCHEME_INPLACE) != exact);
}

TEST_CASE("cuBLASLt refuses pointers that break a promise", "[cublaslt]") {
  const Handle lt = handle();
  const Description product = description(false);
  const Layout square = layout(CUDA_R_32F, 2, 2, 2);
  const cublasLtMatmulAlgo_t algo = algorithm(lt.get(), product, square, square, square, 256);
  const DeviceFloats a({1, 2, 3, 4, 5}), d(4), workspace(workspace_floats);
  const float alpha = 1, beta = 0;
  const auto run = [&](const float* matrix, std::size_t bytes) {
    return cublasLtMatmul(lt.get(), product.get(), &alpha, matrix, square.get(), a.pointer(),
                          square.get(), &beta, d.pointer(), square.get(), d.pointer(), square.get(),
                          &algo, workspace.pointer(), bytes, nullptr);
  };
  CHECK(run(a.pointer() + 1, workspace.bytes()) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(run(a.pointer(), 100) == CUBLAS_STATUS_INVALID_VALUE);
  CHECK(run(a.pointer(), workspace.bytes()) == CUBLAS_STATUS_SUCCESS);
}

}  // namespace
}  // namespace stpt::testing
