#include "tests/fault/streams.h"

#include <cstdio>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cluster/client.h"

namespace trireme::fault {
namespace {

constexpr uint64_t kReportsMax = 10;

}  // namespace

Streams::Streams(const std::string& server, int count, std::vector<v1::GenerateRequest> requests,
                 std::vector<Answer> want, uint64_t seed)
    : requests_(std::move(requests)), want_(std::move(want)) {
  for (int i = 0; i < count; ++i) {
    threads_.emplace_back(
        [this, server, seed, i] { Run(server, seed + static_cast<uint64_t>(i)); });
  }
}

Streams::~Streams() { Finish(); }

void Streams::Run(const std::string& server, uint64_t seed) {
  const auto stub = v1::Inference::NewStub(ConnectTo(server));
  std::mt19937_64 random(seed);
  while (!over_) {
    const size_t which = random() % requests_.size();
    const absl::StatusOr<Answer> answer =
        Ask(*stub, requests_[which], [this] { last_message_ = Clock::now(); });
    if (!answer.ok()) std::this_thread::sleep_for(std::chrono::milliseconds(100));
    const std::lock_guard lock(mutex_);
    if (absl::IsUnavailable(answer.status())) {
      ++totals_.refused;
      continue;
    }
    ++totals_.requests;
    if (!answer.ok()) {
      if (++totals_.failed <= kReportsMax)
        std::printf("request %zu failed: %s\n", which,
                    std::string(answer.status().message()).c_str());
      continue;
    }
    totals_.tokens += answer->completion_tokens;
    if (*answer == want_[which]) continue;
    ++totals_.unequal;
    const Damage damage = Compare(want_[which], *answer);
    totals_.damage.lost += damage.lost;
    totals_.damage.surplus += damage.surplus;
    totals_.damage.differing += damage.differing;
    if (totals_.unequal > kReportsMax) continue;
    std::printf("request %zu has another answer: %zu tokens lost, %zu surplus, %zu differ\n", which,
                damage.lost, damage.surplus, damage.differing);
  }
}

Totals Streams::Finish() {
  over_ = true;
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  return totals_;
}

absl::StatusOr<std::vector<Answer>> AskUndisturbed(
    const std::string& server, int streams, const std::vector<v1::GenerateRequest>& requests) {
  std::vector<absl::StatusOr<Answer>> answers(requests.size());
  std::atomic<size_t> next = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < streams; ++i) {
    threads.emplace_back([&] {
      const auto stub = v1::Inference::NewStub(ConnectTo(server));
      for (size_t which = next++; which < requests.size(); which = next++) {
        answers[which] = Ask(*stub, requests[which], [] {});
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<Answer> all;
  for (absl::StatusOr<Answer>& answer : answers) {
    if (!answer.ok()) return answer.status();
    all.push_back(*std::move(answer));
  }
  return all;
}

}  // namespace trireme::fault
