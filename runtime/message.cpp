#include "runtime/message.hpp"

#include <starpu_mpi.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>

#include "runtime/cluster.hpp"
#include "runtime/runtime.hpp"

namespace stpt::runtime {
namespace {

struct Counters {
  std::atomic<std::int64_t> messages_sent = 0, bytes_sent = 0;
};
Counters counters;

void check(int error, const char* what) {
  if (error != 0) throw std::runtime_error(std::string(what) + " failed: " + std::to_string(error));
}

void check_peer(const Tensor& tensor, int rank) {
  const Cluster& cluster = Cluster::current();
  if (!tensor) throw std::logic_error("message: a tensor without memory");
  if (rank < 0 || rank >= cluster.size() || rank == cluster.rank())
    throw std::logic_error("message: rank " + std::to_string(rank) + " is no other rank");
}

void add_in_place(void* descriptors[], void*) noexcept {
  auto* sum = reinterpret_cast<float*>(STARPU_VECTOR_GET_PTR(descriptors[0]));
  const auto* part = reinterpret_cast<const float*>(STARPU_VECTOR_GET_PTR(descriptors[1]));
  const std::size_t count = STARPU_VECTOR_GET_NX(descriptors[0]) * tensor_alignment / sizeof(float);
  for (std::size_t i = 0; i < count; ++i) sum[i] += part[i];
}

void clear(void* descriptors[], void*) noexcept {
  auto* sum = reinterpret_cast<float*>(STARPU_VECTOR_GET_PTR(descriptors[0]));
  std::fill_n(sum, STARPU_VECTOR_GET_NX(descriptors[0]) * tensor_alignment / sizeof(float), 0.0f);
}

void contribute(void*[], void*) noexcept {}

/// The codelets of reductions over ranks.
struct ReductionCodelets {
  starpu_codelet sum{}, zero{}, part{};
  ReductionCodelets() {
    for (starpu_codelet* codelet : {&sum, &zero, &part}) starpu_codelet_init(codelet);
    sum.cpu_funcs[0] = add_in_place;
    sum.nbuffers = 2;
    sum.modes[0] = static_cast<starpu_data_access_mode>(STARPU_RW | STARPU_COMMUTE);
    sum.modes[1] = STARPU_R;
    sum.name = "sum of ranks";
    zero.cpu_funcs[0] = clear;
    zero.nbuffers = 1;
    zero.modes[0] = STARPU_W;
    zero.name = "zero";
    part.cpu_funcs[0] = contribute;
    part.nbuffers = 1;
    part.modes[0] = static_cast<starpu_data_access_mode>(STARPU_RW | STARPU_COMMUTE);
    part.name = "part of sum";
  }
};

ReductionCodelets& codelets() {
  static ReductionCodelets all;
  return all;
}

}  // namespace

void send(const Tensor& tensor, int rank, MessageTag tag, int priority) {
  check_peer(tensor, rank);
  check(starpu_mpi_isend_detached_prio(tensor.handle(), rank, tag, priority, MPI_COMM_WORLD,
                                       nullptr, nullptr),
        "starpu_mpi_isend_detached_prio");
  ++counters.messages_sent;
  counters.bytes_sent += static_cast<std::int64_t>(align_up(tensor.bytes()));
}

void receive(const Tensor& tensor, int rank, MessageTag tag, int priority) {
  check_peer(tensor, rank);
  check(starpu_mpi_irecv_detached_prio(tensor.handle(), rank, tag, priority, MPI_COMM_WORLD,
                                       nullptr, nullptr),
        "starpu_mpi_irecv_detached_prio");
}

Traffic traffic() { return {counters.messages_sent, counters.bytes_sent}; }

void make_reducible(const Tensor& tensor, MessageTag tag, int owner) {
  starpu_mpi_data_register(tensor.handle(), tag, owner);
  starpu_data_set_reduction_methods(tensor.handle(), &codelets().sum, &codelets().zero);
}

void reduce_to_owner(const Tensor& tensor, int priority) {
  const Cluster& cluster = Cluster::current();
  for (int rank = 0; rank < cluster.size(); ++rank) {
    // On other ranks than `rank` this only notes who takes part.
    check(
        starpu_mpi_task_insert(MPI_COMM_WORLD, &codelets().part, STARPU_MPI_REDUX, tensor.handle(),
                               STARPU_EXECUTE_ON_NODE, rank, STARPU_PRIORITY, priority, 0),
        "starpu_mpi_task_insert");
  }
  check(starpu_mpi_redux_data_prio_tree(MPI_COMM_WORLD, tensor.handle(), priority, 2),
        "starpu_mpi_redux_data_prio_tree");
  // Up the tree each rank but the owner sends what it has once.
  if (cluster.rank() == starpu_mpi_data_get_rank(tensor.handle())) return;
  ++counters.messages_sent;
  counters.bytes_sent += static_cast<std::int64_t>(align_up(tensor.bytes()));
}

}  // namespace stpt::runtime
