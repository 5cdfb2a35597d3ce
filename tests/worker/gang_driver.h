#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"
#include "parallel/layout.h"
#include "trireme/v1/worker.pb.h"
#include "worker/device.h"
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
  std::vector<int32_t> tokens;             // on the responder
  std::vector<std::vector<float>> logits;  // one row for each token, on ranks of the last stage
  bool operator==(const TestOutput& other) const;  // bit for bit
  bool SameLogits(const TestOutput& other) const;  // bit for bit
};

// What a rank saw of a series of plans.
struct GangOutput {
  std::map<uint64_t, TestOutput> sequences;  // by id, over all incarnations
  std::vector<v1::StepResult> results;       // one for each plan
  size_t plans_ahead = 0;                    // ModelRunner's
};

struct DriverOptions {
  std::filesystem::path model_dir;
  ParallelLayout layout;
  int threads = 1;
  // Makes what a rank computes on; null: a CPU with `threads`.
  std::function<absl::StatusOr<Device>(int rank)> make_device = {};
  int64_t chunk = 1 << 20;  // prompt tokens in one step
  int64_t max_batched_tokens = 4096;
  int64_t micro_batches = 1;  // groups of requests that take turns, one group a step
  bool lockstep = false;      // no rank begins a step before all have ended the one before
  bool ahead = true;          // a rank launches a plan before the one before is done, if it can
  bool logits = true;         // asks for them, which waits for a device
  KvDType kv_dtype = KvDType::kF32;
  bool float32 = false;
  bool mapped = false;
  int64_t kv_blocks_max = 1 << 20;
  int64_t swap_bytes_max = 0;
  int64_t kv_bytes = int64_t{64} << 20;  // KV cache of each rank
  // On the rank's thread: when it has logits, and when it has ended a step (from 1).
  std::function<void(int rank)> on_logits = [](int) {};
  std::function<void(int rank, size_t step)> after_step = [](int, size_t) {};
};

// Plans for the requests, ids from 0, as a scheduler would make them without waiting for a result:
// prefill in chunks, one decode token for each running request in the same steps.
std::vector<v1::StepPlan> MakePlans(const DriverOptions& options,
                                    const std::vector<TestRequest>& requests);

// Computes the plans on this rank, together with the other ranks of `world`. Each rank goes on to
// its next plan as soon as it has done one.
absl::StatusOr<GangOutput> RunPlansOnRank(const DriverOptions& options,
                                          const std::vector<v1::StepPlan>& plans,
                                          Communicator& world);

// The same with a whole gang of threads; returns what rank `rank` saw (default: the responder).
absl::StatusOr<GangOutput> RunPlans(const DriverOptions& options,
                                    const std::vector<v1::StepPlan>& plans, int rank = -1);

// MakePlans and RunPlans: the outputs of the requests, in their order.
absl::StatusOr<std::vector<TestOutput>> DriveRank(const DriverOptions& options,
                                                  const std::vector<TestRequest>& requests,
                                                  Communicator& world);
absl::StatusOr<std::vector<TestOutput>> DriveGang(const DriverOptions& options,
                                                  const std::vector<TestRequest>& requests,
                                                  int rank = -1);

// Sampling fields at their neutral values: greedy.
v1::StepSampling GreedySampling();

}  // namespace trireme
