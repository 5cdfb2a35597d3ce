#include "coordinator/gateway/gguf_sampling.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>

#include "base/status_macros.h"

namespace trireme {
namespace {

constexpr std::array kStatedKeys = {"general.sampling.temp", "general.sampling.top_p",
                                    "general.sampling.top_k", "general.sampling.min_p"};

absl::Status TakeReal(const GgufFile& file, std::string_view key, double min, double max,
                      float& value) {
  ASSIGN_OR_RETURN(const double found, file.Real(key, min, max, value));
  value = static_cast<float>(found);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SamplingDefaults> GgufSamplingDefaults(const GgufFile& file,
                                                      const GgufTokens& tokens) {
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
  defaults.eos_token_ids = tokens.end_ids;
  return defaults;
}

}  // namespace trireme
