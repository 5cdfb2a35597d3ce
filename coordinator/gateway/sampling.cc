#include "coordinator/gateway/sampling.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"

namespace trireme {
namespace {

using Json = nlohmann::json;

constexpr size_t kJsonBytesMax = 16 << 20;
constexpr int kStopStringsMax = 16;
constexpr size_t kStopBytesMax = 256;
constexpr int kStopTokensMax = 64;
constexpr uint32_t kLogprobsMax = 20;
constexpr uint32_t kContinuationsMax = 128;
constexpr int kBiasesMax = 1024;
constexpr float kBiasMax = 100;

absl::StatusOr<Json> ReadJson(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kJsonBytesMax));
  Json json = Json::parse(text, /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), " is not a JSON object"));
  }
  return json;
}

// Takes `key` into `value` if it is there; null counts as absent.
template <typename T>
absl::Status TakeNumber(const Json& json, const char* key, const std::filesystem::path& path,
                        double low, double high, T& value) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return absl::OkStatus();
  const double number = found->is_number() ? found->get<double>() : std::nan("");
  if (!(number >= low && number <= high)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), ": \"", key, "\" must be a number from ", low, " to ", high));
  }
  value = static_cast<T>(number);
  return absl::OkStatus();
}

// "eos_token_id": a number, a list of numbers, or absent.
absl::Status TakeEosIds(const Json& json, const std::filesystem::path& path, uint32_t vocab_size,
                        std::vector<int32_t>& ids) {
  const auto found = json.find("eos_token_id");
  if (found == json.end() || found->is_null()) return absl::OkStatus();
  const Json list = found->is_array() ? *found : Json::array({*found});
  for (const Json& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          path.string(), ": \"eos_token_id\" must be one or more token ids below ", vocab_size));
    }
    ids.push_back(id.get<int32_t>());
  }
  return absl::OkStatus();
}

absl::Status OutOfRange(const char* name, double value, const char* bounds) {
  return absl::InvalidArgumentError(absl::StrCat(name, " is ", value, "; it must be ", bounds));
}

bool Within(float value, float low, float high) { return value >= low && value <= high; }

// n and best_of, and what choosing the best needs.
absl::Status ResolveContinuations(const v1::SamplingParams& params, ResolvedSampling& resolved) {
  resolved.n = params.has_n() ? params.n() : 1;
  if (resolved.n < 1 || resolved.n > kContinuationsMax) {
    return OutOfRange("n", resolved.n, "from 1 to 128");
  }
  resolved.best_of = params.has_best_of() ? params.best_of() : resolved.n;
  if (resolved.best_of < resolved.n || resolved.best_of > kContinuationsMax) {
    return OutOfRange("best_of", resolved.best_of, "from n to 128");
  }
  return absl::OkStatus();
}

absl::Status ResolveStep(const v1::SamplingParams& params, const SamplingContext& context,
                         v1::StepSampling& step) {
  const SamplingDefaults& defaults = *context.defaults;
  step.set_temperature(params.has_temperature() ? params.temperature() : defaults.temperature);
  step.set_top_p(params.has_top_p() ? params.top_p() : defaults.top_p);
  step.set_top_k(params.has_top_k() ? params.top_k() : defaults.top_k);
  if (step.top_k() == -1) step.set_top_k(0);
  step.set_min_p(params.has_min_p() ? params.min_p() : defaults.min_p);
  step.set_repetition_penalty(params.has_repetition_penalty() ? params.repetition_penalty()
                                                              : defaults.repetition_penalty);
  step.set_presence_penalty(params.presence_penalty());
  step.set_frequency_penalty(params.frequency_penalty());
  step.set_seed(params.has_seed() ? params.seed() : context.drawn_seed);
  if (params.has_logprobs()) step.set_logprobs(params.logprobs());
  if (params.has_prompt_logprobs()) step.set_prompt_logprobs(params.prompt_logprobs());
  const std::map<int32_t, float> in_order(params.logit_bias().begin(), params.logit_bias().end());
  for (const auto& [id, bias] : in_order) {
    step.add_bias_ids(id);
    step.add_bias(bias);
  }
  return CheckStepSampling(step, context.vocab_size);
}

