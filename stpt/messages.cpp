#include "stpt/messages.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <new>
#include <stdexcept>

#include "data/dataset.hpp"
#include "runtime/input_error.hpp"

namespace stpt {

void fill_standard_files() {
  // open gives the lowest number that is free.
  int file = 0;
  do {
    file = ::open("/dev/null", O_RDWR);
  } while (0 <= file && file <= STDERR_FILENO);
  if (file >= 0) ::close(file);
}

std::string one_line(std::string text) {
  std::ranges::replace_if(
      text, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
  return text;
}

std::string message_of(const std::exception& error) {
  constexpr const char* out_of_memory = "out of memory";
  try {
    std::rethrow_if_nested(error);
  } catch (const data::DataError& cause) {
    return message_of(cause);
  } catch (const std::bad_alloc&) {
    return out_of_memory;
  } catch (...) {
    // The task's own message says it.
  }
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return out_of_memory;
  return one_line(error.what());
}

void print(const std::string& text) {
  std::cout << text << std::flush;
  if (!std::cout) throw std::runtime_error("cannot write to standard output");
}

void print_error(const std::string& message) {
  std::cerr << "stpt_starpu: " + message + "\n" << std::flush;
}

bool blames_data(const std::exception& error) {
  try {
    std::rethrow_if_nested(error);
  } catch (const data::DataError&) {
    return true;
  } catch (...) {
    return false;
  }
  return dynamic_cast<const data::DataError*>(&error) != nullptr;
}

bool blames_input(const std::exception& error) {
  return dynamic_cast<const InputError*>(&error) != nullptr;
}

}  // namespace stpt
