#include "kernels/cuda/sampling_batch.h"

#include <algorithm>
#include <unordered_map>

#include "absl/strings/str_cat.h"

namespace trireme::cuda {

absl::Status SamplingBatch::Add(const SamplingRow& row) {
  SamplingParams params = row.params;
  if (params.logprobs > kTopLogprobsMax) {
    return absl::InvalidArgumentError(absl::StrCat("unsupported: ", params.logprobs,
                                                   " top log probabilities on a GPU; ask for ",
                                                   kTopLogprobsMax, " at most"));
  }
  if (row.bias_ids.size() != row.biases.size()) {
    return absl::InvalidArgumentError(absl::StrCat("logit bias of ", row.bias_ids.size(),
                                                   " tokens has ", row.biases.size(), " values"));
  }
  for (const int32_t id : row.bias_ids) {
    if (id >= 0 && id < vocab_size_) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "logit bias of token ", id, ", which is not in the vocabulary of ", vocab_size_));
  }
  params.bias_begin = static_cast<int32_t>(biases_.size());
  params.bias_count = static_cast<int32_t>(row.biases.size());
  for (size_t i = 0; i < row.biases.size(); ++i) {
    biases_.push_back({.id = row.bias_ids[i], .bias = row.biases[i]});
  }
  std::stable_sort(biases_.begin() + params.bias_begin, biases_.end(),
                   [](const TokenBias& a, const TokenBias& b) { return a.id < b.id; });
  needs_.changes |= ChangesLogits(params);
  needs_.top_k |= CutsTopK(params, vocab_size_);
  needs_.top_p |= CutsTopP(params);
  needs_.logprobs |= params.logprobs >= 0;
  params_.push_back(params);
  return absl::OkStatus();
}

std::vector<SeenToken> CountSeen(std::span<const int32_t> token_ids, size_t prompt_tokens) {
  std::vector<SeenToken> seen;
  std::unordered_map<int32_t, size_t> places;
  for (size_t i = 0; i < token_ids.size(); ++i) {
    const auto [place, is_new] = places.try_emplace(token_ids[i], seen.size());
    if (is_new) seen.push_back({.id = token_ids[i], .in_output = 0});
    if (i >= prompt_tokens) ++seen[place->second].in_output;
  }
  return seen;
}

}  // namespace trireme::cuda
