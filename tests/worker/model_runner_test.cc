// A runner refuses plans that do not fit its state and checkpoints that do not fit their config.

#include "worker/model_runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <thread>

#include "base/status_macros.h"
#include "tests/worker/gang_driver.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;
using testing::Test;

const fs::path kModel = fs::path(TRIREME_SOURCE_DIR) / "tests/golden/models/qwen2";

// One sequence of three tokens in one block.
v1::StepPlan GoodPlan() {
  v1::StepPlan plan;
  plan.set_epoch(1);
  v1::NewSequence& added = *plan.add_new_sequences();
  added.set_id(1);
  for (const int32_t id : {1, 2, 3}) added.add_token_ids(id);
  *added.mutable_sampling() = GreedySampling();
  v1::ScheduledSequence& scheduled = *plan.add_scheduled();
  scheduled.set_id(1);
  scheduled.set_num_tokens(3);
  scheduled.set_sample(true);
  scheduled.add_new_block_ids(0);
  return plan;
}

class ModelRunnerTest : public Test {
 protected:
  void SetUp() override {
    world_ = std::move(MakeLoopbackCommunicators(1).front());
    ops_ = *MakeCpuOps(1);
    dir_ =
        fs::temp_directory_path() /
        ("trireme_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(dir_);
    fs::copy(kModel, dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }

  absl::StatusOr<std::unique_ptr<ModelRunner>> Load() {
    RunnerOptions options;
    options.model_dir = dir_;
    options.kv_memory.bytes = kv_bytes_max_;
    options.swap_bytes_max = swap_bytes_max_;
    options.max_model_len = max_model_len_;
    return ModelRunner::Load(options, ops_.get(), world_.get());
  }

  void ReplaceInConfig(const std::string& from, const std::string& to) {
    std::ifstream in(dir_ / "config.json");
    std::string text((std::istreambuf_iterator<char>(in)), {});
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos);
    text.replace(at, from.size(), to);
    std::ofstream(dir_ / "config.json") << text;
  }

  std::unique_ptr<Communicator> world_;
  std::unique_ptr<Ops> ops_;
  fs::path dir_;
  int64_t kv_bytes_max_ = 1 << 24;
  int64_t swap_bytes_max_ = 0;
  int64_t max_model_len_ = 0;
};

TEST_F(ModelRunnerTest, RunsAGoodPlan) {
  const auto result = (*Load())->Step(GoodPlan());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->tokens_size(), 1);
}

TEST_F(ModelRunnerTest, AnEmptyPlanIsNoWork) {
  v1::StepPlan plan;
  EXPECT_TRUE((*Load())->Step(plan).ok());
}

TEST_F(ModelRunnerTest, AStepComputedAgainChangesNothing) {
  const auto logprobs = [&](int times) {
    const std::unique_ptr<ModelRunner> runner = *Load();
    v1::StepPlan plan = GoodPlan();
    plan.mutable_new_sequences(0)->mutable_sampling()->set_logprobs(0);
    std::vector<float> got;
    for (uint64_t step = 0; step < 4; ++step) {
      plan.set_step(step);
      got.push_back(runner->Step(plan)->tokens(0).logprob());
      EXPECT_TRUE(times == 0 || runner->RepeatStep(times).ok());
      plan.clear_new_sequences();
      plan.mutable_scheduled(0)->clear_new_block_ids();
      plan.mutable_scheduled(0)->set_num_tokens(1);
    }
    return got;
  };
  EXPECT_EQ(logprobs(3), logprobs(0));
}

