// Tensors that go from rank to rank through StarPU-MPI, ordered with tasks by the tensors alone.
#pragma once

#include <cstdint>

#include "runtime/tensor.hpp"

namespace stpt::runtime {

/// Tells messages between two ranks apart: sender and receiver name the same one. Messages of one
/// tag arrive in the order in which they were submitted.
using MessageTag = std::int64_t;

/// What the tensor holds after the tasks submitted before goes to `rank`. Asynchronous. Messages of
/// a higher priority leave first. Throws std::logic_error for the own rank or an empty tensor, as
/// receive does.
void send(const Tensor& tensor, int rank, MessageTag tag, int priority = 0);

/// Overwrites the tensor, once the tasks submitted before are done with it, by what `rank` sends.
/// Asynchronous; the tensors on both sides have the same size.
void receive(const Tensor& tensor, int rank, MessageTag tag, int priority = 0);

/// What this process has sent since its start, counted as it is submitted. Payload, without
/// envelopes.
struct Traffic {
  std::int64_t messages_sent = 0, bytes_sent = 0;
};

[[nodiscard]] Traffic traffic();

/// Makes a tensor that every rank has, under the same tag, one that reduce_to_owner() can sum. Once
/// per tensor.
void make_reducible(const Tensor& tensor, MessageTag tag, int owner);

/// tensor on its owner = sum over all ranks of the tensor, by StarPU-MPI's reduction tree, in
/// whatever order the parts arrive (STARPU_MPI_REDUX). All ranks call it. Asynchronous. On other
/// ranks the tensor has no value afterwards.
void reduce_to_owner(const Tensor& tensor, int priority = 0);

}  // namespace stpt::runtime
