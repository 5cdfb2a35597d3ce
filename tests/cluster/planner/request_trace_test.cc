#include "cluster/planner/request_trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cluster/bench_serve_workload.h"
#include "cluster/planner/simulation_report.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;

TEST(RequestTraceTest, ReadsLinesInAnyOrder) {
  const auto trace = ParseTrace(
      "{\"arrival_s\": 2.5, \"prompt_tokens\": 8, \"output_tokens\": 9, \"user\": \"x\"}\r\n"
      "\n"
      "{\"arrival_s\": 1, \"prompt_tokens\": 1, \"output_tokens\": 1}",
      "t", 17);
  ASSERT_TRUE(trace.ok()) << trace.status();
  const std::vector<TraceRequest> expected = {
      {.arrival_s = 1}, {.arrival_s = 2.5, .prompt_tokens = 8, .output_tokens = 9}};
  EXPECT_EQ(*trace, expected);
}

TEST(RequestTraceTest, NamesTheLineThatIsWrong) {
  const auto error = [](const std::string& line) {
    const std::string good = R"({"arrival_s": 0, "prompt_tokens": 1, "output_tokens": 1})";
    const auto trace = ParseTrace(good + "\n" + line + "\n", "file", 100);
    EXPECT_EQ(trace.status().code(), absl::StatusCode::kInvalidArgument) << line;
    EXPECT_THAT(std::string(trace.status().message()), HasSubstr("file, line 2: ")) << line;
    return std::string(trace.status().message());
  };
  EXPECT_THAT(error("nonsense"), HasSubstr("not a JSON object"));
  EXPECT_THAT(error("[1]"), HasSubstr("not a JSON object"));
  EXPECT_THAT(error(std::string(5000, '[')), HasSubstr("longer than"));
  EXPECT_THAT(error(R"({"prompt_tokens": 1, "output_tokens": 1})"), HasSubstr("arrival_s"));
  EXPECT_THAT(error(R"({"arrival_s": -1, "prompt_tokens": 1, "output_tokens": 1})"),
              HasSubstr("arrival_s"));
  EXPECT_THAT(error(R"({"arrival_s": 1e9, "prompt_tokens": 1, "output_tokens": 1})"),
              HasSubstr("arrival_s"));
  EXPECT_THAT(error(R"({"arrival_s": 0, "prompt_tokens": 0, "output_tokens": 1})"),
              HasSubstr("prompt_tokens"));
  EXPECT_THAT(error(R"({"arrival_s": 0, "prompt_tokens": 1.5, "output_tokens": 1})"),
              HasSubstr("prompt_tokens"));
  EXPECT_THAT(
      error(R"({"arrival_s": 0, "prompt_tokens": 18446744073709551615, "output_tokens": 1})"),
      HasSubstr("prompt_tokens"));
  EXPECT_THAT(
      error(R"({"arrival_s": 0, "prompt_tokens": 1, "output_tokens": 9223372036854775807})"),
      HasSubstr("output_tokens"));
  EXPECT_THAT(error(R"({"arrival_s": 0, "prompt_tokens": 60, "output_tokens": 41})"),
              HasSubstr("60 + 41 tokens exceed --context 100"));
  EXPECT_THAT(std::string(ParseTrace("\n", "file", 9).status().message()),
              HasSubstr("no requests"));
}

// The promise that a simulation can be held against a run of bench serve.
TEST(RequestTraceTest, GeneratesWhatBenchServeSends) {
  const LengthDistribution input = *LengthDistribution::Parse("lognormal:40:1");
  const LengthDistribution output = *LengthDistribution::Parse("uniform:5:30");
  const auto trace = GenerateTrace(
      {.requests = 100, .rate = 4, .input_len = input, .output_len = output, .seed = 9}, 128);
  ASSERT_TRUE(trace.ok()) << trace.status();
  const Workload workload =
      *Workload::Create({.input_len = input, .output_len = output, .seed = 9}, 128, 32000);
  ArrivalProcess arrivals(4, 1, 9);
  for (uint64_t i = 0; i < 100; ++i) {
    const v1::GenerateRequest request = workload.Make(i).message;
    EXPECT_EQ((*trace)[i].arrival_s, arrivals.Next());
    EXPECT_EQ((*trace)[i].prompt_tokens, request.prompt_token_ids().ids_size());
    EXPECT_EQ((*trace)[i].output_tokens, request.sampling().max_tokens());
  }
}

SimulatedSequence Ended(double arrival, double first, double end, int64_t tokens) {
  return {.output_tokens = tokens,
          .arrival_s = arrival,
          .admitted_s = arrival + 0.1,
          .first_token_s = first,
          .end_s = end};
}

TEST(ServedLoadTest, CountsGoodAnswersAndLeavesOutFailedOnes) {
  SimulationResult result;
  result.requests = {Ended(1, 1.5, 2.5, 11), Ended(1, 2.5, 3.5, 11), Ended(2, 2.25, 11, 6),
                     Ended(2, 2.25, 2.25, 1), Ended(3, 3.5, 4, 50)};
  result.requests.back().failed = true;
  const ServedLoad load = Measure(result, {.ttft_ms = 1000, .tpot_ms = 500});
  EXPECT_EQ(load.completed, 4u);
  EXPECT_EQ(load.failed, 1u);
  EXPECT_EQ(load.duration_s, 10);
  EXPECT_DOUBLE_EQ(load.requests_per_s, 0.4);
  EXPECT_DOUBLE_EQ(load.output_tokens_per_s, 2.9);
  // The second's first token is late, the third's others are slow.
  EXPECT_DOUBLE_EQ(load.good_share, 2.0 / 5);
  EXPECT_DOUBLE_EQ(load.good_requests_per_s, 0.2);
  EXPECT_DOUBLE_EQ(load.ttft_ms.max, 1500);
  EXPECT_EQ(load.tpot_ms.count, 3u);
  EXPECT_NEAR(load.tpot_ms.p50, 100, 1e-9);
  EXPECT_NEAR(load.queue_ms.p99, 100, 1e-9);
}

}  // namespace
}  // namespace trireme
