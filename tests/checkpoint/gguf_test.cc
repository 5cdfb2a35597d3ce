#include "worker/checkpoint/gguf.h"

#include <gtest/gtest.h>

#include <fstream>

#include "parallel/model_config.h"
#include "tests/gguf_writer.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

const fs::path kGolden = fs::path(TRIREME_SOURCE_DIR) / "tests/golden";

std::vector<float> ReadFloats(const Checkpoint& checkpoint, const TensorSlice& slice) {
  const TensorInfo* info = checkpoint.Find(slice.name);
  if (info == nullptr) {
    ADD_FAILURE() << slice.name << " is missing";
    return {};
  }
  std::string bytes(
      static_cast<size_t>(slice.rows.size() * DTypeRowBytes(info->dtype, slice.cols.size())), '\0');
  const absl::Status status = checkpoint.Read(slice, std::as_writable_bytes(std::span(bytes)));
  EXPECT_TRUE(status.ok()) << status;
  return ToFloats({.data = bytes.data(),
                   .dtype = info->dtype,
                   .rows = slice.rows.size(),
                   .cols = slice.cols.size(),
                   .row_stride = slice.cols.size()});
}

// The same weights before and after llama.cpp's converter (tools/make_gguf_golden.py), which
// renames, reorders and widens them.
class ConvertedTest : public testing::TestWithParam<std::string> {};

TEST_P(ConvertedTest, EveryRankReadsWhatItReadsFromSafetensors) {
  const std::string name = GetParam();
  const std::string file = name == "qwen2" ? "qwen2-00001-of-00003.gguf" : name + ".gguf";
  const auto config = ModelConfig::Load(kGolden / "models" / name);
  ASSERT_TRUE(config.ok()) << config.status();
  const auto want = Checkpoint::Open(kGolden / "models" / name);
  ASSERT_TRUE(want.ok()) << want.status();
  const auto got = Checkpoint::Open(kGolden / "gguf" / file);
  ASSERT_TRUE(got.ok()) << got.status();
  for (const ParallelLayout& layout : {ParallelLayout{.tp = 1, .pp = 1}, {.tp = 4, .pp = 3}}) {
    for (int rank = 0; rank < layout.world_size(); ++rank) {
      const ModelShard shard = ComputeShard(*config, layout, CoordOf(layout, rank));
      for (const TensorSlice& slice : ShardTensors(*config, shard)) {
        std::vector<float> expected = ReadFloats(**want, slice);
        if (config->norm_weights_minus_one && slice.name.ends_with("norm.weight")) {
          for (float& value : expected) value += 1.0f;
        }
        EXPECT_EQ(ReadFloats(**got, slice), expected) << slice.name << " of rank " << rank;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, ConvertedTest,
                         testing::Values("llama32", "llama_bias", "llama_linear_rope", "mixtral",
                                         "gemma3", "qwen2", "qwen3"),
                         [](const auto& info) { return info.param; });

constexpr uint32_t kQ8 = 8;
constexpr uint32_t kQ4K = 12;

class GgufCheckpointTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = fs::temp_directory_path() /
            ("trireme_gguf_ckpt_" +
             std::string(testing::UnitTest::GetInstance()->current_test_info()->name()) + ".gguf");
  }
  void TearDown() override { fs::remove(path_); }

  // Two layers, heads of 4 rows, and an embedding.
  static GgufWriter Minimal(const std::string& architecture) {
    GgufWriter writer;
    writer.Text("general.architecture", architecture);
    const auto key = [&](const char* name) { return architecture + "." + name; };
    writer.Uint(key("block_count"), 2).Uint(key("embedding_length"), 8);
    writer.Uint(key("feed_forward_length"), 512).Uint(key("attention.head_count"), 2);
    writer.Uint(key("context_length"), 512);
    writer.Float(key("attention.layer_norm_rms_epsilon"), 1e-6f);
    writer.Floats("token_embd.weight", {8, 3});
    return writer;
  }

  absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const GgufWriter& writer) const {
    std::ofstream(path_, std::ios::binary) << writer.File();
    return Checkpoint::Open(path_);
  }
  void ExpectRefused(const GgufWriter& writer, const std::string& what) const {
    const std::string message(Open(writer).status().message());
    EXPECT_NE(message.find(what), std::string::npos) << message << "\nwithout: " << what;
    EXPECT_TRUE(message.starts_with(path_.string())) << message;
  }

  fs::path path_;
};

