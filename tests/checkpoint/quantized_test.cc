// What is wrong with a quantised checkpoint is refused with the file's and the tensor's name; the
// variants that tests/worker/quantized_test.cc has no model of are read.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "kernels/tensor.h"
#include "worker/checkpoint/checkpoint.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct Tensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string data;
};

template <class T>
std::string Bytes(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

json Int8Config() {
  return {
      {"quant_method", "compressed-tensors"},
      {"format", "int-quantized"},
      {"config_groups",
       {{"group_0", {{"weights", {{"num_bits", 8}, {"type", "int"}, {"strategy", "channel"}}}}}}}};
}
json Fp8Config() { return {{"quant_method", "fp8"}, {"weight_block_size", {2, 3}}}; }
json AwqConfig() { return {{"quant_method", "awq"}, {"bits", 4}, {"group_size", 32}}; }
json GptqConfig() { return {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 32}}; }

class QuantizedCheckpointTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::temp_directory_path() /
           ("trireme_quantized_" +
            std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(dir_);
    fs::create_directories(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }

  absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const json& quantization) {
    std::ofstream(dir_ / "config.json") << json{{"quantization_config", quantization}};
    json header = json::object();
    std::string data;
    for (const auto& [name, tensor] : tensors_) {
      header[name] = {{"dtype", tensor.dtype},
                      {"shape", tensor.shape},
                      {"data_offsets", {data.size(), data.size() + tensor.data.size()}}};
      data += tensor.data;
    }
    const std::string text = header.dump();
    const uint64_t size = text.size();
    std::ofstream file(dir_ / "model.safetensors", std::ios::binary);
    file.write(reinterpret_cast<const char*>(&size), sizeof(size));
    file << text << data;
    file.close();
    return Checkpoint::Open(dir_);
  }

  // The stored blocks of the whole matrix "m.weight".
  absl::StatusOr<std::string> ReadAll(const json& quantization) {
    auto checkpoint = Open(quantization);
    if (!checkpoint.ok()) return checkpoint.status();
    const TensorInfo* info = (*checkpoint)->Find("m.weight");
    if (info == nullptr) return absl::NotFoundError("m.weight");
    const TensorSlice slice{.name = "m.weight",
                            .full_rows = info->shape[0],
                            .full_cols = info->shape[1],
                            .rows = {0, info->shape[0]},
                            .cols = {0, info->shape[1]}};
    std::string blocks(
        static_cast<size_t>(info->shape[0] * DTypeRowBytes(info->dtype, info->shape[1])), '\0');
    const absl::Status status =
        (*checkpoint)->Read(slice, std::as_writable_bytes(std::span(blocks)));
    if (!status.ok()) return status;
    EXPECT_EQ((*checkpoint)->bytes_read(), blocks.size());
    return blocks;
  }

  void ExpectRefused(const json& quantization, const std::vector<std::string>& parts) {
    const absl::Status status = ReadAll(quantization).status();
    ASSERT_FALSE(status.ok()) << parts.front();
    const std::string message(status.message());
    EXPECT_NE(message.find(dir_.string()), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    for (const std::string& part : parts) {
      EXPECT_NE(message.find(part), std::string::npos) << message;
    }
  }

  void SetInt8() {
    tensors_ = {{"m.weight", {"I8", {2, 32}, std::string(64, '\x05')}},
                {"m.weight_scale", {"F32", {2, 1}, Bytes<float>({0.5f, 2.0f})}}};
  }
  // [8, 64]: row r of the words is r, all zeros of group g are g + 1.
  void SetAwq() {
    constexpr uint32_t kRows = 0x75316420;
    tensors_ = {{"m.qweight", {"I32", {64, 1}, Bytes(std::vector<uint32_t>(64, kRows))}},
                {"m.qzeros", {"I32", {2, 1}, Bytes<uint32_t>({0x11111111, 0x22222222})}},
                {"m.scales", {"F16", {2, 8}, Bytes(std::vector<uint16_t>(16, 0x3c00))}}};
  }
  // [8, 64]: column c is c % 8.
  void SetGptq() {
    tensors_ = {{"m.qweight", {"I32", {8, 8}, Bytes(std::vector<uint32_t>(64, 0x76543210))}},
                {"m.qzeros", {"I32", {2, 1}, Bytes<uint32_t>({0x76543210, 0xffffffff})}},
                {"m.scales", {"F16", {2, 8}, Bytes(std::vector<uint16_t>(16, 0x3c00))}}};
  }

  fs::path dir_;
  std::map<std::string, Tensor> tensors_;
};