TEST_F(ModelRunnerTest, RefusesBadPlans) {
  const auto refused = [&](auto change) {
    v1::StepPlan plan = GoodPlan();
    change(plan);
    return !(*Load())->Step(plan).ok();
  };
  EXPECT_TRUE(refused([](v1::StepPlan& p) { p.mutable_scheduled(0)->set_id(2); }));
  EXPECT_TRUE(refused([](v1::StepPlan& p) { p.mutable_scheduled(0)->set_num_tokens(4); }));
  EXPECT_TRUE(refused([](v1::StepPlan& p) { p.mutable_scheduled(0)->set_num_tokens(0); }));
  EXPECT_TRUE(refused([](v1::StepPlan& p) { p.mutable_scheduled(0)->set_sample(false); }));
  EXPECT_TRUE(refused([](v1::StepPlan& p) { p.mutable_scheduled(0)->clear_new_block_ids(); }));
  EXPECT_TRUE(
      refused([](v1::StepPlan& p) { p.mutable_scheduled(0)->set_new_block_ids(0, 1u << 31); }));
  EXPECT_TRUE(refused([](v1::StepPlan& p) { p.mutable_new_sequences(0)->set_token_ids(0, -1); }));
  EXPECT_TRUE(
      refused([](v1::StepPlan& p) { p.mutable_new_sequences(0)->set_token_ids(0, 1 << 20); }));
  EXPECT_TRUE(refused([](v1::StepPlan& p) { p.mutable_new_sequences(0)->set_prompt_tokens(9); }));
  EXPECT_TRUE(refused([](v1::StepPlan& p) { p.mutable_new_sequences(0)->set_computed_tokens(3); }));
  EXPECT_TRUE(
      refused([](v1::StepPlan& p) { p.mutable_new_sequences(0)->set_computed_tokens(~0u); }));
  EXPECT_TRUE(refused([](v1::StepPlan& p) { *p.add_new_sequences() = p.new_sequences(0); }));
  EXPECT_TRUE(refused([](v1::StepPlan& p) { *p.add_scheduled() = p.scheduled(0); }));
  EXPECT_TRUE(refused([](v1::StepPlan& p) { p.mutable_scheduled(0)->set_num_tokens(~0u); }));
}

TEST_F(ModelRunnerTest, RefusesABadBias) {
  const auto runs = [&](int32_t id, int values) {
    v1::StepPlan plan = GoodPlan();
    v1::StepSampling& sampling = *plan.mutable_new_sequences(0)->mutable_sampling();
    sampling.add_bias_ids(id);
    for (int i = 0; i < values; ++i) sampling.add_bias(1.0f);
    return (*Load())->Step(plan).ok();
  };
  EXPECT_TRUE(runs(150, 1));
  EXPECT_FALSE(runs(151, 1));
  EXPECT_FALSE(runs(-1, 1));
  EXPECT_FALSE(runs(0, 0));
  EXPECT_FALSE(runs(0, 2));
}

TEST_F(ModelRunnerTest, CopiesReachTheSwapBlocksAndSequencesDoNot) {
  swap_bytes_max_ = 1 << 20;
  auto runner = *Load();
  const auto pool = static_cast<uint32_t>(runner->pool_blocks());
  const auto all = pool + static_cast<uint32_t>(runner->swap_blocks());
  ASSERT_GT(all, pool);
  ASSERT_EQ(runner->kv_cache().num_blocks(), int64_t{all});
  const auto runs = [&](uint32_t from, uint32_t to, uint32_t block) {
    v1::StepPlan plan = GoodPlan();
    plan.mutable_scheduled(0)->set_new_block_ids(0, block);
    plan.add_copies()->set_from(from);
    plan.mutable_copies(0)->set_to(to);
    return (*Load())->Step(plan);
  };
  EXPECT_TRUE(runs(0, all - 1, pool - 1).ok());
  EXPECT_TRUE(runs(pool, 0, 0).ok());
  EXPECT_TRUE(absl::IsInternal(runs(0, all, 0).status()));
  EXPECT_TRUE(absl::IsInternal(runs(~0u, 0, 0).status()));
  EXPECT_TRUE(absl::IsInternal(runs(0, 0, pool).status()));
}

TEST_F(ModelRunnerTest, AShareOfTheAvailableMemoryIsDividedAmongTheHostsRanks) {
  const auto blocks = [&](int ranks) {
    RunnerOptions options;
    options.model_dir = dir_;
    options.kv_memory = {.fraction = 0.01};
    options.ranks_sharing_memory = ranks;
    options.kv_blocks_max = int64_t{1} << 40;
    return static_cast<double>(
        (*ModelRunner::Load(options, ops_.get(), world_.get()))->pool_blocks());
  };
  EXPECT_NEAR(blocks(1) / blocks(4), 4, 1);  // others use the host's memory meanwhile
}

