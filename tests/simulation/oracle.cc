#include "tests/simulation/oracle.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "tests/simulation/history.h"

namespace trireme::simulation {

void Oracle::Add(const Sequence& sequence, uint64_t space) {
  spaces_[sequence.id] = space;
  Client& client = open_[sequence.id];
  client.space = space;
  client.priority = sequence.priority;
  client.num_prompt = static_cast<uint32_t>(sequence.tokens.size());
  client.max_tokens = sequence.max_tokens;
  client.prompt_logprobs = sequence.sampling.has_prompt_logprobs();
  History history = Begin(space);
  for (const int32_t token : sequence.tokens) {
    history = Extend(history, token);
    client.logprobs.push_back(PromptLogprobOf(history));
  }
  const std::vector<int32_t>& stops = sequence.stop_token_ids;
  while (client.reason == v1::FINISH_REASON_UNSPECIFIED) {
    const int32_t token = NextToken(history, sequence.sampling.seed(), vocab_size_);
    client.answer.push_back(token);
    history = Extend(history, token);
    if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
      client.reason = v1::FINISH_REASON_STOP;
    } else if (client.answer.size() == sequence.max_tokens) {
      client.reason = v1::FINISH_REASON_LENGTH;
    }
  }
}

absl::Status Oracle::Hear(const StepOutput& output) {
  for (const v1::PromptLogprob& logprob : output.prompt_logprobs) {
    const uint64_t id = logprob.sequence_id();
    const auto found = open_.find(id);
    if (found == open_.end() || !found->second.prompt_logprobs ||
        logprob.position() != ++found->second.logprobs_heard ||
        logprob.position() >= found->second.num_prompt ||
        logprob.logprob() != found->second.logprobs[logprob.position()]) {
      return absl::InternalError(absl::StrCat("sequence ", id, " hears a wrong log probability ",
                                              "of its prompt's token ", logprob.position()));
    }
  }
  for (const SequenceOutput& token : output.tokens) RETURN_IF_ERROR(HearToken(token));
  return absl::OkStatus();
}

absl::Status Oracle::HearToken(const SequenceOutput& output) {
  const uint64_t id = output.token.sequence_id();
  const auto wrong = [&](const auto&... what) {
    return absl::InternalError(absl::StrCat("sequence ", id, " hears ", what...));
  };
  const auto found = open_.find(id);
  if (found == open_.end()) return wrong("a token after its end");
  Client& client = found->second;
  if (client.heard == client.answer.size()) return wrong("more than its answer");
  if (output.token.token_id() != client.answer[client.heard]) {
    return wrong("token ", output.token.token_id(), " as number ", client.heard, ", not ",
                 client.answer[client.heard]);
  }
  if (output.num_sampled != ++client.heard) return wrong("a wrong count of tokens");
  if (output.cached_tokens >= client.num_prompt) return wrong("that all of its prompt was cached");
  if (client.prompt_logprobs && client.logprobs_heard + 1 != client.num_prompt) {
    return wrong("a token before the log probabilities of its prompt");
  }
  const bool last = client.heard == client.answer.size();
  if (output.finish_reason != (last ? client.reason : v1::FINISH_REASON_UNSPECIFIED)) {
    return wrong("a wrong reason to end: ", v1::FinishReason_Name(output.finish_reason));
  }
  if (last) open_.erase(found);
  return absl::OkStatus();
}

}  // namespace trireme::simulation
