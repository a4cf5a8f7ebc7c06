#include "runtime/cluster.hpp"

#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <limits>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>

#include "runtime/machine.hpp"

namespace stpt::runtime {
namespace {

Cluster* live = nullptr;

constexpr int reason_tag = 1, beat_tag = 2;
constexpr std::chrono::milliseconds tick(50);

std::string host_name() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) return "unknown host";
  return name.data();
}

std::optional<int> number_in(const char* variable) {
  const char* text = std::getenv(variable);
  if (text == nullptr || *text == '\0') return std::nullopt;
  return std::atoi(text);
}

/// How many processes the launcher says it started; empty if nothing speaks of a launcher.
std::optional<int> launched_processes() {
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {
    if (const auto size = number_in(variable)) return size;
  }
  // srun sets this also where it hands MPI nothing to find the others by. (A batch script that
  // starts the program itself has no such variable.)
  if (const auto size = number_in("SLURM_STEP_NUM_TASKS")) return size;
  if (std::getenv("PMIX_RANK") != nullptr) return 0;  // some number
  return std::nullopt;
}

void check(int error, const char* what) {
  if (error != MPI_SUCCESS) throw std::runtime_error(std::string("MPI: ") + what + " failed");
}

/// The watcher and another thread may both want it, and MPI_Abort is not for two at a time.
[[noreturn]] void abort_job(int status) {
  static std::atomic_flag under_way;
  while (under_way.test_and_set()) std::this_thread::sleep_for(std::chrono::seconds(1));
  MPI_Abort(MPI_COMM_WORLD, status);
  std::_Exit(status);
}

}  // namespace

struct Cluster::Mpi {
  Mpi() {
    int provided = MPI_THREAD_SINGLE;
    // StarPU-MPI's thread polls, often on a core that a worker needs. Open MPI; a value from
    // outside wins.
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided);
    if (provided < MPI_THREAD_MULTIPLE) {
      MPI_Finalize();
      throw std::runtime_error(
          "this MPI was built without MPI_THREAD_MULTIPLE, which training over several ranks "
          "needs");
    }
    for (MPI_Comm* communicator : {&data, &votes, &control})
      MPI_Comm_dup(MPI_COMM_WORLD, communicator);
    // So that what fails there is recorded before the job ends, instead of ending it at once.
    for (const MPI_Comm communicator : {data, votes})
      MPI_Comm_set_errhandler(communicator, MPI_ERRORS_RETURN);
  }
  ~Mpi() {
    if (watcher.joinable()) {
      // Ranks are heard of until all have come here.
      MPI_Barrier(data);
      ending = true;
      watcher.join();
    }
    for (Vote& vote : pending) MPI_Wait(&vote.request, MPI_STATUS_IGNORE);
    MPI_Finalize();
  }
  Mpi(const Mpi&) = delete;
  Mpi& operator=(const Mpi&) = delete;

  /// Tells the others, once a second, that this rank lives, and takes note of their signs of life.
  void exchange_beats(int rank, int size) {
    for (int peer = 0; peer < size; ++peer) {
      if (peer == rank || (rank != 0 && peer != 0)) continue;
      MPI_Request& request = beats[static_cast<std::size_t>(peer)];
      int done = 1;
      if (request != MPI_REQUEST_NULL) MPI_Test(&request, &done, MPI_STATUS_IGNORE);
      if (done != 0) MPI_Isend(nullptr, 0, MPI_BYTE, peer, beat_tag, control, &request);
      ++silent[static_cast<std::size_t>(peer)];
    }
    while (true) {
      int arrived = 0;
      MPI_Status status;
      MPI_Iprobe(MPI_ANY_SOURCE, beat_tag, control, &arrived, &status);
      if (arrived == 0) return;
      MPI_Recv(nullptr, 0, MPI_BYTE, status.MPI_SOURCE, beat_tag, control, MPI_STATUS_IGNORE);
      silent[static_cast<std::size_t>(status.MPI_SOURCE)] = 0;
    }
  }

  /// Why a rank abandoned the job; empty if none has.
  [[nodiscard]] std::string received_reason() const {
    int arrived = 0;
    MPI_Status status;
    MPI_Iprobe(MPI_ANY_SOURCE, reason_tag, control, &arrived, &status);
    if (arrived == 0) return {};
    int length = 0;
    MPI_Get_count(&status, MPI_BYTE, &length);
    std::string reason(static_cast<std::size_t>(length), '\0');
    MPI_Recv(reason.data(), length, MPI_BYTE, status.MPI_SOURCE, reason_tag, control,
             MPI_STATUS_IGNORE);
    return reason;
  }

  struct Vote {
    int mine = 0, any = 0;
    MPI_Request request = MPI_REQUEST_NULL;
  };

  // Communicators of our own: StarPU-MPI's messages are on MPI_COMM_WORLD.
  MPI_Comm data = MPI_COMM_NULL, votes = MPI_COMM_NULL, control = MPI_COMM_NULL;
  std::deque<Vote> pending;  // the requests write into their elements, which a deque never moves
  std::thread watcher;
  std::mutex report_mutex;
  std::function<void(const std::string&)> report;
  std::atomic<bool> ending = false;
  // Per rank, for the watcher alone. Seconds are counted by its own beats, so that a job which was
  // suspended as a whole finds nobody silent.
  std::vector<MPI_Request> beats;
  std::vector<int> silent;
};

