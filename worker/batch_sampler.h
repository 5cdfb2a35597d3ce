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

// Does with a step's logits what they are wanted for, where they are, in two halves: a device's
// step can be queued behind this one before its tokens are known. Every sampler has the results of
// worker/sampler.h, to the bit. Not thread safe.
class BatchSampler {
 public:
  virtual ~BatchSampler() = default;

  // Whether Launch queues the work and leaves the tokens where the next step's embedding finds
  // them.
  virtual bool on_device() const = 0;
  // Takes the memory for launches of `rows` rows and steps of `step_rows`, so that no step has to.
  virtual absl::Status Reserve(int64_t rows, int64_t step_rows, int64_t vocab_size) = 0;
  // Begins with rows of a step, from its row `first` on: logits [wanted, vocab_size], in the memory
  // of the Ops; what was computed before is seen. INVALID_ARGUMENT for sampling that the
  // coordinator would have refused.
  virtual absl::Status Launch(std::span<const LogitsWanted> wanted, std::span<const float> logits,
                              size_t first) = 0;
  // The tokens of the rows launched last that are sampled, by a step's row, in the memory of the
  // Ops; nothing if not on_device.
  virtual std::span<const int32_t> sampled() const = 0;
  // Appends what the oldest Launch has come to, whose work is done (Memory::Reach), to the result's
  // tokens and prompt log probabilities, in the order of `wanted`. Returns the milliseconds that it
  // took, without the wait for earlier work.
  virtual absl::StatusOr<double> Collect(v1::StepResult& result) = 0;
};

// `ops` outlives the sampler.
using SamplerFactory = std::function<absl::StatusOr<std::unique_ptr<BatchSampler>>(Ops& ops)>;

// On the host, on all threads of the Ops.
absl::StatusOr<std::unique_ptr<BatchSampler>> MakeHostSampler(Ops& ops);

}  // namespace trireme
