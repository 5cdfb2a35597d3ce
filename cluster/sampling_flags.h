#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "trireme/v1/inference.pb.h"

namespace trireme {

// The request parameters as flags; what is not given is left to the server and the model.
class SamplingFlags {
 public:
  // What every request takes: sampling, and whose request it is.
  void Define(CLI::App& command);
  // What only makes sense where more than one answer, or more than its text, can be shown.
  void DefineForGenerate(CLI::App& command);

  v1::SamplingParams Params() const;
  v1::Scheduling Scheduling() const;

 private:
  std::optional<uint32_t> max_tokens_;
  std::optional<float> temperature_;
  std::optional<float> top_p_;
  std::optional<int32_t> top_k_;
  std::optional<float> min_p_;
  std::optional<float> repetition_penalty_;
  std::optional<float> presence_penalty_;
  std::optional<float> frequency_penalty_;
  std::vector<std::string> stop_;
  std::vector<int32_t> stop_token_ids_;
  std::string logit_bias_;
  std::optional<uint64_t> seed_;
  std::optional<uint32_t> logprobs_;
  std::optional<uint32_t> prompt_logprobs_;
  std::optional<uint32_t> n_;
  std::optional<uint32_t> best_of_;
  bool ignore_eos_ = false;
  std::string priority_;
  std::string tenant_;
  std::string cache_salt_;
};

// Fills in what is not given with llama.cpp's defaults, for a conversation with a model that states
// none: the server's sample from every token there is, as the API's do.
void SetUsualSampling(v1::SamplingParams& params);

// "ID=BIAS,ID=BIAS"; nothing of an empty text. Whether the numbers are allowed is the server's
// matter.
absl::StatusOr<std::vector<std::pair<int32_t, float>>> ParseLogitBias(const std::string& text);

// "batch", "normal" or "high"; anything else is unspecified.
v1::Priority ParsePriority(const std::string& name);

}  // namespace trireme
