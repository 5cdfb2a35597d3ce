#include "coordinator/gateway/gguf_sampling.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <string_view>

#include "base/status_macros.h"
#include "coordinator/text/gguf_tokens.h"

namespace trireme {
namespace {

constexpr std::array kEndKeys = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                 "tokenizer.ggml.eom_token_id"};
constexpr std::array kStatedKeys = {"general.sampling.temp", "general.sampling.top_p",
                                    "general.sampling.top_k", "general.sampling.min_p"};

absl::Status TakeEndTokens(const GgufFile& file, uint32_t vocab_size, std::vector<int32_t>& ids) {
  for (const char* key : kEndKeys) {
    if (!file.Has(key)) continue;
    ASSIGN_OR_RETURN(const int64_t id, file.Whole(key, 0, int64_t{vocab_size} - 1));
    ids.push_back(static_cast<int32_t>(id));
  }
  if (file.Has("tokenizer.ggml.tokens")) {
    ASSIGN_OR_RETURN(const GgufTokens tokens, GgufTokens::Read(file));
    std::copy_if(tokens.end_ids.begin(), tokens.end_ids.end(), std::back_inserter(ids),
                 [&](int32_t id) { return static_cast<uint32_t>(id) < vocab_size; });
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return absl::OkStatus();
}

absl::Status TakeReal(const GgufFile& file, std::string_view key, double min, double max,
                      float& value) {
  ASSIGN_OR_RETURN(const double found, file.Real(key, min, max, value));
  value = static_cast<float>(found);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SamplingDefaults> GgufSamplingDefaults(const GgufFile& file, uint32_t vocab_size) {
  SamplingDefaults defaults;
  defaults.stated = std::any_of(kStatedKeys.begin(), kStatedKeys.end(),
                                [&](const char* key) { return file.Has(key); });
  RETURN_IF_ERROR(TakeReal(file, "general.sampling.temp", 0, 100, defaults.temperature));
  RETURN_IF_ERROR(TakeReal(file, "general.sampling.top_p", 1e-9, 1, defaults.top_p));
  RETURN_IF_ERROR(TakeReal(file, "general.sampling.min_p", 0, 1, defaults.min_p));
  RETURN_IF_ERROR(TakeReal(file, "general.sampling.penalty_repeat", 1e-9,
                           std::numeric_limits<float>::max(), defaults.repetition_penalty));
  ASSIGN_OR_RETURN(const int64_t top_k,
                   file.Whole("general.sampling.top_k", -1, INT32_MAX, defaults.top_k));
  defaults.top_k = static_cast<int32_t>(top_k);
  RETURN_IF_ERROR(TakeEndTokens(file, vocab_size, defaults.eos_token_ids));
  return defaults;
}

}  // namespace trireme
