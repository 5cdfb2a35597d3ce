#include "coordinator/load_estimate.h"

#include <algorithm>

namespace trireme {
namespace {

// A step counts half after about 20 more: the deeper a prompt, the dearer its tokens.
constexpr double kKeep = 0.97;
constexpr double kKeepFinished = 0.95;

}  // namespace

void LoadEstimate::AddStep(uint32_t tokens, double step_ms) {
  const double x = tokens;
  weight_ = weight_ * kKeep + 1;
  sum_x_ = sum_x_ * kKeep + x;
  sum_y_ = sum_y_ * kKeep + step_ms;
  sum_xx_ = sum_xx_ * kKeep + x * x;
  sum_xy_ = sum_xy_ * kKeep + x * step_ms;
}

void LoadEstimate::AddFinished(uint32_t output_tokens, double now_ms, bool others_wait) {
  output_tokens_ = output_tokens_ == 0
                       ? output_tokens
                       : kKeepFinished * output_tokens_ + (1 - kKeepFinished) * output_tokens;
  // Idle time between two ends says nothing of how fast places come free.
  if (others_wait && last_finish_ms_ >= 0) {
    const double gap = std::max(0.0, now_ms - last_finish_ms_);
    finish_gap_ms_ =
        finish_gap_ms_ == 0 ? gap : kKeepFinished * finish_gap_ms_ + (1 - kKeepFinished) * gap;
  }
  last_finish_ms_ = others_wait ? now_ms : -1;
}

double LoadEstimate::StepMs(double tokens) const {
  if (weight_ <= 0) return 0;
  const double mean_x = sum_x_ / weight_;
  const double mean_y = sum_y_ / weight_;
  const double variance = sum_xx_ / weight_ - mean_x * mean_x;
  // Steps of one size say nothing of the slope: then twice the tokens take twice the time.
  double slope = mean_x > 0 ? mean_y / mean_x : 0;
  if (variance > 0.01 * mean_x * mean_x + 1) {
    slope = std::clamp((sum_xy_ / weight_ - mean_x * mean_y) / variance, 0.0, slope);
  }
  return std::max(0.0, mean_y + slope * (tokens - mean_x));
}

std::optional<uint32_t> LoadEstimate::TokensWithin(double target_ms) const {
  if (!known()) return std::nullopt;
  const double base = StepMs(0);
  const double slope = StepMs(1) - base;
  if (slope <= 0) return std::nullopt;
  return static_cast<uint32_t>(std::clamp((target_ms - base) / slope, 1.0, 1e9));
}

double LoadEstimate::FirstTokenMs(const Queue& queue) const {
  if (!known()) return 0;
  const double room =
      std::max<double>(1, static_cast<double>(queue.tokens_per_step) -
                              static_cast<double>(std::min(queue.running, queue.running_max)));
  const double steps = static_cast<double>(queue.tokens_ahead) / room + 1;
  const double prefill_ms =
      steps * StepMs(std::min<double>(queue.tokens_per_step,
                                      static_cast<double>(queue.tokens_ahead + queue.running)));
  // Every place is taken: as many must end first as go before it.
  const uint64_t wanted = queue.running + queue.sequences_ahead + 1;
  if (wanted <= queue.running_max) return prefill_ms;
  const double running = static_cast<double>(queue.running_max);
  const double gap_ms =
      finish_gap_ms_ > 0 ? finish_gap_ms_ : output_tokens_ * StepMs(running) / running;
  return std::max(prefill_ms, static_cast<double>(wanted - queue.running_max) * gap_ms);
}

double LoadEstimate::TotalMs(const Queue& queue, uint32_t max_tokens) const {
  const double tokens = std::min<double>(max_tokens, std::max(1.0, output_tokens_));
  const double running = static_cast<double>(std::min(queue.running + 1, queue.running_max));
  // While others wait, their prompts are part of the steps that decode, as they have been lately.
  const bool others_wait = queue.running >= queue.running_max || queue.sequences_ahead > 0;
  const double mean_ms = known() && others_wait ? sum_y_ / weight_ : 0;
  return FirstTokenMs(queue) + (tokens - 1) * std::max(StepMs(running), mean_ms);
}

}  // namespace trireme
