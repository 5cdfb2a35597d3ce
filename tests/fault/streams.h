#pragma once

#include <atomic>
#include <chrono>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/fault/answers.h"

namespace trireme::fault {

struct Totals {
  uint64_t requests = 0;
  uint64_t tokens = 0;
  uint64_t refused = 0;  // requests that no gang was there for; they are asked again
  uint64_t failed = 0;   // requests that ended with an error
  uint64_t unequal = 0;  // requests whose answer was not the expected one
  Damage damage;
};

// Clients that ask one known request after the other, all the time, and compare.
class Streams {
 public:
  using Clock = std::chrono::steady_clock;

  // `want` are the answers of `requests`, in their order.
  Streams(const std::string& server, int count, std::vector<v1::GenerateRequest> requests,
          std::vector<Answer> want, uint64_t seed);
  Streams(const Streams&) = delete;
  Streams& operator=(const Streams&) = delete;
  ~Streams();

  // When a client last heard of its request.
  Clock::time_point last_message() const { return last_message_.load(); }

  // Lets what is under way end, and sums up. Once.
  Totals Finish();

 private:
  void Run(const std::string& server, uint64_t seed);

  const std::vector<v1::GenerateRequest> requests_;
  const std::vector<Answer> want_;
  std::atomic<bool> over_ = false;
  std::atomic<Clock::time_point> last_message_{Clock::time_point{}};
  std::mutex mutex_;
  Totals totals_;  // guarded by mutex_
  std::vector<std::thread> threads_;
};

// The answers of a server to which nothing happens, asked by `streams` clients at once.
absl::StatusOr<std::vector<Answer>> AskUndisturbed(
    const std::string& server, int streams, const std::vector<v1::GenerateRequest>& requests);

}  // namespace trireme::fault