absl::Status ResolveStops(const v1::SamplingParams& params, const SamplingContext& context,
                          ResolvedSampling& resolved) {
  if (params.stop_size() > kStopStringsMax) {
    return OutOfRange("the number of stop strings", params.stop_size(), "at most 16");
  }
  for (const std::string& stop : params.stop()) {
    if (stop.empty() || stop.size() > kStopBytesMax) {
      return OutOfRange("the length of a stop string", static_cast<double>(stop.size()),
                        "from 1 to 256 bytes");
    }
    resolved.stop.push_back(stop);
  }
  if (params.stop_token_ids_size() > kStopTokensMax) {
    return OutOfRange("the number of stop_token_ids", params.stop_token_ids_size(), "at most 64");
  }
  for (const int32_t id : params.stop_token_ids()) {
    if (id < 0 || static_cast<uint32_t>(id) >= context.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "stop token id ", id, " is outside of the vocabulary of ", context.vocab_size));
    }
    resolved.stop_token_ids.push_back(id);
  }
  if (!params.ignore_eos()) {
    const std::vector<int32_t>& eos = context.defaults->eos_token_ids;
    resolved.stop_token_ids.insert(resolved.stop_token_ids.end(), eos.begin(), eos.end());
  }
  return absl::OkStatus();
}

