#pragma once

#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/token_weights.h"

namespace trireme::cuda {

// What host and device tell each other about sampling. Plain memory; nothing here needs CUDA.

inline constexpr int32_t kTopLogprobsMax = 20;

// How one row of logits is sampled.
struct SamplingParams {
  uint64_t seed = 0;
  int64_t position = 0;   // tokens of the sequence so far, prompt and output
  float temperature = 0;  // below kGreedyTemperature: the largest logit
  int32_t top_k = 0;      // 0: all
  float top_p = 1;        // 1: all
  float min_p = 0;        // 0: all
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  int32_t logprobs = -1;   // how many beside the token's own; -1: none at all
  int32_t bias_begin = 0;  // its biases, by rising id; one id may have several, in order
  int32_t bias_count = 0;
  int32_t sequence = -1;  // its list in SeenTokens, if penalised; -1: a padding row
};

struct TokenBias {
  int32_t id = 0;
  float bias = 0;
};

// A token that occurs in a sequence, how often in the output.
struct SeenToken {
  int32_t id = 0;
  int32_t in_output = 0;
};

// The tokens each sequence has seen, each once: device memory. A list that is full takes no more,
// so the capacity is the longest sequence or the vocabulary.
struct SeenTokens {
  SeenToken* tokens = nullptr;  // [sequences, capacity]
  int32_t* counts = nullptr;    // [sequences]
  int32_t capacity = 0;
};

// A token whose log probability is asked for.
struct LogprobRequest {
  int32_t token_id = 0;
  int32_t top_count =
      -1;  // most probable ones beside it, at most kTopLogprobsMax; -1: a padding row
};

struct TokenLogprobs {
  float logprob = 0;
  int32_t top_count = 0;  // as asked for, or the size of the vocabulary
  int32_t top_ids[kTopLogprobsMax] = {};
  float top_logprobs[kTopLogprobsMax] = {};
};

// Which kernels a batch needs.
struct SamplingNeeds {
  bool changes = false;  // biases or penalties
  bool top_k = false;
  bool top_p = false;
  bool logprobs = false;

  bool operator==(const SamplingNeeds&) const = default;
};

TRIREME_HOST_DEVICE inline bool IsPenalised(const SamplingParams& params) {
  return params.repetition_penalty != 1 || params.presence_penalty != 0 ||
         params.frequency_penalty != 0;
}

TRIREME_HOST_DEVICE inline bool ChangesLogits(const SamplingParams& params) {
  return params.bias_count > 0 || IsPenalised(params);
}

// Whether a random number decides.
TRIREME_HOST_DEVICE inline bool Draws(const SamplingParams& params) {
  return params.temperature >= kGreedyTemperature;
}

TRIREME_HOST_DEVICE inline bool CutsTopK(const SamplingParams& params, int32_t vocab_size) {
  return Draws(params) && params.top_k > 0 && params.top_k < vocab_size;
}

TRIREME_HOST_DEVICE inline bool CutsTopP(const SamplingParams& params) {
  return Draws(params) && params.top_p < 1;
}

}  // namespace trireme::cuda
