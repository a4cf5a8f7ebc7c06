// The kernels that the emulation is tested with.
#pragma once

#include <cuda_runtime_api.h>

namespace stpt::testing {

/// Block b adds what its threads see of the values into sums[b], by shuffles and shared memory.
cudaError_t sum_blocks(const float* values, int count, float* sums, int blocks,
                       cudaStream_t stream);

/// values[i] = a * values[i] + b
cudaError_t scale(float* values, int count, float a, float b, cudaStream_t stream);

/// to[i] = from[i] in half precision; the pointers are passed in a struct.
cudaError_t to_half_and_back(const float* from, float* to, int count, cudaStream_t stream);

/// Reverses each block of 256 values through shared memory.
cudaError_t reverse(float* values, int blocks, cudaStream_t stream);

/// A kernel in which half of a block leaves before a __syncthreads.
cudaError_t diverge(float* values, cudaStream_t stream);

/// A kernel whose warps write for a second time what others may still have to read for the first:
/// 256 values a block, 256 where all of them have read in time.
cudaError_t overwrite(float* values, int blocks, cudaStream_t stream);

/// values[i] = x + 10 y + 100 z + 1000 block of its thread, in blocks of 4 x 3 x 2.
cudaError_t write_places(float* values, int blocks, cudaStream_t stream);

}  // namespace stpt::testing
