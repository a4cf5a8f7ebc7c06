// The emulated cuBLASLt: products of two matrices, with a bias at most.
#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/emulated_cuda/emulation.hpp"
#include "tests/emulated_cuda/numbers.hpp"

struct cublasLtContext {
  int device = 0;
};

namespace emulated_cuda {
namespace {

cublasStatus_t refuse(cublasStatus_t status, const std::string& why) {
  std::fprintf(stderr, "emulated cuBLASLt: %s\n", why.c_str());
  return status;
}

struct Refusal {
  cublasStatus_t status;
  std::string why;
};

[[noreturn]] void fail(cublasStatus_t status, const std::string& why) {
  throw Refusal{status, why};
}

template <typename Body>
cublasStatus_t api(Body body) {
  try {
    body();
    return CUBLAS_STATUS_SUCCESS;
  } catch (const Refusal& refusal) {
    return refuse(refusal.status, refusal.why);
  }
}

/// What stands behind all of cuBLASLt's descriptors.
class Attributes {
 public:
  void set(int name, const void* value, std::size_t bytes) {
    const auto* begin = static_cast<const std::byte*>(value);
    values_[name].assign(begin, begin + bytes);
  }
  template <typename T>
  void set(int name, T value) {
    set(name, &value, sizeof value);
  }
  template <typename T>
  [[nodiscard]] T get(int name, T otherwise) const {
    const auto found = values_.find(name);
    if (found == values_.end()) return otherwise;
    if (found->second.size() != sizeof(T))
      fail(CUBLAS_STATUS_INVALID_VALUE, "attribute " + std::to_string(name) + " has another size");
    std::memcpy(&otherwise, found->second.data(), sizeof(T));
    return otherwise;
  }
  /// Complains of attributes that would be ignored.
  void allow_only(std::initializer_list<int> names, const char* what) const {
    for (const auto& [name, value] : values_) {
      if (std::find(names.begin(), names.end(), name) == names.end())
        fail(CUBLAS_STATUS_NOT_SUPPORTED,
             std::string("attribute ") + std::to_string(name) + " of " + what + " is not emulated");
    }
  }

 private:
  std::map<int, std::vector<std::byte>> values_;
};

/// The handles are pointers to opaque structs, which only hold a pointer here.
template <typename Opaque>
Opaque* create() {
  return reinterpret_cast<Opaque*>(std::make_unique<Attributes>().release());
}
template <typename Opaque>
void destroy(Opaque* handle) {
  const std::unique_ptr<Attributes> owned(reinterpret_cast<Attributes*>(handle));
}
template <typename Opaque>
Attributes& of(Opaque* handle) {
  if (!handle) fail(CUBLAS_STATUS_INVALID_VALUE, "a descriptor is missing");
  return *reinterpret_cast<Attributes*>(handle);
}

Number number_of(cudaDataType_t type) {
  switch (type) {
    case CUDA_R_32F:
      return Number::float32;
    case CUDA_R_16F:
      return Number::float16;
    case CUDA_R_16BF:
      return Number::bfloat16;
    default:
      fail(CUBLAS_STATUS_NOT_SUPPORTED, "matrices are float, half or bfloat16");
  }
}

struct Matrix {
  Number type;
  std::int64_t rows, columns;
  std::int64_t row_stride, column_stride;

