// The work of Program's constructor; used by program.cpp alone.
#pragma once

#include "models/program.hpp"

namespace stpt::models {

/// Fills `program`, which has its options already, with the network's operations and segments.
void lower(const Network& network, Mode mode, Program& program);

}  // namespace stpt::models
