// The tests' main: Catch2's, with StarPU kept quiet and its files in the build folder.
#define CATCH_CONFIG_RUNNER

#include <cstdlib>

#include "tests/catch.hpp"

int main(int argc, char** argv) {
  // A value from outside wins.
  setenv("STARPU_SILENT", "1", 0);
  setenv("STARPU_HOME", STPT_TEST_SCRATCH, 0);
  setenv("STARPU_NCUDA", "0", 0);           // tests of GPUs say so
  setenv("STARPU_WORKERS_NOBIND", "1", 0);  // ctest may run several programs at once
  return Catch::Session().run(argc, argv);
}