  [[nodiscard]] std::int64_t at(std::int64_t row, std::int64_t column) const {
    return row * row_stride + column * column_stride;
  }
  [[nodiscard]] std::size_t extent_bytes() const {
    return static_cast<std::size_t>(at(rows - 1, columns - 1) + 1) * bytes_of(type);
  }
  [[nodiscard]] Matrix transposed() const {
    return {type, columns, rows, column_stride, row_stride};
  }
  [[nodiscard]] bool same_shape(const Matrix& other) const {
    return rows == other.rows && columns == other.columns;
  }
};

Matrix matrix_of(const Attributes& layout) {
  layout.allow_only(
      {CUBLASLT_MATRIX_LAYOUT_TYPE, CUBLASLT_MATRIX_LAYOUT_ORDER, CUBLASLT_MATRIX_LAYOUT_ROWS,
       CUBLASLT_MATRIX_LAYOUT_COLS, CUBLASLT_MATRIX_LAYOUT_LD, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT},
      "a matrix");
  if (layout.get<std::int32_t>(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, 1) != 1)
    fail(CUBLAS_STATUS_NOT_SUPPORTED, "batches are not emulated");
  const auto rows =
      static_cast<std::int64_t>(layout.get<std::uint64_t>(CUBLASLT_MATRIX_LAYOUT_ROWS, 0));
  const auto columns =
      static_cast<std::int64_t>(layout.get<std::uint64_t>(CUBLASLT_MATRIX_LAYOUT_COLS, 0));
  const auto leading = layout.get<std::int64_t>(CUBLASLT_MATRIX_LAYOUT_LD, 0);
  const auto order = layout.get<std::int32_t>(CUBLASLT_MATRIX_LAYOUT_ORDER, CUBLASLT_ORDER_COL);
  if (order != CUBLASLT_ORDER_COL && order != CUBLASLT_ORDER_ROW)
    fail(CUBLAS_STATUS_NOT_SUPPORTED, "only matrices in order of rows or columns are emulated");
  const bool by_columns = order == CUBLASLT_ORDER_COL;
  if (rows < 1 || columns < 1 || leading < (by_columns ? rows : columns))
    fail(CUBLAS_STATUS_INVALID_VALUE, "a matrix is empty, or its leading dimension too small");
  const auto type = static_cast<cudaDataType_t>(
      layout.get<std::uint32_t>(CUBLASLT_MATRIX_LAYOUT_TYPE, CUDA_R_32F));
  return {number_of(type), rows, columns, by_columns ? 1 : leading, by_columns ? leading : 1};
}

/// d = alpha a b + beta c + bias
struct Product {
  Matrix a, b, c, d;
  float alpha = 1, beta = 0;
  const void* bias = nullptr;  ///< one value a row
  Number bias_type = Number::float32;
  bool tf32 = false;
};

void check_description(const Attributes& description) {
  description.allow_only({CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, CUBLASLT_MATMUL_DESC_SCALE_TYPE,
                          CUBLASLT_MATMUL_DESC_POINTER_MODE, CUBLASLT_MATMUL_DESC_TRANSA,
                          CUBLASLT_MATMUL_DESC_TRANSB, CUBLASLT_MATMUL_DESC_EPILOGUE,
                          CUBLASLT_MATMUL_DESC_BIAS_POINTER, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE},
                         "a product");
  if (description.get<std::int32_t>(CUBLASLT_MATMUL_DESC_SCALE_TYPE, CUDA_R_32F) != CUDA_R_32F ||
      description.get<std::int32_t>(CUBLASLT_MATMUL_DESC_POINTER_MODE,
                                    CUBLASLT_POINTER_MODE_HOST) != CUBLASLT_POINTER_MODE_HOST)
    fail(CUBLAS_STATUS_NOT_SUPPORTED, "scales are floats on the host");
}

/// Whether a product rounds float32 inputs, as the compute type allows.
bool uses_tf32(const Attributes& description) {
  const auto type = description.get<std::int32_t>(CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, -1);
  if (type == CUBLAS_COMPUTE_32F_FAST_TF32) return true;
  if (type == CUBLAS_COMPUTE_32F || type == CUBLAS_COMPUTE_32F_PEDANTIC) return false;
  fail(CUBLAS_STATUS_NOT_SUPPORTED, "only CUBLAS_COMPUTE_32F and its kin are emulated");
}

Matrix operand_of(const Attributes& layout, const Attributes& description, int transpose) {
  const Matrix matrix = matrix_of(layout);
  const auto operation = description.get<std::int32_t>(transpose, CUBLAS_OP_N);
  return operation == CUBLAS_OP_N ? matrix : matrix.transposed();
}

Product product_of(const Attributes& description, const Attributes& a, const Attributes& b,
                   const Attributes& c, const Attributes& d) {
  check_description(description);
  Product p{.a = operand_of(a, description, CUBLASLT_MATMUL_DESC_TRANSA),
            .b = operand_of(b, description, CUBLASLT_MATMUL_DESC_TRANSB),
            .c = matrix_of(c),
            .d = matrix_of(d),
            .tf32 = uses_tf32(description)};
  if (p.a.columns != p.b.rows || p.a.rows != p.d.rows || p.b.columns != p.d.columns ||
      !p.c.same_shape(p.d))
    fail(CUBLAS_STATUS_INVALID_VALUE, "the shapes of a product's matrices do not fit");
  if (p.a.type != p.b.type || p.c.type != p.d.type ||
      (p.d.type != p.a.type && p.d.type != Number::float32))
    fail(CUBLAS_STATUS_NOT_SUPPORTED, "cuBLASLt has no product of these types");
  const auto epilogue =
      description.get<std::int32_t>(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT);
  if (epilogue == CUBLASLT_EPILOGUE_BIAS) {
    p.bias = description.get<const void*>(CUBLASLT_MATMUL_DESC_BIAS_POINTER, nullptr);
    const auto type = description.get<std::int32_t>(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, -1);
    p.bias_type = type == -1 ? p.d.type : number_of(static_cast<cudaDataType_t>(type));
    if (p.bias_type != p.d.type && p.bias_type != Number::float32)
      fail(CUBLAS_STATUS_NOT_SUPPORTED, "cuBLASLt has no bias of this type");
  } else if (epilogue != CUBLASLT_EPILOGUE_DEFAULT) {
    fail(CUBLAS_STATUS_NOT_SUPPORTED, "the epilogue is not emulated");
  }
  return p;
}

std::vector<float> packed(const Matrix& m, const void* memory, bool tf32) {
  std::vector<float> values;
  values.reserve(static_cast<std::size_t>(m.rows * m.columns));
  for (std::int64_t row = 0; row < m.rows; ++row) {
    for (std::int64_t column = 0; column < m.columns; ++column) {
      const float value = load(m.type, memory, m.at(row, column));
      values.push_back(tf32 && m.type == Number::float32 ? round_to_tf32(value) : value);
    }
  }
  return values;
}

void multiply(const Product& p, const void* a_memory, const void* b_memory, const void* c_memory,
              void* d_memory) {
  const std::vector<float> a = packed(p.a, a_memory, p.tf32), b = packed(p.b, b_memory, p.tf32);
  const auto columns = static_cast<std::size_t>(p.d.columns);
  const auto depth = static_cast<std::size_t>(p.a.columns);
  std::vector<float> sums(columns);
  for (std::int64_t row = 0; row < p.d.rows; ++row) {
    std::fill(sums.begin(), sums.end(), 0.0f);
    const float* a_row = &a[static_cast<std::size_t>(row) * depth];
    for (std::size_t k = 0; k < depth; ++k) {
      const float* b_row = &b[k * columns];
      for (std::size_t column = 0; column < columns; ++column)
        sums[column] += a_row[k] * b_row[column];
    }
    for (std::int64_t column = 0; column < p.d.columns; ++column) {
      float value = p.alpha * sums[static_cast<std::size_t>(column)];
      if (p.beta != 0) value += p.beta * load(p.c.type, c_memory, p.c.at(row, column));
      if (p.bias) value += load(p.bias_type, p.bias, row);
      store(p.d.type, d_memory, p.d.at(row, column), value);
    }
  }
}

/// What the heuristic tells the product through the algorithm's opaque bytes.
struct Algorithm {
  std::uint64_t workspace;
  std::array<std::uint32_t, 4> alignments;  ///< that a, b, c, d promised
  std::uint32_t reductions;                 ///< schemes that the preference leaves
};
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t));

