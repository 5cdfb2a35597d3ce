#include "cluster/planner/simulation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "cluster/bench_serve_random.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;

// Every step takes as long.
ReplicaSpec Constant(double step_s) {
  ReplicaSpec spec;
  spec.kv_blocks = 10'000;
  spec.step_times = [step_s](std::span<const StepTokens>) {
    return StepTimes{.latency_s = step_s, .busy_s = step_s};
  };
  return spec;
}

// 10 ms and 20 us for each token.
ReplicaSpec Affine(int stages = 1) {
  ReplicaSpec spec = Constant(0);
  spec.stages = stages;
  spec.step_times = [stages](std::span<const StepTokens> parts) {
    int64_t tokens = 0;
    for (const StepTokens& part : parts) tokens += part.sequences * part.tokens;
    const double stage_s = (10e-3 + 20e-6 * static_cast<double>(tokens)) / stages;
    return StepTimes{.latency_s = stages * stage_s, .busy_s = stage_s};
  };
  return spec;
}

std::vector<TraceRequest> Poisson(size_t count, double rate, int64_t prompt, int64_t output) {
  std::vector<TraceRequest> trace;
  ArrivalProcess arrivals(rate, 1, 7);
  for (size_t i = 0; i < count; ++i) {
    trace.push_back(
        {.arrival_s = arrivals.Next(), .prompt_tokens = prompt, .output_tokens = output});
  }
  return trace;
}

SimulationResult Serve(const std::vector<TraceRequest>& trace, const SimulationOptions& options) {
  absl::StatusOr<SimulationResult> result = Simulate(trace, options);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *std::move(result) : SimulationResult();
}

// Little's law, as an identity of an interval that begins and ends without requests: the integral
// of their number is the sum of their times. And what goes in comes out.
void ExpectConservation(const std::vector<TraceRequest>& trace, const SimulationResult& result) {
  ASSERT_EQ(result.requests.size(), trace.size());
  double sum_s = 0;
  int64_t tokens = 0;
  for (size_t i = 0; i < trace.size(); ++i) {
    const SimulatedSequence& request = result.requests[i];
    ASSERT_TRUE(request.end_s.has_value());
    sum_s += *request.end_s - request.arrival_s;
    tokens += request.generated;
    EXPECT_TRUE(request.failed || request.generated == trace[i].output_tokens);
    if (request.first_token_s) {
      EXPECT_GE(*request.admitted_s, request.arrival_s);
      EXPECT_GT(*request.first_token_s, *request.admitted_s);
      EXPECT_LE(*request.first_token_s, *request.end_s);
    }
  }
  EXPECT_NEAR(result.request_seconds, sum_s, 1e-9 * sum_s + 1e-9);
  EXPECT_EQ(result.counts.tokens_generated, tokens);
}

// One at a time, one step each: the mean wait of an M/D/1 queue, by Pollaczek and Khinchine, is
// rho D / 2 (1 - rho). The standard error of the mean comes from batches of consecutive requests.
TEST(SimulationTest, WaitsAsLongAsAnMD1Queue) {
  constexpr double kService = 0.1;
  constexpr size_t kBatches = 40, kBatchSize = 5000;
  for (const double rho : {0.3, 0.6, 0.8}) {
    SimulationOptions options;
    options.replica = Constant(kService);
    options.replica.max_num_seqs = 1;
    const auto trace = Poisson(kBatches * kBatchSize, rho / kService, 16, 1);
    const SimulationResult result = Serve(trace, options);
    ExpectConservation(trace, result);
    double mean = 0, square = 0;
    for (size_t b = 0; b < kBatches; ++b) {
      double batch = 0;
      for (size_t i = 0; i < kBatchSize; ++i) {
        const SimulatedSequence& request = result.requests[b * kBatchSize + i];
        EXPECT_NEAR(*request.end_s - *request.admitted_s, kService, 1e-9);
        batch += (*request.admitted_s - request.arrival_s) / kBatchSize;
      }
      mean += batch / kBatches;
      square += batch * batch / kBatches;
    }
    const double error = std::sqrt((square - mean * mean) / (kBatches - 1));
    EXPECT_NEAR(mean, rho * kService / (2 * (1 - rho)), 4 * error) << "rho " << rho;
    EXPECT_LT(error, 0.05 * mean);
  }
}

