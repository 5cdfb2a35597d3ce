#include "coordinator/rendezvous.h"

#include <gtest/gtest.h>

#include <optional>

namespace trireme {
namespace {

v1::JoinRequest Request(uint32_t world_size, const std::string& host,
                        std::optional<uint32_t> rank = std::nullopt) {
  v1::JoinRequest request;
  request.set_gang("gang");
  request.set_world_size(world_size);
  request.set_host(host);
  request.set_address("address of " + host);
  if (rank.has_value()) request.set_rank(*rank);
  v1::Setting& setting = *request.add_settings();
  setting.set_name("--tp");
  setting.set_value("2");
  return request;
}

// The hosts by rank if the gang is complete, checking that everyone was told the same.
std::vector<std::string> Hosts(const std::vector<Rendezvous::Answer>& answers) {
  std::vector<std::string> hosts;
  for (const Rendezvous::Answer& answer : answers) {
    EXPECT_TRUE(answer.response.ok()) << answer.response.status();
    if (!answer.response.ok()) return {};
    EXPECT_EQ(answer.response->rank(), hosts.size());
    EXPECT_EQ(answer.response->incarnation(), answers.front().response->incarnation());
    const v1::Member& me = answer.response->members(static_cast<int>(hosts.size()));
    EXPECT_EQ(me.address(), "address of " + me.host());
    hosts.push_back(me.host());
  }
  return hosts;
}

absl::Status Refused(const std::vector<Rendezvous::Answer>& answers, uint64_t member) {
  EXPECT_EQ(answers.size(), 1u);
  if (answers.size() != 1) return absl::OkStatus();
  EXPECT_EQ(answers.front().member, member);
  return answers.front().response.status();
}

TEST(Rendezvous, RanksOfOneHostAreNeighbours) {
  Rendezvous rendezvous;
  EXPECT_TRUE(rendezvous.Join(1, Request(4, "b")).empty());
  EXPECT_TRUE(rendezvous.Join(2, Request(4, "a")).empty());
  EXPECT_TRUE(rendezvous.Join(3, Request(4, "b")).empty());
  const auto answers = rendezvous.Join(4, Request(4, "a"));
  EXPECT_EQ(Hosts(answers), (std::vector<std::string>{"a", "a", "b", "b"}));
  EXPECT_EQ(answers.front().member, 2u);
  EXPECT_EQ(rendezvous.waiting(), 0u);
}

TEST(Rendezvous, GivesTheRanksThatAreAskedFor) {
  Rendezvous rendezvous;
  rendezvous.Join(1, Request(4, "a"));
  rendezvous.Join(2, Request(4, "b", 0));
  rendezvous.Join(3, Request(4, "c", 2));
  EXPECT_EQ(Hosts(rendezvous.Join(4, Request(4, "a"))),
            (std::vector<std::string>{"b", "a", "c", "a"}));
}

TEST(Rendezvous, AGangOfOneIsCompleteAtOnce) {
  Rendezvous rendezvous;
  EXPECT_EQ(Hosts(rendezvous.Join(1, Request(1, "a"))), std::vector<std::string>{"a"});
}

TEST(Rendezvous, WhatMayDifferRefusesNobody) {
  Rendezvous rendezvous;
  for (const uint64_t member : {1, 2}) {
    v1::JoinRequest request = Request(2, "a");
    v1::Setting& setting = *request.add_settings();
    setting.set_name("the GPU");
    setting.set_value(member == 1 ? "A" : "B");
    setting.set_may_differ(true);
    const auto answers = rendezvous.Join(member, request);
    EXPECT_EQ(Hosts(answers).size(), member == 1 ? 0u : 2u);
  }
}

TEST(Rendezvous, OneThatLeavesFreesItsPlace) {
  Rendezvous rendezvous;
  rendezvous.Join(1, Request(2, "a", 0));
  rendezvous.Leave(1);
  EXPECT_EQ(rendezvous.waiting(), 0u);
  EXPECT_TRUE(rendezvous.Join(2, Request(2, "b", 0)).empty());
  rendezvous.Leave(1);  // again: nothing
  EXPECT_EQ(Hosts(rendezvous.Join(3, Request(2, "c", 1))), (std::vector<std::string>{"b", "c"}));
}

// What was cut off with its host is not known to be gone for a minute.
TEST(Rendezvous, ARankThatIsStartedAnewTakesItsPlace) {
  Rendezvous rendezvous;
  v1::JoinRequest request = Request(3, "a", 1);
  rendezvous.Join(1, request);
  rendezvous.Join(2, Request(3, "a", 0));
  request.set_address("another");
  const absl::Status status = Refused(rendezvous.Join(3, request), 1);
  EXPECT_TRUE(absl::IsAborted(status));
  EXPECT_EQ(status.message(),
            "gang gang: another worker on a has taken the place of this one, --rank 1");
  rendezvous.Leave(1);
  EXPECT_EQ(rendezvous.waiting(), 2u);
  const auto answers = rendezvous.Join(4, Request(3, "b", 2));
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_EQ(answers[1].member, 3u);
  EXPECT_EQ(answers[2].response->members(1).address(), "another");
}

TEST(Rendezvous, ARankThatIsStartedAnewMayBringAnotherSetting) {
  Rendezvous rendezvous;
  rendezvous.Join(1, Request(2, "a", 1));
  v1::JoinRequest request = Request(2, "a", 1);
  request.mutable_settings(0)->set_value("4");
  EXPECT_TRUE(absl::IsAborted(Refused(rendezvous.Join(2, request), 1)));
  EXPECT_TRUE(absl::IsFailedPrecondition(Refused(rendezvous.Join(3, Request(2, "a", 0)), 3)));
}

TEST(Rendezvous, ListsWhoWaitsForWhom) {
  Rendezvous rendezvous;
  EXPECT_TRUE(rendezvous.List().empty());
  for (const uint32_t rank : {3, 0, 1}) rendezvous.Join(rank + 1, Request(4, "a", rank));
  v1::JoinRequest other = Request(3, "b");
  other.set_gang("other");
  rendezvous.Join(9, other);
  const std::vector<v1::WaitingGang> list = rendezvous.List();
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0].ShortDebugString(),
            R"(name: "gang" world_size: 4 joined: 3 missing_ranks: 2 hosts: "a")");
  EXPECT_EQ(list[1].ShortDebugString(), R"(name: "other" world_size: 3 joined: 1 hosts: "b")");
}

