#include "worker/layers/rotary_embedding.h"

#include <cmath>
#include <numbers>

#include "base/check.h"

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

float InverseFrequency(double theta, int64_t pair, int64_t head_dim) {
  const float exponent = static_cast<float>(2 * pair) / static_cast<float>(head_dim);
  return 1.0f / static_cast<float>(std::pow(theta, exponent));
}

}  // namespace

RotaryEmbedding::RotaryEmbedding(const ModelConfig& config) {
  const std::vector<float>& factors = config.rope_freq_factors;
  CHECK(factors.empty() || static_cast<int64_t>(factors.size()) == config.head_dim / 2);
  for (int64_t pair = 0; pair < config.head_dim / 2; ++pair) {
    float inverse = InverseFrequency(config.rope_theta, pair, config.head_dim);
    if (config.rope_scaling == RopeScaling::kLinear) {
      inverse /= static_cast<float>(config.rope_factor);
    } else if (config.rope_scaling == RopeScaling::kLlama3) {
      inverse = ScaleLlama3(config, inverse);
    }
    if (!factors.empty()) inverse /= factors[static_cast<size_t>(pair)];
    inverse_frequency_.push_back(inverse);
  }
}

RotaryEmbedding RotaryEmbedding::Local(const ModelConfig& config) {
  RotaryEmbedding local;
  for (int64_t pair = 0; pair < config.head_dim / 2; ++pair) {
    local.inverse_frequency_.push_back(
        InverseFrequency(config.rope_local_theta, pair, config.head_dim));
  }
  return local;
}

void RotaryEmbedding::Append(int64_t position, RopeAngles& angles) const {
  for (const float inverse : inverse_frequency_) {
    const double angle = static_cast<float>(position) * inverse;
    angles.cos.push_back(static_cast<float>(std::cos(angle)));
    angles.sin.push_back(static_cast<float>(std::sin(angle)));
  }
}

}  // namespace trireme