TEST_F(QuantizedCheckpointTest, OneScaleOfATensorInAnyShape) {
  SetInt8();
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{}, {1}, {1, 1}}) {
    tensors_["m.weight_scale"] = {"F16", shape, Bytes<uint16_t>({0x3800})};
    const auto blocks = ReadAll(Int8Config());
    ASSERT_TRUE(blocks.ok()) << blocks.status();
    EXPECT_EQ(*blocks, Bytes<float>({0.5f}) + std::string(32, '\x05') + Bytes<float>({0.5f}) +
                           std::string(32, '\x05'));
  }
}

TEST_F(QuantizedCheckpointTest, Fp8InBlocksThatEndEarly) {
  // 1, -1.125, 448, 2^-9, NaN and zero; the third row has scales of its own.
  tensors_ = {
      {"m.weight",
       {"F8_E4M3", {3, 4}, std::string("\x38\xb9\x7e\x01\x7f\x00\x38\x38\x38\x38\x38\x38", 12)}},
      {"m.weight_scale_inv", {"F32", {2, 2}, Bytes<float>({1.0f, 2.0f, 3.0f, 4.0f})}}};
  const auto blocks = ReadAll(Fp8Config());
  ASSERT_TRUE(blocks.ok()) << blocks.status();
  EXPECT_EQ(*blocks, Bytes<uint16_t>({0x3f80, 0xbf90, 0x43e0, 0x3b80, 0x7fc0, 0, 0x3f80, 0x4000,
                                      0x4040, 0x4040, 0x4040, 0x4080}));
}

TEST_F(QuantizedCheckpointTest, AwqOrderOfRows) {
  SetAwq();
  const auto blocks = ReadAll(AwqConfig());
  ASSERT_TRUE(blocks.ok()) << blocks.status();
  ASSERT_EQ(blocks->size(), 8u * 2 * 19);
  for (size_t row = 0; row < 8; ++row) {
    for (size_t block = 0; block < 2; ++block) {
      EXPECT_EQ(blocks->substr((row * 2 + block) * 19, 19),
                std::string("\x00\x3c", 2) + static_cast<char>(block + 1) +
                    std::string(16, static_cast<char>(row * 17)))
          << row << " " << block;
    }
  }
  // Rows and columns that begin and end inside a word of rows.
  const auto checkpoint = *Checkpoint::Open(dir_);
  const TensorSlice slice{
      .name = "m.weight", .full_rows = 8, .full_cols = 64, .rows = {1, 8}, .cols = {32, 64}};
  std::string part(3 * 19, '\0');
  ASSERT_TRUE(checkpoint->ReadBlocks(slice, 2, 3, std::as_writable_bytes(std::span(part))).ok());
  for (size_t row = 0; row < 3; ++row) {
    EXPECT_EQ(part.substr(row * 19, 19), blocks->substr(((row + 3) * 2 + 1) * 19, 19)) << row;
  }
  EXPECT_FALSE(checkpoint->ReadBlocks(slice, 5, 3, std::as_writable_bytes(std::span(part))).ok());
}

TEST_F(QuantizedCheckpointTest, GptqZerosOfBothFormats) {
  SetGptq();
  for (const int more : {1, 0}) {
    json config = GptqConfig();
    if (more == 0) config["checkpoint_format"] = "gptq_v2";
    const auto blocks = ReadAll(config);
    ASSERT_TRUE(blocks.ok()) << blocks.status();
    for (size_t row = 0; row < 8; ++row) {
      EXPECT_EQ((*blocks)[row * 38 + 2], static_cast<char>(row) + more);
      EXPECT_EQ((*blocks)[row * 38 + 19 + 2], 15 + more);
      for (size_t i = 0; i < 16; ++i) {
        EXPECT_EQ((*blocks)[row * 38 + 3 + i], static_cast<char>(i % 8 * 17));
      }
    }
  }
}

