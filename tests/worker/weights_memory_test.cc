// A shard is in memory once: neither its file's pages nor copies of it stay beside it.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/weights.h"

namespace trireme {
namespace {

constexpr int64_t kRows = 16384;
constexpr int64_t kCols = 4096;
constexpr int64_t kBytes = kRows * kCols * 2;

// "VmRSS:" or "VmHWM:" of this process, in bytes.
int64_t FromStatus(const std::string& key) {
  std::ifstream in("/proc/self/status");
  std::string word;
  int64_t kib = 0;
  while (in >> word) {
    if (word == key && in >> kib) return kib * 1024;
  }
  return 0;
}

// From now on VmHWM is the most that is resident.
bool ForgetPeak() {
  std::ofstream out("/proc/self/clear_refs");
  out << 5;
  out.flush();
  return out.good();
}

class WeightsMemoryTest : public testing::Test {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "sanitizers have memory of their own";
#endif
    std::filesystem::create_directory(path_);
    const std::string header = absl::StrCat(R"({"w":{"dtype":"BF16","shape":[)", kRows, ",", kCols,
                                            R"(],"data_offsets":[0,)", kBytes, "]}}");
    const uint64_t size = header.size();
    std::ofstream out(path_ / "model.safetensors", std::ios::binary);
    out.write(reinterpret_cast<const char*>(&size), sizeof(size));
    out << header;
    const std::vector<char> piece(1 << 20, 'x');
    for (int64_t done = 0; done < kBytes; done += 1 << 20) out.write(piece.data(), 1 << 20);
    std::ofstream(path_ / "config.json") << "{}";
  }
  void TearDown() override { std::filesystem::remove_all(path_); }

  const std::filesystem::path path_ =
      std::filesystem::temp_directory_path() / absl::StrCat("trireme-memory-", getpid());
  const std::vector<TensorSlice> slices_ = {{.name = "w",
                                             .full_rows = kRows,
                                             .full_cols = kCols,
                                             .rows = {.begin = 0, .end = kRows},
                                             .cols = {.begin = 0, .end = kCols},
                                             .is_vector = false}};
  const std::unique_ptr<Ops> ops_ = *MakeCpuOps(2);
};

TEST_F(WeightsMemoryTest, LoadingTakesNoMoreThanTheShard) {
  const auto checkpoint = Checkpoint::Open(path_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  if (!ForgetPeak()) GTEST_SKIP() << "/proc/self/clear_refs cannot be written";
  const int64_t before = FromStatus("VmRSS:");
  const auto weights = Weights::Load(**checkpoint, slices_, *ops_, {.threads = 2});
  ASSERT_TRUE(weights.ok()) << weights.status();
  const int64_t taken = FromStatus("VmHWM:") - before;
  EXPECT_GE(taken, kBytes);
  EXPECT_LE(taken, kBytes + kBytes / 8) << "bytes of the shard: " << kBytes;
}

TEST_F(WeightsMemoryTest, MappedWeightsArePackedByTheSecondProduct) {
  const auto checkpoint = Checkpoint::Open(path_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto weights = Weights::Load(**checkpoint, slices_, *ops_, {.mapped = true});
  ASSERT_TRUE(weights.ok()) << weights.status();
  const Weight weight = *weights->Find("w");
  const std::vector<float> x(kCols, 1.0f);
  std::vector<float> y(kRows);
  const int64_t before = FromStatus("VmRSS:");
  const auto multiply = [&] {
    ops_->Linear(std::span<const float>(x), weight, {}, /*groups=*/1, y);
    return weights->bytes_to_come();
  };
  EXPECT_EQ(weights->bytes_to_come(), kBytes);
  EXPECT_EQ(multiply(), kBytes);
  const std::vector<float> first = y;
  EXPECT_EQ(multiply(), 0);
  EXPECT_EQ(y, first);
  EXPECT_LE(FromStatus("VmRSS:") - before, kBytes + kBytes / 8);  // the file's pages have gone
  EXPECT_EQ(multiply(), 0);
  EXPECT_EQ(y, first);
}

}  // namespace
}  // namespace trireme