Cluster::Cluster(std::nullptr_t) : host_(host_name()) {}

Cluster::Cluster() : host_(host_name()) {
  if (live != nullptr) throw std::logic_error("Cluster: one is alive already");
  if (const auto launched = launched_processes(); launched && *launched != 1) {
    mpi_ = std::make_unique<Mpi>();
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    MPI_Comm neighbours = MPI_COMM_NULL;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &neighbours);
    MPI_Comm_rank(neighbours, &rank_on_host_);
    MPI_Comm_size(neighbours, &ranks_on_host_);
    MPI_Comm_free(&neighbours);
    if (*launched > 0 && *launched != size_) {
      throw std::runtime_error("the launcher started " + std::to_string(*launched) +
                               " processes, but MPI sees " + std::to_string(size_) +
                               "; with Slurm try srun --mpi=pmix, or mpirun of the MPI that "
                               "stpt_starpu is linked with");
    }
    // So that ranks of one host do not get into each other's way.
    has_own_cores_ = take_share_of_cores(rank_on_host_, ranks_on_host_);
  }
  live = this;
}

Cluster::~Cluster() {
  if (live == this) live = nullptr;
}

Cluster& Cluster::current() {
  static Cluster alone(nullptr);
  return live != nullptr ? *live : alone;
}

std::string Cluster::here() const { return "rank " + std::to_string(rank_) + " (" + host_ + ")"; }

namespace {

/// What all ranks or one of them gets of everyone's bytes: sizes first, then the bytes.
struct Sizes {
  std::vector<int> counts, offsets;
  std::vector<std::byte> bytes;
};

Sizes prepare(const std::vector<std::int64_t>& sizes) {
  Sizes result;
  std::int64_t sum = 0;
  for (const std::int64_t size : sizes) {
    result.offsets.push_back(static_cast<int>(sum));
    result.counts.push_back(static_cast<int>(size));
    sum += size;
    if (sum > std::numeric_limits<int>::max())
      throw std::length_error("Cluster: more than 2 GiB in one collective");
  }
  result.bytes.resize(static_cast<std::size_t>(sum));
  return result;
}

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::vector<std::vector<std::byte>> split(const Sizes& sizes) {
  std::vector<std::vector<std::byte>> parts;
  for (std::size_t rank = 0; rank < sizes.counts.size(); ++rank) {
    const auto part = std::span(sizes.bytes)
                          .subspan(static_cast<std::size_t>(sizes.offsets[rank]),
                                   static_cast<std::size_t>(sizes.counts[rank]));
    parts.emplace_back(part.begin(), part.end());
  }
  return parts;
}

}  // namespace

std::vector<Cluster::Bytes> Cluster::all_gather_bytes(std::span<const std::byte> mine) {
  if (size_ == 1) return {{mine.begin(), mine.end()}};
  const auto own = static_cast<std::int64_t>(mine.size());
  std::vector<std::int64_t> all(static_cast<std::size_t>(size_));
  check(MPI_Allgather(&own, 1, MPI_INT64_T, all.data(), 1, MPI_INT64_T, mpi_->data),
        "MPI_Allgather");
  Sizes sizes = prepare(all);
  check(MPI_Allgatherv(mine.data(), static_cast<int>(own), MPI_BYTE, sizes.bytes.data(),
                       sizes.counts.data(), sizes.offsets.data(), MPI_BYTE, mpi_->data),
        "MPI_Allgatherv");
  return split(sizes);
}

std::vector<Cluster::Bytes> Cluster::gather_bytes(std::span<const std::byte> mine) {
  if (size_ == 1) return {{mine.begin(), mine.end()}};
  const auto own = static_cast<std::int64_t>(mine.size());
  std::vector<std::int64_t> all(rank_ == 0 ? static_cast<std::size_t>(size_) : 0);
  check(MPI_Gather(&own, 1, MPI_INT64_T, all.data(), 1, MPI_INT64_T, 0, mpi_->data), "MPI_Gather");
  Sizes sizes = prepare(all);
  check(MPI_Gatherv(mine.data(), static_cast<int>(own), MPI_BYTE, sizes.bytes.data(),
                    sizes.counts.data(), sizes.offsets.data(), MPI_BYTE, 0, mpi_->data),
        "MPI_Gatherv");
  return split(sizes);
}