TEST_F(QuantizedCheckpointTest, Bfloat16ScalesBecomeFloat16) {
  SetGptq();
  // 1, -2^-14, 1.5 * 2^-15, 2^-24, 2^-26 (less than half the least), 2^15, 0, 3.
  std::vector<uint16_t> scales = {0x3f80, 0xb880, 0x3840, 0x3380, 0x3280, 0x4700, 0, 0x4040};
  const std::vector<uint16_t> want = {0x3c00, 0x8400, 0x0300, 0x0001, 0, 0x7800, 0, 0x4200};
  scales.resize(16);
  tensors_["m.scales"] = {"BF16", {2, 8}, Bytes(scales)};
  const auto blocks = ReadAll(GptqConfig());
  ASSERT_TRUE(blocks.ok()) << blocks.status();
  for (size_t row = 0; row < 8; ++row) {
    EXPECT_EQ(blocks->substr(row * 38, 2), Bytes<uint16_t>({want[row]})) << row;
  }
  for (const uint16_t bits : {0x4780, 0x7f80, 0x7fc0}) {
    scales[9] = bits;
    tensors_["m.scales"].data = Bytes(scales);
    ExpectRefused(GptqConfig(), {"m.weight", "group 1 and row 1", "float16"});
  }
}

TEST_F(QuantizedCheckpointTest, RefusesInt8ThatDoesNotFit) {
  SetInt8();
  tensors_.erase("m.weight_scale");
  ExpectRefused(Int8Config(),
                {"model.safetensors", "\"m.weight\"", "\"m.weight_scale\"", "missing"});
  SetInt8();
  tensors_["m.weight_scale"] = {"F32", {3, 1}, Bytes<float>({1, 1, 1})};
  ExpectRefused(Int8Config(), {"\"m.weight_scale\"", "[3, 1]", "2 rows"});
  SetInt8();
  tensors_["m.weight_scale"] = {"I32", {2, 1}, Bytes<int32_t>({1, 1})};
  ExpectRefused(Int8Config(), {"\"m.weight_scale\"", "F32, F16 or BF16"});
  SetInt8();
  tensors_["m.weight"] = {"I8", {2, 31}, std::string(62, 'x')};
  ExpectRefused(Int8Config(), {"\"m.weight\"", "multiple of 32"});
  tensors_["m.weight"] = {"I8", {64}, std::string(64, 'x')};
  ExpectRefused(Int8Config(), {"\"m.weight\"", "matrix of I8"});
  tensors_["m.weight"] = {"F8_E4M3", {2, 32}, std::string(64, 'x')};
  ExpectRefused(Int8Config(), {"\"m.weight\"", "matrix of I8"});
  SetInt8();
  tensors_["m.weight_zero_point"] = {"I8", {2, 1}, std::string("\0\1", 2)};
  ExpectRefused(Int8Config(), {"\"m.weight_zero_point\"", "symmetric"});
  tensors_["m.weight_zero_point"].data = std::string(2, '\0');
  EXPECT_TRUE(ReadAll(Int8Config()).ok());
  tensors_["m.weight_scale"] = {"F32", {1, 1}, Bytes<float>({1})};
  tensors_["m.weight"].dtype = "F8_E4M3";
  ExpectRefused(Fp8Config(), {"\"m.weight_scale\"", "2 x 3"});
}

TEST_F(QuantizedCheckpointTest, RefusesFourBitsThatDoNotFit) {
  for (const char* part : {"m.qzeros", "m.scales"}) {
    SetAwq();
    tensors_.erase(part);
    ExpectRefused(AwqConfig(), {part, "missing"});
    SetGptq();
    tensors_[part] = {"F32", {1}, std::string(4, 'x')};
    ExpectRefused(GptqConfig(), {part, "model.safetensors", "F32 of shape [1]"});
  }
  SetAwq();
  json config = AwqConfig();
  config["group_size"] = 96;
  ExpectRefused(config, {"m.qweight", "group_size 96"});
  config["group_size"] = -1;  // one group
  ExpectRefused(config, {"m.qzeros", "[1, 1]"});
  tensors_["m.qweight"].dtype = "U32";
  ExpectRefused(AwqConfig(), {"m.qweight", "I32"});
  SetGptq();
  tensors_["m.qweight"] = {"I32", {16, 4}, Bytes(std::vector<uint32_t>(64))};
  ExpectRefused(GptqConfig(), {"m.qweight", "multiple of 8"});
}

TEST_F(QuantizedCheckpointTest, GroupsInOrderStayPacked) {
  SetGptq();
  const auto want = ReadAll(GptqConfig());
  ASSERT_TRUE(want.ok()) << want.status();
  std::vector<int32_t> groups(64, 0);
  std::fill(groups.begin() + 32, groups.end(), 1);
  tensors_["m.g_idx"] = {"I32", {64}, Bytes(groups)};
  for (const bool act_order : {false, true}) {
    json config = GptqConfig();
    config["desc_act"] = act_order;
    const auto blocks = ReadAll(config);
    ASSERT_TRUE(blocks.ok()) << blocks.status();
    EXPECT_EQ(*blocks, *want);
  }
}

