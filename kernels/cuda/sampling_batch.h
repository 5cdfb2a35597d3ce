#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cuda/sampling_params.h"

namespace trireme::cuda {

// A row as its owner knows it.
struct SamplingRow {
  SamplingParams params = {};  // without the biases
  std::span<const int32_t> bias_ids = {};
  std::span<const float> biases = {};
};

// The rows of one step, in the form that is uploaded.
class SamplingBatch {
 public:
  explicit SamplingBatch(int32_t vocab_size) : vocab_size_(vocab_size) {}

  // InvalidArgument, and nothing added, for what the kernels cannot take.
  absl::Status Add(const SamplingRow& row);
  // Rows up to the size of a bucket that compute nothing.
  void PadTo(size_t rows) { params_.resize(rows); }

  std::span<const SamplingParams> params() const { return params_; }
  std::span<const TokenBias> biases() const { return biases_; }
  const SamplingNeeds& needs() const { return needs_; }

 private:
  int32_t vocab_size_;
  std::vector<SamplingParams> params_;
  std::vector<TokenBias> biases_;
  SamplingNeeds needs_;
};

// Each token of prompt and output once, in the order of first occurrence.
std::vector<SeenToken> CountSeen(std::span<const int32_t> token_ids, size_t prompt_tokens);

}  // namespace trireme::cuda
