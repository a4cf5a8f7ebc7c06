#include "stpt/application.hpp"

int main(int argc, char** argv) { return stpt::run_application(argc, argv, STPT_VERSION); }
