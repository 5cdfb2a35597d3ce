#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/sampling_params.h"

namespace trireme::cuda {

// One sampling step; all pointers are to device memory. The choice is, to the bit, that of the
// CPU's sampler (worker/sampler.h) on the same logits: kernels/token_weights.h is the common
// arithmetic.
struct SampleArgs {
  const float* logits = nullptr;  // [rows, stride], the first vocab_size of each; only read
  int64_t stride = 0;
  int rows = 0;
  int vocab_size = 0;                      // at most kWeightsMax
  SamplingNeeds needs;                     // of the rows; more than needed costs launches only
  const SamplingParams* params = nullptr;  // [rows]
  const TokenBias* biases = nullptr;       // what the params refer to
  SeenTokens seen;                         // read, and the sampled token added, if penalised
  int32_t* token_ids = nullptr;            // out, [rows]; -1 for a padding row
  TokenLogprobs* logprobs = nullptr;       // out, [rows], written where asked for
  void* workspace = nullptr;               // SampleWorkspaceBytes, 256-byte aligned, any content
  cudaStream_t stream = nullptr;
};

size_t SampleWorkspaceBytes(int rows, int vocab_size);

// Chooses a token a row. Launches only: no copy, no synchronisation, may be captured.
void Sample(const SampleArgs& args);

// Log probabilities of given tokens: PromptTokenLogprob of worker/sampler.h, to the bit.
struct LogprobArgs {
  const float* logits = nullptr;  // as SampleArgs
  int64_t stride = 0;
  int rows = 0;
  int vocab_size = 0;
  const LogprobRequest* requests = nullptr;  // [rows]
  TokenLogprobs* logprobs = nullptr;         // out, [rows], written where asked for
  void* workspace = nullptr;                 // LogprobWorkspaceBytes, as SampleArgs
  cudaStream_t stream = nullptr;
};

size_t LogprobWorkspaceBytes(int rows, int vocab_size);

// Launches only, as Sample.
void TokenLogprobsOf(const LogprobArgs& args);

}  // namespace trireme::cuda
