// Options that every sanitized program starts with. The variables ASAN_OPTIONS, UBSAN_OPTIONS
// and LSAN_OPTIONS come on top.
extern "C" {

const char* __asan_default_options();
const char* __ubsan_default_options();
const char* __lsan_default_suppressions();

const char* __asan_default_options() { return "detect_stack_use_after_return=1"; }

const char* __ubsan_default_options() { return "print_stacktrace=1"; }

// Leaks of others: what they allocate once and never free.
const char* __lsan_default_suppressions() {
  return "leak:libstarpu\n"
         "leak:libhwloc\n"
         "leak:libmpi\n"
         "leak:libopen-pal\n"
         "leak:libopen-rte\n"
         "leak:libcuda\n"
         "leak:libfxt\n";
}

}  // extern "C"
