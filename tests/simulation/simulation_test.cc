// TRIREME_SIMULATION_SEEDS sets how many seeds run, TRIREME_SIMULATION_FIRST_SEED from which on.

#include "tests/simulation/simulation.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

namespace trireme::simulation {
namespace {

constexpr uint64_t kShards = 4;

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::strtoull(value, nullptr, 10);
}

// One per shard, for ctest to run them in parallel.
void RunShard(uint64_t shard) {
  const uint64_t first = FromEnvironment("TRIREME_SIMULATION_FIRST_SEED", 1);
  const uint64_t count = FromEnvironment("TRIREME_SIMULATION_SEEDS", 10'000);
  const uint64_t begin = count * shard / kShards;
  const uint64_t end = count * (shard + 1) / kShards;
  uint64_t seed = 0;
  const absl::Status status = RunSeeds(first + begin, end - begin, seed);
  EXPECT_TRUE(status.ok()) << std::string(status.message());
}

TEST(SimulationTest, Shard0) { RunShard(0); }
TEST(SimulationTest, Shard1) { RunShard(1); }
TEST(SimulationTest, Shard2) { RunShard(2); }
TEST(SimulationTest, Shard3) { RunShard(3); }

}  // namespace
}  // namespace trireme::simulation
