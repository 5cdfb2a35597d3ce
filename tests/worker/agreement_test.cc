#include "worker/agreement.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

namespace trireme {
namespace {

// What each rank of a gang of threads gets for what each has to say.
std::vector<absl::Status> AgreeAll(const std::vector<absl::Status>& mine) {
  std::vector<absl::Status> agreed(mine.size());
  std::vector<std::thread> ranks;
  for (auto& world : MakeLoopbackCommunicators(static_cast<int>(mine.size()))) {
    ranks.emplace_back([&, own = std::move(world)] {
      const auto rank = static_cast<size_t>(own->rank());
      agreed[rank] = Agree(mine[rank], *own);
      (void)own->Barrier();
    });
  }
  for (std::thread& rank : ranks) rank.join();
  return agreed;
}

TEST(Agreement, OfThoseThatSucceededIsSuccess) {
  for (const absl::Status& status : AgreeAll({absl::OkStatus(), absl::OkStatus()})) {
    EXPECT_EQ(status, absl::OkStatus());
    EXPECT_FALSE(IsAgreed(status));
  }
}

TEST(Agreement, EveryRankGetsTheFirstFailure) {
  const auto all = AgreeAll({absl::OkStatus(), absl::InvalidArgumentError("no such device"),
                             absl::InternalError("too late")});
  for (const absl::Status& status : all) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message(), "rank 1: no such device");
    EXPECT_TRUE(IsAgreed(status));
  }
}

TEST(Agreement, ACauseComesBeforeItsConsequences) {
  const auto all = AgreeAll({absl::UnavailableError("rank 2 did not come"),
                             absl::AbortedError("rank 2 failed"), absl::NotFoundError("no file")});
  for (const absl::Status& status : all) EXPECT_EQ(status.message(), "rank 2: no file");
  const auto none = AgreeAll({absl::OkStatus(), absl::DeadlineExceededError("too long")});
  for (const absl::Status& status : none) EXPECT_EQ(status.message(), "rank 1: too long");
}

TEST(Agreement, IsNotReachedTwice) {
  const absl::Status agreed = AgreeAll({absl::InternalError("broken")})[0];
  // The others are not asked: they have it.
  auto worlds = MakeLoopbackCommunicators(2);
  EXPECT_EQ(Agree(agreed, *worlds[0]), agreed);
}

TEST(Agreement, AnErrorOfManyWordsIsCutAndOneWithoutWordsIsAnError) {
  const auto cut = AgreeAll({absl::InternalError(std::string(5000, 'x')), absl::OkStatus()});
  EXPECT_EQ(cut[1].message().substr(0, 11), "rank 0: xxx");
  EXPECT_EQ(cut[0], cut[1]);
  EXPECT_FALSE(AgreeAll({absl::InternalError(""), absl::OkStatus()})[1].ok());
}

TEST(Agreement, OfRanksThatCannotTellEachOtherIsTheirOwn) {
  auto worlds = MakeLoopbackCommunicators(2);
  worlds.pop_back();
  const absl::Status own = Agree(absl::InternalError("mine"), *worlds[0]);
  EXPECT_EQ(own.message(), "mine");
  EXPECT_FALSE(IsAgreed(own));
  EXPECT_FALSE(Agree(absl::OkStatus(), *worlds[0]).ok());
}

}  // namespace
}  // namespace trireme
