#include "worker/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <unordered_map>
#include <unordered_set>

namespace trireme {
namespace {

// Below it, logits divided by the temperature overflow before they differ from greedy.
constexpr float kGreedyTemperature = 1e-5f;

struct Candidate {
  int32_t id;
  float logit;
  double weight;  // exp(logit - largest logit)
};

bool Better(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

int32_t ArgMax(std::span<const float> logits) {
  size_t best = 0;
  for (size_t i = 1; i < logits.size(); ++i) {
    if (logits[i] > logits[best] || std::isnan(logits[best])) best = i;
  }
  return static_cast<int32_t>(best);
}

bool HasPenalties(const v1::StepSampling& params) {
  return params.repetition_penalty() != 1.0f || params.presence_penalty() != 0.0f ||
         params.frequency_penalty() != 0.0f;
}

// Repetition (Keskar et al. 2019) over prompt and output; presence and frequency (OpenAI) over
// output.
void ApplyPenalties(const SamplingInput& input, std::span<float> logits) {
  const v1::StepSampling& params = *input.params;
  const std::unordered_set<int32_t> seen(input.token_ids.begin(), input.token_ids.end());
  for (const int32_t id : seen) {
    float& logit = logits[static_cast<size_t>(id)];
    logit = logit > 0 ? logit / params.repetition_penalty() : logit * params.repetition_penalty();
  }
  std::unordered_map<int32_t, int> counts;
  for (const int32_t id : input.token_ids.subspan(input.prompt_tokens)) ++counts[id];
  for (const auto& [id, count] : counts) {
    logits[static_cast<size_t>(id)] -=
        params.presence_penalty() + params.frequency_penalty() * static_cast<float>(count);
  }
}

// All tokens, or the best top_k; best first if a later filter needs the order, else by id.
std::vector<Candidate> TopK(std::span<const float> logits, const v1::StepSampling& params) {
  const float best = logits[static_cast<size_t>(ArgMax(logits))] / params.temperature();
  std::vector<Candidate> candidates(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    candidates[i] = {static_cast<int32_t>(i), logits[i] / params.temperature(), 0};
  }
  const size_t k = static_cast<size_t>(params.top_k());
  const bool cut = k > 0 && k < candidates.size();
  if (cut) {
    std::nth_element(candidates.begin(), candidates.begin() + params.top_k() - 1, candidates.end(),
                     Better);
    candidates.resize(k);
  }
  if (cut || params.top_p() < 1.0f) std::sort(candidates.begin(), candidates.end(), Better);
  for (Candidate& candidate : candidates) {
    // Extreme penalties make infinities: the largest count as one, what is no number as nothing.
    const double weight = std::exp(static_cast<double>(candidate.logit) - best);
    candidate.weight = candidate.logit == best ? 1.0 : std::isnan(weight) ? 0.0 : weight;
  }
  return candidates;
}

// Keeps the smallest best-first prefix whose probability reaches top_p.
void TopP(float top_p, std::vector<Candidate>& candidates) {
  if (top_p >= 1.0f) return;
  double total = 0;
  for (const Candidate& candidate : candidates) total += candidate.weight;
  double sum = 0;
  size_t keep = 0;
  while (keep < candidates.size() && sum < top_p * total) sum += candidates[keep++].weight;
  candidates.resize(std::max<size_t>(keep, 1));
}

int32_t Draw(const std::vector<Candidate>& candidates, double uniform) {
  double total = 0;
  for (const Candidate& candidate : candidates) total += candidate.weight;
  double left = uniform * total;
  for (const Candidate& candidate : candidates) {
    left -= candidate.weight;
    if (left < 0) return candidate.id;
  }
  return candidates.front().id;  // rounding left a sliver past the end
}

void FillLogprobs(std::span<const float> logits, uint32_t count, v1::SampledToken& token) {
  const float best = logits[static_cast<size_t>(ArgMax(logits))];
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - best);
  const double log_sum = best + std::log(sum);
  const auto logprob = [&](int32_t id) {
    return static_cast<float>(static_cast<double>(logits[static_cast<size_t>(id)]) - log_sum);
  };
  token.set_logprob(logprob(token.token_id()));
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const size_t top = std::min<size_t>(count, ids.size());
  std::partial_sort(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(top), ids.end(),
                    [&](int32_t a, int32_t b) {
                      const float la = logits[static_cast<size_t>(a)];
                      const float lb = logits[static_cast<size_t>(b)];
                      return la != lb ? la > lb : a < b;
                    });
  for (size_t i = 0; i < top; ++i) {
    token.add_top_ids(ids[i]);
    token.add_top_logprobs(logprob(ids[i]));
  }
}

int32_t Choose(const SamplingInput& input, std::span<const float> logits) {
  const v1::StepSampling& params = *input.params;
  if (params.temperature() < kGreedyTemperature) return ArgMax(logits);
  std::vector<Candidate> candidates = TopK(logits, params);
  TopP(params.top_p(), candidates);
  // The best candidate's weight is 1.
  std::erase_if(candidates, [&](const Candidate& c) { return c.weight < params.min_p(); });
  return Draw(candidates, UniformAt(params.seed(), input.token_ids.size()));
}

}  // namespace

v1::SampledToken SampleToken(const SamplingInput& input) {
  v1::SampledToken token;
  if (HasPenalties(*input.params)) {
    std::vector<float> penalised(input.logits.begin(), input.logits.end());
    ApplyPenalties(input, penalised);
    token.set_token_id(Choose(input, penalised));
  } else {
    token.set_token_id(Choose(input, input.logits));
  }
  if (input.params->has_logprobs()) FillLogprobs(input.logits, input.params->logprobs(), token);
  return token;
}

double UniformAt(uint64_t seed, uint64_t position) {
  std::array<uint32_t, 4> counter = {static_cast<uint32_t>(position),
                                     static_cast<uint32_t>(position >> 32), 0, 0};
  std::array<uint32_t, 2> key = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  const uint64_t bits = (uint64_t{counter[0]} << 32 | counter[1]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

}  // namespace trireme