TEST_F(ModelRunnerTest, AsMuchKvCacheAsTheContextNeedsUpToAShare) {
  ReplaceInConfig("\"max_position_embeddings\": 512", "\"max_position_embeddings\": 16777216");
  const auto total = static_cast<double>(*HostMemoryTotal());
  const auto bytes = [&](double share_bytes) {
    RunnerOptions options;
    options.model_dir = dir_;
    options.kv_memory = {.fraction = share_bytes / total, .as_needed = true};
    options.kv_blocks_max = int64_t{1} << 40;
    const auto runner = ModelRunner::Load(options, ops_.get(), world_.get());
    EXPECT_TRUE(runner.ok()) << runner.status();
    return runner.ok() ? (*runner)->pool_blocks() * (*runner)->block_bytes() : 0;
  };
  constexpr double kGiB = int64_t{1} << 30;
  EXPECT_NEAR(static_cast<double>(bytes(2 * kGiB)), kGiB, 1e6);  // 16384 tokens need less
  EXPECT_LT(static_cast<double>(bytes(kGiB / 16)), kGiB / 8);    // the share is less
  constexpr int64_t kLong = 1 << 22;  // no fewer blocks, and not less than 1 GiB
  RunnerOptions options;
  options.model_dir = dir_;
  options.max_model_len = kLong;
  options.kv_memory = {.fraction = 0.9, .as_needed = true};
  const auto runner = ModelRunner::Load(options, ops_.get(), world_.get());
  ASSERT_TRUE(runner.ok()) << runner.status();
  EXPECT_EQ((*runner)->pool_blocks(), kLong / options.kv_block_size);
}

TEST_F(ModelRunnerTest, ANewEpochForgetsTheOldSequences) {
  auto runner = *Load();
  ASSERT_TRUE(runner->Step(GoodPlan()).ok());
  v1::StepPlan plan;
  plan.set_epoch(2);
  v1::ScheduledSequence& scheduled = *plan.add_scheduled();
  scheduled.set_id(1);
  scheduled.set_num_tokens(1);
  scheduled.set_sample(true);
  EXPECT_FALSE(runner->Step(plan).ok());
}

TEST_F(ModelRunnerTest, NamesTheTensorThatDoesNotFitTheConfig) {
  ReplaceInConfig("\"intermediate_size\": 96", "\"intermediate_size\": 104");
  const absl::Status status = Load().status();
  EXPECT_NE(status.message().find("mlp."), absl::string_view::npos) << status;
  EXPECT_NE(status.message().find("104"), absl::string_view::npos) << status;
}

TEST_F(ModelRunnerTest, NamesTheTensorThatIsMissing) {
  ReplaceInConfig("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
  const absl::Status status = Load().status();
  EXPECT_NE(status.message().find("lm_head.weight"), absl::string_view::npos) << status;
}

TEST_F(ModelRunnerTest, RefusesAKvCacheTooSmallForTheContext) {
  kv_bytes_max_ = 1 << 16;
  max_model_len_ = 512;
  const absl::Status status = Load().status();
  EXPECT_NE(status.message().find("--kv-memory"), absl::string_view::npos) << status;
}

TEST_F(ModelRunnerTest, EachRankReadsOnlyItsShard) {
  const fs::path model = fs::path(TRIREME_SOURCE_DIR) / "models/pilot";
  const ModelConfig config = *ModelConfig::Load(model);
  const ParallelLayout layout{.tp = 2, .pp = 2};
  auto world = MakeLoopbackCommunicators(4);
  std::vector<uint64_t> read(4);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      const auto ops = *MakeCpuOps(1);
      RunnerOptions options;
      options.model_dir = model;
      options.layout = layout;
      options.kv_memory.bytes = 1 << 24;
      const auto runner = *ModelRunner::Load(options, ops.get(), world[i].get());
      EXPECT_EQ(runner->load_report().bytes_read, runner->load_report().shard_bytes);
      read[i] = runner->load_report().bytes_read;
    });
  }
  for (std::thread& thread : threads) thread.join();
  // Two bytes a weight; a quarter of the layers' matrices each, half of the tied embedding on both
  // stages, the norms on every rank.
  const int64_t embedding = config.vocab_size * config.hidden_size;
  const int64_t norms = (2 * config.num_layers + 1) * config.hidden_size;
  const int64_t matrices = static_cast<int64_t>(config.NumParameters()) - embedding - norms;
  for (size_t i = 0; i < 4; ++i) {
    const int64_t last_norm = i >= 2 ? config.hidden_size : 0;
    const int64_t stage_norms = config.num_layers * config.hidden_size + last_norm;
    EXPECT_EQ(read[i], static_cast<uint64_t>(2 * (matrices / 4 + embedding / 2 + stage_norms)));
  }
}

