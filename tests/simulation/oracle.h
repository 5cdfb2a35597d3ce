#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/scheduler.h"
#include "coordinator/sequence.h"

namespace trireme::simulation {

// What the client of a sequence must hear: the answer of a model that computes it alone, in one
// piece. Every token once and in order, then nothing; every prompt log probability once and in
// order, before the first token.
class Oracle {
 public:
  explicit Oracle(uint32_t vocab_size) : vocab_size_(vocab_size) {}

  struct Client {
    uint64_t space = 0;
    v1::Priority priority = v1::PRIORITY_NORMAL;
    uint32_t num_prompt = 0;
    uint32_t max_tokens = 0;
    bool prompt_logprobs = false;
    std::vector<float> logprobs;  // of the prompt's tokens from position 1 on
    std::vector<int32_t> answer;  // all of it
    v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;
    uint32_t heard = 0;  // tokens of the answer
    uint32_t logprobs_heard = 0;
  };

  // A sequence as it is given to the scheduler.
  void Add(const Sequence& sequence, uint64_t space);
  absl::Status Hear(const StepOutput& output);
  // The client hears nothing any more.
  void End(uint64_t id) { open_.erase(id); }

  uint64_t SpaceOf(uint64_t id) const { return spaces_.at(id); }
  // Those that have neither heard the end nor gone.
  const std::map<uint64_t, Client>& open() const { return open_; }

 private:
  absl::Status HearToken(const SequenceOutput& output);

  const uint32_t vocab_size_;
  std::map<uint64_t, Client> open_;
  std::map<uint64_t, uint64_t> spaces_;  // of all there ever were
};

}  // namespace trireme::simulation
