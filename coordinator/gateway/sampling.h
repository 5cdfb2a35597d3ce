#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "trireme/v1/inference.pb.h"
#include "trireme/v1/worker.pb.h"

namespace trireme {

// What a model says about sampling: its generation_config.json, or defaults if there is none; or
// the keys of its GGUF file. "do_sample": false means greedy (temperature 0) unless the request has
// a temperature.
struct SamplingDefaults {
  bool stated = false;  // whether the model says anything of the next four
  float temperature = 1.0f;
  float top_p = 1.0f;
  int32_t top_k = 0;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  std::optional<uint32_t> max_tokens;  // "max_new_tokens"
  std::vector<int32_t> eos_token_ids;  // of generation_config.json, or else of config.json

  // Reads the files of a model's directory, of which config.json must be there. The error names the
  // file.
  static absl::StatusOr<SamplingDefaults> Load(const std::filesystem::path& model,
                                               uint32_t vocab_size);
};

// INVALID_ARGUMENT says which parameter is out of bounds.
absl::Status CheckStepSampling(const v1::StepSampling& step, uint32_t vocab_size);

// Sampling parameters with every default filled in and every bound checked.
struct ResolvedSampling {
  v1::StepSampling step;
  uint32_t max_tokens = 0;
  uint32_t n = 1;        // continuations sent
  uint32_t best_of = 1;  // continuations computed
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;  // the model's end tokens included
  bool skip_special_tokens = true;
};

// What sampling parameters are resolved against.
struct SamplingContext {
  const SamplingDefaults* defaults = nullptr;
  uint32_t prompt_tokens = 0;
  uint32_t max_model_len = 0;
  uint32_t default_model_len = 0;  // that an answer of no given length fills, where it can
  uint32_t vocab_size = 0;
  uint64_t drawn_seed = 0;  // for a request without a seed
};

// InvalidArgument says which parameter is wrong, its value and its bounds.
absl::StatusOr<ResolvedSampling> ResolveSampling(const v1::SamplingParams& params,
                                                 const SamplingContext& context);

}  // namespace trireme
