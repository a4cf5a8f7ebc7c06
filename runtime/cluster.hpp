// The processes of a job, one per node ("ranks"): started by mpirun or srun, or a single one
// without MPI.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace stpt::runtime {

/// MPI from construction to destruction. One per process, alive before and after any Runtime. A
/// process that no launcher started is a job of one rank and never calls MPI.
///
/// What is collective must be called by all ranks in the same order, from one thread each, outside
/// of tasks.
class Cluster {
 public:
  /// Throws std::runtime_error where MPI does not start, has no MPI_THREAD_MULTIPLE, or sees
  /// another number of processes than the launcher started.
  Cluster();
  ~Cluster();
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  /// The live one, or a job of one rank where there is none.
  [[nodiscard]] static Cluster& current();

  [[nodiscard]] int rank() const { return rank_; }
  [[nodiscard]] int size() const { return size_; }
  [[nodiscard]] const std::string& host() const { return host_; }
  /// Ranks that share this one's main memory, it included.
  [[nodiscard]] int ranks_on_host() const { return ranks_on_host_; }
  /// This one's number among them, from 0.
  [[nodiscard]] int rank_on_host() const { return rank_on_host_; }
  /// It is bound to its own part of the host's cores: there are enough, and the launcher has not
  /// bound it.
  [[nodiscard]] bool has_own_cores() const { return has_own_cores_; }
  /// "rank 2 (node7)"
  [[nodiscard]] std::string here() const;

  /// Every rank's bytes, in the order of the ranks. Collective.
  [[nodiscard]] std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine);
  /// The same on rank 0; empty on the others. Collective.
  [[nodiscard]] std::vector<std::vector<std::byte>> gather(std::span<const std::byte> mine);
  /// Rank 0's bytes. Collective.
  [[nodiscard]] std::vector<std::byte> broadcast(std::span<const std::byte> mine);

  /// Whether any rank asked to stop. Collective, but it does not wait: the answer is the one to a
  /// question asked `lag` calls ago, and the same on all ranks.
  [[nodiscard]] bool any(bool mine);

  /// From here on a thread of this class's own ends the job when another rank abandons it, or has
  /// not been heard of for silence_seconds. First it calls `report`, with a line that names that
  /// rank: rank 0 hears of every rank, the others only of rank 0's silence. Collective; called
  /// again, by any rank, it only replaces `report`: the former one is called no more once it
  /// returns.
  void watch(std::function<void(const std::string&)> report);
  static constexpr int silence_seconds = 20;
  /// Tells rank 0 why this rank cannot go on, and ends all ranks with `status`. Never returns.
  [[noreturn]] void abandon(const std::string& reason, int status) noexcept;

 private:
  struct Mpi;
  explicit Cluster(std::nullptr_t);  // a job of one rank

  int rank_ = 0, size_ = 1, rank_on_host_ = 0, ranks_on_host_ = 1;
  bool has_own_cores_ = false;
  std::string host_;
  std::vector<std::string> hosts_;  ///< of every rank
  std::unique_ptr<Mpi> mpi_;        // null without a launcher
};

/// Bytes of a plain value or array, for the collectives.
template <class T>
[[nodiscard]] std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  static_assert(std::is_trivially_copyable_v<T>);
  return std::as_bytes(std::span(values));
}

/// The other way round.
template <class T>
[[nodiscard]] std::vector<T> values_of(std::span<const std::byte> bytes) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::vector<T> values(bytes.size() / sizeof(T));
  std::copy_n(bytes.data(), values.size() * sizeof(T), reinterpret_cast<std::byte*>(values.data()));
  return values;
}

}  // namespace stpt::runtime
