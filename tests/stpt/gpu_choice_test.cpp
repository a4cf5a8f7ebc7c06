#include "stpt/gpu_choice.hpp"

#include "tests/catch.hpp"

using namespace stpt;

namespace {

std::vector<runtime::Gpu> gpus(int count) {
  std::vector<runtime::Gpu> result;
  for (int number = 0; number < count; ++number) result.push_back({number, "NVIDIA H200", 1000});
  return result;
}

constexpr int most = 16;  // that StarPU was built for

std::vector<int> numbers(int found, std::optional<int> asked, int part = 0, int parts = 1) {
  return choose_gpus(gpus(found), asked, most, part, parts).numbers();
}

}  // namespace

TEST_CASE("A rank takes the GPUs it is told to, or all", "[gpu_choice]") {
  using List = std::vector<int>;
  CHECK(numbers(4, {}) == List{0, 1, 2, 3});
  CHECK(numbers(4, 2) == List{0, 1});
  CHECK(numbers(4, 0).empty());
  CHECK(numbers(0, {}).empty());
  // StarPU's own way to say none.
  CHECK(numbers(4, -1).empty());
}

TEST_CASE("Ranks of one host share its GPUs", "[gpu_choice]") {
  using List = std::vector<int>;
  CHECK(numbers(4, {}, 0, 2) == List{0, 2});
  CHECK(numbers(4, {}, 1, 2) == List{1, 3});
  CHECK(numbers(4, 1, 1, 2) == List{1});
  for (int rank = 0; rank < 4; ++rank) CHECK(numbers(2, {}, rank, 4) == List{rank % 2});
  CHECK(numbers(0, {}, 1, 4).empty());
}

TEST_CASE("What could not be had is said", "[gpu_choice]") {
  const auto shortage = [](int found, std::optional<int> asked, int limit = most, int parts = 1) {
    return choose_gpus(gpus(found), asked, limit, 0, parts).shortage;
  };
  CHECK(shortage(4, 4) == "");
  CHECK(shortage(4, {}) == "");
  CHECK(shortage(0, {}) == "");
  CHECK(shortage(0, 0) == "");
  CHECK(shortage(0, 8) == "STARPU_NCUDA asks for 8 GPUs, CUDA's driver shows none");
  CHECK(shortage(1, 8) == "STARPU_NCUDA asks for 8 GPUs, there is 1 GPU (NVIDIA H200)");
  CHECK(shortage(2, 8) == "STARPU_NCUDA asks for 8 GPUs, there are 2 GPUs (NVIDIA H200)");
  CHECK(shortage(2, 1, 0) ==
        "STARPU_NCUDA asks for 1 GPU, this program or its StarPU was built without CUDA");
  CHECK(shortage(8, 8, 4) == "STARPU_NCUDA asks for 8 GPUs, this StarPU was built for at most 4");
  CHECK(shortage(2, 2, most, 2) ==
        "STARPU_NCUDA asks for 2 GPUs, there are 2 GPUs (NVIDIA H200), shared by 2 ranks");
}

TEST_CASE("A choice of GPUs as text", "[gpu_choice]") {
  CHECK(choose_gpus(gpus(2), {}, most, 0, 1).to_string() == "2 GPUs (NVIDIA H200)");
  CHECK(choose_gpus(gpus(1), {}, most, 0, 1).to_string() == "1 GPU (NVIDIA H200)");
  CHECK(choose_gpus({}, {}, most, 0, 1).to_string() == "");
}

TEST_CASE("As many workers share a GPU as have work and memory", "[gpu_choice]") {
  CHECK(workers_per_gpu(8, 8, 1000, 1) == 1);
  CHECK(workers_per_gpu(8, 4, 1000, 1) == 2);
  CHECK(workers_per_gpu(9, 4, 1000, 1) == 3);
  CHECK(workers_per_gpu(1, 4, 1000, 1) == 1);
  CHECK(workers_per_gpu(100, 1, 1000, 1) == 8);
  CHECK(workers_per_gpu(8, 1, 1000, 300) == 3);
  CHECK(workers_per_gpu(8, 1, 1000, 2000) == 1);
}
