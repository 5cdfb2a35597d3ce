#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "trireme/v1/worker.pb.h"
#include "worker/sequences.h"

namespace trireme {

// A token of a step whose logits are wanted: the next token is sampled from them, or they tell how
// probable the prompt's next token was.
struct LogitsWanted {
  int32_t token = 0;  // index in the batch
  uint64_t id = 0;
  const RankSequence* sequence = nullptr;
  size_t position = 0;
  bool sample = false;
};

// Does with a step's logits what they are wanted for, where they are. Every sampler has the results
// of worker/sampler.h, to the bit. Not thread safe.
class BatchSampler {
 public:
  virtual ~BatchSampler() = default;

  // Takes the memory for as many rows, so that no step has to.
  virtual absl::Status Reserve(int64_t rows, int64_t vocab_size) = 0;
  // logits [wanted, vocab_size], in the memory of the Ops; what was computed before is seen.
  // Appends to the result's tokens and prompt log probabilities in the order of `wanted`, and
  // returns the milliseconds that this took, without the wait for earlier work. INVALID_ARGUMENT
  // for sampling that the coordinator would have refused.
  virtual absl::StatusOr<double> Sample(std::span<const LogitsWanted> wanted,
                                        std::span<const float> logits, v1::StepResult& result) = 0;
};

// `ops` outlives the sampler.
using SamplerFactory = std::function<absl::StatusOr<std::unique_ptr<BatchSampler>>(Ops& ops)>;

// On the host, on all threads of the Ops.
absl::StatusOr<std::unique_ptr<BatchSampler>> MakeHostSampler(Ops& ops);

}  // namespace trireme
