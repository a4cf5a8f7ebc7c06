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
  /// Throws std::runtime_error where MPI has no MPI_THREAD_MULTIPLE, or sees another number of
  /// processes than the launcher started. Where MPI does not start it ends the process itself.
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

  /// Every rank's values, of which each may have another number, in the order of the ranks.
  /// Collective.
  template <class T>
  [[nodiscard]] std::vector<std::vector<T>> all_gather(const std::vector<T>& mine) {
    return values_of_all<T>(all_gather_bytes(std::as_bytes(std::span(mine))));
  }
  /// Every rank's text. Collective.
  [[nodiscard]] std::vector<std::string> all_gather(const std::string& mine);
  /// The values on rank 0; empty on the others. Collective.
  template <class T>
  [[nodiscard]] std::vector<std::vector<T>> gather(const std::vector<T>& mine) {
    return values_of_all<T>(gather_bytes(std::as_bytes(std::span(mine))));
  }
  /// Rank 0's value. Collective.
  template <class T>
  [[nodiscard]] T broadcast(const T& mine) {
    static_assert(std::is_trivially_copyable_v<T>);
    return single_value_of<T>(broadcast_bytes(std::as_bytes(std::span(&mine, 1))));
  }
  /// Rank 0's text. Collective.
  [[nodiscard]] std::string broadcast(const std::string& mine);

  /// Whether any rank asked to stop. Collective, but it does not wait: the answer is the one to a
  /// question asked `lag` calls ago, and the same on all ranks.
  [[nodiscard]] bool any(bool mine);
  static constexpr std::size_t lag = 4;

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

  using Bytes = std::vector<std::byte>;
  [[nodiscard]] std::vector<Bytes> all_gather_bytes(std::span<const std::byte> mine);
  [[nodiscard]] std::vector<Bytes> gather_bytes(std::span<const std::byte> mine);
  [[nodiscard]] Bytes broadcast_bytes(std::span<const std::byte> mine);
  [[noreturn]] static void refuse_other_size();
  template <class T>
  [[nodiscard]] static T single_value_of(const Bytes& bytes) {
    T value{};
    if (bytes.size() != sizeof(T)) refuse_other_size();
    std::ranges::copy(bytes, std::as_writable_bytes(std::span(&value, 1)).begin());
    return value;
  }
  template <class T>
  [[nodiscard]] static std::vector<T> values_of(const Bytes& bytes) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (bytes.size() % sizeof(T) != 0) refuse_other_size();
    std::vector<T> values(bytes.size() / sizeof(T));
    std::ranges::copy(bytes, std::as_writable_bytes(std::span(values)).begin());
    return values;
  }
  template <class T>
  [[nodiscard]] static std::vector<std::vector<T>> values_of_all(const std::vector<Bytes>& ranks) {
    std::vector<std::vector<T>> values;
    for (const Bytes& bytes : ranks) values.push_back(values_of<T>(bytes));
    return values;
  }

  int rank_ = 0, size_ = 1, rank_on_host_ = 0, ranks_on_host_ = 1;
  bool has_own_cores_ = false;
  std::string host_;
  std::vector<std::string> hosts_;  ///< of every rank
  std::unique_ptr<Mpi> mpi_;        // null without a launcher
};

}  // namespace stpt::runtime
