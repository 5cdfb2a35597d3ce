#include "cluster/sampling_flags.h"

namespace trireme {

void SamplingFlags::Define(CLI::App& command) {
  const auto option = [&command](const char* name, auto& value, const char* help) {
    command.add_option(name, value, help)->group("Sampling");
  };
  option("--max-tokens", max_tokens_, "new tokens at most");
  option("--temperature", temperature_, "0 is greedy");
  option("--top-p", top_p_, "nucleus: smallest set of tokens with this probability");
  option("--top-k", top_k_, "the k most probable tokens; 0 keeps all");
  option("--min-p", min_p_, "tokens at least this likely relative to the best");
  option("--repetition-penalty", repetition_penalty_, "over prompt and output; 1 is none");
  option("--presence-penalty", presence_penalty_, "-2 to 2, over the output");
  option("--frequency-penalty", frequency_penalty_, "-2 to 2, over the output");
  option("--stop", stop_, "text that ends the answer; may be repeated");
  option("--stop-token-id", stop_token_ids_, "token id that ends the answer; may be repeated");
  option("--seed", seed_, "same seed, same answer");
  option("--logprobs", logprobs_, "log probabilities of so many top tokens (with --json)");
  option("--n", n_, "continuations");
  command.add_flag("--ignore-eos", ignore_eos_, "go on past the model's end token")
      ->group("Sampling");
}

v1::SamplingParams SamplingFlags::Params() const {
  v1::SamplingParams params;
  if (max_tokens_) params.set_max_tokens(*max_tokens_);
  if (temperature_) params.set_temperature(*temperature_);
  if (top_p_) params.set_top_p(*top_p_);
  if (top_k_) params.set_top_k(*top_k_);
  if (min_p_) params.set_min_p(*min_p_);
  if (repetition_penalty_) params.set_repetition_penalty(*repetition_penalty_);
  if (presence_penalty_) params.set_presence_penalty(*presence_penalty_);
  if (frequency_penalty_) params.set_frequency_penalty(*frequency_penalty_);
  for (const std::string& stop : stop_) params.add_stop(stop);
  for (const int32_t id : stop_token_ids_) params.add_stop_token_ids(id);
  if (seed_) params.set_seed(*seed_);
  if (logprobs_) params.set_logprobs(*logprobs_);
  if (n_) params.set_n(*n_);
  if (ignore_eos_) params.set_ignore_eos(true);
  return params;
}

}  // namespace trireme