// Little's law with the rate and the mean time of requests in place of their sum.
TEST(SimulationTest, ObeysLittlesLawAlsoThroughFailuresAndPreemptions) {
  for (const int stages : {1, 3}) {
    SimulationOptions options;
    options.replica = Affine(stages);
    options.replica.kv_blocks = 60;  // of 4 requests and a half
    options.replicas = 3;
    options.replica_mtbf_s = 30;
    options.recovery_s = 7;
    options.seed = 11;
    const auto trace = Poisson(3000, 12, 300, 100);
    const SimulationResult result = Serve(trace, options);
    ExpectConservation(trace, result);
    double mean_s = 0;
    for (const SimulatedSequence& request : result.requests) {
      mean_s += (*request.end_s - request.arrival_s) / 3000;
    }
    const double rate = 3000 / result.duration_s;
    EXPECT_NEAR(result.mean_requests(), rate * mean_s, 1e-9 * result.mean_requests());
    EXPECT_GT(result.failures, 0u);
    EXPECT_GT(result.counts.preemptions, 0u);
    EXPECT_GT(result.counts.tokens_recomputed, 0);
    EXPECT_LE(result.kv_use_max, 1);
  }
}

// Chunks, decodes before prompts, all in one step: known step by step.
TEST(SimulationTest, ComputesABatchAsTheEngineDoes) {
  SimulationOptions options;
  options.replica = Affine();
  options.replica.max_num_batched_tokens = 256;
  const std::vector<TraceRequest> trace = {{.prompt_tokens = 300, .output_tokens = 3},
                                           {.prompt_tokens = 400, .output_tokens = 3}};
  const SimulationResult result = Serve(trace, options);
  // The first two plans are made before the second request comes; then 1 + 255, 1 + 145, 1, 1.
  double now_s = 0;
  std::vector<double> done;
  for (const int tokens : {256, 44, 256, 146, 1, 1}) {
    done.push_back(now_s += 10e-3 + 20e-6 * tokens);
  }
  EXPECT_NEAR(*result.requests[0].first_token_s, done[1], 1e-12);
  EXPECT_NEAR(*result.requests[0].end_s, done[3], 1e-12);
  EXPECT_NEAR(*result.requests[1].first_token_s, done[3], 1e-12);
  EXPECT_NEAR(*result.requests[1].end_s, done[5], 1e-12);
  EXPECT_EQ(result.counts.tokens_prefilled, 700);
  EXPECT_EQ(result.counts.tokens_recomputed, 0);
  EXPECT_EQ(result.counts.steps, 6u);
}

// What comes while a step is computed finds the next plan already made.
TEST(SimulationTest, PlansOneStepAhead) {
  SimulationOptions options;
  options.replica = Constant(1);
  const SimulationResult result =
      Serve({{.prompt_tokens = 10, .output_tokens = 9}, {.arrival_s = 2.5, .prompt_tokens = 10}},
            options);
  // The plan of 3 to 4 s was made at 2 s.
  EXPECT_EQ(*result.requests[1].first_token_s, 5);
}

// A stage for each part of the batch: no stage idles, so pp stages decode pp times as fast.
TEST(SimulationTest, KeepsAllStagesOfAPipelineBusy) {
  for (const int stages : {1, 2, 4}) {
    SimulationOptions options;
    options.replica = Constant(1);
    options.replica.stages = stages;
    options.replica.step_times = [stages](std::span<const StepTokens>) {
      return StepTimes{.latency_s = 1, .busy_s = 1.0 / stages};
    };
    const std::vector<TraceRequest> trace(4, {.prompt_tokens = 10, .output_tokens = 1000});
    const SimulationResult result = Serve(trace, options);
    EXPECT_NEAR(result.duration_s, 1000, 5) << stages << " stages";
    EXPECT_NEAR(static_cast<double>(result.counts.steps), 1000.0 * stages, 10);
  }
}

