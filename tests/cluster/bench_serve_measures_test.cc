#include "cluster/bench_serve_measures.h"

#include <gtest/gtest.h>

#include <sstream>

#include "cluster/bench_serve_report.h"

namespace trireme {
namespace {

using Messages = std::vector<RequestRecord::Message>;

RequestRecord Completed(double start_s, Messages messages, double end_s) {
  RequestRecord record{.start_s = start_s, .end_s = end_s, .prompt_tokens = 10};
  record.messages = std::move(messages);
  record.wanted_tokens = static_cast<uint32_t>(record.Tokens());
  return record;
}

RequestRecord Failed(grpc::StatusCode code, std::optional<std::string> retry_after = {},
                     Messages messages = {}) {
  RequestRecord record = Completed(0.5, std::move(messages), 0.6);
  record.code = code;
  record.retry_after = std::move(retry_after);
  return record;
}

// Constants of numpy.percentile, numpy 2.4.6, its default method.
TEST(PercentileTest, IsNumpys) {
  const std::vector<double> few = {0.25, 1.5, 3.2, 4.0, 7.1, 9.75, 12.5};
  EXPECT_DOUBLE_EQ(Percentile(few, 0), 0.25);
  EXPECT_DOUBLE_EQ(Percentile(few, 10), 1.0);
  EXPECT_DOUBLE_EQ(Percentile(few, 50), 4.0);
  EXPECT_DOUBLE_EQ(Percentile(few, 90), 10.850000000000001);
  EXPECT_DOUBLE_EQ(Percentile(few, 95), 11.674999999999997);
  EXPECT_DOUBLE_EQ(Percentile(few, 99), 12.334999999999999);
  EXPECT_DOUBLE_EQ(Percentile(few, 100), 12.5);
  EXPECT_EQ(Percentile({}, 50), 0);
  EXPECT_EQ(Percentile({3.5}, 99), 3.5);
}

TEST(SummaryTest, IsNumpysInAnyOrder) {
  std::vector<double> values;
  for (int i = 0; i < 1000; ++i) values.push_back((i * 7919) % 1000 / 4.0);
  const Summary summary = Summary::Of(values);
  EXPECT_EQ(summary.count, 1000u);
  EXPECT_DOUBLE_EQ(summary.mean, 124.875);
  EXPECT_DOUBLE_EQ(summary.p50, 124.875);
  EXPECT_DOUBLE_EQ(summary.p90, 224.775);
  EXPECT_DOUBLE_EQ(summary.p95, 237.2625);
  EXPECT_DOUBLE_EQ(summary.p99, 247.2525);
  EXPECT_EQ(summary.max, 249.75);
  EXPECT_EQ(Summary::Of({}).count, 0u);
}

TEST(ReportTest, LatenciesOfOneAnswer) {
  const Report report =
      MakeReport({Completed(1.0, {{1.5, 1}, {1.6, 1}, {1.8, 1}}, 1.9)}, std::nullopt, std::nullopt);
  EXPECT_NEAR(report.ttft_ms.mean, 500, 1e-6);
  EXPECT_NEAR(report.tpot_ms.mean, 150, 1e-6);
  EXPECT_NEAR(report.e2e_ms.mean, 900, 1e-6);
  EXPECT_EQ(report.itl_ms.count, 2u);
  EXPECT_NEAR(report.itl_ms.mean, 150, 1e-6);
  EXPECT_NEAR(report.itl_ms.max, 200, 1e-6);
  EXPECT_NEAR(report.duration_s, 0.9, 1e-9);
  EXPECT_NEAR(report.OutputTokensPerS(), 3 / 0.9, 1e-9);
  EXPECT_NEAR(report.TotalTokensPerS(), 13 / 0.9, 1e-9);
}

TEST(ReportTest, MergedMessagesAreSpreadEvenly) {
  // 2 tokens first, then 3 together after 300 ms: gaps of 0, 100, 100, 100.
  const Report report =
      MakeReport({Completed(0, {{0.2, 2}, {0.5, 3}}, 0.5)}, std::nullopt, std::nullopt);
  EXPECT_EQ(report.output_tokens, 5u);
  EXPECT_EQ(report.itl_ms.count, 4u);
  EXPECT_NEAR(report.itl_ms.max, 100, 1e-6);
  EXPECT_NEAR(report.itl_ms.mean, 75, 1e-6);
  EXPECT_NEAR(report.tpot_ms.mean, report.itl_ms.mean, 1e-6);
}

TEST(ReportTest, AnAnswerOfOneTokenHasNoTimeBetweenTokens) {
  const Report report =
      MakeReport({Completed(0, {{0.2, 1}}, 0.2)}, GoodputLimits{.tpot_ms = 1}, std::nullopt);
  EXPECT_EQ(report.tpot_ms.count, 0u);
  EXPECT_EQ(report.itl_ms.count, 0u);
  EXPECT_EQ(report.ttft_ms.count, 1u);
  EXPECT_EQ(report.goodput->good, 1u);
}

TEST(ReportTest, EveryRequestIsAccountedFor) {
  using grpc::StatusCode;
  RequestRecord shorter = Completed(0, {{0.1, 1}}, 0.2);
  shorter.wanted_tokens = 2;
  shorter.clamped = true;
  const std::vector<RequestRecord> records = {
      Completed(0, {{0.1, 1}, {0.2, 1}}, 0.3),
      shorter,
      Failed(StatusCode::RESOURCE_EXHAUSTED, "2"),
      Failed(StatusCode::RESOURCE_EXHAUSTED),
      Failed(StatusCode::RESOURCE_EXHAUSTED, {}, {{0.55, 3}}),  // did not read: not a refusal
      Failed(StatusCode::UNAVAILABLE),
      Failed(StatusCode::DEADLINE_EXCEEDED, {}, {{0.55, 2}}),
      Failed(StatusCode::DEADLINE_EXCEEDED)};
  const Report report = MakeReport(records, std::nullopt, std::nullopt);
  EXPECT_EQ(report.requests, 8u);
  EXPECT_EQ(report.completed, 2u);
  EXPECT_EQ(report.short_answers, 1u);
  EXPECT_EQ(report.clamped, 1u);
  EXPECT_EQ(report.refused, 2u);
  EXPECT_EQ(report.refused_with_retry_after, 1u);
  EXPECT_EQ(report.failed, 4u);
  EXPECT_EQ(report.completed + report.refused + report.failed, report.requests);
  EXPECT_EQ(report.failed_by_code,
            (std::map<std::string, uint64_t>{
                {"RESOURCE_EXHAUSTED", 1}, {"UNAVAILABLE", 1}, {"DEADLINE_EXCEEDED", 2}}));
  EXPECT_EQ(report.output_tokens, 3u);
  EXPECT_EQ(report.partial_tokens, 5u);
  EXPECT_EQ(report.input_tokens, 20u);
}

TEST(ReportTest, GoodputIsOfAllRequests) {
  const std::vector<RequestRecord> records = {
      Completed(0, {{0.1, 1}, {0.2, 1}}, 0.2),  // good
      Completed(0, {{0.3, 1}, {0.4, 1}}, 0.4),  // first token too late
      Completed(0, {{0.1, 1}, {0.5, 1}}, 0.5),  // too slow
      Failed(grpc::StatusCode::RESOURCE_EXHAUSTED)};
  const auto limits = GoodputLimits::Parse("ttft:200,tpot:150");
  ASSERT_TRUE(limits.ok());
  const Report report = MakeReport(records, *limits, std::nullopt);
  EXPECT_EQ(report.goodput->good, 1u);
  EXPECT_DOUBLE_EQ(report.goodput->share, 0.25);
  EXPECT_NEAR(report.goodput->requests_per_s, 1 / 0.6, 1e-9);
  EXPECT_FALSE(MakeReport(records, std::nullopt, std::nullopt).goodput.has_value());
}

TEST(ReportTest, GapsWhileAnIntruderIsPrefilledAreApart) {
  // The window is 1.0 to 2.0; the gap that spans it and the one that overlaps its end are during.
  RequestRecord intruder = Completed(1.0, {{2.0, 1}}, 2.1);
  intruder.prompt_tokens = 8000;
  const std::vector<RequestRecord> records = {
      Completed(0, {{0.5, 1}, {0.9, 1}, {2.5, 1}, {2.6, 1}}, 2.6),
      Completed(0, {{1.5, 1}, {2.2, 1}, {2.3, 1}}, 2.3)};
  const Report report = MakeReport(records, std::nullopt, intruder);
  ASSERT_TRUE(report.intrusion.has_value());
  EXPECT_EQ(report.requests, 2u);  // the intruder is not one of them
  EXPECT_NEAR(report.intrusion->window_s, 1.0, 1e-9);
  EXPECT_EQ(report.intrusion->itl_during.count, 2u);
  EXPECT_NEAR(report.intrusion->itl_during.max, 1600, 1e-6);
  EXPECT_EQ(report.intrusion->itl_outside.count, 3u);
  EXPECT_NEAR(report.intrusion->itl_outside.max, 400, 1e-6);
  EXPECT_EQ(report.itl_ms.count, 5u);
}

TEST(ReportTest, NothingMeasuredIsAllZeros) {
  const Report report = MakeReport({}, GoodputLimits{}, std::nullopt);
  EXPECT_EQ(report.requests, 0u);
  EXPECT_EQ(report.duration_s, 0);
  EXPECT_EQ(report.RequestsPerS(), 0);
  EXPECT_EQ(report.goodput->share, 0);
}

TEST(GoodputLimitsTest, RefusesWhatIsNoLimit) {
  for (const char* text : {"", "ttft", "ttft:", "ttft:-1", "ttft:0", "itl:5", "ttft:1,,e2e:2"}) {
    EXPECT_FALSE(GoodputLimits::Parse(text).ok()) << text;
  }
  EXPECT_EQ(GoodputLimits::Parse("e2el:5")->e2e_ms, 5);  // vLLM's name for it
}

TEST(CodeNameTest, NamesAllOfGrpcs) {
  EXPECT_EQ(CodeName(grpc::StatusCode::OK), "OK");
  EXPECT_EQ(CodeName(grpc::StatusCode::RESOURCE_EXHAUSTED), "RESOURCE_EXHAUSTED");
  EXPECT_EQ(CodeName(grpc::StatusCode::UNAVAILABLE), "UNAVAILABLE");
  EXPECT_EQ(CodeName(grpc::StatusCode::UNAUTHENTICATED), "UNAUTHENTICATED");
  EXPECT_EQ(CodeName(static_cast<grpc::StatusCode>(99)), "CODE_99");
}

TEST(ServeOutcomeTest, JsonAndTableSayTheSame) {
  ServeOutcome outcome;
  outcome.report = MakeReport(
      {Completed(0, {{0.1, 1}, {0.2, 1}}, 0.25), Failed(grpc::StatusCode::RESOURCE_EXHAUSTED, "2")},
      std::nullopt, Completed(0, {{0.1, 1}}, 0.1));
  outcome.server = StatsDelta{.steps = 4, .step_ms = 80, .idle_ms = 20};
  const nlohmann::ordered_json json = ToJson(outcome);
  EXPECT_EQ(json["requests"]["answered"], 2);
  EXPECT_EQ(json["requests"]["refused_with_retry_after"], 1);
  EXPECT_TRUE(json["goodput"].is_null());
  EXPECT_EQ(json["intrusion"]["status"], "OK");
  EXPECT_EQ(json["server"]["mean_step_ms"], 20);
  EXPECT_EQ(json["server"]["idle_share"], 0.2);
  std::ostringstream table;
  PrintTable(outcome, table);
  for (const char* part :
       {"answered", "refused", "ITL, intruded", "idle between steps", "20.0 %"}) {
    EXPECT_NE(table.str().find(part), std::string::npos) << part << "\n" << table.str();
  }
}

}  // namespace
}  // namespace trireme
