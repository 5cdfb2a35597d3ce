#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "coordinator/sequence.h"

namespace trireme {

// Whose sequences share the workers by weight. Lives as long as it has any, at least.
struct Tenant {
  static constexpr size_t kClasses = 3;
  std::string name;
  double weight = 1;
  double served = 0;                                           // tokens, divided by the weight
  uint64_t members = 0;                                        // sequences, in any state
  std::array<std::map<uint64_t, Sequence*>, kClasses> queues;  // those that wait, by id
};

// The sequences that wait for a place, and whose turn it is:
//   1. who has waited for more than `starvation_steps`, the longest waiting first;
//   2. the highest priority class;
//   3. within it, the tenant that has had the least service for its weight (virtual token counters:
//      Sheng et al. 2024; a tenant that comes back from idleness starts level with the others);
//   4. within it, the oldest.
// Pure; not thread safe. Does not own the sequences.
class WaitQueue {
 public:
  struct Options {
    uint64_t starvation_steps = 2000;
    std::map<std::string, double> tenant_weights;  // above 0; 1 for who is not named
  };
  explicit WaitQueue(Options options) : options_(std::move(options)) {}

  // A new sequence of a tenant, in whatever state; and its end. Until then the tenant stays valid.
  Tenant* Enter(const std::string& tenant);
  void Leave(Tenant* tenant);

  void Push(Sequence& sequence);
  void Remove(const Sequence& sequence);
  // Whose turn it is at this step; null if none waits.
  Sequence* Next(uint64_t step) const;
  bool Starved(const Sequence& sequence, uint64_t step) const {
    return step > sequence.queued_step + options_.starvation_steps;
  }

  size_t size() const { return by_age_.size(); }
  bool empty() const { return by_age_.empty(); }
  // In any state.
  size_t TenantSequences(const std::string& tenant) const;
  // Prompt and output tokens that are to be computed before a new sequence of this class would be.
  uint64_t TokensAhead(v1::Priority priority) const;
  uint64_t SequencesAhead(v1::Priority priority) const;

  absl::Status CheckIntegrity() const;

 private:
  static size_t ClassOf(v1::Priority priority);  // 0 is the highest
  // What the least served tenant that waits in a class has had; if none waits, the last that did.
  double Level(size_t index) const;

  const Options options_;
  std::map<std::string, Tenant> tenants_;
  std::map<std::pair<uint64_t, uint64_t>, Sequence*> by_age_;  // by when they were queued, and id
  std::array<double, Tenant::kClasses> last_level_{};
  std::array<uint64_t, Tenant::kClasses> class_size_{};
  std::array<uint64_t, Tenant::kClasses> class_tokens_{};
};

}  // namespace trireme
