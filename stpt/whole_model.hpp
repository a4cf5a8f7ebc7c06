// The session's model as values on rank 0, where all ranks or some have parts of it.
#pragma once

#include <string>

#include "models/model_state.hpp"
#include "stpt/session.hpp"

namespace stpt {

/// session.current from all ranks, on rank 0; nothing on the others. All ranks call it.
[[nodiscard]] models::ModelValues collect_model(Session& session);

/// session.current becomes rank 0's `values`; the other ranks' do not matter. All ranks call it.
void place_model(Session& session, const models::ModelValues& values);

/// SHA-256, in hexadecimal, of the parameters and of session.averaged_running, without what buckets
/// and layers are padded with.
[[nodiscard]] std::string digest_of(const models::ModelValues& model, const Session& session);

}  // namespace stpt
