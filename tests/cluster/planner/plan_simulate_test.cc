#include "cluster/plan_simulate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/cluster/planner/planner_models.h"

namespace trireme {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

// Copies of an 8B model on H100s.
class PlanSimulateTest : public ::testing::Test {
 protected:
  PlanSimulateTest() {
    flags_.simulate = true;
    flags_.rate = 5;
    flags_.requests = 200;
    flags_.seed = 1;
    options_ = Request(1280);
  }

  absl::StatusOr<std::string> Report(bool as_json = true) {
    const ModelShape shape = Llama8B();
    const WeightTypes types = *WeightTypes::Named("BF16");
    const ClusterSpec cluster = Gpus("h100", nodes_, per_node_);
    const Plan plan = *MakePlan(shape, types, cluster, options_);
    const PlanSubject subject = {.model = "config.json",
                                 .shape = shape,
                                 .weights = "BF16",
                                 .cluster = cluster,
                                 .options = options_};
    for (const LayoutPlan& layout : plan.layouts) layouts_.push_back(layout);
    return SimulatePlan(flags_, output_len_, subject, types, plan, as_json);
  }
  json MustReport() {
    const absl::StatusOr<std::string> report = Report();
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? json::parse(*report) : json();
  }
  std::string Error() { return std::string(Report().status().message()); }

  SimulateFlags flags_;
  PlanOptions options_;
  std::string output_len_ = "256";
  int nodes_ = 1;
  int per_node_ = 1;
  std::vector<LayoutPlan> layouts_;
};

// Waves of a full batch: what the planner takes a closed loop for, but that it computes prompts one
// after another before the answers: of 4000 steps, 32 more.
TEST_F(PlanSimulateTest, SaturatedReplicaIsAsFastAsThePlannersBatch) {
  per_node_ = 4;
  for (const char* layout : {"tp=1,pp=1", "tp=4,pp=1", "tp=1,pp=4", "tp=2,pp=2"}) {
    flags_.layout = layout;
    flags_.replicas = 1;
    flags_.rate = 1e6;
    flags_.requests = 128;
    flags_.max_num_seqs = 32;
    options_ = Request(4032, 32);
    options_.output_tokens = 4000;
    output_len_ = "4000";
    const json report = MustReport();
    const json& run = report["cases"][0];
    const LayoutPlan* plan = nullptr;
    for (const LayoutPlan& candidate : layouts_) {
      if (candidate.layout.tp == report["layout"]["tp"] &&
          candidate.layout.pp == report["layout"]["pp"]) {
        plan = &candidate;
      }
    }
    ASSERT_NE(plan, nullptr);
    EXPECT_EQ(run["completed"], 128);
    // A batch in one replica; the plan shares it out to plan->replicas of them.
    const double tpot_s = run["tpot_ms"]["p50"].get<double>() * 1e-3;
    EXPECT_NEAR(run["output_tokens_per_s"].get<double>(), 32 / tpot_s, 0.02 * 32 / tpot_s);
    if (plan->replicas > 1) continue;
    EXPECT_NEAR(tpot_s, plan->tpot_s, 0.01 * plan->tpot_s) << layout;
    EXPECT_NEAR(run["output_tokens_per_s"].get<double>(), plan->tokens_per_s,
                0.02 * plan->tokens_per_s)
        << layout;
  }
}

TEST_F(PlanSimulateTest, FirstTokenOfALoneRequestComesWhenThePlannerSays) {
  per_node_ = 2;
  flags_.layout = "tp=1,pp=2";
  flags_.requests = 1;
  const json report = MustReport();
  const LayoutPlan* plan = nullptr;
  for (const LayoutPlan& candidate : layouts_) {
    if (candidate.layout == ParallelLayout{.tp = 1, .pp = 2}) plan = &candidate;
  }
  ASSERT_NE(plan, nullptr);
  EXPECT_NEAR(report["cases"][0]["ttft_ms"]["p50"].get<double>(), plan->ttft_s * 1e3,
              0.01 * plan->ttft_s * 1e3);
}

TEST_F(PlanSimulateTest, ComputesAtOnceWhatThePlanDoes) {
  options_ = Request(512, 300);
  EXPECT_EQ(MustReport()["replica"]["max_num_seqs"], 300);
  flags_.max_num_seqs = 8;
  EXPECT_EQ(MustReport()["replica"]["max_num_seqs"], 8);
}

TEST_F(PlanSimulateTest, ComparesWithAndWithoutFailuresAndCopies) {
  nodes_ = 2;
  per_node_ = 4;
  flags_.layout = "tp=2";
  flags_.mtbf_hours = 0.05;
  flags_.slo_ttft_ms = 500;
  const json report = MustReport();
  ASSERT_EQ(report["cases"].size(), 4u);
  const std::vector<std::pair<std::string, int>> expected = {
      {"as asked", 4}, {"without failures", 4}, {"half the copies", 2}, {"twice the copies", 8}};
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(report["cases"][i]["name"], expected[i].first);
    EXPECT_EQ(report["cases"][i]["replicas"], expected[i].second);
    EXPECT_EQ(report["cases"][i]["completed"].get<int>() + report["cases"][i]["failed"].get<int>(),
              200);
  }
  EXPECT_GT(report["cases"][0]["gang_failures"], 0);
  EXPECT_GT(report["cases"][0]["tokens_recomputed"], 0);
  EXPECT_LT(report["cases"][0]["availability"], 1);
  EXPECT_EQ(report["cases"][1]["gang_failures"], 0);
  EXPECT_EQ(report["cases"][1]["tokens_recomputed"], 0);
  EXPECT_EQ(report["cases"][1]["availability"], 1);
  // 20 s and 8 GB of weights at 2 GB/s.
  EXPECT_NEAR(report["recovery_s"].get<double>(), 24, 0.1);
}

