// report.html: what a run did, on one page that needs nothing else.
#pragma once

#include <string>

#include "stpt/files/record.hpp"

namespace stpt {

/// A self-contained HTML page (no network, no scripts) for a run in any state: complete, stopped,
/// failed, or before its first epoch has ended.
std::string render_report(const RunRecord& run);

}  // namespace stpt
