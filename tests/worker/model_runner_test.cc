// A runner refuses plans that do not fit its state and checkpoints that do not fit their config.

#include "worker/model_runner.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/worker/gang_driver.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;
using testing::Test;

const fs::path kModel = fs::path(TRIREME_SOURCE_DIR) / "tests/golden/models/qwen2";

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

  // One sequence of three tokens in one block.
  static v1::StepPlan GoodPlan() {
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

}  // namespace
}  // namespace trireme
