#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "trireme/v1/worker.pb.h"

namespace trireme {

// What sampling may look at of one sequence.
struct SamplingInput {
  std::span<const float> logits;       // [vocab_size]
  std::span<const int32_t> token_ids;  // prompt, then output; all of them known
  size_t prompt_tokens = 0;            // how many of token_ids are the prompt
  const v1::StepSampling* params = nullptr;
};

// Whether the tokens so far change the logits.
bool IsPenalised(const v1::StepSampling& params);

// Chooses the next token of one sequence. A pure function, safe to call from several threads: the
// random number is a function of (seed, number of tokens so far), so neither the batch nor a replay
// changes the choice.
// Order: logit bias, penalties, temperature, top_k, top_p, min_p, draw. Temperature 0 takes the
// largest logit, of equals the smallest id. Log probabilities are of the raw logits.
v1::SampledToken SampleToken(const SamplingInput& input);

// Log probability of a prompt token by the logits of the position before it, and the `count` most
// probable tokens there: as SampleToken's, to the bit. The caller sets sequence and position.
v1::PromptLogprob PromptTokenLogprob(std::span<const float> logits, int32_t token_id,
                                     uint32_t count);

}  // namespace trireme
