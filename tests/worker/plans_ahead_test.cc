// Plans that run ahead of results, share and copy blocks, preempt and bring back: every bit is that
// of a request which is computed alone, one step at a time, on one rank.

#include <gtest/gtest.h>

#include <algorithm>
#include <latch>
#include <utility>

#include "tests/worker/gang_driver.h"

namespace trireme {
namespace {

const std::filesystem::path kRoot = TRIREME_SOURCE_DIR;
const std::filesystem::path kModel = kRoot / "tests/golden/models/llama3";

std::vector<int32_t> Prompt(int64_t length, int32_t seed) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < length; ++i) {
    ids.push_back(static_cast<int32_t>((i * 31 + seed * 17 + i * i * 7) % 150));
  }
  return ids;
}

TestRequest Request(int64_t length, int32_t seed, int64_t steps, int64_t start_after = 0) {
  TestRequest request{.prompt = Prompt(length, seed),
                      .steps = steps,
                      .start_after = start_after,
                      .sampling = GreedySampling()};
  if (seed % 2 == 0) {
    request.sampling.set_temperature(0.9f);
    request.sampling.set_top_p(0.95f);
    request.sampling.set_repetition_penalty(1.2f);
    request.sampling.set_frequency_penalty(0.2f);
    request.sampling.set_seed(static_cast<uint64_t>(seed));
  }
  return request;
}

TestOutput Alone(TestRequest request, KvDType dtype = KvDType::kF32,
                 const std::filesystem::path& model = kModel) {
  request.start_after = 0;
  const auto outputs =
      DriveGang({.model_dir = model, .layout = {}, .lockstep = true, .kv_dtype = dtype}, {request});
  EXPECT_TRUE(outputs.ok()) << outputs.status();
  return outputs.ok() ? outputs->front() : TestOutput{};
}

std::vector<ParallelLayout> Layouts(const std::filesystem::path& model) {
  std::vector<ParallelLayout> layouts;
  for (int world = 1; world <= 4; ++world) {
    for (const auto& layout : LegalLayouts(*ModelConfig::Load(model), world)) {
      layouts.push_back(layout);
    }
  }
  EXPECT_GE(layouts.size(), 6u);
  return layouts;
}

std::string Name(const ParallelLayout& layout) {
  return "tp " + std::to_string(layout.tp) + " pp " + std::to_string(layout.pp);
}

// Writes plans by hand.
class PlanWriter {
 public:
  void Step() {
    plans_.emplace_back().set_epoch(1);
    plans_.back().set_step(plans_.size());
  }
  void Add(uint64_t id, const TestRequest& request, const std::vector<int32_t>& output = {},
           uint32_t computed = 0) {
    v1::NewSequence& added = *plans_.back().add_new_sequences();
    added.set_id(id);
    added.mutable_token_ids()->Assign(request.prompt.begin(), request.prompt.end());
    added.mutable_token_ids()->Add(output.begin(), output.end());
    added.set_prompt_tokens(static_cast<uint32_t>(request.prompt.size()));
    added.set_computed_tokens(computed);
    *added.mutable_sampling() = request.sampling;
  }
  void Schedule(uint64_t id, size_t tokens, const std::vector<uint32_t>& blocks = {},
                bool sample = true) {
    v1::ScheduledSequence& scheduled = *plans_.back().add_scheduled();
    scheduled.set_id(id);
    scheduled.set_num_tokens(static_cast<uint32_t>(tokens));
    scheduled.set_sample(sample);
    scheduled.mutable_new_block_ids()->Assign(blocks.begin(), blocks.end());
  }
  void Finish(uint64_t id) { plans_.back().add_finished_ids(id); }
  void Copy(uint32_t from, uint32_t to) {
    v1::BlockCopy& copy = *plans_.back().add_copies();
    copy.set_from(from);
    copy.set_to(to);
  }
  const std::vector<v1::StepPlan>& plans() const { return plans_; }

 private:
  std::vector<v1::StepPlan> plans_;
};

// Runs the plans in every layout; `check` sees what the responder saw.
void InEveryLayout(const PlanWriter& writer, const DriverOptions& base,
                   const std::function<void(GangOutput&)>& check) {
  for (const ParallelLayout& layout : Layouts(base.model_dir)) {
    SCOPED_TRACE(Name(layout));
    DriverOptions options = base;
    options.layout = layout;
    auto output = RunPlans(options, writer.plans());
    ASSERT_TRUE(output.ok()) << output.status();
    check(*output);
  }
}

class PlansAheadTest : public testing::TestWithParam<std::string> {};

