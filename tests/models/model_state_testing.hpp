// What the tests of model states share.
#pragma once

#include "models/model_state.hpp"
#include "models/zoo.hpp"

namespace stpt::testing {

inline models::Network network_of_buckets() {
  models::Network network = models::make_network("resnet8", {1, 3, 8, 8}, 10);
  models::make_buckets(network, 1);  // several of them
  return network;
}

/// Every number another one.
inline models::ModelValues numbered(const models::Network& network, int workers, float start,
                                    codelets::UpdateRule rule = {}) {
  models::ModelValues values = models::ModelValues::initial(network, workers, 1, rule);
  for (auto* part : {&values.parameters, &values.moments, &values.running}) {
    for (auto& tensor : *part) {
      for (float& value : tensor) value = start += 1;
    }
  }
  return values;
}

}  // namespace stpt::testing
