#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "trireme/v1/inference.grpc.pb.h"

namespace trireme::fault {

// All that a client learns of one of its request's continuations, but times.
struct Continuation {
  std::vector<int32_t> token_ids;
  std::string text;
  std::string logprobs;  // their bits
  v1::FinishReason finish_reason = v1::FINISH_REASON_UNSPECIFIED;

  bool operator==(const Continuation&) const = default;
};

struct Answer {
  std::vector<Continuation> continuations;
  uint32_t prompt_tokens = 0;
  uint32_t completion_tokens = 0;

  bool operator==(const Answer&) const = default;
};

// Requests that differ in all that could go wrong: greedy and seeded, several continuations,
// penalties, log probabilities, stop strings, prompts of many lengths.
std::vector<v1::GenerateRequest> MakeRequests(int count, uint64_t seed);

// `on_message` is called for each message as it comes. UNAVAILABLE: refused before it began, with a
// hint to try again.
absl::StatusOr<Answer> Ask(v1::Inference::Stub& stub, const v1::GenerateRequest& request,
                           const std::function<void()>& on_message);

// What became of the tokens of an answer that should be another.
struct Damage {
  size_t lost = 0;
  size_t surplus = 0;
  size_t differing = 0;
};
Damage Compare(const Answer& want, const Answer& got);

}  // namespace trireme::fault