TEST_P(PlansAheadTest, EveryLayoutAndMicroBatchingIsAsOneAtATime) {
  const std::filesystem::path model = kRoot / GetParam();
  const std::vector<TestRequest> requests = {Request(33, 1, 12), Request(5, 2, 15, 2),
                                             Request(70, 3, 6, 1), Request(1, 4, 16),
                                             Request(20, 6, 9, 3)};
  std::vector<TestOutput> want;
  for (const TestRequest& request : requests) want.push_back(Alone(request, KvDType::kF32, model));
  for (const ParallelLayout& layout : Layouts(model)) {
    for (const int64_t micro_batches : {1, 2, 3, 4}) {
      const auto got = DriveGang({.model_dir = model,
                                  .layout = layout,
                                  .threads = 1 + static_cast<int>(micro_batches % 2),
                                  .chunk = 24,
                                  .micro_batches = micro_batches},
                                 requests);
      ASSERT_TRUE(got.ok()) << got.status();
      for (size_t i = 0; i < requests.size(); ++i) {
        EXPECT_TRUE((*got)[i] == want[i])
            << Name(layout) << ", " << micro_batches << " micro-batches, request " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, PlansAheadTest,
                         testing::Values("tests/golden/models/llama3", "tests/golden/models/qwen3",
                                         "tests/golden/models/mistral_window"),
                         [](const auto& info) {
                           return std::filesystem::path(info.param).filename().string();
                         });

// The responder holds the first step's logits until every other rank has ended that step, which the
// ranks could not if they waited for its tokens.
TEST(PlansAhead, NoOtherRankWaitsForTheTokensOfAStep) {
  for (const ParallelLayout& layout : Layouts(kModel)) {
    SCOPED_TRACE(Name(layout));
    std::latch others(layout.world_size() - 1);
    DriverOptions options{.model_dir = kModel, .layout = layout};
    const int responder = layout.world_size() - layout.tp;
    bool first = true;
    options.on_logits = [&](int rank) {
      if (rank == responder && std::exchange(first, false)) others.wait();
    };
    options.after_step = [&](int rank, size_t step) {
      if (rank != responder && step == 1) others.count_down();
    };
    const TestRequest request = Request(10, 2, 4);
    const auto got = DriveGang(options, {request});
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_TRUE(got->front() == Alone(request));
  }
}

// Tokens that no later plan needs are taken all the same, before too many wait.
TEST(PlansAhead, ManyStepsWhoseTokensNobodyNeeds) {
  PlanWriter writer;
  const TestRequest request = Request(3, 2, 1);
  for (uint64_t id = 0; id < 200; ++id) {
    writer.Step();
    if (id > 0) writer.Finish(id - 1);
    writer.Add(id, request);
    writer.Schedule(id, 3, {static_cast<uint32_t>(id % 7)});
  }
  const TestOutput want = Alone(request);
  InEveryLayout(writer, {.model_dir = kModel, .layout = {}}, [&](GangOutput& got) {
    ASSERT_EQ(got.sequences.size(), 200u);
    for (const auto& [id, output] : got.sequences) EXPECT_TRUE(output == want) << id;
  });
}

TEST(PlansAhead, TokensOfAnOldSequenceDoNotReachANewOneOfItsId) {
  const TestRequest old_request = Request(40, 2, 3);
  const TestRequest new_request = Request(17, 4, 5);
  PlanWriter writer;
  writer.Step();
  writer.Add(7, old_request);
  writer.Schedule(7, 40, {0, 1});
  writer.Step();
  writer.Schedule(7, 1);
  writer.Step();
  writer.Finish(7);  // the token of the step before is under way
  writer.Add(7, new_request);
  writer.Schedule(7, 17, {2});
  for (int i = 0; i < 4; ++i) {
    writer.Step();
    writer.Schedule(7, 1);
  }
  TestOutput want = Alone(old_request);
  want.tokens.resize(2);
  want.logits.resize(2);
  const TestOutput after = Alone(new_request);
  want.tokens.insert(want.tokens.end(), after.tokens.begin(), after.tokens.end());
  want.logits.insert(want.logits.end(), after.logits.begin(), after.logits.end());
  InEveryLayout(writer, {.model_dir = kModel, .layout = {}},
                [&](GangOutput& got) { EXPECT_TRUE(got.sequences[7] == want); });
}

class KvDTypeTest : public testing::TestWithParam<KvDType> {};

TEST_P(KvDTypeTest, EveryLayoutAndChunkingGivesTheSameBits) {
  const TestRequest request = Request(70, 2, 10);
  const TestOutput want = Alone(request, GetParam());
  for (const ParallelLayout& layout : Layouts(kModel)) {
    for (const int64_t chunk : {64, 7}) {
      const auto got = DriveGang({.model_dir = kModel,
                                  .layout = layout,
                                  .threads = 2,
                                  .chunk = chunk,
                                  .kv_dtype = GetParam()},
                                 {request, Request(9, 1, 4)});
      ASSERT_TRUE(got.ok()) << got.status();
      EXPECT_TRUE(got->front() == want) << Name(layout) << ", chunks of " << chunk;
    }
  }
}

// A second continuation of a prompt shares its full blocks and copies the one it will write to; a
// third one shares only the first block, as does a fourth in the very step that computes it.
TEST_P(KvDTypeTest, SharedPrefixesAndCopiesGiveTheSameBits) {
  const TestRequest first = Request(70, 1, 6);
  TestRequest second = Request(70, 1, 6);
  second.sampling = Request(1, 2, 1).sampling;
  TestRequest third = Request(70, 1, 6);
  std::fill(third.prompt.begin() + 40, third.prompt.end(), 11);
  PlanWriter writer;
  writer.Step();
  writer.Add(1, first);
  writer.Add(4, third, {}, 32);
  writer.Schedule(4, 38, {4, 8, 9});
  writer.Schedule(1, 70, {4, 0, 2});
  writer.Step();
  writer.Copy(2, 7);  // tokens 64 to 69
  writer.Copy(7, 3);
  writer.Schedule(1, 1);
  writer.Add(2, second, {}, 69);
  writer.Schedule(2, 1, {4, 0, 3});
  writer.Add(3, third, {}, 32);
  writer.Schedule(3, 38, {4, 5, 6});
  for (int i = 0; i < 4; ++i) {
    writer.Step();
    for (const uint64_t id : {1, 2, 3, 4}) writer.Schedule(id, 1);
  }
  writer.Step();
  for (const uint64_t id : {2, 3, 4}) writer.Schedule(id, 1);
  InEveryLayout(writer, {.model_dir = kModel, .layout = {}, .kv_dtype = GetParam()},
                [&](GangOutput& got) {
                  EXPECT_TRUE(got.sequences[1] == Alone(first, GetParam()));
                  EXPECT_TRUE(got.sequences[2] == Alone(second, GetParam()));
                  EXPECT_TRUE(got.sequences[3] == Alone(third, GetParam()));
                  EXPECT_TRUE(got.sequences[4] == Alone(third, GetParam()));
                });
}

TEST_P(KvDTypeTest, PreemptingAndComputingAgainGivesTheSameBits) {
  const TestRequest request = Request(40, 2, 8);
  const TestRequest other = Request(30, 3, 9);
  const TestOutput want = Alone(request, GetParam());
  const std::vector<int32_t> known(want.tokens.begin(), want.tokens.begin() + 4);
  PlanWriter writer;
  writer.Step();
  writer.Add(1, request);
  writer.Add(2, other);
  writer.Schedule(1, 40, {0, 1});
  writer.Schedule(2, 30, {2});
  for (int i = 0; i < 3; ++i) {
    writer.Step();
    writer.Schedule(1, 1);
    writer.Schedule(2, 1, i == 2 ? std::vector<uint32_t>{3} : std::vector<uint32_t>{});
  }
  writer.Step();
  writer.Finish(1);  // its fourth token is under way
  writer.Schedule(2, 1);
  writer.Step();
  writer.Schedule(2, 1);
  writer.Step();
  writer.Add(1, request, known);
  writer.Schedule(1, 25, {0}, false);
  writer.Schedule(2, 1);
  writer.Step();
  writer.Schedule(1, 19, {1});
  writer.Schedule(2, 1);
  for (int i = 0; i < 3; ++i) {
    writer.Step();
    writer.Schedule(1, 1);
    if (i == 0) writer.Schedule(2, 1);
  }
  InEveryLayout(writer, {.model_dir = kModel, .layout = {}, .kv_dtype = GetParam()},
                [&](GangOutput& got) {
                  EXPECT_TRUE(got.sequences[1] == want);
                  EXPECT_TRUE(got.sequences[2] == Alone(other, GetParam()));
                });
}

TEST_P(KvDTypeTest, SwappingOutAndInGivesTheSameBits) {
  const TestRequest request = Request(40, 2, 8);
  const TestRequest other = Request(60, 3, 3);
  const TestOutput want = Alone(request, GetParam());
  const std::vector<int32_t> known(want.tokens.begin(), want.tokens.begin() + 3);
  DriverOptions options{.model_dir = kModel, .layout = {}, .kv_dtype = GetParam()};
  options.swap_bytes_max = int64_t{4} << 20;
  options.kv_blocks_max = 4;
  PlanWriter writer;
  writer.Step();
  writer.Add(1, request);
  writer.Schedule(1, 40, {0, 1});
  for (int i = 0; i < 2; ++i) {
    writer.Step();
    writer.Schedule(1, 1);
  }
  writer.Step();
  writer.Finish(1);
  writer.Copy(0, 4);
  writer.Copy(1, 5);
  writer.Add(2, other);
  writer.Schedule(2, 60, {0, 1});
  writer.Step();
  writer.Schedule(2, 1);
  writer.Step();
  writer.Schedule(2, 1);
  writer.Copy(4, 3);
  writer.Copy(5, 2);
  writer.Add(1, request, known, 42);
  writer.Schedule(1, 1, {3, 2});
  for (int i = 0; i < 4; ++i) {
    writer.Step();
    writer.Schedule(1, 1);
  }
  InEveryLayout(writer, options, [&](GangOutput& got) {
    EXPECT_TRUE(got.sequences[1] == want);
    EXPECT_TRUE(got.sequences[2] == Alone(other, GetParam()));
  });
}

INSTANTIATE_TEST_SUITE_P(All, KvDTypeTest,
                         testing::Values(KvDType::kF32, KvDType::kBF16, KvDType::kInt8),
                         [](const auto& info) { return std::string(KvDTypeName(info.param)); });

}  // namespace
}  // namespace trireme