TEST(SimulationTest, CutsPromptsSoThatAStepTakesNoLonger) {
  SimulationOptions options;
  options.replica = Affine();
  options.replica.max_num_batched_tokens = 2048;
  options.replica.max_step_s = 20e-3;
  std::vector<TraceRequest> trace = {{.prompt_tokens = 10, .output_tokens = 40},
                                     {.arrival_s = 0.1, .prompt_tokens = 3000}};
  const SimulationResult result = Serve(trace, options);
  // 499 tokens of the prompt in each step of 20 ms.
  EXPECT_NEAR(*result.requests[1].first_token_s - *result.requests[1].admitted_s, 7 * 20e-3, 0.02);
}

TEST(SimulationTest, IsAvailableAsLongAsItIsNotRecovering) {
  SimulationOptions options;
  options.replicas = 64;
  options.replica = Constant(1);
  options.replica_mtbf_s = 3600;
  options.recovery_s = 400;
  options.duration_s = 1e6;
  const SimulationResult result = Serve({}, options);
  EXPECT_EQ(result.duration_s, 1e6);
  // 16000 failures: the mean of as many intervals is known to 1 / sqrt(16000), 0.8 %; of it the
  // unavailable tenth moves the result by a tenth.
  EXPECT_NEAR(result.availability, 3600.0 / 4000, 4 * 0.0008);
  EXPECT_NEAR(static_cast<double>(result.failures), 64 * 1e6 / 4000, 4 * std::sqrt(16000));
}

TEST(SimulationTest, RecomputesOnAnotherReplicaAsOftenAsItTakes) {
  SimulationOptions options;
  options.replicas = 2;
  options.replica = Constant(1);
  options.replica_mtbf_s = 10;
  options.recovery_s = 1;
  options.seed = 3;
  const auto trace = Poisson(200, 0.1, 32, 50);
  const SimulationResult result = Serve(trace, options);
  ExpectConservation(trace, result);
  EXPECT_GT(result.failures, 300u);
  for (const SimulatedSequence& request : result.requests) EXPECT_FALSE(request.failed);
}

TEST(SimulationTest, EndsWhereNoReplicaLastsForAToken) {
  SimulationOptions options;
  options.replica = Constant(1);
  options.replica_mtbf_s = 0.01;
  options.recovery_s = 1;
  const SimulationResult result = Serve(Poisson(3, 0.1, 32, 50), options);
  for (const SimulatedSequence& request : result.requests) {
    EXPECT_TRUE(request.failed);
    EXPECT_EQ(request.gangs_lost, 16);
  }
}

TEST(SimulationTest, GivesTheSameBitsForTheSameSeedAndOthersForAnother) {
  SimulationOptions options;
  options.replicas = 4;
  options.replica = Affine(2);
  options.replica_mtbf_s = 20;
  options.recovery_s = 3;
  const auto trace = Poisson(500, 20, 200, 50);
  const auto ends = [&](uint64_t seed) {
    options.seed = seed;
    std::vector<double> ends;
    for (const SimulatedSequence& request : Serve(trace, options).requests) {
      ends.push_back(*request.end_s);
    }
    return ends;
  };
  EXPECT_EQ(ends(1), ends(1));
  EXPECT_NE(ends(1), ends(2));
}

TEST(SimulationTest, SaysWhichRequestIsOutOfBounds) {
  SimulationOptions options;
  options.replica = Constant(1);
  options.replica.kv_blocks = 2;
  const auto error = [&](std::vector<TraceRequest> trace) {
    return std::string(Simulate(trace, options).status().message());
  };
  EXPECT_EQ(error({{.prompt_tokens = 60, .output_tokens = 5}}), "");
  EXPECT_THAT(error({{}, {.prompt_tokens = 60, .output_tokens = 6}}),
              HasSubstr("request 2 of 60 + 6 tokens can never fit"));
  EXPECT_THAT(error({{.arrival_s = 2}, {.arrival_s = 1}}), HasSubstr("request 2 arrives before"));
  EXPECT_THAT(error({{.arrival_s = std::numeric_limits<double>::quiet_NaN()}}),
              HasSubstr("request 1 arrives before"));
  EXPECT_THAT(error({{.output_tokens = 0}}), HasSubstr("request 1 has no tokens"));
  options.recovery_s = -1;
  EXPECT_THAT(error({}), HasSubstr("must not be negative"));
}

}  // namespace
}  // namespace trireme
