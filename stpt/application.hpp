// The program: does what the command line asks for, and says how it went.
#pragma once

#include <string>

namespace stpt {

/// Results go to stdout, progress and errors to stderr. Returns the exit status: 0 done; 1 the run
/// failed; 2 the command line, run file, data or directory cannot be used, and nothing was written,
/// but for a run that met the data while it trained; 130 or 143 stopped by SIGINT or SIGTERM. What
/// is not 0 or a stop comes with one line on stderr.
[[nodiscard]] int run_application(int argc, const char* const* argv, const std::string& version);

}  // namespace stpt
