#include "cluster/sampling_flags.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace trireme {

void SamplingFlags::Define(CLI::App& command) {
  const auto option = [&command](const char* name, auto& value, const char* help) {
    return command.add_option(name, value, help)->group("Sampling");
  };
  option("--max-tokens", max_tokens_, "new tokens at most");
  option("--temperature", temperature_, "0 is greedy");
  option("--top-p", top_p_, "nucleus: smallest set of tokens with this probability");
  option("--top-k", top_k_, "the k most probable tokens; 0 keeps all");
  option("--min-p", min_p_, "tokens at least this likely relative to the best");
  option("--repetition-penalty", repetition_penalty_, "over prompt and output; 1 is none");
  option("--presence-penalty", presence_penalty_, "-2 to 2, over the output");
  option("--frequency-penalty", frequency_penalty_, "-2 to 2, over the output");
  // One value a flag: the next argument may be the prompt.
  option("--stop", stop_, "text that ends the answer; may be repeated")->allow_extra_args(false);
  option("--stop-token-id", stop_token_ids_, "token id that ends the answer; may be repeated")
      ->allow_extra_args(false);
  option("--logit-bias", logit_bias_, "ID=BIAS,...: added to these tokens' logits, -100 to 100")
      ->check([](const std::string& text) {
        return std::string(ParseLogitBias(text).status().message());
      });
  option("--seed", seed_, "same seed, same answer");
  option("--logprobs", logprobs_,
         "log probabilities of so many top tokens (generate --json shows them)");
  command.add_flag("--ignore-eos", ignore_eos_, "go on past the model's end token")
      ->group("Sampling");
  command.add_option("--priority", priority_, "batch, normal (default) or high")
      ->check(CLI::IsMember({"batch", "normal", "high"}))
      ->group("Scheduling");
  command.add_option("--tenant", tenant_, "whose request it is: tenants share the workers fairly")
      ->group("Scheduling");
  command
      .add_option("--cache-salt", cache_salt_,
                  "only requests with the same tenant and salt share cached prefixes")
      ->group("Scheduling");
}

void SamplingFlags::DefineForGenerate(CLI::App& command) {
  const auto option = [&command](const char* name, auto& value, const char* help) {
    command.add_option(name, value, help)->group("Sampling");
  };
  option("--n", n_, "continuations");
  option("--best-of", best_of_, "continuations that are computed; the --n most probable are shown");
  option("--prompt-logprobs", prompt_logprobs_,
         "log probabilities of so many top tokens at each of the prompt (with --json)");
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
  if (prompt_logprobs_) params.set_prompt_logprobs(*prompt_logprobs_);
  if (n_) params.set_n(*n_);
  if (best_of_) params.set_best_of(*best_of_);
  if (const auto biases = ParseLogitBias(logit_bias_); biases.ok()) {
    for (const auto& [id, bias] : *biases) (*params.mutable_logit_bias())[id] = bias;
  }
  if (ignore_eos_) params.set_ignore_eos(true);
  return params;
}

v1::Scheduling SamplingFlags::Scheduling() const {
  v1::Scheduling scheduling;
  scheduling.set_priority(ParsePriority(priority_));
  scheduling.set_tenant(tenant_);
  scheduling.set_cache_salt(cache_salt_);
  return scheduling;
}

void SetUsualSampling(v1::SamplingParams& params) {
  if (!params.has_temperature()) params.set_temperature(0.8f);
  if (!params.has_top_k()) params.set_top_k(40);
  if (!params.has_top_p()) params.set_top_p(0.95f);
  if (!params.has_min_p()) params.set_min_p(0.05f);
}

absl::StatusOr<std::vector<std::pair<int32_t, float>>> ParseLogitBias(const std::string& text) {
  std::vector<std::pair<int32_t, float>> biases;
  if (text.empty()) return biases;
  const std::vector<std::string> parts = absl::StrSplit(text, ',');
  for (const std::string& part : parts) {
    const std::vector<std::string> pair = absl::StrSplit(part, '=');
    auto& [id, bias] = biases.emplace_back();
    if (pair.size() != 2 || !absl::SimpleAtoi(pair[0], &id) || !absl::SimpleAtof(pair[1], &bias)) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", part, "\" is not ID=BIAS, for example 42=-100"));
    }
  }
  return biases;
}

v1::Priority ParsePriority(const std::string& name) {
  if (name == "batch") return v1::PRIORITY_BATCH;
  if (name == "normal") return v1::PRIORITY_NORMAL;
  if (name == "high") return v1::PRIORITY_HIGH;
  return v1::PRIORITY_UNSPECIFIED;
}

}  // namespace trireme
