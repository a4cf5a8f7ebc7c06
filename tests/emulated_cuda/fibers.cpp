// A kernel's threads. They share few fibers: a fiber runs one thread after the other, and only
// where a thread waits for others does another fiber go on in its place. A kernel that never waits
// is a plain loop.
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <new>
#include <vector>

#include "tests/emulated_cuda/state.hpp"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

constinit thread_local uint3 threadIdx{};
constinit thread_local uint3 blockIdx{};
constinit thread_local dim3 blockDim{};
constinit thread_local dim3 gridDim{};

namespace emulated_cuda {
namespace {

constexpr unsigned warp_size = 32;

/// With a page before it that must not be touched.
class Stack {
 public:
  Stack() : memory_(mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, -1, 0)) {
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory_, static_cast<std::size_t>(getpagesize()), PROT_NONE);
  }
  ~Stack() { munmap(memory_, size); }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  [[nodiscard]] void* memory() const { return memory_; }

  static constexpr std::size_t size = 256 * 1024;

 private:
  static constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK;
  void* memory_;
};

/// A place where execution stopped.
struct Context {
  std::array<void*, 5> registers{};  ///< of __builtin_setjmp
  const void* stack = nullptr;       ///< for the address sanitizer
  std::size_t stack_bytes = 0;
  void* fake_stack = nullptr;
};

struct Fiber : Context {
  Fiber() { Context::stack = memory.memory(), stack_bytes = Stack::size; }
  Stack memory;
  unsigned thread = 0;  ///< of the block
  bool started = false;
};

class Block;
thread_local Block* current_block = nullptr;

[[noreturn]] void run_fiber();

// The sanitizer is told of the change of stacks; its own handling of longjmp would not know it.
#define NO_SANITIZER __attribute__((noinline, no_sanitize_address))

void leaving([[maybe_unused]] Context& from, [[maybe_unused]] const Context& to) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.stack_bytes);
#endif
}

/// `from` is where execution came from; of the host thread's own stack nothing is known before.
void arrived([[maybe_unused]] Context& here, [[maybe_unused]] Context* from) {
#ifdef __SANITIZE_ADDRESS__
  const void* stack = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber(here.fake_stack, &stack, &bytes);
  if (from) from->stack = stack, from->stack_bytes = bytes;
#endif
}

[[noreturn]] NO_SANITIZER void jump(Context& to) { __builtin_longjmp(to.registers.data(), 1); }

/// On a stack of its own for the first time.
[[noreturn]] NO_SANITIZER void begin(Fiber& fiber) {
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.memory.memory();
  context.uc_stack.ss_size = Stack::size;
  context.uc_link = nullptr;
  makecontext(&context, run_fiber, 0);
  setcontext(&context);
  std::abort();
}

NO_SANITIZER void switch_registers(Context& from, Context& to, Fiber* unstarted) {
  if (__builtin_setjmp(from.registers.data())) return;
  if (unstarted) begin(*unstarted);
  jump(to);
}

/// A group of threads that waits until all of it has arrived.
struct Barrier {
  std::vector<Fiber*> waiting;
  unsigned line = 0;
};

/// Two slots a lane: nobody can be two exchanges ahead of a lane that still has to read.
struct Warp {
  Barrier barrier;
  std::array<std::array<std::uint64_t, warp_size>, 2> values{};
  unsigned exchanges = 0;
};

/// The threads of one block, and the fibers that run them; kept by each host thread.
class Block {
 public:
  /// backwards: the last thread starts; ahead: a warp goes on to where the block waits before
  /// others do.
  void run(const dim3& size, const KernelCall& call, bool backwards, bool ahead) {
    call_ = &call;
    size_ = size;
    threads_ = size.x * size.y * size.z;
    backwards_ = backwards;
    ahead_ = ahead;
    started_ = finished_ = 0;
    warps_.assign((threads_ + warp_size - 1) / warp_size, {});
    current_ = nullptr;
    switch_to(idle_fiber());
    arrived(host_, nullptr);
  }

  void wait_for_block(unsigned line) { wait(barrier_, threads_, line, "__syncthreads"); }

  std::uint64_t exchange(unsigned mask, std::uint64_t value, int source_lane, unsigned line) {
    if (mask != ~0u) fail("a shuffle whose mask is not that of the full warp", line);
    const unsigned lane = current_->thread % warp_size;
    Warp& warp = warps_[current_->thread / warp_size];
    auto& values = warp.values[warp.exchanges % 2];
    values[lane] = value;
    const bool exists = source_lane >= 0 && source_lane < static_cast<int>(warp_size);
    const std::uint64_t* source = &values[exists ? static_cast<unsigned>(source_lane) : lane];
    if (warp.barrier.waiting.size() + 1 == warp_size) ++warp.exchanges;
    wait(warp.barrier, warp_size, line, "a shuffle");
    return *source;
  }

  [[nodiscard]] unsigned thread() const { return current_->thread; }

