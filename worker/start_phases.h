#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace trireme {

// Where the time goes from a rank's start until it is ready. Not thread safe.
class StartPhases {
 public:
  using Clock = std::chrono::steady_clock;

  explicit StartPhases(Clock::time_point start = Clock::now()) : mark_(start) {}

  // A phase has ended, which began when the one before it did. Phases of one name are added up.
  void End(std::string_view phase, Clock::time_point now = Clock::now());

  // "ready after 9.61 s: gang 2.01, weights 7.50, KV cache 0.10", in the order in which they came.
  std::string Describe() const;

 private:
  Clock::time_point mark_;
  std::vector<std::pair<std::string, Clock::duration>> phases_;
};

}  // namespace trireme
