#pragma once

#include <grpcpp/support/status_code_enum.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace trireme {

// What the client saw of one request. Times are seconds since the start of the measurement.
struct RequestRecord {
  struct Message {
    double at_s = 0;
    uint32_t tokens = 0;  // more than one if the server merged messages; never 0
  };

  double start_s = 0;  // when it was sent
  double lag_s = 0;    // how much later than the load asked for
  double end_s = 0;    // when its status came
  uint32_t prompt_tokens = 0;
  uint32_t wanted_tokens = 0;
  uint32_t cached_tokens = 0;  // as the server says
  bool clamped = false;
  std::vector<Message> messages = {};
  grpc::StatusCode code = grpc::StatusCode::OK;
  std::string error = {};
  std::optional<std::string> retry_after = {};  // seconds, as the server sent them

  uint64_t Tokens() const;
  // Refused at the door: RESOURCE_EXHAUSTED before the first token.
  bool Refused() const;
};

// The value below which `percent` of the values lie, interpolated between the nearest two as
// numpy.percentile does; 0 of none. `sorted` ascends.
double Percentile(const std::vector<double>& sorted, double percent);

struct Summary {
  size_t count = 0;
  double mean = 0, p50 = 0, p90 = 0, p95 = 0, p99 = 0, max = 0;

  static Summary Of(std::vector<double> values);
};

// Limits in milliseconds that an answer must meet to be good.
struct GoodputLimits {
  std::optional<double> ttft_ms = {}, tpot_ms = {}, e2e_ms = {};

  // "ttft:MS,tpot:MS,e2e:MS", in any order and number.
  static absl::StatusOr<GoodputLimits> Parse(const std::string& text);
};

// Latencies, in milliseconds:
//   TTFT  from the sending of a request to its first message with tokens
//   TPOT  from the first token to the last, divided by the tokens after the first
//   ITL   from a token to the next. A message of k tokens that comes d after the one before gives k
//         gaps of d / k; tokens that come together with the first give gaps of 0. So the gaps of an
//         answer always add up to the time from its first token to its last.
//   E2E   from the sending to the status
// TTFT, TPOT and E2E are those of completed requests; ITL is that of every gap that was seen.
struct Report {
  struct Goodput {
    uint64_t good = 0;
    double share = 0;  // of all requests: who was refused was not served well
    double requests_per_s = 0;
  };
  // What the long prompt did to the others.
  struct Intrusion {
    RequestRecord record;
    double window_s = 0;  // from its sending to its first token (or its end without one)
    Summary itl_during;   // of the others: gaps that overlap the window
    Summary itl_outside;  // and those that do not
  };

  double duration_s = 0;  // from the first sending to the last status
  uint64_t requests = 0;  // answered in any way: completed + refused + failed
  uint64_t completed = 0;
  uint64_t short_answers = 0;  // of the completed: with fewer tokens than asked for
  uint64_t refused = 0;
  uint64_t refused_with_retry_after = 0;
  uint64_t failed = 0;
  uint64_t clamped = 0;
  std::map<std::string, uint64_t> failed_by_code;
  std::map<std::string, std::string> error_examples;  // by code, of refused ones too
  uint64_t input_tokens = 0;                          // of completed requests
  uint64_t output_tokens = 0;                         // of completed requests
  uint64_t partial_tokens = 0;                        // of those that failed on the way
  uint64_t cached_tokens = 0;                         // of completed requests
  double lag_ms_max = 0;
  Summary ttft_ms, tpot_ms, itl_ms, e2e_ms;
  std::optional<Goodput> goodput;
  std::optional<Intrusion> intrusion;

  double RequestsPerS() const { return PerSecond(completed); }
  double OutputTokensPerS() const { return PerSecond(output_tokens); }
  double TotalTokensPerS() const { return PerSecond(input_tokens + output_tokens); }

 private:
  double PerSecond(uint64_t count) const {
    return duration_s > 0 ? static_cast<double>(count) / duration_s : 0;
  }
};

// `intruder` is none of `records`.
Report MakeReport(const std::vector<RequestRecord>& records,
                  const std::optional<GoodputLimits>& limits,
                  const std::optional<RequestRecord>& intruder);

// "UNAVAILABLE", as gRPC's documentation spells it.
std::string CodeName(grpc::StatusCode code);

}  // namespace trireme