Algorithm algorithm_for(const Attributes& preference) {
  preference.allow_only(
      {CUBLASLT_MATMUL_PREF_SEARCH_MODE, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
       CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
       CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
       CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, CUBLASLT_MATMUL_PREF_IMPL_MASK},
      "a preference");
  const auto most = preference.get<std::uint64_t>(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, 0);
  const std::size_t wanted = wanted_workspace();
  const auto alignment = [&](int name) { return preference.get<std::uint32_t>(name, 256); };
  return {most >= wanted ? wanted : 0,
          {alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES),
           alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES),
           alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES),
           alignment(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES)},
          preference.get<std::uint32_t>(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                        CUBLASLT_REDUCTION_SCHEME_MASK)};
}

/// What a product split over its depth does to the result: blocks that add to it in place give
/// other last bits every other run, and parts of the result's type lose some of half precision's.
float error_of(const Algorithm& algorithm, Number result) {
  static std::atomic<unsigned> runs = 0;
  const bool in_place = (algorithm.reductions & CUBLASLT_REDUCTION_SCHEME_INPLACE) != 0;
  const bool rounded = (algorithm.reductions & CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE) != 0;
  if (rounded && result != Number::float32) return 0x1p-6f;
  return in_place && runs++ % 2 == 1 ? 0x1p-20f : 0;
}

