// Steps that are queued on two emulated GPUs, whose layers meet over NCCL: nothing of them is done
// before somebody waits, and decode steps are replayed with the collectives they were captured
// with.

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/match.h"
#include "tests/worker/gang_driver.h"
#include "tests/worker/nccl_emulated.h"
#include "tests/worker/random_plans.h"

namespace trireme {
namespace {

DriverOptions Options(const std::string& model, Wire wire) {
  DriverOptions options;
  options.model_dir = std::filesystem::path(TRIREME_SOURCE_DIR) / "tests/golden/models" / model;
  options.layout = {.tp = 2, .pp = 1};
  options.max_batched_tokens = RandomPlans::kStepTokens;
  options.kv_bytes = int64_t{1} << 20;
  options.kv_blocks_max = RandomPlans::kBlocks;
  options.make_device = [wire](int rank) {
    return MakeDevice({.name = "cuda", .local_rank = rank, .wire = wire});
  };
  return options;
}

class CudaNcclTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { nccl_emulation::Reset(); }
};

// Of two ranks a sum has but one order, so the staged wire, which waits for each sum, has the same
// bits.
TEST_P(CudaNcclTest, QueuedStepsHaveTheResultsOfTheStagedWire) {
  const std::vector<v1::StepPlan> plans = RandomPlans(7).Make(40);
  const auto want = RunPlans(Options(GetParam(), Wire::kStaged), plans);
  ASSERT_TRUE(want.ok()) << want.status();
  EXPECT_EQ(nccl_emulation::CallsSoFar().made, 0);
  for (const int rank : {0, 1}) {
    nccl_emulation::Reset();
    const auto got = RunPlans(Options(GetParam(), Wire::kNccl), plans, rank);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->plans_ahead, 1u);
    EXPECT_EQ(ResultTexts(*got), ResultTexts(*want)) << "rank " << rank;
    EXPECT_TRUE(rank != 0 || got->sequences == want->sequences);
    const nccl_emulation::Calls calls = nccl_emulation::CallsSoFar();
    EXPECT_GT(calls.made, 0);
    EXPECT_GT(calls.done, calls.made);  // graphs
  }
}

// While the next step is queued. Neither rank waits for what will never be done.
TEST_P(CudaNcclTest, ALostPeerEndsTheStepsOfBothRanks) {
  const std::vector<v1::StepPlan> plans = RandomPlans(7).Make(24);
  DriverOptions options = Options(GetParam(), Wire::kNccl);
  options.after_step = [](int rank, size_t step) {
    if (rank == 1 && step == 9) nccl_emulation::Lose(1);
  };
  for (const int rank : {0, 1}) {
    nccl_emulation::Reset();
    const absl::Status status = RunPlans(options, plans, rank).status();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), "remote process exited")) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), "AllReduceSum") ||
                absl::StrContains(status.message(), "AllGather"))
        << status;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, CudaNcclTest, testing::Values("llama3", "mixtral"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace trireme