// Two ranks, each with its plans and its end: what became of rank 0's and rank 1's.
std::vector<absl::Status> PartTwoRanks(
    const std::vector<v1::StepPlan>& plans0, const std::vector<v1::StepPlan>& plans1,
    const std::function<absl::Status(ModelRunner&, int rank)>& part) {
  auto world = MakeLoopbackCommunicators(2);
  std::vector<absl::Status> statuses(2);
  std::vector<std::thread> threads;
  for (const int rank : {0, 1}) {
    threads.emplace_back([&, rank, ranks = std::move(world[static_cast<size_t>(rank)])] {
      const auto ops = *MakeCpuOps(1);
      RunnerOptions options;
      options.model_dir = kModel;
      options.layout = {.tp = 1, .pp = 2};
      options.kv_memory.bytes = 1 << 24;
      const auto runner = *ModelRunner::Load(options, ops.get(), ranks.get());
      for (const v1::StepPlan& plan : rank == 0 ? plans0 : plans1) {
        if (const auto result = runner->Step(plan); !result.ok()) ADD_FAILURE() << result.status();
      }
      statuses[static_cast<size_t>(rank)] = part(*runner, rank);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return statuses;
}

TEST(ModelRunnerReset, RanksThatAllWantToStayForgetTheirSequences) {
  const v1::StepPlan plan = GoodPlan();
  for (const absl::Status& status :
       PartTwoRanks({plan}, {plan}, [&](ModelRunner&runner, int) -> absl::Status {
         RETURN_IF_ERROR(runner.Reset());
         RETURN_IF_ERROR(runner.Step(plan).status());  // the same epoch and the same sequence
         return runner.Finish();
       })) {
    EXPECT_TRUE(status.ok()) << status;
  }
}

// Between two steps of a sequence: the answer is the one without it.
TEST_F(ModelRunnerTest, ASelfTestLeavesTheSequencesAlone) {
  v1::StepPlan next;
  next.set_epoch(1);
  v1::ScheduledSequence& scheduled = *next.add_scheduled();
  scheduled.set_id(1);
  scheduled.set_num_tokens(1);
  scheduled.set_sample(true);
  std::vector<v1::SampledToken> tokens;
  for (const bool test : {false, true}) {
    const auto runner = *Load();
    ASSERT_TRUE(runner->Step(GoodPlan()).ok());
    if (test) {
      EXPECT_TRUE(runner->SelfTest().ok());
    }
    const auto result = runner->Step(next);
    ASSERT_TRUE(result.ok()) << result.status();
    tokens.push_back(result->tokens(0));
  }
  EXPECT_EQ(tokens[0].token_id(), tokens[1].token_id());
  EXPECT_EQ(tokens[0].logprob(), tokens[1].logprob());
}

TEST_F(ModelRunnerTest, ASelfTestFindsWeightsThatAreNoNumbers) {
  std::fstream file(dir_ / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  uint64_t header_bytes = 0;
  file.read(reinterpret_cast<char*>(&header_bytes), sizeof(header_bytes));
  const uint64_t begin = sizeof(header_bytes) + header_bytes;
  const uint64_t bytes = fs::file_size(dir_ / "model.safetensors") - begin;
  file.seekp(static_cast<std::streamoff>(begin));
  file << std::string(bytes, '\xFF') << std::flush;
  const auto runner = Load();
  ASSERT_TRUE(runner.ok()) << runner.status();
  EXPECT_THAT((*runner)->SelfTest().message(),
              testing::HasSubstr("the logits of a token are no numbers"));
}

TEST(ModelRunnerReset, ASelfTestTakesAllStages) {
  for (const absl::Status& status :
       PartTwoRanks({GoodPlan()}, {GoodPlan()}, [](ModelRunner&runner, int) -> absl::Status {
         RETURN_IF_ERROR(runner.SelfTest());
         return runner.Finish();
       })) {
    EXPECT_TRUE(status.ok()) << status;
  }
}

TEST(ModelRunnerReset, OneThatEndsIsTheEndOfAll) {
  const auto statuses = PartTwoRanks({}, {}, [](ModelRunner& runner, int rank) {
    return rank == 0 ? runner.Reset() : runner.Finish();
  });
  EXPECT_TRUE(absl::IsAborted(statuses[0])) << statuses[0];
  EXPECT_TRUE(statuses[1].ok()) << statuses[1];
}

// A plan without work is computed without the other ranks.
TEST(ModelRunnerReset, RanksAtDifferentStepsCannotStay) {
  const auto statuses =
      PartTwoRanks({v1::StepPlan()}, {}, [](ModelRunner& runner, int) { return runner.Reset(); });
  EXPECT_EQ(statuses[0].message(), "rank 1 has computed 0 steps, this one 1");
  EXPECT_EQ(statuses[1].message(), "rank 0 has computed 1 steps, this one 0");
}

}  // namespace
}  // namespace trireme
