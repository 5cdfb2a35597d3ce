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

Planned Make(const std::string& model, ModelShape shape, const ClusterSpec& cluster) {
  Planned planned;
  planned.subject = {.model = model,
                     .shape = std::move(shape),
                     .weights = "BF16",
                     .cluster = cluster,
                     .options = Request(8192)};
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