// Rows of blocks, each filled with a letter of its own.
std::string LetteredBlocks(int rows, int blocks, int block_bytes) {
  std::string data;
  for (int i = 0; i < rows * blocks; ++i) {
    data += std::string(static_cast<size_t>(block_bytes), static_cast<char>('a' + i));
  }
  return data;
}

// The letters of whole blocks.
std::string Letters(const std::string& bytes, size_t block_bytes) {
  std::string letters;
  for (size_t at = 0; at < bytes.size(); at += block_bytes) {
    letters += bytes[at];
    EXPECT_EQ(bytes.substr(at, block_bytes), std::string(block_bytes, bytes[at]));
  }
  return letters;
}

TEST_F(GgufCheckpointTest, BlocksAreCopiedWholeWithColumnsWidened) {
  GgufWriter writer = Minimal("qwen2");
  writer.Add("blk.1.ffn_down.weight", {512, 8}, kQ4K, LetteredBlocks(8, 2, 144));
  writer.Add("blk.0.ffn_down.weight", {512, 8}, kQ8, LetteredBlocks(8, 16, 34));
  const auto checkpoint = Open(writer);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  TensorSlice slice{.name = "model.layers.1.mlp.down_proj.weight",
                    .full_rows = 8,
                    .full_cols = 512,
                    .rows = {2, 6},
                    .cols = {0, 512}};
  EXPECT_EQ((*checkpoint)->Find(slice.name)->dtype, DType::kQ4K);
  EXPECT_EQ((*checkpoint)->Find(slice.name)->stored_type, "Q4_K");
  std::string bytes(4 * 2 * 144, '\0');
  const auto out = [&] { return std::as_writable_bytes(std::span(bytes)); };
  ASSERT_TRUE((*checkpoint)->Read(slice, out()).ok());
  EXPECT_EQ(Letters(bytes, 144), "efghijkl");
  EXPECT_EQ((*checkpoint)->bytes_read(), bytes.size());

  // Rows count from the slice's first; columns 128 to 256 are in the first block of a row, 128 to
  // 384 in both.
  slice.cols = {128, 256};
  bytes.assign(2 * 144, '\0');
  ASSERT_TRUE((*checkpoint)->ReadBlocks(slice, 1, 2, out()).ok());
  EXPECT_EQ(Letters(bytes, 144), "gi");
  slice.cols = {128, 384};
  bytes.assign(2 * 144, '\0');
  ASSERT_TRUE((*checkpoint)->ReadBlocks(slice, 3, 1, out()).ok());
  EXPECT_EQ(Letters(bytes, 144), "kl");
  EXPECT_TRUE((*checkpoint)->ReadBlocks(slice, 4, 0, {}).ok());
  EXPECT_FALSE((*checkpoint)->ReadBlocks(slice, 4, 1, out()).ok());
  EXPECT_FALSE((*checkpoint)->ReadBlocks(slice, -1, 1, out()).ok());
  EXPECT_FALSE((*checkpoint)->ReadBlocks(slice, 0, 2, out()).ok());
  // A slice that is no whole blocks cannot be had as such.
  EXPECT_FALSE((*checkpoint)->Read(slice, out()).ok());

  slice.name = "model.layers.0.mlp.down_proj.weight";
  slice.rows = {0, 2};
  slice.cols = {32, 96};
  bytes.assign(2 * 2 * 34, '\0');
  ASSERT_TRUE((*checkpoint)->Read(slice, out()).ok());
  EXPECT_EQ(Letters(bytes, 34), "bcrs");
}

