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

// Measures this gang without a coordinator: the memory-read bandwidth of all ranks together, then
// prefill and decode speed of `batch` random prompts. Rank 0 prints one JSON object to standard
// output. Collective over `world`.
absl::Status RunOfflineBench(const OfflineBenchOptions& options, ModelRunner& runner, Ops& ops,
                             Communicator& world);

}  // namespace trireme
