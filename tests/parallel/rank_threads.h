#pragma once

#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "parallel/communicator.h"

namespace trireme {

// Runs `body` on a thread for each of `size` loopback ranks; a thread that ends destroys its
// communicator.
inline void RunLoopbackRanks(int size, const std::function<void(Communicator&)>& body) {
  std::vector<std::thread> threads;
  for (auto& communicator : MakeLoopbackCommunicators(size)) {
    threads.emplace_back([own = std::move(communicator), &body] { body(*own); });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace trireme