// llama.cpp stores a head's rows for rotary pairs that are neighbours: 0, 2, 1, 3 of a head of 4.
TEST_F(GgufCheckpointTest, QueriesAndKeysOfLlamaAreInHalvesAgain) {
  for (const std::string architecture : {"llama", "qwen2"}) {
    GgufWriter writer = Minimal(architecture);
    writer.Floats("blk.0.attn_q.weight", {8, 8});
    writer.Floats("blk.0.attn_k.bias", {8});
    writer.Floats("blk.0.attn_v.bias", {8});
    const auto checkpoint = Open(writer);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    const bool llama = architecture == "llama";
    TensorSlice slice{.name = "model.layers.0.self_attn.q_proj.weight",
                      .full_rows = 8,
                      .full_cols = 8,
                      .rows = {4, 8},
                      .cols = {0, 1}};
    EXPECT_EQ(ReadFloats(**checkpoint, slice),
              llama ? (std::vector<float>{32, 48, 40, 56}) : (std::vector<float>{32, 40, 48, 56}));
    float row[1];
    ASSERT_TRUE(
        (*checkpoint)->ReadBlocks(slice, 1, 1, std::as_writable_bytes(std::span(row))).ok());
    EXPECT_EQ(row[0], llama ? 48 : 40);
    slice = {.name = "model.layers.0.self_attn.k_proj.bias",
             .full_rows = 1,
             .full_cols = 8,
             .rows = {0, 1},
             .cols = {4, 8},
             .is_vector = true};
    EXPECT_EQ(ReadFloats(**checkpoint, slice),
              llama ? (std::vector<float>{4, 6, 5, 7}) : (std::vector<float>{4, 5, 6, 7}));
    slice.name = "model.layers.0.self_attn.v_proj.bias";
    EXPECT_EQ(ReadFloats(**checkpoint, slice), (std::vector<float>{4, 5, 6, 7}));
  }
}

TEST_F(GgufCheckpointTest, ExpertsAreMatricesOfTheirOwn) {
  const auto experts = [] {
    GgufWriter writer = Minimal("llama");
    writer.Uint("llama.expert_count", 3).Uint("llama.expert_used_count", 2);
    return writer;
  };
  GgufWriter stacked = experts();
  stacked.Floats("blk.1.ffn_gate_exps.weight", {8, 4, 3}, 0);
  stacked.Floats("blk.1.ffn_down_exps.weight", {4, 8, 3}, 1000);
  stacked.Floats("blk.1.ffn_gate_inp.weight", {8, 3}, 2000);
  GgufWriter single = experts();  // as older files have it
  for (int expert = 0; expert < 3; ++expert) {
    const std::string index = std::to_string(expert);
    const float first = static_cast<float>(expert * 32);
    single.Floats("blk.1.ffn_gate." + index + ".weight", {8, 4}, first);
    single.Floats("blk.1.ffn_down." + index + ".weight", {4, 8}, first + 1000);
  }
  for (const GgufWriter& writer : {stacked, single}) {
    const auto checkpoint = Open(writer);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    const std::string prefix = "model.layers.1.block_sparse_moe.experts.2.";
    EXPECT_EQ(ReadFloats(**checkpoint, {.name = prefix + "w1.weight",
                                        .full_rows = 4,
                                        .full_cols = 8,
                                        .rows = {1, 2},
                                        .cols = {0, 3}}),
              (std::vector<float>{72, 73, 74}));
    EXPECT_EQ(ReadFloats(**checkpoint, {.name = prefix + "w2.weight",
                                        .full_rows = 8,
                                        .full_cols = 4,
                                        .rows = {0, 1},
                                        .cols = {0, 4}}),
              (std::vector<float>{1064, 1065, 1066, 1067}));
  }
  const auto checkpoint = Open(stacked);
  EXPECT_NE((*checkpoint)->Find("model.layers.1.block_sparse_moe.gate.weight"), nullptr);
  EXPECT_EQ((*checkpoint)->Find("model.layers.1.block_sparse_moe.experts.3.w1.weight"), nullptr);

  ExpectRefused(experts().Floats("blk.0.ffn_up_exps.weight", {8, 4, 2}), "the first of 3 experts");
  ExpectRefused(experts().Floats("blk.0.ffn_up.3.weight", {8, 4}), "\"blk.0.ffn_up.3.weight\"");
  ExpectRefused(Minimal("llama").Floats("blk.0.ffn_up_exps.weight", {8, 4, 2}), "unsupported");
  ExpectRefused(experts()
                    .Floats("blk.0.ffn_up_exps.weight", {8, 4, 3})
                    .Floats("blk.0.ffn_up.0.weight", {8, 4}),
                "is there in another form as well");
}

