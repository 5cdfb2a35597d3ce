#include "worker/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "worker/logit_row.h"

namespace trireme {
namespace {

// Below it, logits divided by the temperature overflow before they differ from greedy.
constexpr float kGreedyTemperature = 1e-5f;

// Filters that keep no more tokens than this work on a list of the best, best first. Others keep
// the order of ids and compare with a cut: the vocabulary is never sorted.
constexpr size_t kListMax = 1024;

bool ChangesLogits(const v1::StepSampling& params) {
  return params.repetition_penalty() != 1.0f || params.presence_penalty() != 0.0f ||
         params.frequency_penalty() != 0.0f || params.bias_size() > 0;
}

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

// Draws from the best tokens, best first: from the shortest prefix that weighs `mass`, or all of
// the list without one. Nullopt if the list weighs less.
std::optional<int32_t> DrawFromList(const LogitRow& row, std::span<const Candidate> list,
                                    std::optional<double> mass, double min_weight, double uniform) {
  std::vector<double> weights;
  double kept = 0;
  for (const Candidate& candidate : list) {
    if (mass && kept >= *mass && !weights.empty()) break;
    weights.push_back(row.Weight(candidate.logit));
    kept += weights.back();
  }
  if (mass && kept < *mass) return std::nullopt;
  // The best one's weight is 1.
  while (weights.size() > 1 && weights.back() < min_weight) weights.pop_back();
  double total = 0;
  for (const double weight : weights) total += weight;
  double left = uniform * total;
  for (size_t i = 0; i < weights.size(); ++i) {
    left -= weights[i];
    if (left < 0) return list[i].id;
  }
  return list.front().id;  // rounding left a sliver past the end
}

int32_t Choose(const SamplingInput& input, std::span<const float> logits) {
  const v1::StepSampling& params = *input.params;
  if (params.temperature() < kGreedyTemperature) return ArgMax(logits);
  const LogitRow row(logits, params.temperature());
  const double uniform = UniformAt(params.seed(), input.token_ids.size());
  const double min_weight = params.min_p();
  const size_t top_k = params.top_k() > 0 ? static_cast<size_t>(params.top_k()) : logits.size();
  const bool has_top_p = params.top_p() < 1.0f;
  if (top_k <= kListMax) {
    const std::vector<Candidate> list = Best(logits, top_k);
    std::optional<double> mass;
    if (has_top_p) {
      double total = 0;
      for (const Candidate& candidate : list) total += row.Weight(candidate.logit);
      mass = params.top_p() * total;
    }
    return *DrawFromList(row, list, mass, min_weight, uniform);
  }
  Candidate cut = top_k < logits.size() ? Best(logits, top_k).back() : kWorst;
  if (has_top_p) {
    const double mass = params.top_p() * row.Total(cut);
    const std::vector<Candidate> list = Best(logits, kListMax);
    if (const auto id = DrawFromList(row, list, mass, min_weight, uniform)) return *id;
    cut = row.CutAtMass(cut, mass);
  }
  return row.Draw(uniform, cut, min_weight);
}

// Fills a SampledToken or PromptLogprob.
template <class Message>
void FillLogprobs(std::span<const float> logits, int32_t token_id, uint32_t count,
                  Message& message) {
  const LogitRow row(logits, 1.0);
  const double log_sum = double{row.largest()} + std::log(row.Total());
  const auto logprob = [&](float logit) {
    return static_cast<float>(static_cast<double>(logit) - log_sum);
  };
  message.set_logprob(logprob(logits[static_cast<size_t>(token_id)]));
  for (const Candidate& candidate : Best(logits, count)) {
    message.add_top_ids(candidate.id);
    message.add_top_logprobs(logprob(candidate.logit));
  }
}

}  // namespace

v1::SampledToken SampleToken(const SamplingInput& input) {
  v1::SampledToken token;
  if (ChangesLogits(*input.params)) {
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
