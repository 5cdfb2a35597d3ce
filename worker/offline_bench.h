#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "worker/model_runner.h"

namespace trireme {

struct OfflineBenchOptions {
  int64_t prompt_tokens = 128;
  int64_t decode_tokens = 64;
  int64_t batch = 1;
  int64_t chunk = 256;        // prompt tokens in one step at most
  int64_t micro_batches = 1;  // parts of the batch that are decoded in turn, one by each stage
  float temperature = 0;      // of sampling; 0 is greedy
  float top_p = 1;
};

// Measures this gang without a coordinator: the bandwidth of all ranks' memory together, by reading
// (of a host) or by copying (of a device; bytes read and written), then prefill and decode speed of
// `batch` random prompts. Rank 0 prints one JSON object to standard output. Collective over
// `world`.
//   decode_bytes            what a decode step must read: weights, without the rows of tables that
//                           are only looked up in, keys and values; null of a mixture of experts,
//                           which chooses what it reads
//   decode_roofline_share   the time that reading them takes at that bandwidth, of a step's
//   decode_step_ms          from the end of the step before, with ModelRunner::plans_ahead() queued
//   decode_gap_ms           of a step's time, what a device without pipeline stages is idle: what
//                           steps queued at once, and sampling, do not take; null elsewhere
absl::Status RunOfflineBench(const OfflineBenchOptions& options, ModelRunner& runner, Ops& ops,
                             Communicator& world);

}  // namespace trireme