TEST(Rendezvous, TheNextIncarnationWaitsForAll) {
  Rendezvous rendezvous;
  rendezvous.Join(1, Request(2, "a"));
  const auto first = rendezvous.Join(2, Request(2, "b"));
  rendezvous.Leave(2);  // died after it was answered
  EXPECT_TRUE(rendezvous.Join(3, Request(2, "b")).empty());
  const auto second = rendezvous.Join(4, Request(2, "a"));
  ASSERT_EQ(Hosts(second).size(), 2u);
  EXPECT_NE(first[0].response->incarnation(), second[0].response->incarnation());
}

TEST(Rendezvous, GangsOfOtherNamesAreApart) {
  Rendezvous rendezvous;
  rendezvous.Join(1, Request(2, "a"));
  v1::JoinRequest other = Request(2, "b");
  other.set_gang("other");
  EXPECT_TRUE(rendezvous.Join(2, other).empty());
  EXPECT_EQ(rendezvous.waiting(), 2u);
}

TEST(Rendezvous, AMismatchNamesBothSides) {
  Rendezvous rendezvous;
  rendezvous.Join(1, Request(2, "a", 0));
  v1::JoinRequest request = Request(2, "b");
  request.mutable_settings(0)->set_value("4");
  absl::Status status = Refused(rendezvous.Join(2, request), 2);
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_NE(status.message().find("--tp is 4 on b but 2 on a"), std::string::npos) << status;

  status = Refused(rendezvous.Join(3, Request(4, "b")), 3);
  EXPECT_NE(status.message().find("number of ranks is 4 on b but 2 on a"), std::string::npos)
      << status;
  status = Refused(rendezvous.Join(4, Request(2, "b", 0)), 4);
  EXPECT_NE(status.message().find("--rank 0 is taken by a"), std::string::npos) << status;
  request.clear_settings();
  EXPECT_FALSE(Refused(rendezvous.Join(5, request), 5).ok());
  // The refused took no place.
  EXPECT_EQ(Hosts(rendezvous.Join(6, Request(2, "b"))), (std::vector<std::string>{"a", "b"}));
}

TEST(Rendezvous, RefusesWhatCannotBe) {
  Rendezvous rendezvous;
  uint64_t member = 0;
  const auto refuses = [&](auto change) {
    v1::JoinRequest request = Request(2, "a");
    change(request);
    ++member;
    EXPECT_TRUE(absl::IsInvalidArgument(Refused(rendezvous.Join(member, request), member)));
  };
  refuses([](auto& request) { request.set_gang(""); });
  refuses([](auto& request) { request.set_gang("two words"); });
  refuses([](auto& request) { request.set_gang(std::string(65, 'x')); });
  refuses([](auto& request) { request.set_world_size(0); });
  refuses([](auto& request) { request.set_world_size(1u << 20); });
  refuses([](auto& request) { request.set_rank(2); });
  refuses([](auto& request) { request.set_host("a\nb"); });
  refuses([](auto& request) { request.set_host(std::string(256, 'x')); });
  refuses([](auto& request) { request.clear_address(); });
  refuses([](auto& request) { request.set_address(std::string(4097, 'x')); });
  refuses([](auto& request) { request.mutable_settings(0)->set_value(std::string(257, 'x')); });
  refuses([](auto& request) { request.mutable_settings(0)->set_value("a\nb"); });
  refuses([](auto& request) {
    for (int i = 0; i < 40; ++i) request.add_settings();
  });
  EXPECT_EQ(rendezvous.waiting(), 0u);
}

TEST(Rendezvous, BoundsTheGangsThatWait) {
  Rendezvous rendezvous;
  v1::JoinRequest request = Request(2, "a");
  uint64_t member = 0;
  for (int i = 0; i < 256; ++i) {
    request.set_gang("gang" + std::to_string(i));
    EXPECT_TRUE(rendezvous.Join(++member, request).empty());
  }
  request.set_gang("one-more");
  ++member;
  EXPECT_TRUE(absl::IsResourceExhausted(Refused(rendezvous.Join(member, request), member)));
  request.set_gang("gang7");  // one that waits may be completed
  EXPECT_EQ(rendezvous.Join(++member, request).size(), 2u);
}

}  // namespace
}  // namespace trireme
