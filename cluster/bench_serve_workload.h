#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cluster/bench_serve_random.h"
#include "trireme/v1/inference.pb.h"

namespace trireme {

struct WorkloadOptions {
  std::optional<LengthDistribution> input_len = {};  // without the shared prefix; must be set
  std::optional<LengthDistribution> output_len = {};
  uint32_t prefix_len = 0;
  uint32_t prefix_count = 1;
  uint32_t tenants = 0;          // 0: requests name none
  uint32_t intrude_len = 0;      // 0: no intruder
  bool ignore_eos = true;        // so that answers have the length that was drawn
  bool random_sampling = false;  // temperature 1 and a seed instead of greedy
  v1::Priority priority = v1::PRIORITY_UNSPECIFIED;
  uint64_t seed = 0;
};

// The requests of a load. Each is a function of the seed and its number alone, so that a load can
// be repeated, and made while it runs.
class Workload {
 public:
  struct Request {
    v1::GenerateRequest message;
    bool clamped = false;  // shortened to fit the context
  };

  // Fails if the shortest requests exceed the context.
  static absl::StatusOr<Workload> Create(const WorkloadOptions& options, uint32_t max_model_len,
                                         uint32_t vocab_size);

  // A prompt of random tokens behind a random one of the shared prefixes; tenants take turns.
  // Lengths that exceed the context are shortened, the input first.
  Request Make(uint64_t number) const;
  // Requests that are not measured: of the same lengths and prefixes, otherwise other tokens.
  Request MakeWarmup(uint64_t number) const;
  // The long prompt of `intrude_len` tokens, without a shared prefix, that asks for one token.
  Request MakeIntruder() const;

 private:
  Workload(const WorkloadOptions& options, uint32_t max_model_len, uint32_t vocab_size);
  Request MakeFrom(Random random, uint64_t number) const;
  void AddTokens(Random& random, uint32_t count, v1::TokenIds& prompt) const;
  void SetRest(Random& random, uint32_t max_tokens, v1::GenerateRequest& message) const;

  WorkloadOptions options_;
  uint32_t max_model_len_;
  uint32_t vocab_size_;
  std::vector<v1::TokenIds> prefixes_;
};

}  // namespace trireme