TEST_F(QuantizedCheckpointTest, ActOrderIsWidened) {
  SetGptq();
  // Odd columns are of group 1, whose zeros are 16; those of group 0 are the row plus one.
  std::vector<int32_t> groups;
  for (int col = 0; col < 64; ++col) groups.push_back(col % 2);
  tensors_["m.g_idx"] = {"I32", {64}, Bytes(groups)};
  // 1 and 1 + 2^-10, which bfloat16 does not hold.
  std::vector<uint16_t> scales(8, 0x3c00);
  scales.resize(16, 0x3c01);
  tensors_["m.scales"].data = Bytes(scales);
  json config = GptqConfig();
  config["desc_act"] = true;
  const auto values = ReadAll(config);
  ASSERT_TRUE(values.ok()) << values.status();
  ASSERT_EQ(values->size(), 8u * 64 * 2);
  for (size_t row = 0; row < 8; ++row) {
    for (size_t col = 0; col < 64; ++col) {
      const float quant = static_cast<float>(col % 8);
      const float want = col % 2 == 0 ? quant - static_cast<float>(row + 1) : quant - 16;
      EXPECT_EQ(values->substr((row * 64 + col) * 2, 2), Bytes<float>({want}).substr(2))
          << row << " " << col;
    }
  }
  // Columns that begin and end inside a word.
  const auto checkpoint = *Checkpoint::Open(dir_);
  const TensorSlice slice{
      .name = "m.weight", .full_rows = 8, .full_cols = 64, .rows = {1, 8}, .cols = {3, 21}};
  std::string part(3 * 18 * 2, '\0');
  ASSERT_TRUE(checkpoint->ReadBlocks(slice, 2, 3, std::as_writable_bytes(std::span(part))).ok());
  for (size_t row = 0; row < 3; ++row) {
    EXPECT_EQ(part.substr(row * 36, 36), values->substr(((row + 3) * 64 + 3) * 2, 36)) << row;
  }
}

TEST_F(QuantizedCheckpointTest, RefusesGroupsThatCannotBe) {
  SetGptq();
  const std::vector<int32_t> zeros(64, 0);
  json config = GptqConfig();
  tensors_["m.g_idx"] = {"I32", {64}, Bytes(zeros)};
  ExpectRefused(config, {"m.g_idx", "not in the order", "desc_act"});
  config["desc_act"] = true;
  EXPECT_TRUE(ReadAll(config).ok());
  for (const int32_t bad : {-1, 2, 1 << 30}) {
    std::vector<int32_t> groups = zeros;
    groups[63] = bad;
    tensors_["m.g_idx"].data = Bytes(groups);
    for (const json& any : {config, GptqConfig()}) {
      ExpectRefused(any, {"m.g_idx", "column 63", absl::StrCat("group ", bad), "there are 2"});
    }
  }
  tensors_["m.g_idx"] = {"I32", {63}, Bytes(std::vector<int32_t>(63))};
  ExpectRefused(config, {"m.g_idx", "I32 of shape [63]", "[64]"});
  tensors_["m.g_idx"] = {"I64", {64}, Bytes(std::vector<int64_t>(64))};
  ExpectRefused(config, {"m.g_idx", "I64", "it must be I32"});
  tensors_.erase("m.g_idx");
  ExpectRefused(config, {"m.g_idx", "missing"});
  config["group_size"] = -1;  // one group
  ExpectRefused(config, {"m.qzeros", "[1, 1]"});
  tensors_["m.qzeros"] = {"I32", {1, 1}, Bytes<uint32_t>({0})};
  tensors_["m.scales"] = {"F16", {1, 8}, Bytes(std::vector<uint16_t>(8, 0x3c00))};
  EXPECT_TRUE(ReadAll(config).ok());
}

TEST_F(QuantizedCheckpointTest, RefusesAWrongConfigurationAndQuantsWithoutOne) {
  SetInt8();
  ExpectRefused({{"quant_method", "bitsandbytes"}}, {"config.json", "quant_method"});
  ExpectRefused(nullptr, {"m.weight", "I8", "quantization_config"});
}

}  // namespace
}  // namespace trireme
