#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"
#include "parallel/layout.h"
#include "trireme/v1/worker.pb.h"
#include "worker/model_runner.h"

namespace trireme {

// One request of a test: greedy unless `sampling` says otherwise.
struct TestRequest {
  std::vector<int32_t> prompt;
  int64_t steps = 8;        // tokens to generate
  int64_t start_after = 0;  // steps of the gang before it arrives
  v1::StepSampling sampling;
};

// What came of it.
struct TestOutput {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;  // one row for each token, on ranks of the last stage
  bool operator==(const TestOutput& other) const;  // bit for bit
};

struct DriverOptions {
  std::filesystem::path model_dir;
  ParallelLayout layout;
  int threads = 1;
  int64_t chunk = 1 << 20;  // prompt tokens in one step
};

// Runs the requests to their end on this rank, together with the other ranks of `world`, planning
// as a scheduler would: prefill in chunks, one decode token for each running request in the same
// steps.
absl::StatusOr<std::vector<TestOutput>> DriveRank(const DriverOptions& options,
                                                  const std::vector<TestRequest>& requests,
                                                  Communicator& world);

// The same with a whole gang of threads; returns what rank `rank` saw (default: the last).
absl::StatusOr<std::vector<TestOutput>> DriveGang(const DriverOptions& options,
                                                  const std::vector<TestRequest>& requests,
                                                  int rank = -1);

// Sampling fields at their neutral values: greedy.
v1::StepSampling GreedySampling();

}  // namespace trireme