TEST_F(GgufCheckpointTest, NormsHaveTheNamesOfTheirArchitecture) {
  const auto llama = Open(Minimal("llama").Floats("blk.0.ffn_norm.weight", {8}));
  ASSERT_TRUE(llama.ok()) << llama.status();
  EXPECT_NE((*llama)->Find("model.layers.0.post_attention_layernorm.weight"), nullptr);
  const auto gemma = Open(Minimal("gemma3")
                              .Floats("blk.0.ffn_norm.weight", {8})
                              .Floats("blk.0.post_attention_norm.weight", {8}, 10)
                              .Floats("blk.0.post_ffw_norm.weight", {8}, 20));
  ASSERT_TRUE(gemma.ok()) << gemma.status();
  TensorSlice slice{.name = "", .full_rows = 1, .full_cols = 8, .rows = {0, 1}, .cols = {0, 1}};
  slice.is_vector = true;
  slice.name = "model.layers.0.pre_feedforward_layernorm.weight";
  EXPECT_EQ(ReadFloats(**gemma, slice), std::vector<float>{0});
  slice.name = "model.layers.0.post_attention_layernorm.weight";
  EXPECT_EQ(ReadFloats(**gemma, slice), std::vector<float>{10});
  slice.name = "model.layers.0.post_feedforward_layernorm.weight";
  EXPECT_EQ(ReadFloats(**gemma, slice), std::vector<float>{20});
}

TEST_F(GgufCheckpointTest, RefusesTensorsThatTheArchitectureDoesNotHave) {
  for (const char* name : {"blk.2.attn_q.weight", "blk.00.attn_q.weight", "blk.x.attn_q.weight",
                           "blk.0.attn_qkv.weight", "blk.0", "blk.", "output.bias",
                           "blk.0.post_ffw_norm.weight", "blk.-1.attn_q.weight"}) {
    ExpectRefused(Minimal("llama").Floats(name, {8, 8}),
                  "unsupported: tensor \"" + std::string(name) + "\" is none of the architecture");
  }
  EXPECT_TRUE(Open(Minimal("llama").Floats("rope_freqs.weight", {2}, 1)).ok());
  ExpectRefused(Minimal("llama").Floats("blk.0.attn_q.weight", {8, 6}), "no multiple of a head's");
}

TEST_F(GgufCheckpointTest, RefusesWhatItCannotRead) {
  const GgufWriter readable = Minimal("llama");
  GgufWriter matrix = readable;
  matrix.Add("output.weight", {256, 1}, 17, std::string(74, '\0'));
  EXPECT_EQ(Open(matrix).status().message(),
            path_.string() +
                ": unsupported: tensor \"output.weight\" is IQ2_XS; supported are F32, F16, "
                "Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, BF16");
  GgufWriter unknown = readable;
  unknown.Add("output.weight", {8, 3}, 12345, std::string(96, '\0'));
  ExpectRefused(unknown, "tensor \"output.weight\" is type 12345; supported are F32, F16");
  GgufWriter vector = readable;
  vector.Add("output_norm.weight", {32}, kQ8, std::string(34, '\0'));
  ExpectRefused(vector, "\"output_norm.weight\" is Q8_0; supported are F32, F16, BF16");
  const auto checkpoint = Open(readable);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  std::vector<std::byte> bytes(4096);
  const auto refusal = [&](const TensorSlice& slice) {
    return std::string((*checkpoint)->ReadBlocks(slice, 0, 1, bytes).message());
  };
  const TensorSlice absent{.name = "model.absent.weight",
                           .full_rows = 1,
                           .full_cols = 32,
                           .rows = {0, 1},
                           .cols = {0, 32},
                           .is_vector = true};
  EXPECT_NE(refusal(absent).find("tensor \"model.absent.weight\" is missing"), std::string::npos);
  EXPECT_NE(refusal({.name = "model.embed_tokens.weight",
                     .full_rows = 8,
                     .full_cols = 3,
                     .rows = {0, 1},
                     .cols = {0, 3}})
                .find("has shape [3, 8], but the file's metadata makes it [8, 3]"),
            std::string::npos);
}

TEST_F(GgufCheckpointTest, SaysWhatModelTakesWhenThePathIsNothing) {
  const std::string nothing(Checkpoint::Open(path_).status().message());
  EXPECT_NE(nothing.find("neither a directory nor a .gguf file"), std::string::npos) << nothing;
  const std::string none(Checkpoint::Open(fs::temp_directory_path()).status().message());
  EXPECT_NE(none.find("A GGUF file is given by its own path"), std::string::npos) << none;
}

}  // namespace
}  // namespace trireme
