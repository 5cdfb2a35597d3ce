#include "coordinator/wait_queue.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace trireme {

namespace {

// Beyond so many tenants, those without sequences are forgotten.
constexpr size_t kTenantsKept = 4096;

}  // namespace

size_t WaitQueue::ClassOf(v1::Priority priority) {
  switch (priority) {
    case v1::PRIORITY_HIGH:
      return 0;
    case v1::PRIORITY_BATCH:
      return 2;
    default:
      return 1;
  }
}

Tenant* WaitQueue::Enter(const std::string& name) {
  const auto [found, is_new] = tenants_.try_emplace(name);
  Tenant& tenant = found->second;
  ++tenant.members;
  if (!is_new) return &tenant;
  tenant.name = name;
  const auto weight = options_.tenant_weights.find(name);
  if (weight != options_.tenant_weights.end()) tenant.weight = weight->second;
  return &tenant;
}

// One without members is kept as long as it has had more than who waits: coming back must not clear
// what it had. If none waits, nobody is owed anything. Where names are made up by the thousand,
// remembering them is worth less than its cost.
void WaitQueue::Leave(Tenant* tenant) {
  CHECK(tenant->members > 0);
  if (--tenant->members > 0) return;
  double least = std::numeric_limits<double>::infinity();
  for (size_t index = 0; index < Tenant::kClasses && tenants_.size() <= kTenantsKept; ++index) {
    if (class_size_[index] > 0) least = std::min(least, Level(index));
  }
  std::erase_if(tenants_, [least](const auto& entry) {
    return entry.second.members == 0 && entry.second.served <= least;
  });
}

double WaitQueue::Level(size_t index) const {
  if (class_size_[index] == 0) return last_level_[index];
  double least = std::numeric_limits<double>::infinity();
  for (const auto& [name, tenant] : tenants_) {
    if (!tenant.queues[index].empty()) least = std::min(least, tenant.served);
  }
  return least;
}

void WaitQueue::Push(Sequence& sequence) {
  const size_t index = ClassOf(sequence.priority);
  // Time without work is not saved up: the tenant starts where the least served of those that wait
  // in this class stands.
  Tenant& tenant = *sequence.tenant;
  if (tenant.queues[index].empty()) tenant.served = std::max(tenant.served, Level(index));
  const bool added = tenant.queues[index].try_emplace(sequence.id, &sequence).second;
  CHECK(added && by_age_.try_emplace({sequence.queued_step, sequence.id}, &sequence).second);
  ++class_size_[index];
  class_tokens_[index] += sequence.tokens.size();
}

void WaitQueue::Remove(const Sequence& sequence) {
  const size_t index = ClassOf(sequence.priority);
  CHECK(sequence.tenant->queues[index].erase(sequence.id) == 1);
  CHECK(by_age_.erase({sequence.queued_step, sequence.id}) == 1);
  last_level_[index] = sequence.tenant->served;
  --class_size_[index];
  class_tokens_[index] -= sequence.tokens.size();
}

Sequence* WaitQueue::Next(uint64_t step) const {
  // Apart from the tenants' queues: one that was preempted long after it came is the first of its
  // tenant, but has not waited for long.
  if (!by_age_.empty() && Starved(*by_age_.begin()->second, step)) return by_age_.begin()->second;
  Sequence* next = nullptr;
  size_t next_class = Tenant::kClasses;
  double least = 0;
  for (const auto& [name, tenant] : tenants_) {
    for (size_t index = 0; index < Tenant::kClasses; ++index) {
      if (tenant.queues[index].empty()) continue;
      Sequence* head = tenant.queues[index].begin()->second;
      if (index < next_class ||
          (index == next_class &&
           (tenant.served < least || (tenant.served == least && head->id < next->id)))) {
        next = head;
        next_class = index;
        least = tenant.served;
      }
    }
  }
  return next;
}

size_t WaitQueue::TenantSequences(const std::string& name) const {
  const auto found = tenants_.find(name);
  return found == tenants_.end() ? 0 : found->second.members;
}

uint64_t WaitQueue::TokensAhead(v1::Priority priority) const {
  uint64_t tokens = 0;
  for (size_t index = 0; index <= ClassOf(priority); ++index) tokens += class_tokens_[index];
  return tokens;
}

uint64_t WaitQueue::SequencesAhead(v1::Priority priority) const {
  uint64_t sequences = 0;
  for (size_t index = 0; index <= ClassOf(priority); ++index) sequences += class_size_[index];
  return sequences;
}

absl::Status WaitQueue::CheckIntegrity() const {
  size_t size = 0;
  std::array<uint64_t, Tenant::kClasses> class_size{};
  std::array<uint64_t, Tenant::kClasses> class_tokens{};
  for (const auto& [name, tenant] : tenants_) {
    for (size_t index = 0; index < Tenant::kClasses; ++index) {
      if (tenant.queues[index].size() > tenant.members) {
        return absl::InternalError(absl::StrCat("tenant ", name, " has left too early"));
      }
      for (const auto& [id, sequence] : tenant.queues[index]) {
        ++size;
        ++class_size[index];
        class_tokens[index] += sequence->tokens.size();
        if (sequence->id != id || sequence->state != SequenceState::kWaiting ||
            ClassOf(sequence->priority) != index || sequence->tenant != &tenant) {
          return absl::InternalError(absl::StrCat("sequence ", id, " is in the wrong queue"));
        }
      }
    }
  }
  for (const auto& [age, sequence] : by_age_) {
    if (age != std::pair(sequence->queued_step, sequence->id)) {
      return absl::InternalError(absl::StrCat("sequence ", age.second, " has another age"));
    }
  }
  if (size != by_age_.size() || class_size != class_size_ || class_tokens != class_tokens_) {
    return absl::InternalError("the queue's sizes are wrong");
  }
  return absl::OkStatus();
}

}  // namespace trireme
