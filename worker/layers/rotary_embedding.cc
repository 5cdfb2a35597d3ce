#include "worker/layers/rotary_embedding.h"

#include <algorithm>
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

// The pair that makes this many turns within the original context, as a real number.
double PairOfTurns(const ModelConfig& config, double turns) {
  const double radians = turns * 2 * std::numbers::pi;
  return static_cast<double>(config.head_dim) *
         std::log(static_cast<double>(config.rope_original_max_position) / radians) /
         (2 * std::log(config.rope_theta));
}

// YaRN (arXiv 2309.00071): pairs that turn fast are kept, slow ones slowed by `factor`, and between
// them it goes over evenly.
float ScaleYarn(const ModelConfig& config, int64_t pair, float inverse_frequency) {
  double low = PairOfTurns(config, config.rope_beta_fast);
  double high = PairOfTurns(config, config.rope_beta_slow);
  if (config.rope_truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  const double last = static_cast<double>(config.head_dim - 1);
  low = std::clamp(low, 0.0, last);
  high = std::min(high, last);
  if (low == high) high += 0.001;
  const float ramp =
      (static_cast<float>(pair) - static_cast<float>(low)) / static_cast<float>(high - low);
  const float slowed = std::clamp(ramp, 0.0f, 1.0f);
  const float factor = static_cast<float>(config.rope_factor);
  return inverse_frequency / factor * slowed + inverse_frequency * (1.0f - slowed);
}

float InverseFrequency(double theta, int64_t pair, int64_t head_dim) {
  const float exponent = static_cast<float>(2 * pair) / static_cast<float>(head_dim);
  return 1.0f / static_cast<float>(std::pow(theta, exponent));
}

}  // namespace

RotaryEmbedding::RotaryEmbedding(const ModelConfig& config)
    : magnitude_(static_cast<float>(config.rope_attention_factor)) {
  const std::vector<float>& factors = config.rope_freq_factors;
  CHECK(factors.empty() || static_cast<int64_t>(factors.size()) == config.head_dim / 2);
  for (int64_t pair = 0; pair < config.head_dim / 2; ++pair) {
    float inverse = InverseFrequency(config.rope_theta, pair, config.head_dim);
    if (config.rope_scaling == RopeScaling::kLinear) {
      inverse /= static_cast<float>(config.rope_factor);
    } else if (config.rope_scaling == RopeScaling::kLlama3) {
      inverse = ScaleLlama3(config, inverse);
    } else if (config.rope_scaling == RopeScaling::kYarn) {
      inverse = ScaleYarn(config, pair, inverse);
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
    angles.cos.push_back(static_cast<float>(std::cos(angle)) * magnitude_);
    angles.sin.push_back(static_cast<float>(std::sin(angle)) * magnitude_);
  }
}

}  // namespace trireme
