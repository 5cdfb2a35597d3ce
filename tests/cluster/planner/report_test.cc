#include "cluster/planner/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cluster/planner/planner_models.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

struct Planned {
  PlanSubject subject;
  Plan plan;
};

Planned Make(const std::string& model, ModelShape shape, const ClusterSpec& cluster,
             const PlanOptions& options = Request(8192)) {
  Planned planned;
  planned.subject = {.model = model,
                     .shape = std::move(shape),
                     .weights = "BF16",
                     .cluster = cluster,
                     .options = options};
  planned.plan = *MakePlan(planned.subject.shape, *WeightTypes::Named("BF16"), cluster,
                           planned.subject.options);
  return planned;
}

TEST(ReportTest, JsonIsOneObjectWithEverything) {
  const Planned planned = Make("/m", Llama8B(), Gpus("h100", 2, 2));
  const nlohmann::json report = PlanJson(planned.subject, planned.plan);
  EXPECT_EQ(report["model"]["parameters"], 8'030'261'248);
  EXPECT_EQ(report["fits"], true);
  EXPECT_EQ(report["layouts"].size(), planned.plan.layouts.size());
  EXPECT_EQ(report["layouts"][0]["tp"], planned.plan.layouts[0].layout.tp);
  EXPECT_EQ(report["rejections"].size(), planned.plan.rejections.size());
  EXPECT_THAT(report["launch"]["commands"].get<std::string>(), HasSubstr("mpirun"));
  EXPECT_EQ(nlohmann::json::parse(report.dump()), report);
}

TEST(ReportTest, CommandsSpreadTheGangAndFitTheShell) {
  const Planned planned = Make("/my models/l'8b", Llama8B(), Gpus("h100", 2, 2));
  const LayoutPlan* layout = FindLayout(planned.plan, 2, 2);
  ASSERT_NE(layout, nullptr);
  const std::string commands = LaunchCommands(planned.subject, *layout);
  EXPECT_THAT(commands, HasSubstr("mpirun -np 4 --host node1:2,node2:2 "));
  EXPECT_THAT(commands, HasSubstr("--mca odls_base_sigkill_timeout 0"));
  EXPECT_THAT(commands, HasSubstr("--mca oob_tcp_keepalive_time 5"));
  const LayoutPlan* one_node = FindLayout(planned.plan, 2, 1);
  ASSERT_NE(one_node, nullptr);
  EXPECT_THAT(LaunchCommands(planned.subject, *one_node), Not(HasSubstr("oob_tcp_keepalive")));
  EXPECT_THAT(commands, HasSubstr("--model '/my models/l'\\''8b' "));
  EXPECT_THAT(commands, HasSubstr("--tp 2 --pp 2 --max-model-len 8192 "));
  EXPECT_THAT(commands, HasSubstr("--device cuda"));
  const std::string values = HelmValues(planned.subject, *layout);
  EXPECT_THAT(values, HasSubstr("there is no Helm chart yet"));
  EXPECT_THAT(values, HasSubstr("pods: 2"));
  EXPECT_THAT(values, HasSubstr("model: \"/my models/l'8b\""));
}

// With two copies that share the requests.
TEST(ReportTest, CoordinatorAndWorkersComputeWhatWasPlanned) {
  struct Case {
    int64_t concurrency, batched;
    std::string seqs_told, batched_told;
  };
  for (const Case& c : std::vector<Case>{{1, 512, "64", "512"},
                                         {201, 512, "101", "512"},
                                         {201, 2048, "101", "2048"},
                                         {201, 80, "101", "101"},  // a token for each
                                         {1, 32, "32", "32"}}) {
    PlanOptions options = Request(1024, c.concurrency);
    options.max_num_batched_tokens = c.batched;
    const Planned planned = Make("/m", Llama8B(), Gpus("h100", 1, 2), options);
    const LayoutPlan* layout = FindLayout(planned.plan, 1, 1);
    ASSERT_NE(layout, nullptr);
    const std::string batched = " --max-num-batched-tokens " + c.batched_told;
    const std::string coordinator = "--max-num-seqs " + c.seqs_told + batched;
    const std::string worker = "--max-model-len 1024" + batched + " --block-size";
    const std::string commands = LaunchCommands(planned.subject, *layout);
    EXPECT_THAT(commands, HasSubstr("--insecure " + coordinator + "\n"));
    EXPECT_THAT(commands, HasSubstr(worker));
    const std::string values = HelmValues(planned.subject, *layout);
    EXPECT_THAT(values, HasSubstr("\ncoordinatorArgs: \"" + coordinator + "\"\n"));
    EXPECT_THAT(values, HasSubstr(worker));
  }
}

TEST(ReportTest, CommandsNameWhatProgramsOpen) {
  const std::filesystem::path root = TRIREME_SOURCE_DIR;
  const auto named = [](const std::filesystem::path& model) {
    const Planned planned = Make(model.string(), Llama8B(), Gpus("h100", 1, 1));
    return LaunchCommands(planned.subject, planned.plan.layouts.front()) +
           HelmValues(planned.subject, planned.plan.layouts.front());
  };
  const std::string pilot = (root / "models/pilot").string();
  const std::string beside = named(root / "models/pilot/config.json");
  EXPECT_EQ(beside, named(pilot));
  EXPECT_THAT(beside, HasSubstr("trireme-coordinator --model " + pilot + " --grpc"));
  const std::string gguf = (root / "tests/golden/gguf/llama32.gguf").string();
  EXPECT_THAT(named(gguf), HasSubstr("--model " + gguf + " "));
  const std::string alone = named(VisionConfigPath());
  EXPECT_THAT(alone, HasSubstr("\n# /models/NAME: put the directory"));
  EXPECT_THAT(alone, HasSubstr("trireme-coordinator --model /models/NAME --grpc"));
  EXPECT_THAT(alone, HasSubstr("node1:8001 --model /models/NAME "));
  EXPECT_THAT(alone, HasSubstr("\nmodel: \"/models/NAME\"\n"));
  EXPECT_THAT(alone, Not(HasSubstr("llama-3.2")));
}

TEST(ReportTest, WhatWorkersRefuseHasNoCommands) {
  const Planned planned =
      Make("config.json", *ModelShape::Load(VisionConfigPath()), Gpus("h100", 1, 4));
  const std::string text = PlanText(planned.subject, planned.plan, 10);
  EXPECT_THAT(text, HasSubstr("177.2 GB of weights (212.6 GB with 20 % headroom)"));
  EXPECT_THAT(text, HasSubstr("sizing only"));
  EXPECT_THAT(text, HasSubstr("Recommended: tp 4 pp 1, 1 copy"));
  EXPECT_THAT(text, Not(HasSubstr("mpirun")));
  EXPECT_THAT(text, Not(HasSubstr("ranksPerPod")));
}

TEST(ReportTest, EqualReasonsAreOneLine) {
  const Planned planned = Make("/m", Llama8B(), Gpus("h100", 1, 8));
  EXPECT_THAT(PlanText(planned.subject, planned.plan, 10),
              HasSubstr("  tp 3, tp 5, tp 6, tp 7: it must be a power of two\n"));
}

TEST(ReportTest, ThatNothingFitsIsSaid) {
  const Planned planned =
      Make("config.json", *ModelShape::Load(VisionConfigPath()), Gpus("h200", 1, 1));
  EXPECT_THAT(PlanText(planned.subject, planned.plan, 10), HasSubstr("It does not fit."));
  EXPECT_EQ(PlanJson(planned.subject, planned.plan)["fits"], false);
}

}  // namespace
}  // namespace trireme
