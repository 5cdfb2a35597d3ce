#include "parallel/wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace trireme {
namespace {

using testing::HasSubstr;

// `hosts` machines of `gpus` each, a rank on every GPU.
std::vector<WirePlace> Places(int hosts, int gpus, bool nccl = true) {
  std::vector<WirePlace> places;
  for (int host = 0; host < hosts; ++host) {
    for (int gpu = 0; gpu < gpus; ++gpu) {
      const std::string name(1, static_cast<char>('a' + host));
      places.push_back({.host = name,
                        .machine_id = name,
                        .pci_bus_id = std::string(1, static_cast<char>('0' + gpu)),
                        .has_nccl = nccl});
    }
  }
  return places;
}

std::vector<WirePlace> Wish(std::vector<WirePlace> places, Wire wish, bool deterministic = false) {
  for (WirePlace& place : places) {
    place.wish = wish;
    place.deterministic = deterministic;
  }
  return places;
}

void Expect(const std::vector<WirePlace>& places, LinkUse use, Wire wire, bool large_by_nccl,
            const std::string& reason) {
  const absl::StatusOr<WireChoice> choice = ChooseWire(places, use);
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_EQ(WireName(choice->wire), WireName(wire));
  EXPECT_EQ(choice->large_by_nccl, large_by_nccl);
  EXPECT_THAT(choice->reason, HasSubstr(reason));
}

void ExpectError(const std::vector<WirePlace>& places, LinkUse use, absl::StatusCode code,
                 const std::string& message) {
  const absl::Status status = ChooseWire(places, use).status();
  EXPECT_EQ(status.code(), code);
  EXPECT_THAT(std::string(status.message()), HasSubstr(message));
}

TEST(ChooseWire, Layers) {
  const auto use = LinkUse::kLayers;
  Expect(Places(1, 4), use, Wire::kIpc, true, "one host");
  Expect(Places(1, 4, false), use, Wire::kIpc, false, "rank 0 on a has no NCCL");
  Expect(Places(2, 2), use, Wire::kNccl, false, "ranks 0 and 2 are on two hosts, a and b");
  Expect(Places(2, 2, false), use, Wire::kStaged, false, "no NCCL");
  Expect(Places(1, 16), use, Wire::kNccl, false, "2, 4 or 8 ranks, not 16");
  std::vector<WirePlace> shared = Places(1, 2);
  shared[1].pci_bus_id = shared[0].pci_bus_id;
  Expect(shared, use, Wire::kStaged, false, "ranks 0 and 1 share the GPU 0 of a");
  std::vector<WirePlace> apart = Places(1, 2);
  apart[1].has_ipc = false;
  Expect(apart, use, Wire::kNccl, false, "cannot address each other's memory");
}

TEST(ChooseWire, OnlySumsInTheFixedOrderIfDeterministic) {
  const auto use = LinkUse::kLayers;
  Expect(Wish(Places(1, 4), Wire::kAuto, true), use, Wire::kIpc, false, "fixed order");
  Expect(Wish(Places(2, 2), Wire::kAuto, true), use, Wire::kStaged, false, "fixed order");
  Expect(Wish(Places(1, 4), Wire::kIpc, true), use, Wire::kIpc, false, "as told");
  ExpectError(Wish(Places(1, 4), Wire::kNccl, true), use, absl::StatusCode::kInvalidArgument,
              "--deterministic forbids");
}

TEST(ChooseWire, StagesDoNotSum) {
  const auto use = LinkUse::kStages;
  Expect(Places(1, 4), use, Wire::kNccl, false, "");
  Expect(Wish(Places(2, 2), Wire::kAuto, true), use, Wire::kNccl, false, "");
  Expect(Places(1, 4, false), use, Wire::kStaged, false, "no NCCL");
  Expect(Wish(Places(1, 4, false), Wire::kIpc), use, Wire::kStaged, false, "no NCCL");
}

TEST(ChooseWire, AsToldOrAnError) {
  const auto use = LinkUse::kLayers;
  Expect(Wish(Places(1, 4), Wire::kNccl), use, Wire::kNccl, false, "as told");
  Expect(Wish(Places(1, 4), Wire::kIpc), use, Wire::kIpc, false, "as told");
  Expect(Wish(Places(1, 4), Wire::kStaged), use, Wire::kStaged, false, "as told");
  ExpectError(Wish(Places(1, 4, false), Wire::kNccl), use, absl::StatusCode::kFailedPrecondition,
              "--wire nccl cannot be: rank 0 on a has no NCCL");
  ExpectError(Wish(Places(2, 1), Wire::kIpc), use, absl::StatusCode::kFailedPrecondition,
              "--wire ipc cannot be: ranks 0 and 1 are on two hosts");
  std::vector<WirePlace> differ = Places(1, 2);
  differ[1].wish = Wire::kStaged;
  ExpectError(differ, use, absl::StatusCode::kInvalidArgument, "ranks 0 and 1 were started with");
}

TEST(ChooseWire, Names) {
  for (const Wire wire : {Wire::kAuto, Wire::kNccl, Wire::kIpc, Wire::kStaged}) {
    const absl::StatusOr<Wire> parsed = ParseWire(WireName(wire));
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(*parsed, wire);
  }
  EXPECT_THAT(std::string(ParseWire("mpi").status().message()), HasSubstr("nccl, ipc or staged"));
}

}  // namespace
}  // namespace trireme
