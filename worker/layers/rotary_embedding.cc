#include "worker/layers/rotary_embedding.h"

#include <cmath>
#include <numbers>

namespace trireme {
namespace {

// Llama 3.1: low frequencies are slowed by `factor`, high ones kept, those between interpolated.
float ScaleLlama3(const ModelConfig& config, float inverse_frequency) {
  const float original = static_cast<float>(config.rope_original_max_position);
  const float low = static_cast<float>(config.rope_low_freq_factor);
  const float high = static_cast<float>(config.rope_high_freq_factor);
  const float factor = static_cast<float>(config.rope_factor);
  const float wavelength = 2.0f * std::numbers::pi_v<float> / inverse_frequency;
  if (wavelength < original / high) return inverse_frequency;
  if (wavelength > original / low) return inverse_frequency / factor;
  const float smooth = (original / wavelength - low) / (high - low);
  return (1.0f - smooth) * inverse_frequency / factor + smooth * inverse_frequency;
}

}  // namespace

RotaryEmbedding::RotaryEmbedding(const ModelConfig& config) {
  for (int64_t i = 0; i < config.head_dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(config.head_dim);
    float inverse = 1.0f / static_cast<float>(std::pow(config.rope_theta, exponent));
    if (config.rope_scaling == RopeScaling::kLinear) {
      inverse /= static_cast<float>(config.rope_factor);
    } else if (config.rope_scaling == RopeScaling::kLlama3) {
      inverse = ScaleLlama3(config, inverse);
    }
    inverse_frequency_.push_back(inverse);
  }
}

void RotaryEmbedding::Append(int64_t position, std::vector<float>& cos,
                             std::vector<float>& sin) const {
  for (const float inverse : inverse_frequency_) {
    const double angle = static_cast<float>(position) * inverse;
    cos.push_back(static_cast<float>(std::cos(angle)));
    sin.push_back(static_cast<float>(std::sin(angle)));
  }
}

}  // namespace trireme