TEST_F(PlanSimulateTest, SameSeedSameTextOtherSeedAnother) {
  per_node_ = 2;
  flags_.mtbf_hours = 0.1;
  const std::string once = *Report(/*as_json=*/false);
  EXPECT_EQ(*Report(/*as_json=*/false), once);
  EXPECT_THAT(once, HasSubstr("a device fails every 0.1 hours"));
  flags_.seed = 2;
  EXPECT_NE(*Report(/*as_json=*/false), once);
}

TEST_F(PlanSimulateTest, ServesATraceFromAFile) {
  const std::filesystem::path path =
      std::filesystem::path(::testing::TempDir()) / "plan_simulate_trace.jsonl";
  std::ofstream(path) << R"({"arrival_s": 1, "prompt_tokens": 100, "output_tokens": 10})"
                      << "\n"
                      << R"({"arrival_s": 0, "prompt_tokens": 50, "output_tokens": 20})"
                      << "\n";
  flags_.trace = path.string();
  const json report = MustReport();
  EXPECT_EQ(report["trace"]["requests"], 2);
  EXPECT_EQ(report["trace"]["prompt_tokens"], 150);
  EXPECT_EQ(report["trace"]["last_arrival_s"], 1);
  EXPECT_EQ(report["cases"][0]["completed"], 2);
  std::filesystem::remove(path);
  EXPECT_THAT(Error(), HasSubstr(path.string()));
}

TEST_F(PlanSimulateTest, SaysWhatToChange) {
  flags_.layout = "tp=3";
  per_node_ = 4;
  EXPECT_THAT(Error(), HasSubstr("--layout tp=3 is not possible: "));
  flags_.layout = "tp=0";
  EXPECT_THAT(Error(), HasSubstr("write, for example, tp=8,pp=2"));
  flags_.layout = "ep=2";
  EXPECT_THAT(Error(), HasSubstr("write, for example, tp=8,pp=2"));
  flags_.layout = "tp=2";
  flags_.replicas = 3;
  EXPECT_THAT(Error(), HasSubstr("devices for 2 of this layout"));
  flags_.replicas = 0;
  flags_.rate = 0;
  EXPECT_THAT(Error(), HasSubstr("--request-rate R or --trace FILE"));
  flags_.rate = 1;
  flags_.input_len = "5000";
  EXPECT_THAT(Error(), HasSubstr("context of 1280"));
  options_.images = 0;
  flags_.layout = "";
  per_node_ = 1;
  options_.memory_share = 0.1;
  EXPECT_THAT(Error(), HasSubstr("no layout fits the cluster"));
}

}  // namespace
}  // namespace trireme
