#include "worker/sampler.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/token_weights.h"
#include "worker/logit_weights.h"

namespace trireme {
namespace {

// Logit bias; then repetition (Keskar et al. 2019) over prompt and output; then presence and
// frequency (OpenAI) over output.
void ChangeLogits(const SamplingInput& input, std::span<float> logits) {
  const v1::StepSampling& params = *input.params;
  for (int i = 0; i < params.bias_size(); ++i) {
    logits[static_cast<size_t>(params.bias_ids(i))] += params.bias(i);
  }
  constexpr int32_t kAbsent = -1;
  std::vector<int32_t> in_output(logits.size(), kAbsent);  // times
  for (size_t i = 0; i < input.token_ids.size(); ++i) {
    int32_t& count = in_output[static_cast<size_t>(input.token_ids[i])];
    count = std::max(count, 0) + (i >= input.prompt_tokens ? 1 : 0);
  }
  for (const int32_t id : input.token_ids) {
    const int32_t count = std::exchange(in_output[static_cast<size_t>(id)], kAbsent);
    if (count == kAbsent) continue;  // done
    float& logit = logits[static_cast<size_t>(id)];
    logit = logit > 0 ? logit / params.repetition_penalty() : logit * params.repetition_penalty();
    if (count == 0) continue;
    logit -= params.presence_penalty() + params.frequency_penalty() * static_cast<float>(count);
  }
}

// A row cut down to its `count` best tokens, in the order of ids.
struct ShortRow {
  std::vector<float> logits;
  std::vector<int32_t> ids;
};

ShortRow KeepBest(std::span<const float> logits, size_t count) {
  ShortRow row;
  for (const Candidate& candidate : Best(logits, count)) row.ids.push_back(candidate.id);
  std::sort(row.ids.begin(), row.ids.end());
  for (const int32_t id : row.ids) row.logits.push_back(logits[static_cast<size_t>(id)]);
  return row;
}

// The index of the token that top_p, min_p and the draw choose; -1 if nothing weighs anything.
int32_t Draw(std::span<const float> logits, const v1::StepSampling& params, double uniform) {
  LogitWeights weights(logits, params.temperature());
  if (params.top_p() < 1.0f) weights.KeepShare(params.top_p());
  // The best one weighs 1.
  if (params.min_p() > 0.0f) weights.KeepFrom(params.min_p());
  return weights.Draw(uniform);
}

int32_t Choose(const SamplingInput& input, std::span<const float> logits) {
  const v1::StepSampling& params = *input.params;
  if (params.temperature() < kGreedyTemperature) return ArgMax(logits);
  const double uniform = UniformAt(params.seed(), input.token_ids.size());
  const bool cut = params.top_k() > 0 && static_cast<size_t>(params.top_k()) < logits.size();
  int32_t chosen = -1;
  if (cut) {
    const ShortRow row = KeepBest(logits, static_cast<size_t>(params.top_k()));
    const int32_t index = Draw(row.logits, params, uniform);
    if (index >= 0) chosen = row.ids[static_cast<size_t>(index)];
  } else {
    chosen = Draw(logits, params, uniform);
  }
  return chosen >= 0 ? chosen : ArgMax(logits);
}

// Fills a SampledToken or PromptLogprob.
template <class Message>
void FillLogprobs(std::span<const float> logits, int32_t token_id, uint32_t count,
                  Message& message) {
  const LogitWeights weights(logits, 1.0);
  const uint64_t total = weights.Total();
  const auto logprob = [&](float logit) { return Logprob(logit, weights.largest(), total); };
  message.set_logprob(logprob(logits[static_cast<size_t>(token_id)]));
  for (const Candidate& candidate : Best(logits, count)) {
    message.add_top_ids(candidate.id);
    message.add_top_logprobs(logprob(candidate.logit));
  }
}

}  // namespace

bool IsPenalised(const v1::StepSampling& params) {
  return params.repetition_penalty() != 1.0f || params.presence_penalty() != 0.0f ||
         params.frequency_penalty() != 0.0f;
}

v1::SampledToken SampleToken(const SamplingInput& input) {
  v1::SampledToken token;
  if (IsPenalised(*input.params) || input.params->bias_size() > 0) {
    std::vector<float> changed(input.logits.begin(), input.logits.end());
    ChangeLogits(input, changed);
    token.set_token_id(Choose(input, changed));
  } else {
    token.set_token_id(Choose(input, input.logits));
  }
  if (input.params->has_logprobs()) {
    FillLogprobs(input.logits, token.token_id(), input.params->logprobs(), token);
  }
  return token;
}

v1::PromptLogprob PromptTokenLogprob(std::span<const float> logits, int32_t token_id,
                                     uint32_t count) {
  v1::PromptLogprob entry;
  FillLogprobs(logits, token_id, count, entry);
  return entry;
}

}  // namespace trireme
