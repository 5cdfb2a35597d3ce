#include "cluster/bench_serve_workload.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace trireme {
namespace {

// Streams of the seed, beside those of the measured requests, which are their numbers.
constexpr uint64_t kWarmupStream = uint64_t{1} << 61;
constexpr uint64_t kPrefixStream = uint64_t{1} << 62;
constexpr uint64_t kIntruderStream = uint64_t{1} << 63;

}  // namespace

absl::StatusOr<Workload> Workload::Create(const WorkloadOptions& options, uint32_t max_model_len,
                                          uint32_t vocab_size) {
  if (vocab_size == 0 || max_model_len < 2) {
    return absl::FailedPreconditionError(absl::StrCat("the server's model has a vocabulary of ",
                                                      vocab_size, " tokens and a context of ",
                                                      max_model_len, "; it cannot be measured"));
  }
  const uint64_t input = uint64_t{options.prefix_len} + options.input_len->Min();
  const uint64_t output = options.output_len->Min();
  if (input + output > max_model_len) {
    return absl::InvalidArgumentError(absl::StrCat(
        "prompts of ", input, " tokens or more and answers of ", output,
        " or more exceed the server's context of ", max_model_len,
        " tokens; ask for less, or raise --max-model-len of trireme-coordinator as far as the "
        "model and the workers' KV cache go"));
  }
  if (uint64_t{options.intrude_len} + 1 > max_model_len) {
    return absl::InvalidArgumentError(
        absl::StrCat("--intrude-len ", options.intrude_len,
                     " does not leave room for a token in the server's "
                     "context of ",
                     max_model_len));
  }
  return Workload(options, max_model_len, vocab_size);
}

Workload::Workload(const WorkloadOptions& options, uint32_t max_model_len, uint32_t vocab_size)
    : options_(options), max_model_len_(max_model_len), vocab_size_(vocab_size) {
  if (options_.prefix_len == 0) return;
  for (uint32_t i = 0; i < options_.prefix_count; ++i) {
    Random random(options_.seed, kPrefixStream + i);
    AddTokens(random, options_.prefix_len, prefixes_.emplace_back());
  }
}

Workload::Request Workload::Make(uint64_t number) const {
  return MakeFrom(Random(options_.seed, number), number);
}

Workload::Request Workload::MakeWarmup(uint64_t number) const {
  return MakeFrom(Random(options_.seed, kWarmupStream + number), number);
}

Workload::Request Workload::MakeIntruder() const {
  Random random(options_.seed, kIntruderStream);
  Request request;
  AddTokens(random, options_.intrude_len, *request.message.mutable_prompt_token_ids());
  SetRest(random, 1, request.message);
  return request;
}

Workload::Request Workload::MakeFrom(Random random, uint64_t number) const {
  const uint32_t room = max_model_len_ - options_.prefix_len;
  const uint32_t wanted_input = options_.input_len->Draw(random);
  const uint32_t wanted_output = options_.output_len->Draw(random);
  const uint32_t input = std::min(wanted_input, room - options_.output_len->Min());
  const uint32_t output = std::min(wanted_output, room - input);
  Request request;
  request.clamped = input != wanted_input || output != wanted_output;
  v1::TokenIds& prompt = *request.message.mutable_prompt_token_ids();
  if (!prefixes_.empty()) prompt = prefixes_[random.Below(prefixes_.size())];
  AddTokens(random, input, prompt);
  SetRest(random, output, request.message);
  if (options_.tenants > 0) {
    request.message.mutable_scheduling()->set_tenant(
        absl::StrCat("bench-", number % options_.tenants));
  }
  return request;
}

void Workload::AddTokens(Random& random, uint32_t count, v1::TokenIds& prompt) const {
  prompt.mutable_ids()->Reserve(prompt.ids_size() + static_cast<int>(count));
  for (uint32_t i = 0; i < count; ++i) {
    prompt.add_ids(static_cast<int32_t>(random.Below(vocab_size_)));
  }
}

void Workload::SetRest(Random& random, uint32_t max_tokens, v1::GenerateRequest& message) const {
  v1::SamplingParams& sampling = *message.mutable_sampling();
  sampling.set_max_tokens(max_tokens);
  sampling.set_ignore_eos(options_.ignore_eos);
  sampling.set_temperature(options_.random_sampling ? 1 : 0);
  if (options_.random_sampling) sampling.set_seed(random.Next());
  if (options_.priority != v1::PRIORITY_UNSPECIFIED) {
    message.mutable_scheduling()->set_priority(options_.priority);
  }
}

}  // namespace trireme
