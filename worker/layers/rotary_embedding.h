#pragma once

#include <cstdint>
#include <vector>

#include "kernels/step_batch.h"
#include "parallel/model_config.h"

namespace trireme {

// Angles of rotary position embeddings (Su et al. 2021), with the frequency scaling of the config
// ("linear", "llama3", "yarn", and factors for each frequency). Computed in float32 as the
// reference implementation does, since at large positions the rounding of position * frequency
// shows.
class RotaryEmbedding {
 public:
  explicit RotaryEmbedding(const ModelConfig& config);
  // Of windowed layers, where config.rope_local_theta gives them a base of their own.
  static RotaryEmbedding Local(const ModelConfig& config);

  // Appends head_dim / 2 cosines and sines of one position.
  void Append(int64_t position, RopeAngles& angles) const;

 private:
  RotaryEmbedding() = default;

  std::vector<float> inverse_frequency_;
  float magnitude_ = 1.0f;  // of cosines and sines
};

}  // namespace trireme
