// StarPU's own CUDA driver on the emulation: workers, memory nodes, transfers.
#include <starpu.h>

#include <atomic>
#include <vector>

#include "tests/emulated_cuda/test_kernels.hpp"
#include "tests/emulated_cuda/testing.hpp"

namespace stpt::testing {
namespace {

constexpr int count = 1000;

std::atomic<cudaError_t> kernel_error = cudaSuccess;

void triple(void* buffers[], void*) {
  auto* values = reinterpret_cast<float*>(STARPU_VECTOR_GET_PTR(buffers[0]));
  const cudaError_t error = scale(values, count, 3, 1, starpu_cuda_get_local_stream());
  if (error != cudaSuccess) kernel_error = error;
}

struct StarPu {
  StarPu() {
    starpu_conf conf;
    starpu_conf_init(&conf);
    conf.precedence_over_environment_variables = 1;
    conf.ncpus = 1;
    conf.ncuda = 2;
    if (starpu_init(&conf) != 0) throw std::runtime_error("StarPU does not start");
  }
  ~StarPu() { starpu_shutdown(); }
  StarPu(const StarPu&) = delete;
  StarPu& operator=(const StarPu&) = delete;
};

TEST_CASE("StarPU runs asynchronous codelets on both devices", "[starpu]") {
  StarPu starpu;
  std::vector<int> workers(2);
  REQUIRE(starpu_worker_get_ids_by_type(STARPU_CUDA_WORKER, workers.data(), 2) == 2);
  REQUIRE(starpu_worker_get_memory_node(workers[0]) != starpu_worker_get_memory_node(workers[1]));

  starpu_codelet codelet;
  starpu_codelet_init(&codelet);
  codelet.cuda_funcs[0] = triple;
  codelet.cuda_flags[0] = STARPU_CUDA_ASYNC;
  codelet.nbuffers = 1;
  codelet.modes[0] = STARPU_RW;

  std::vector<float> values(count, 1.0f);
  starpu_data_handle_t handle{};
  starpu_vector_data_register(&handle, STARPU_MAIN_RAM, reinterpret_cast<uintptr_t>(values.data()),
                              values.size(), sizeof(float));
  const EmulatedCudaCounts before = counts();
  for (int i = 0; i < 4; ++i) {
    REQUIRE(starpu_task_insert(&codelet, STARPU_RW, handle, STARPU_EXECUTE_ON_WORKER,
                               workers[static_cast<std::size_t>(i % 2)], 0) == 0);
  }
  starpu_data_unregister(handle);
  CHECK(kernel_error == cudaSuccess);
  CHECK(values == std::vector<float>(count, 121.0f));  // x -> 3 x + 1, four times
  const EmulatedCudaCounts after = counts();
  CHECK(after.kernel_launches == before.kernel_launches + 4);
  CHECK(after.host_to_device_bytes == before.host_to_device_bytes + count * sizeof(float));
  CHECK(after.peer_bytes == before.peer_bytes + 3 * count * sizeof(float));
  CHECK(after.device_to_host_bytes == before.device_to_host_bytes + count * sizeof(float));
}

}  // namespace
}  // namespace stpt::testing
