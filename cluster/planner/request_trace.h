#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "cluster/bench_serve_random.h"
#include "cluster/planner/simulation.h"

namespace trireme {

// A trace is a text with a JSON object in each line, in any order of arrival:
//   {"arrival_s": 0.25, "prompt_tokens": 812, "output_tokens": 120}
// Arrivals are 0 to 1e8 seconds, prompt and answer at least a token each and together at most
// `context`; other keys are ignored, empty lines too. At most 1,000,000 requests, of a GiB of text.
// INVALID_ARGUMENT names the file (`name`) and the line. The result is ordered by arrival.
absl::StatusOr<std::vector<TraceRequest>> ParseTrace(std::string_view text, std::string_view name,
                                                     int64_t context);
absl::StatusOr<std::vector<TraceRequest>> ReadTrace(const std::filesystem::path& path,
                                                    int64_t context);

struct GeneratedTrace {
  uint64_t requests = 1000;
  double rate = 1;  // a second, on average
  LengthDistribution input_len;
  LengthDistribution output_len;
  uint64_t seed = 0;
};

// The requests that `trireme bench serve` sends with the same rate, lengths and seed to a server of
// this context.
absl::StatusOr<std::vector<TraceRequest>> GenerateTrace(const GeneratedTrace& options,
                                                        int64_t context);

}  // namespace trireme