  /// A fiber's life.
  [[noreturn]] void serve(Fiber& self) {
    arrived(self, came_from_host_ ? &host_ : nullptr);
    for (;;) {
      came_from_host_ = false;
      while (started_ < threads_) {
        const unsigned thread = started_++;
        self.thread = backwards_ ? threads_ - 1 - thread : thread;
        set_position(self.thread);
        call_->run_thread();
        ++finished_;
      }
      idle_.push_back(&self);
      if (!ready_.empty()) {
        resume_next();
      } else if (finished_ == threads_) {
        switch_to_host();
      } else {
        fail_stuck();
      }
      arrived(self, came_from_host_ ? &host_ : nullptr);
    }
  }

  Fiber& current() { return *current_; }

 private:
  /// The last to arrive goes on at once, and the others after it in reverse, so that the order of
  /// the threads changes at every barrier: a missing one shows.
  void wait(Barrier& barrier, unsigned expected, unsigned line, const char* what) {
    Fiber& self = *current_;
    if (!barrier.waiting.empty() && barrier.line != line)
      fail(std::string("threads wait in ") + what + " of different lines, one of them " +
               std::to_string(barrier.line),
           line);
    barrier.line = line;
    if (barrier.waiting.size() + 1 == expected) {
      const bool first = ahead_ && &barrier != &barrier_;
      ready_.insert(first ? ready_.begin() : ready_.end(), barrier.waiting.rbegin(),
                    barrier.waiting.rend());
      barrier.waiting.clear();
      return;
    }
    barrier.waiting.push_back(&self);
    if (!ready_.empty()) {
      resume_next();
    } else if (started_ < threads_) {
      switch_to(idle_fiber());
    } else {
      fail_stuck();
    }
    arrived(self, nullptr);
    set_position(self.thread);
  }

  void resume_next() {
    Fiber* next = ready_.front();
    ready_.pop_front();
    switch_to(*next);
  }

  Fiber& idle_fiber() {
    if (idle_.empty()) idle_.push_back(fibers_.emplace_back(std::make_unique<Fiber>()).get());
    Fiber* fiber = idle_.back();
    idle_.pop_back();
    return *fiber;
  }

  void switch_to(Fiber& to) {
    Context& from = current_ ? *current_ : host_;
    came_from_host_ = !current_;
    current_ = &to;
    leaving(from, to);
    Fiber* unstarted = to.started ? nullptr : &to;
    to.started = true;
    switch_registers(from, to, unstarted);
  }

  void switch_to_host() {
    Fiber& from = *current_;
    current_ = nullptr;
    leaving(from, host_);
    switch_registers(from, host_, nullptr);
  }

  void set_position(unsigned thread) const {
    threadIdx = {thread % size_.x, thread / size_.x % size_.y, thread / size_.x / size_.y};
  }

  [[noreturn]] void fail_stuck() {
    std::string what = std::to_string(finished_) + " of " + std::to_string(threads_) +
                       " threads have finished, while";
    if (!barrier_.waiting.empty())
      what += " " + std::to_string(barrier_.waiting.size()) + " wait in __syncthreads of line " +
              std::to_string(barrier_.line);
    for (const Warp& warp : warps_) {
      if (warp.barrier.waiting.empty()) continue;
      what += " " + std::to_string(warp.barrier.waiting.size()) + " lanes of a warp wait in line " +
              std::to_string(warp.barrier.line);
      break;
    }
    fail(what, 0);
  }

  [[noreturn]] static void fail(const std::string& what, unsigned line) {
    std::fprintf(stderr, "emulated CUDA: a kernel is wrong: %s (line %u, block %u %u %u)\n",
                 what.c_str(), line, blockIdx.x, blockIdx.y, blockIdx.z);
    std::abort();
  }

  const KernelCall* call_ = nullptr;
  dim3 size_;
  unsigned threads_ = 0;
  bool backwards_ = false, ahead_ = false;
  unsigned started_ = 0, finished_ = 0;
  Barrier barrier_;
  std::vector<Warp> warps_;

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
  std::deque<Fiber*> ready_;
  Context host_;
  Fiber* current_ = nullptr;  ///< null: the host thread's own stack
  bool came_from_host_ = false;
};

void run_fiber() { current_block->serve(current_block->current()); }

}  // namespace

void run_grid(const dim3& grid, const dim3& block, const KernelCall& call) {
  thread_local Block threads;
  current_block = &threads;
  gridDim = grid;
  blockDim = block;
  // Every other block backwards, and every other kernel's blocks, and some with warps that run
  // ahead: what depends on the order of the threads or blocks shows.
  static std::atomic<unsigned> kernels = 0;
  const unsigned kernel = kernels++;
  const bool last_first = kernel % 2 == 1;
  bool backwards = false;
  const std::uint64_t blocks = std::uint64_t{grid.x} * grid.y * grid.z;
  for (std::uint64_t i = 0; i < blocks; ++i, backwards = !backwards) {
    const std::uint64_t at = last_first ? blocks - 1 - i : i;
    blockIdx = {static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                static_cast<unsigned>(at / grid.x / grid.y)};
    threads.run(block, call, backwards, (kernel / 2 + i / 2) % 2 == 1);
  }
}

void synchronize_block(unsigned line) { current_block->wait_for_block(line); }

std::uint64_t exchange_in_warp(unsigned mask, std::uint64_t value, int source_lane, unsigned line) {
  return current_block->exchange(mask, value, source_lane, line);
}

int lane() { return static_cast<int>(current_block->thread() % warp_size); }

}  // namespace emulated_cuda
