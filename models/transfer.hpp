// A model's way from one placement to another, and what tells messages between ranks apart.
#pragma once

#include <cstddef>

#include "models/model_state.hpp"
#include "models/team.hpp"
#include "runtime/message.hpp"

namespace stpt::models {

/// Copies a model to where another one is placed: destination = source. Worker i of the destination
/// gets the running statistics of worker i mod n of the source's n. Ranks outside a placement's
/// team pass null for its model. All ranks of either team call it, with the same `channel`, which
/// tells transfers apart that may be under way at the same time (below 2^16). Asynchronous. `piece`
/// as for copy_from().
void transfer(const ModelState* source, const Placement& from, ModelState* destination,
              const Placement& to, int channel, std::size_t piece = 0);

/// The kinds of messages, and their tags: (kind, a number below 2^16, another below 2^16, a third
/// below 2^24).
enum class MessageKind { gradient = 1, parameters, moments, running, average, redux };
[[nodiscard]] runtime::MessageTag message_tag(MessageKind kind, std::size_t a, std::size_t b,
                                              std::size_t c);

}  // namespace stpt::models
