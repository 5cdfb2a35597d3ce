#include "worker/gang_settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "parallel/communicator.h"

namespace trireme {
namespace {

using Settings = std::vector<v1::Setting>;

// What each rank is told; rank r is on host "h<r>".
std::vector<absl::Status> Compare(const std::vector<absl::StatusOr<Settings>>& settings) {
  std::vector<absl::Status> statuses(settings.size());
  std::vector<std::string> hosts;
  for (size_t rank = 0; rank < settings.size(); ++rank) hosts.push_back(absl::StrCat("h", rank));
  std::vector<std::thread> threads;
  for (auto& ranks : MakeLoopbackCommunicators(static_cast<int>(settings.size()))) {
    threads.emplace_back([&, own = std::move(ranks)]() mutable {
      const auto rank = static_cast<size_t>(own->rank());
      const GangWorld world{
          .ranks = std::move(own), .hosts = hosts, .local_rank = 0, .local_size = 1};
      statuses[rank] = CompareSettings(settings[rank], world);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return statuses;
}

TEST(GangSettings, TheSameIsFine) {
  const Settings same = {MakeSetting("--tp", "2"), MakeSoftSetting("the GPU", "A")};
  for (const absl::Status& status : Compare({same, same, same})) EXPECT_TRUE(status.ok()) << status;
}

TEST(GangSettings, NamesBothHostsAndValues) {
  const auto statuses =
      Compare({Settings{MakeSetting("config.json", "1")}, Settings{MakeSetting("config.json", "1")},
               Settings{MakeSetting("config.json", "")}});
  EXPECT_TRUE(statuses[0].ok());
  EXPECT_TRUE(statuses[1].ok());
  EXPECT_EQ(statuses[2].code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(statuses[2].message(),
            "config.json is none on h2 but 1 on h0 (rank 0); all ranks of a gang need the same");
}

TEST(GangSettings, ASoftOneMayDiffer) {
  InitLog("test", LogLevel::kInfo);
  testing::internal::CaptureStderr();
  const auto statuses = Compare(
      {Settings{MakeSoftSetting("the GPU", "A")}, Settings{MakeSoftSetting("the GPU", "B")}});
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_TRUE(statuses[1].ok()) << statuses[1];
  EXPECT_THAT(log, testing::HasSubstr("the GPU is B on h1 but A on h0"));
}

TEST(GangSettings, AnOtherVersionHasOtherSettings) {
  const auto statuses = Compare({Settings{}, Settings{MakeSetting("--new", "2")}});
  EXPECT_THAT(std::string(statuses[1].message()),
              testing::HasSubstr("--new is 2 on h1 but none on h0"));
}

TEST(GangSettings, ARankWithoutSettingsSaysWhy) {
  const auto statuses =
      Compare({Settings{MakeSetting("--tp", "2")}, absl::NotFoundError("no such model")});
  EXPECT_TRUE(statuses[0].ok());
  EXPECT_EQ(statuses[1].message(), "no such model");
}

TEST(GangSettings, AModelIsItsConfigAndItsWeights) {
  const std::filesystem::path dir = std::filesystem::path(testing::TempDir()) / "gang_settings";
  std::filesystem::create_directories(dir);
  const auto write = [&](const char* name, const std::string& text) {
    std::ofstream(dir / name) << text;
  };
  const auto values = [&] {
    std::vector<std::string> all;
    const auto settings = ModelSettings(dir.string());
    EXPECT_TRUE(settings.ok()) << settings.status();
    for (const v1::Setting& setting : settings.value_or(Settings{})) all.push_back(setting.value());
    return all;
  };
  write("config.json", "{}");
  write("model.safetensors", "weights");
  const auto first = values();
  EXPECT_EQ(first, values());
  ASSERT_EQ(first.size(), 3u);
  EXPECT_EQ(first[1], "");  // the index
  write("config.json", "{ }");
  EXPECT_NE(first[0], values()[0]);
  EXPECT_EQ(first[2], values()[2]);
  write("model.safetensors", "Weights");
  EXPECT_NE(first[2], values()[2]);
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace trireme
