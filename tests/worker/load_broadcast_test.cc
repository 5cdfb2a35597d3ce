// What rank 0 alone reads is on every rank what that rank would have read itself.

#include "worker/load_broadcast.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "parallel/layout.h"
#include "parallel/model_config.h"

namespace trireme {
namespace {

const std::filesystem::path kRoot = TRIREME_SOURCE_DIR;

using Opened = absl::StatusOr<std::unique_ptr<Checkpoint>>;
using Loaded = absl::StatusOr<BroadcastWeights>;

std::vector<std::vector<TensorSlice>> SlicesOfRanks(const std::filesystem::path& model,
                                                    const ParallelLayout& layout) {
  const ModelConfig config = *ModelConfig::Load(model);
  std::vector<std::vector<TensorSlice>> slices;
  for (int rank = 0; rank < layout.world_size(); ++rank) {
    slices.push_back(ShardTensors(config, ComputeShard(config, layout, CoordOf(layout, rank))));
  }
  return slices;
}

// What each rank of a gang of threads returns, whose checkpoint is `open(rank)`.
std::vector<Loaded> LoadOnThreads(const std::vector<std::vector<TensorSlice>>& slices, Ops& ops,
                                  int threads, int64_t piece_bytes,
                                  const std::function<Opened(int rank)>& open) {
  std::vector<Loaded> loaded(slices.size());
  std::vector<std::thread> ranks;
  for (auto& world : MakeLoopbackCommunicators(static_cast<int>(slices.size()))) {
    ranks.emplace_back([&, own = std::move(world)] {
      const auto rank = static_cast<size_t>(own->rank());
      loaded[rank] =
          LoadByBroadcast(open(own->rank()), slices, ops, {.threads = threads}, *own, piece_bytes);
      // As in a gang, whose ranks end together.
      (void)own->Barrier();
    });
  }
  for (std::thread& rank : ranks) rank.join();
  return loaded;
}

void ExpectSame(const Weight& a, const Weight& b, const TensorSlice& slice) {
  ASSERT_EQ(a.dtype, b.dtype);
  ASSERT_EQ(a.packed, b.packed);
  const DTypeInfo block = DTypeBlock(a.dtype);
  // Packed panels are no smaller than the rows.
  const auto bytes =
      static_cast<size_t>(slice.elements() / block.block_elements * block.block_bytes);
  EXPECT_EQ(std::memcmp(a.data, b.data, bytes), 0) << slice.name;
}

class LoadBroadcastTest : public testing::TestWithParam<const char*> {};

TEST_P(LoadBroadcastTest, EveryRankHasTheBitsItWouldHaveRead) {
  const std::filesystem::path model = kRoot / GetParam();
  const auto ops = *MakeCpuOps(1);
  const auto slices = SlicesOfRanks(model, {.tp = 2, .pp = 2});
  const auto checkpoint = *Checkpoint::Open(model);
  struct Case {
    int threads;
    int64_t piece_bytes;
  };
  for (const Case& c : {Case{.threads = 3, .piece_bytes = 4000}, Case{1, 1 << 24}}) {
    const auto loaded =
        LoadOnThreads(slices, *ops, c.threads, c.piece_bytes, [&](int rank) -> Opened {
          if (rank == 0) return Checkpoint::Open(model);
          return nullptr;
        });
    for (size_t rank = 0; rank < slices.size(); ++rank) {
      ASSERT_TRUE(loaded[rank].ok()) << "rank " << rank << ": " << loaded[rank].status();
      const Weights own = *Weights::Load(*checkpoint, slices[rank], *ops);
      EXPECT_EQ(loaded[rank]->weights.bytes(), own.bytes());
      for (const TensorSlice& slice : slices[rank]) {
        ExpectSame(*loaded[rank]->weights.Find(slice.name), *own.Find(slice.name), slice);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, LoadBroadcastTest,
                         testing::Values("models/pilot", "tests/golden/models/llama3",
                                         "tests/golden/models/mixtral",
                                         "tests/golden/gguf/llama32.gguf",
                                         "tests/golden/quantized/awq",
                                         "tests/golden/quantized/fp8"));

class LoadBroadcastErrors : public testing::Test {
 protected:
  const std::filesystem::path model_ = kRoot / "models/pilot";
  const std::unique_ptr<Ops> ops_ = *MakeCpuOps(1);
  std::vector<std::vector<TensorSlice>> slices_ = SlicesOfRanks(model_, {.tp = 2, .pp = 2});

  std::vector<std::string> Messages(const std::function<Opened(int rank)>& open) {
    std::vector<std::string> messages;
    for (const Loaded& loaded : LoadOnThreads(slices_, *ops_, 2, 4000, open)) {
      messages.emplace_back(loaded.status().message());
    }
    return messages;
  }
  Opened Open(int rank) const {
    if (rank == 0) return Checkpoint::Open(model_);
    return nullptr;
  }
};

TEST_F(LoadBroadcastErrors, EveryRankSaysWhyRank0HasNoCheckpoint) {
  const auto messages = Messages([](int rank) -> Opened {
    if (rank == 0) return absl::NotFoundError("no such file");
    return nullptr;
  });
  EXPECT_THAT(messages, testing::ElementsAre("no such file", "rank 0: no such file",
                                             "rank 0: no such file", "rank 0: no such file"));
}

TEST_F(LoadBroadcastErrors, EveryRankSaysWhichTensorIsMissing) {
  slices_[3].back().name = "none";
  for (const std::string& message : Messages([&](int rank) { return Open(rank); })) {
    EXPECT_THAT(message, testing::HasSubstr("tensor \"none\" is missing"));
  }
}

TEST_F(LoadBroadcastErrors, ARankThatCannotLoadEndsTheOthers) {
  const auto messages = Messages([&](int rank) -> Opened {
    if (rank == 2) return absl::InternalError("rank 2's own");
    return Open(rank);
  });
  EXPECT_EQ(messages[2], "rank 2's own");
  for (const int rank : {0, 1, 3}) {
    EXPECT_THAT(messages[static_cast<size_t>(rank)],
                testing::HasSubstr("rank 2 could not load its weights"));
  }
}

// As another file would be: found out while the pieces come.
TEST_F(LoadBroadcastErrors, ASliceThatDoesNotFitEndsAll) {
  slices_[0][3].full_rows += 1;
  slices_[1][3].full_rows += 1;
  for (const std::string& message : Messages([&](int rank) { return Open(rank); })) {
    EXPECT_FALSE(message.empty());
  }
}

}  // namespace
}  // namespace trireme