// The prompt must leave room for at least one token, and max_tokens must fit beside it.
absl::Status ResolveLength(const v1::SamplingParams& params, const SamplingContext& context,
                           ResolvedSampling& resolved) {
  if (context.prompt_tokens == 0) {
    return absl::InvalidArgumentError("the prompt is empty: it has no token to continue from");
  }
  if (context.prompt_tokens >= context.max_model_len) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt has ", context.prompt_tokens, " tokens; the context of ",
                     context.max_model_len, " tokens must leave room for at least one more"));
  }
  const uint32_t room = context.max_model_len - context.prompt_tokens;
  if (!params.has_max_tokens()) {
    const bool fits = context.prompt_tokens < context.default_model_len;
    const uint32_t usual =
        fits ? std::min(room, context.default_model_len - context.prompt_tokens) : room;
    resolved.max_tokens = std::min(usual, context.defaults->max_tokens.value_or(usual));
    return absl::OkStatus();
  }
  if (params.max_tokens() == 0) return OutOfRange("max_tokens", 0, "at least 1");
  if (params.max_tokens() > room) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens ", params.max_tokens(), " and a prompt of ", context.prompt_tokens,
                     " tokens exceed the context of ", context.max_model_len, " tokens; at most ",
                     room, " can be asked for"));
  }
  resolved.max_tokens = params.max_tokens();
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckStepSampling(const v1::StepSampling& step, uint32_t vocab_size) {
  if (!Within(step.temperature(), 0, 100)) {
    return OutOfRange("temperature", step.temperature(), "from 0 (greedy) to 100");
  }
  if (!(step.top_p() > 0 && step.top_p() <= 1)) {
    return OutOfRange("top_p", step.top_p(), "above 0 and at most 1");
  }
  if (step.top_k() < 0) return OutOfRange("top_k", step.top_k(), "0 or -1 (keeps all) or more");
  if (!Within(step.min_p(), 0, 1)) return OutOfRange("min_p", step.min_p(), "from 0 to 1");
  if (!(step.repetition_penalty() > 0 && std::isfinite(step.repetition_penalty()))) {
    return OutOfRange("repetition_penalty", step.repetition_penalty(), "above 0 and finite");
  }
  if (!Within(step.presence_penalty(), -2, 2)) {
    return OutOfRange("presence_penalty", step.presence_penalty(), "from -2 to 2");
  }
  if (!Within(step.frequency_penalty(), -2, 2)) {
    return OutOfRange("frequency_penalty", step.frequency_penalty(), "from -2 to 2");
  }
  if (step.logprobs() > kLogprobsMax) return OutOfRange("logprobs", step.logprobs(), "at most 20");
  if (step.prompt_logprobs() > kLogprobsMax) {
    return OutOfRange("prompt_logprobs", step.prompt_logprobs(), "at most 20");
  }
  if (step.bias_size() > kBiasesMax || step.bias_size() != step.bias_ids_size()) {
    return OutOfRange("the number of logit_bias entries", step.bias_size(), "at most 1024");
  }
  for (int i = 0; i < step.bias_size(); ++i) {
    const int32_t id = step.bias_ids(i);
    if (id < 0 || static_cast<uint32_t>(id) >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "logit_bias: token id ", id, " is outside of the vocabulary of ", vocab_size));
    }
    if (!Within(step.bias(i), -kBiasMax, kBiasMax)) {
      return OutOfRange("a logit_bias", step.bias(i), "from -100 to 100");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<SamplingDefaults> SamplingDefaults::Load(const std::filesystem::path& model,
                                                        uint32_t vocab_size) {
  SamplingDefaults defaults;
  const std::filesystem::path path = model / "generation_config.json";
  const absl::StatusOr<Json> json = ReadJson(path);
  if (json.ok()) {
    constexpr std::array kStated = {"temperature", "top_p", "top_k", "min_p"};
    defaults.stated = std::any_of(kStated.begin(), kStated.end(), [&](const char* key) {
      const auto found = json->find(key);
      return found != json->end() && !found->is_null();
    });
    constexpr double kFloatMax = std::numeric_limits<float>::max();
    uint32_t max_new_tokens = 0;
    RETURN_IF_ERROR(TakeNumber(*json, "temperature", path, 0, 100, defaults.temperature));
    if (const auto found = json->find("do_sample"); found != json->end() && *found == false) {
      defaults.temperature = 0.0f;
      defaults.stated = true;
    }
    RETURN_IF_ERROR(TakeNumber(*json, "top_p", path, 1e-9, 1, defaults.top_p));
    RETURN_IF_ERROR(TakeNumber(*json, "top_k", path, -1, INT32_MAX, defaults.top_k));
    RETURN_IF_ERROR(TakeNumber(*json, "min_p", path, 0, 1, defaults.min_p));
    RETURN_IF_ERROR(TakeNumber(*json, "repetition_penalty", path, 1e-9, kFloatMax,
                               defaults.repetition_penalty));
    RETURN_IF_ERROR(TakeNumber(*json, "max_new_tokens", path, 1, UINT32_MAX, max_new_tokens));
    if (max_new_tokens > 0) defaults.max_tokens = max_new_tokens;
    RETURN_IF_ERROR(TakeEosIds(*json, path, vocab_size, defaults.eos_token_ids));
  } else if (!absl::IsNotFound(json.status())) {
    return json.status();
  }
  if (defaults.eos_token_ids.empty()) {
    ASSIGN_OR_RETURN(const Json config, ReadJson(model / "config.json"));
    RETURN_IF_ERROR(TakeEosIds(config, model / "config.json", vocab_size, defaults.eos_token_ids));
  }
  return defaults;
}

absl::StatusOr<ResolvedSampling> ResolveSampling(const v1::SamplingParams& params,
                                                 const SamplingContext& context) {
  ResolvedSampling resolved;
  RETURN_IF_ERROR(ResolveStep(params, context, resolved.step));
  RETURN_IF_ERROR(ResolveStops(params, context, resolved));
  RETURN_IF_ERROR(ResolveContinuations(params, resolved));
  resolved.skip_special_tokens = !params.has_skip_special_tokens() || params.skip_special_tokens();
  RETURN_IF_ERROR(ResolveLength(params, context, resolved));
  return resolved;
}

}  // namespace trireme
