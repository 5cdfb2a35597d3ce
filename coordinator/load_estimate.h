#pragma once

#include <cstdint>
#include <optional>

namespace trireme {

// How fast the gang has been lately, and what follows for who comes now. Step time is modelled as
// base + slope * tokens, fitted by least squares over steps that count less the older they are.
// Pure; not thread safe. Times in milliseconds.
class LoadEstimate {
 public:
  void AddStep(uint32_t tokens, double step_ms);
  // A sequence has ended with so many output tokens, at this time of a steady clock, while others
  // waited for its place or not.
  void AddFinished(uint32_t output_tokens, double now_ms, bool others_wait);

  bool known() const { return weight_ > 0; }
  double StepMs(double tokens) const;

  // Tokens of a step that takes `target_ms`; nothing if that is not known yet.
  std::optional<uint32_t> TokensWithin(double target_ms) const;

  struct Queue {
    uint64_t tokens_ahead = 0;     // prompt tokens computed before, and with, the new request's own
    uint64_t sequences_ahead = 0;  // waiting that go first
    uint64_t running = 0;
    uint64_t running_max = 1;
    uint32_t tokens_per_step = 1;  // at most
  };
  // Until the first token of a new request; 0 if nothing is known.
  double FirstTokenMs(const Queue& queue) const;
  // Until its last, if it is of usual length and has at most `max_tokens`.
  double TotalMs(const Queue& queue, uint32_t max_tokens) const;

 private:
  // Sums over steps: x tokens, y milliseconds.
  double weight_ = 0, sum_x_ = 0, sum_y_ = 0, sum_xx_ = 0, sum_xy_ = 0;
  double output_tokens_ = 0;    // of a usual sequence
  double finish_gap_ms_ = 0;    // between two ends of sequences
  double last_finish_ms_ = -1;  // negative: none yet
};

}  // namespace trireme
