#include "models/transfer.hpp"

#include <stdexcept>

#include "runtime/cluster.hpp"

namespace stpt::models {

using runtime::Tensor;

void transfer(const ModelState* source, const Placement& from, ModelState* destination,
              const Placement& to, int channel, std::size_t piece) {
  const int here = runtime::Cluster::current().rank();
  const auto number = static_cast<std::size_t>(channel);
  const auto move = [&](MessageKind kind, std::size_t index, const Tensor* source_tensor,
                        int sender, const Tensor* destination_tensor, int receiver) {
    if (sender == receiver) {
      if (sender == here) copy(*source_tensor, *destination_tensor, piece);
      return;
    }
    const auto tag = message_tag(kind, number, 0, index);
    if (sender == here) runtime::send(*source_tensor, receiver, tag);
    if (receiver == here) runtime::receive(*destination_tensor, sender, tag);
  };
  const auto at = [](auto* state, auto member, std::size_t index) -> const Tensor* {
    return state == nullptr ? nullptr : &(state->*member)[index];
  };
  for (std::size_t bucket = 0; bucket < from.owners.size(); ++bucket) {
    for (int rank = to.team.first_rank; rank < to.team.first_rank + to.team.ranks; ++rank) {
      const int sender = from.team.has(rank) ? rank : from.owners[bucket];
      move(MessageKind::parameters, bucket, at(source, &ModelState::parameters, bucket), sender,
           at(destination, &ModelState::parameters, bucket), rank);
    }
    move(MessageKind::moments, bucket, at(source, &ModelState::moments, bucket),
         from.owners[bucket], at(destination, &ModelState::moments, bucket), to.owners[bucket]);
  }
  const ModelState* any = source != nullptr ? source : destination;
  if (any == nullptr || any->running.empty()) return;
  for (int worker = 0; worker < to.team.workers; ++worker) {
    const int origin = worker % from.team.workers;
    move(MessageKind::running, static_cast<std::size_t>(worker),
         at(source, &ModelState::running, static_cast<std::size_t>(origin)),
         from.team.rank_of(origin),
         at(destination, &ModelState::running, static_cast<std::size_t>(worker)),
         to.team.rank_of(worker));
  }
}

runtime::MessageTag message_tag(MessageKind kind, std::size_t a, std::size_t b, std::size_t c) {
  if (a >= (1U << 16) || b >= (1U << 16) || c >= (1U << 24))
    throw std::length_error("message_tag: more parts than a tag can tell apart");
  // 3 + 16 + 16 + 24 bits leave the sign alone.
  return (static_cast<runtime::MessageTag>(kind) << 56) |
         (static_cast<runtime::MessageTag>(a) << 40) | (static_cast<runtime::MessageTag>(b) << 24) |
         static_cast<runtime::MessageTag>(c);
}

}  // namespace stpt::models