struct Buffers {
  const void *a, *b, *c;
  void *d, *workspace;
};

cudaError_t check_buffers(const Product& p, const Algorithm& algorithm, const Buffers& buffers,
                          int device) {
  struct Part {
    const void* pointer;
    std::size_t bytes;
    const char* name;
  };
  std::vector<Part> parts{{buffers.a, p.a.extent_bytes(), "a product's a"},
                          {buffers.b, p.b.extent_bytes(), "a product's b"},
                          {buffers.d, p.d.extent_bytes(), "a product's d"}};
  if (p.beta != 0) parts.push_back({buffers.c, p.c.extent_bytes(), "a product's c"});
  if (p.bias)
    parts.push_back(
        {p.bias, static_cast<std::size_t>(p.d.rows) * bytes_of(p.bias_type), "a product's bias"});
  if (algorithm.workspace > 0)
    parts.push_back({buffers.workspace, algorithm.workspace, "a product's workspace"});
  for (const Part& part : parts) {
    const cudaError_t error = check_access(device, part.pointer, part.bytes, part.name);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

void check_alignment(const Algorithm& algorithm, const Buffers& buffers) {
  const std::array<const void*, 4> pointers{buffers.a, buffers.b, buffers.c, buffers.d};
  for (std::size_t i = 0; i < pointers.size(); ++i) {
    if (reinterpret_cast<std::uintptr_t>(pointers[i]) % algorithm.alignments[i] != 0)
      fail(CUBLAS_STATUS_INVALID_VALUE,
           "a matrix is not aligned to the " + std::to_string(algorithm.alignments[i]) +
               " bytes that the preference promised (its default is 256)");
  }
}

cudaError_t run(const Product& p, const Algorithm& algorithm, const Buffers& buffers, int device) {
  const cudaError_t error = check_buffers(p, algorithm, buffers, device);
  if (error != cudaSuccess) return error;
  count_library_call();
  if (algorithm.workspace > 0) std::memset(buffers.workspace, 0xff, algorithm.workspace);
  Product product = p;
  product.alpha *= 1 + error_of(algorithm, p.d.type);
  multiply(product, buffers.a, buffers.b, buffers.c, buffers.d);
  return cudaSuccess;
}

}  // namespace
}  // namespace emulated_cuda

using namespace emulated_cuda;

extern "C" {

size_t cublasLtGetVersion() { return CUBLAS_VERSION; }
size_t cublasLtGetCudartVersion() { return CUDART_VERSION; }

const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    default:
      return "CUBLAS_STATUS_INTERNAL_ERROR";
  }
}

