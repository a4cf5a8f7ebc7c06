// Options that every sanitized program starts with. The variables ASAN_OPTIONS, UBSAN_OPTIONS
// and LSAN_OPTIONS come on top.
#include <cstdlib>

extern "C" {

const char* __asan_default_options();
const char* __ubsan_default_options();
const char* __lsan_default_options();
const char* __lsan_default_suppressions();

const char* __asan_default_options() { return "detect_stack_use_after_return=1"; }

const char* __ubsan_default_options() { return "print_stacktrace=1"; }

const char* __lsan_default_options() { return "print_suppressions=0"; }

// Leaks of others: what they allocate once and never free.
const char* __lsan_default_suppressions() {
  return "leak:libstarpu\n"
         "leak:libhwloc\n"
         "leak:libmpi\n"
         "leak:libopen-pal\n"
         "leak:libopen-rte\n"
         "leak:libcuda\n"
         "leak:libcudnn\n"
         "leak:libfxt\n";
}

}  // extern "C"

namespace {

// hwloc's PCI plugin leaks, and is gone by the time leaks are looked for: no plugins.
[[maybe_unused]] const int no_plugins = setenv("HWLOC_PLUGINS_PATH", "/", 0);

}  // namespace
