#include "parallel/shard_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace trireme {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// What a program with these flags alone makes of a command line.
ShardFlags Parse(std::vector<std::string> arguments) {
  ShardFlags flags;
  CLI::App app;
  flags.Define(app);
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
  app.parse(arguments);
  return flags;
}

TEST(ShardFlags, WorkersGetWhatTheirStarterWasTold) {
  const ShardFlags given = Parse({"--stage-layers", "22,20,18", "--placement", "as-given", "--load",
                                  "broadcast", "--verify-checksum"});
  const ShardFlags passed_on = Parse(given.Arguments());
  EXPECT_THAT(passed_on.stage_layers, ElementsAre(22, 20, 18));
  EXPECT_EQ(passed_on.placement, "as-given");
  EXPECT_EQ(passed_on.load, "broadcast");
  EXPECT_TRUE(passed_on.verify_checksum);
}

TEST(ShardFlags, WorkersGetTheDefaultsOfAStarterThatWasToldNothing) {
  const ShardFlags passed_on = Parse(Parse({}).Arguments());
  EXPECT_THAT(passed_on.stage_layers, IsEmpty());
  EXPECT_EQ(passed_on.placement, "topology");
  EXPECT_EQ(passed_on.load, "slices");
  EXPECT_FALSE(passed_on.verify_checksum);
}

TEST(ShardFlags, WhatNoWorkerTakesIsRefusedAtOnce) {
  EXPECT_THROW(Parse({"--stage-layers", "8,0"}), CLI::ValidationError);
  EXPECT_THROW(Parse({"--stage-layers", "65536"}), CLI::ValidationError);
  EXPECT_THROW(Parse({"--placement", "random"}), CLI::ValidationError);
  EXPECT_THROW(Parse({"--load", "mmap"}), CLI::ValidationError);
}

}  // namespace
}  // namespace trireme