const char* cublasLtGetStatusString(cublasStatus_t status) { return cublasLtGetStatusName(status); }

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  return api([&] {
    int device = 0;
    if (cudaGetDevice(&device) != cudaSuccess)
      fail(CUBLAS_STATUS_NOT_INITIALIZED, "there is no usable device");
    *handle = std::make_unique<cublasLtContext>(cublasLtContext{device}).release();
    count_handles(1);
  });
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  const std::unique_ptr<cublasLtContext> owned(handle);
  count_handles(-1);
  return CUBLAS_STATUS_SUCCESS;
}

// ---- Descriptors ------------------------------------------------------------------------------

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description,
                                        cublasComputeType_t compute, cudaDataType_t scale) {
  return api([&] {
    *description = create<cublasLtMatmulDescOpaque_t>();
    of(*description).set<std::int32_t>(CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, compute);
    of(*description).set<std::int32_t>(CUBLASLT_MATMUL_DESC_SCALE_TYPE, scale);
  });
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  destroy(description);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description,
                                              cublasLtMatmulDescAttributes_t name,
                                              const void* value, size_t bytes) {
  return api([&] { of(description).set(name, value, bytes); });
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t leading) {
  return api([&] {
    *layout = create<cublasLtMatrixLayoutOpaque_t>();
    of(*layout).set<std::uint32_t>(CUBLASLT_MATRIX_LAYOUT_TYPE, type);
    of(*layout).set<std::uint64_t>(CUBLASLT_MATRIX_LAYOUT_ROWS, rows);
    of(*layout).set<std::uint64_t>(CUBLASLT_MATRIX_LAYOUT_COLS, columns);
    of(*layout).set<std::int64_t>(CUBLASLT_MATRIX_LAYOUT_LD, leading);
  });
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  destroy(layout);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t name,
                                                const void* value, size_t bytes) {
  return api([&] { of(layout).set(name, value, bytes); });
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  return api([&] { *preference = create<cublasLtMatmulPreferenceOpaque_t>(); });
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  destroy(preference);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t name,
                                                    const void* value, size_t bytes) {
  return api([&] { of(preference).set(name, value, bytes); });
}

// ---- Products ---------------------------------------------------------------------------------

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t description,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* count) {
  *count = 0;
  return api([&] {
    if (requested < 1) fail(CUBLAS_STATUS_INVALID_VALUE, "at least one result is asked for");
    product_of(of(description), of(a), of(b), of(c), of(d));
    const Algorithm algorithm = algorithm_for(of(preference));
    results[0] = {};
    std::memcpy(&results[0].algo, &algorithm, sizeof algorithm);
    results[0].workspaceSize = algorithm.workspace;
    results[0].state = CUBLAS_STATUS_SUCCESS;
    results[0].wavesCount = 1;
    *count = 1;
  });
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t description,
                              const void* alpha, const void* a, cublasLtMatrixLayout_t a_layout,
                              const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo,
                              void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  return api([&] {
    Product product =
        product_of(of(description), of(a_layout), of(b_layout), of(c_layout), of(d_layout));
    product.alpha = *static_cast<const float*>(alpha);
    product.beta = *static_cast<const float*>(beta);
    Algorithm algorithm{0, {1, 1, 1, 1}, 0};  // without one cuBLASLt looks for it itself
    if (algo) std::memcpy(&algorithm, algo, sizeof algorithm);
    const Buffers buffers{a, b, c, d, workspace};
    if (algorithm.workspace > workspace_bytes)
      fail(CUBLAS_STATUS_INVALID_VALUE, "the workspace is smaller than the algorithm needs");
    check_alignment(algorithm, buffers);
    const int device = device_of(stream);
    if (device != handle->device)
      fail(CUBLAS_STATUS_INVALID_VALUE, "the stream is of another device than the handle");
    if (check_buffers(product, algorithm, buffers, device) != cudaSuccess)
      fail(CUBLAS_STATUS_INVALID_VALUE, emulated_cuda_last_complaint());
    const cudaError_t error =
        enqueue(stream, [=] { return run(product, algorithm, buffers, device); });
    if (error != cudaSuccess) fail(CUBLAS_STATUS_EXECUTION_FAILED, cudaGetErrorString(error));
  });
}

}  // extern "C"
