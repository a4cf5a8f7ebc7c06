// What a person gave cannot be used.
#pragma once

#include <stdexcept>

namespace stpt {

/// A command line, a run file, data, a directory or a checkpoint: what() says in one line which
/// one, what is wrong and what would be right. Before the training the program ends with status 2.
class InputError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace stpt
