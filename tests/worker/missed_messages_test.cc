#include "worker/missed_messages.h"

#include <gtest/gtest.h>

#include <thread>

namespace trireme {
namespace {

using Messages = std::vector<v1::CoordinatorMessage>;

v1::CoordinatorMessage Plan(uint64_t step) {
  v1::CoordinatorMessage message;
  message.mutable_plan()->set_epoch(1);
  message.mutable_plan()->set_step(step);
  return message;
}

// What each of a gang of threads gets that has had plans 1 to `received`, and keeps `kept` of them.
std::vector<absl::StatusOr<Messages>> Missed(const std::vector<uint64_t>& received, uint64_t kept) {
  std::vector<absl::StatusOr<Messages>> missed(received.size());
  std::vector<std::thread> ranks;
  for (auto& world : MakeLoopbackCommunicators(static_cast<int>(received.size()))) {
    ranks.emplace_back([&, own = std::move(world)] {
      const auto rank = static_cast<size_t>(own->rank());
      std::deque<v1::CoordinatorMessage> latest;
      for (uint64_t step = 1; step <= received[rank]; ++step) {
        latest.push_back(Plan(step));
        if (latest.size() > kept) latest.pop_front();
      }
      missed[rank] = MissedMessages(received[rank], latest, *own);
      (void)own->Barrier();
    });
  }
  for (std::thread& rank : ranks) rank.join();
  return missed;
}

TEST(MissedMessages, EveryRankGetsWhatAnotherHas) {
  const std::vector<uint64_t> received = {7, 9, 8, 6};
  const auto missed = Missed(received, 3);
  for (size_t rank = 0; rank < received.size(); ++rank) {
    ASSERT_TRUE(missed[rank].ok()) << missed[rank].status();
    ASSERT_EQ(missed[rank]->size(), 9 - received[rank]);
    for (size_t i = 0; i < missed[rank]->size(); ++i) {
      EXPECT_EQ((*missed[rank])[i].plan().step(), received[rank] + 1 + i);
    }
  }
}

TEST(MissedMessages, OfNoneIsNone) {
  for (const uint64_t received : {0, 5}) {
    for (const auto& missed : Missed({received, received}, 3)) {
      ASSERT_TRUE(missed.ok()) << missed.status();
      EXPECT_TRUE(missed->empty());
    }
  }
}

TEST(MissedMessages, ThoseThatNobodyKeepsAreAnErrorOfAllRanks) {
  for (const auto& missed : Missed({5, 9}, 3)) {
    EXPECT_TRUE(absl::IsInternal(missed.status()));
    EXPECT_NE(missed.status().message().find("rank 0 has got 5 messages"), absl::string_view::npos)
        << missed.status();
  }
}

}  // namespace
}  // namespace trireme
