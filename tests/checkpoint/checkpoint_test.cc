#include "worker/checkpoint/checkpoint.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <numeric>

#include "worker/checkpoint/safetensors.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

// A file with this header text and data.
std::string File(const std::string& header, const std::string& data) {
  const uint64_t size = header.size();
  std::string file(sizeof(size), '\0');
  std::memcpy(file.data(), &size, sizeof(size));
  return file + header + data;
}

std::string Floats(int first, int count) {
  std::vector<float> values(static_cast<size_t>(count));
  std::iota(values.begin(), values.end(), static_cast<float>(first));
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

class CheckpointTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::temp_directory_path() /
           ("trireme_ckpt_" +
            std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(dir_);
    fs::create_directories(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }

  void Write(const std::string& name, const std::string& content) {
    std::ofstream(dir_ / name, std::ios::binary) << content;
  }

  // Opening fails with one line that names the file (or the directory).
  void ExpectRefused(const std::string& what, const std::string& named) {
    const absl::Status status = Checkpoint::Open(dir_).status();
    EXPECT_FALSE(status.ok()) << what;
    const std::string message(status.message());
    EXPECT_NE(message.find(named), std::string::npos) << what << ": " << status;
    EXPECT_EQ(message.find('\n'), std::string::npos) << what << ": " << status;
  }

  fs::path dir_;
};

// A matrix "m" [4, 6] of 0..23 and a vector "v" [5] of 100..104.
const char* const kHeader =
    R"({"__metadata__":{"format":"pt"},"m":{"dtype":"F32","shape":[4,6],"data_offsets":[0,96]},)"
    R"("v":{"dtype":"F32","shape":[5],"data_offsets":[96,116]}})";

std::vector<float> ReadSlice(const Checkpoint& checkpoint, const TensorSlice& slice) {
  std::vector<float> values(static_cast<size_t>(slice.elements()));
  const absl::Status status = checkpoint.Read(slice, std::as_writable_bytes(std::span(values)));
  EXPECT_TRUE(status.ok()) << status;
  return values;
}

TEST_F(CheckpointTest, ReadsRowsColumnsAndVectorsAndCountsBytes) {
  Write("model.safetensors", File(kHeader, Floats(0, 24) + Floats(100, 5)));
  const auto checkpoint = Checkpoint::Open(dir_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  TensorSlice slice{.name = "m", .full_rows = 4, .full_cols = 6, .rows = {1, 3}, .cols = {0, 6}};
  EXPECT_EQ(ReadSlice(**checkpoint, slice),
            (std::vector<float>{6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17}));
  EXPECT_EQ((*checkpoint)->bytes_read(), 48u);
  slice.rows = {0, 4};
  slice.cols = {2, 4};
  EXPECT_EQ(ReadSlice(**checkpoint, slice), (std::vector<float>{2, 3, 8, 9, 14, 15, 20, 21}));
  EXPECT_EQ((*checkpoint)->bytes_read(), 80u);
  std::vector<float> rows(4);
  ASSERT_TRUE((*checkpoint)->ReadBlocks(slice, 1, 2, std::as_writable_bytes(std::span(rows))).ok());
  EXPECT_EQ(rows, (std::vector<float>{8, 9, 14, 15}));
  const TensorSlice vector{.name = "v",
                           .full_rows = 1,
                           .full_cols = 5,
                           .rows = {0, 1},
                           .cols = {1, 4},
                           .is_vector = true};
  EXPECT_EQ(ReadSlice(**checkpoint, vector), (std::vector<float>{101, 102, 103}));
}

TEST_F(CheckpointTest, KnowsWhereASliceLies) {
  // Rows of 128 KiB, of which a half is worth leaving out.
  constexpr int64_t kCols = 32768;
  Write("model.safetensors",
        File(R"({"m":{"dtype":"F32","shape":[3,32768],"data_offsets":[0,393216]}})",
             Floats(0, 3 * kCols)));
  const auto checkpoint = *Checkpoint::Open(dir_);
  TensorSlice slice{
      .name = "m", .full_rows = 3, .full_cols = kCols, .rows = {1, 3}, .cols = {0, kCols}};
  const auto first_value = [](std::span<const std::byte> stretch) {
    float value = 0;
    std::memcpy(&value, stretch.data(), sizeof(value));
    return value;
  };
  auto stretches = checkpoint->Stretches(slice);
  ASSERT_EQ(stretches.size(), 1u);
  EXPECT_EQ(stretches[0].size(), size_t{2 * kCols * 4});
  EXPECT_EQ(first_value(stretches[0]), float{kCols});
  slice.cols = {1, kCols / 4};
  stretches = checkpoint->Stretches(slice);
  ASSERT_EQ(stretches.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(stretches[i].size(), size_t{(kCols / 4 - 1) * 4});
    EXPECT_EQ(first_value(stretches[i]), static_cast<float>((i + 1) * kCols + 1));
  }
  slice.cols = {1, kCols - 1};  // gaps of 8 bytes
  EXPECT_EQ(checkpoint->Stretches(slice).size(), 1u);
  slice.full_cols = 7;
  EXPECT_TRUE(checkpoint->Stretches(slice).empty());
  slice.name = "none";
  EXPECT_TRUE(checkpoint->Stretches(slice).empty());
}

TEST_F(CheckpointTest, ReadsShardsThroughTheIndex) {
  Write("a.safetensors",
        File(R"({"m":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", Floats(1, 2)));
  Write("b.safetensors",
        File(R"({"v":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", Floats(9, 1)));
  Write("model.safetensors.index.json",
        R"({"weight_map":{"m":"a.safetensors","v":"b.safetensors"}})");
  const auto checkpoint = Checkpoint::Open(dir_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_NE((*checkpoint)->Find("m"), nullptr);
  EXPECT_NE((*checkpoint)->Find("v"), nullptr);
  EXPECT_EQ((*checkpoint)->Find("w"), nullptr);
}

TEST_F(CheckpointTest, RefusesASliceThatDoesNotFitTheTensor) {
  Write("model.safetensors", File(kHeader, Floats(0, 29)));
  const auto checkpoint = *Checkpoint::Open(dir_);
  std::vector<std::byte> bytes(96);
  const TensorSlice slice{
      .name = "m", .full_rows = 6, .full_cols = 4, .rows = {0, 6}, .cols = {0, 4}};
  const absl::Status status = checkpoint->Read(slice, bytes);
  EXPECT_NE(std::string(status.message()).find("[4, 6]"), std::string::npos) << status;
  EXPECT_NE(std::string(status.message()).find("model.safetensors"), std::string::npos) << status;
}

TEST_F(CheckpointTest, CopiesHalfPrecisionAsStored) {
  Write("model.safetensors",
        File(R"({"h":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}})", "abcdefgh"));
  const auto checkpoint = *Checkpoint::Open(dir_);
  EXPECT_EQ(checkpoint->Find("h")->dtype, DType::kBF16);
  EXPECT_EQ(checkpoint->Find("h")->shape, (std::vector<int64_t>{2, 2}));
  const TensorSlice slice{
      .name = "h", .full_rows = 2, .full_cols = 2, .rows = {0, 2}, .cols = {1, 2}};
  std::string packed(4, '\0');
  ASSERT_TRUE(checkpoint->Read(slice, std::as_writable_bytes(std::span(packed))).ok());
  EXPECT_EQ(packed, "cdgh");
  EXPECT_EQ(checkpoint->bytes_read(), 4u);
}

TEST_F(CheckpointTest, RefusesToReadATypeThatIsNotComputedWith) {
  Write("model.safetensors",
        File(R"({"i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})", "abcdefgh"));
  const auto checkpoint = *Checkpoint::Open(dir_);
  const TensorSlice slice{.name = "i",
                          .full_rows = 1,
                          .full_cols = 1,
                          .rows = {0, 1},
                          .cols = {0, 1},
                          .is_vector = true};
  std::vector<std::byte> bytes(8);
  const std::string message(checkpoint->Read(slice, bytes).message());
  for (const char* part : {"model.safetensors", "\"i\"", "I64", "F32, F16 or BF16"}) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  }
}

TEST_F(CheckpointTest, EmptySlicesReadNothingAndOthersStayInside) {
  Write("model.safetensors", File(kHeader, Floats(0, 29)));
  const auto checkpoint = *Checkpoint::Open(dir_);
  TensorSlice slice{.name = "m", .full_rows = 4, .full_cols = 6, .rows = {4, 4}, .cols = {0, 6}};
  EXPECT_TRUE(checkpoint->Read(slice, {}).ok());
  slice.rows = {0, 4};
  slice.cols = {6, 6};
  EXPECT_TRUE(checkpoint->Read(slice, {}).ok());
  EXPECT_EQ(checkpoint->bytes_read(), 0u);
  std::vector<std::byte> bytes(48);
  for (const IndexRange rows : {IndexRange{3, 5}, IndexRange{-1, 1}, IndexRange{0, 1}}) {
    slice.rows = rows;
    slice.cols = {0, 6};
    EXPECT_FALSE(checkpoint->Read(slice, bytes).ok());
  }
}

TEST_F(CheckpointTest, RefusesEveryTruncationOfAFile) {
  const std::string whole = File(kHeader, Floats(0, 29));
  for (size_t size = 0; size < whole.size(); ++size) {
    const auto bytes = std::as_bytes(std::span(whole)).first(size);
    EXPECT_FALSE(ParseSafetensors(bytes, "f").ok()) << size;
  }
  EXPECT_TRUE(ParseSafetensors(std::as_bytes(std::span(whole)), "f").ok());
}

TEST_F(CheckpointTest, RefusesDamagedFiles) {
  const std::string data = Floats(0, 29);
  const auto entry = [](const std::string& fields) { return "{\"m\":{" + fields + "}}"; };
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"empty file", ""},
      {"shorter than its length field", "abc"},
      {"truncated data", File(kHeader, Floats(0, 20))},
      {"garbage header", File("not json", data)},
      {"header of another kind", File("[1, 2]", data)},
      {"NaN header", File(R"({"m": NaN})", data)},
      {"deep header", File(std::string(10'000, '['), data)},
      {"entry is a number", File(R"({"m": 3})", data)},
      {"no dtype", File(entry(R"("shape":[1],"data_offsets":[0,4])"), data)},
      {"unknown dtype", File(entry(R"("dtype":"F12","shape":[1],"data_offsets":[0,4])"), data)},
      {"negative shape", File(entry(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"), data)},
      {"fractional shape",
       File(entry(R"("dtype":"F32","shape":[1.5],"data_offsets":[0,4])"), data)},
      {"begin after end", File(entry(R"("dtype":"F32","shape":[1],"data_offsets":[8,4])"), data)},
      {"one offset", File(entry(R"("dtype":"F32","shape":[1],"data_offsets":[8])"), data)},
      {"beyond the file",
       File(entry(R"("dtype":"F32","shape":[1],"data_offsets":[200,204])"), data)},
      {"size is not the shape's",
       File(entry(R"("dtype":"F32","shape":[3],"data_offsets":[0,4])"), data)},
      {"shape overflows",
       File(entry(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])"), data)},
      {"overlap", File(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                       R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                       data)},
      {"named twice", File(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                           R"("a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                           data)},
      {"key twice in an entry",
       File(entry(R"("dtype":"F32","shape":[1],"shape":[29],"data_offsets":[0,116])"), data)},
      {"hole", File(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                    R"("b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
                    Floats(0, 3))},
      {"rest", File(entry(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), data)},
      {"name of two lines", File(R"({"a\nb":{"dtype":"F32"}})", data)}};
  for (const auto& [what, content] : bad) {
    Write("model.safetensors", content);
    ExpectRefused(what, "model.safetensors");
  }
  std::string longer(8, '\xff');
  Write("model.safetensors", longer + "{}");
  ExpectRefused("header longer than the file", "model.safetensors");
}

TEST_F(CheckpointTest, RefusesDamagedIndexes) {
  const std::string shard =
      File(R"({"m":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", Floats(0, 1));
  Write("a.safetensors", shard);
  Write("b.safetensors", shard);
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"not JSON", "x"},
      {"no weight_map", "{}"},
      {"missing shard", R"({"weight_map":{"m":"gone.safetensors"}})"},
      {"traversal", R"({"weight_map":{"m":"../a.safetensors"}})"},
      {"parent", R"({"weight_map":{"m":".."}})"},
      {"absolute", R"({"weight_map":{"m":"/etc/passwd"}})"},
      {"two lines", R"({"weight_map":{"m":"a\nb/c"}})"},
      {"tensor elsewhere", R"({"weight_map":{"m":"a.safetensors","n":"a.safetensors"}})"},
      {"no text", R"({"weight_map":{"m":7}})"},
      {"tensor in two files", R"({"weight_map":{"m":"a.safetensors","n":"b.safetensors"}})"}};
  for (const auto& [what, content] : bad) {
    Write("model.safetensors.index.json", content);
    ExpectRefused(what, dir_.string());
  }
}

TEST_F(CheckpointTest, AMissingShardIsNamedWithTheWayOut) {
  Write("model.safetensors.index.json", R"({"weight_map":{"m":"gone.safetensors"}})");
  const absl::Status status = Checkpoint::Open(dir_).status();
  EXPECT_TRUE(absl::IsNotFound(status));
  for (const char* part : {"gone.safetensors", "index.json", "fetch"}) {
    EXPECT_NE(std::string(status.message()).find(part), std::string::npos) << status;
  }
}

TEST_F(CheckpointTest, RefusesDirectoriesWithoutWeights) {
  ExpectRefused("empty directory", dir_.string());
  dir_ /= "gone";
  ExpectRefused("no directory", dir_.string());
}

}  // namespace
}  // namespace trireme
