#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "trireme/v1/inference.pb.h"

namespace trireme {

// The sampling parameters as flags; what is not given is left to the server and the model.
class SamplingFlags {
 public:
  void Define(CLI::App& command);
  v1::SamplingParams Params() const;

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
  std::optional<uint64_t> seed_;
  std::optional<uint32_t> logprobs_;
  std::optional<uint32_t> n_;
  bool ignore_eos_ = false;
};

}  // namespace trireme