Cluster::Bytes Cluster::broadcast_bytes(std::span<const std::byte> mine) {
  std::vector<std::byte> bytes(mine.begin(), mine.end());
  if (size_ == 1) return bytes;
  auto size = static_cast<std::int64_t>(bytes.size());
  check(MPI_Bcast(&size, 1, MPI_INT64_T, 0, mpi_->data), "MPI_Bcast");
  if (size > std::numeric_limits<int>::max())
    throw std::length_error("Cluster: more than 2 GiB in one collective");
  bytes.resize(static_cast<std::size_t>(size));
  check(MPI_Bcast(bytes.data(), static_cast<int>(size), MPI_BYTE, 0, mpi_->data), "MPI_Bcast");
  return bytes;
}

void Cluster::refuse_other_size() {
  throw std::runtime_error("a rank sent a value of another size; all must run the same program");
}

std::vector<std::string> Cluster::all_gather(const std::string& mine) {
  std::vector<std::string> texts;
  for (const Bytes& bytes : all_gather_bytes(std::as_bytes(std::span(mine))))
    texts.push_back(text_of(bytes));
  return texts;
}

std::string Cluster::broadcast(const std::string& mine) {
  return text_of(broadcast_bytes(std::as_bytes(std::span(mine))));
}

bool Cluster::any(bool mine) {
  if (size_ == 1) return mine;
  Mpi::Vote& vote = mpi_->pending.emplace_back();
  vote.mine = mine ? 1 : 0;
  check(MPI_Iallreduce(&vote.mine, &vote.any, 1, MPI_INT, MPI_MAX, mpi_->votes, &vote.request),
        "MPI_Iallreduce");
  if (mpi_->pending.size() <= lag) return false;
  Mpi::Vote& oldest = mpi_->pending.front();
  check(MPI_Wait(&oldest.request, MPI_STATUS_IGNORE), "MPI_Wait");
  const bool result = oldest.any != 0;
  mpi_->pending.pop_front();
  return result;
}

void Cluster::watch(std::function<void(const std::string&)> report) {
  if (size_ == 1) return;
  {
    const std::scoped_lock lock(mpi_->report_mutex);
    mpi_->report = std::move(report);
  }
  if (mpi_->watcher.joinable()) return;
  hosts_ = all_gather(host_);
  mpi_->beats.assign(static_cast<std::size_t>(size_), MPI_REQUEST_NULL);
  mpi_->silent.assign(static_cast<std::size_t>(size_), 0);
  mpi_->watcher = std::thread([this] {
    constexpr int ticks_per_beat = 1000 / static_cast<int>(tick.count());
    for (int ticks = 0; !mpi_->ending; ++ticks) {
      std::string reason = mpi_->received_reason();
      if (ticks % ticks_per_beat == 0) mpi_->exchange_beats(rank_, size_);
      const auto lost =
          std::ranges::find_if(mpi_->silent, [](int seconds) { return seconds > silence_seconds; });
      if (reason.empty() && lost != mpi_->silent.end()) {
        const auto peer = static_cast<std::size_t>(lost - mpi_->silent.begin());
        reason = "rank " + std::to_string(peer) + " (" + hosts_[peer] +
                 ") has not been heard of for " + std::to_string(silence_seconds) +
                 " seconds: its node or the network is gone";
      }
      if (!reason.empty()) {
        const std::scoped_lock lock(mpi_->report_mutex);
        mpi_->report(reason);
        abort_job(1);
      }
      std::this_thread::sleep_for(tick);
    }
    for (MPI_Request& request : mpi_->beats) {
      if (request != MPI_REQUEST_NULL) MPI_Request_free(&request);
    }
  });
}

void Cluster::abandon(const std::string& reason, int status) noexcept {
  if (mpi_ == nullptr || size_ == 1) std::_Exit(status);
  if (rank_ != 0) {
    const std::string text = here() + ": " + reason;
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Isend(text.data(), static_cast<int>(text.size()), MPI_BYTE, 0, reason_tag, mpi_->control,
              &request);
    // Rank 0 ends the job when it has written what it knows; if it does not, this rank does.
    for (int tenths = 0; tenths < 100; ++tenths) {
      int done = 0;
      MPI_Test(&request, &done, MPI_STATUS_IGNORE);
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  }
  abort_job(status);
}

}  // namespace stpt::runtime
