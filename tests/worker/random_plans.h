#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "tests/worker/gang_driver.h"
#include "trireme/v1/worker.pb.h"

namespace trireme {

// What a scheduler might plan without waiting for a result: sequences come, are computed in chunks
// beside others, are left out of steps, end early, and leave their blocks and ids to others. How
// they are sampled is random too.
class RandomPlans {
 public:
  static constexpr int64_t kBlockSize = 32;
  static constexpr uint32_t kBlocks = 16;
  static constexpr int64_t kStepTokens = 32;

  explicit RandomPlans(unsigned seed);

  std::vector<v1::StepPlan> Make(size_t count);

 private:
  struct Running {
    int64_t known = 0;
    int64_t computed = 0;
    int64_t length = 0;  // at which it ends
    std::vector<uint32_t> blocks;
  };

  void EndSome(v1::StepPlan& plan);
  void Begin(v1::StepPlan& plan);
  void Schedule(uint64_t id, Running& sequence, int64_t& room, v1::StepPlan& plan);

  std::mt19937 random_;
  std::map<uint64_t, Running> running_;
  std::vector<uint32_t> free_;
};

// The results, all but the times.
std::vector<std::string> ResultTexts(const GangOutput& output);

}  // namespace trireme
