#include "parallel/layout.h"

#include <gtest/gtest.h>

#include <map>

#include "parallel/shard.h"

namespace trireme {
namespace {

ModelConfig Config(int64_t heads, int64_t kv_heads, int64_t layers, int64_t inner, int64_t vocab) {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.hidden_size = heads * 8;
  config.intermediate_size = inner;
  config.num_layers = layers;
  config.num_heads = heads;
  config.num_kv_heads = kv_heads;
  config.head_dim = 8;
  config.vocab_size = vocab;
  config.max_position_embeddings = 64;
  return config;
}

std::vector<ModelConfig> Configs() {
  std::vector<ModelConfig> configs = {Config(8, 4, 8, 96, 160), Config(14, 2, 5, 64, 151),
                                      Config(4, 1, 3, 40, 33), Config(32, 32, 2, 128, 1000)};
  configs[1].qkv_bias = true;
  configs[2].tie_word_embeddings = true;
  configs.push_back(Config(8, 2, 3, 32, 64));
  configs.back().sandwich_norms = true;
  configs.push_back(Config(8, 2, 3, 32, 64));
  configs.back().num_experts = 4;
  configs[3].o_bias = configs[3].mlp_bias = configs[3].qkv_bias = true;
  configs[0].qk_norm = true;
  return configs;
}

TEST(Layout, CoordinatesAndRanksAreInverse) {
  const ParallelLayout layout{.tp = 4, .pp = 3};
  for (int rank = 0; rank < layout.world_size(); ++rank) {
    EXPECT_EQ(RankOf(layout, CoordOf(layout, rank)), rank);
  }
  EXPECT_EQ(CoordOf(layout, 5), (RankCoord{.tp_rank = 1, .pp_rank = 1}));
}

TEST(Layout, ReductionGroupsAreTheLargestPowerOfTwoUpToEight) {
  EXPECT_EQ(ReductionGroups(32), 8);
  EXPECT_EQ(ReductionGroups(14), 2);
  EXPECT_EQ(ReductionGroups(12), 4);
  EXPECT_EQ(ReductionGroups(7), 1);
}

TEST(Layout, StagesCoverAllLayersEvenly) {
  for (const ModelConfig& config : Configs()) {
    for (int pp = 1; pp <= config.num_layers; ++pp) {
      int64_t next = 0;
      for (int stage = 0; stage < pp; ++stage) {
        const IndexRange layers = StageLayers(config, {.tp = 1, .pp = pp}, stage);
        EXPECT_EQ(layers.begin, next);
        EXPECT_GE(layers.size(), config.num_layers / pp);
        EXPECT_LE(layers.size(), config.num_layers / pp + 1);
        next = layers.end;
      }
      EXPECT_EQ(next, config.num_layers);
    }
  }
}

TEST(Layout, StagesHaveTheLayersThatTheyAreTold) {
  const ModelConfig config = Config(8, 4, 8, 96, 160);
  const ParallelLayout layout{.tp = 2, .pp = 3, .stage_layers = {5, 1, 2}};
  EXPECT_TRUE(CheckLayout(config, layout).ok());
  EXPECT_EQ(StageLayers(config, layout, 0), (IndexRange{.begin = 0, .end = 5}));
  EXPECT_EQ(StageLayers(config, layout, 1), (IndexRange{.begin = 5, .end = 6}));
  EXPECT_EQ(StageLayers(config, layout, 2), (IndexRange{.begin = 6, .end = 8}));
  for (const StageSplit& wrong : {StageSplit{4, 4}, {4, 3, 2}, {4, 2, 1}, {8, 0, 0}}) {
    const absl::Status status = CheckLayout(config, {.tp = 2, .pp = 3, .stage_layers = wrong});
    EXPECT_TRUE(absl::IsInvalidArgument(status));
    EXPECT_NE(status.message().find("--pp 3 numbers of at least 1, which make its 8 layers"),
              std::string::npos)
        << status;
  }
}

TEST(Layout, IllegalOnesAreRefusedWithReasonAndNeighbours) {
  const auto message = [](const ModelConfig& config, int tp, int pp) {
    return std::string(CheckLayout(config, {.tp = tp, .pp = pp}).message());
  };
  const ModelConfig config = Config(8, 4, 8, 96, 160);
  EXPECT_NE(message(config, 3, 1).find("power of two"), std::string::npos);
  EXPECT_NE(message(config, 3, 1).find("--tp 2"), std::string::npos);
  EXPECT_NE(message(config, 16, 1).find("--tp 8"), std::string::npos);
  EXPECT_NE(message(config, 1, 9).find("--pp 8"), std::string::npos);
  EXPECT_NE(message(Config(14, 2, 5, 64, 151), 4, 1).find("14 attention heads"), std::string::npos);
  EXPECT_TRUE(CheckLayout(config, {.tp = 8, .pp = 8}).ok());
  EXPECT_FALSE(CheckLayout(config, {.tp = 0, .pp = 1}).ok());
  EXPECT_FALSE(CheckLayout(config, {.tp = 1, .pp = -1}).ok());
}

TEST(Layout, LegalLayoutsAreJustThoseThatPassTheCheck) {
  for (const ModelConfig& config : Configs()) {
    for (int world = 1; world <= 16; ++world) {
      std::vector<ParallelLayout> want;
      for (int tp = 1; tp <= world; ++tp) {
        const ParallelLayout layout{.tp = tp, .pp = world / tp};
        if (world % tp == 0 && CheckLayout(config, layout).ok()) want.push_back(layout);
      }
      EXPECT_EQ(LegalLayouts(config, world), want);
    }
  }
}

// How often each element of a tensor is held, over all ranks of a layout.
struct Coverage {
  int64_t rows = 0, cols = 0;
  std::vector<int> count;
};

TEST(Shard, SlicesTileEveryTensor) {
  for (const ModelConfig& config : Configs()) {
    for (int world = 1; world <= 16; ++world) {
      for (const ParallelLayout& layout : LegalLayouts(config, world)) {
        std::map<std::string, Coverage> tensors;
        for (int rank = 0; rank < world; ++rank) {
          const ModelShard shard = ComputeShard(config, layout, CoordOf(layout, rank));
          for (const TensorSlice& slice : ShardTensors(config, shard)) {
            Coverage& coverage = tensors[slice.name];
            coverage.rows = slice.full_rows;
            coverage.cols = slice.full_cols;
            coverage.count.resize(static_cast<size_t>(slice.full_rows * slice.full_cols));
            for (int64_t r = slice.rows.begin; r < slice.rows.end; ++r) {
              for (int64_t c = slice.cols.begin; c < slice.cols.end; ++c) {
                ++coverage.count[static_cast<size_t>(r * slice.full_cols + c)];
              }
            }
          }
        }
        int64_t elements = 0;
        for (const auto& [name, coverage] : tensors) {
          elements += coverage.rows * coverage.cols;
          const int copies = coverage.count.front();
          EXPECT_GE(copies, 1) << name;
          for (const int count : coverage.count) {
            ASSERT_EQ(count, copies) << name << " tp " << layout.tp << " pp " << layout.pp;
          }
          const bool kv =
              name.find("k_proj") != std::string::npos || name.find("v_proj") != std::string::npos;
          const bool replicated = name.find("norm") != std::string::npos ||
                                  name.find("moe.gate") != std::string::npos ||
                                  name.find("o_proj.bias") != std::string::npos ||
                                  name.find("down_proj.bias") != std::string::npos;
          const bool tied = config.tie_word_embeddings && layout.pp > 1 &&
                            name.find("embed_tokens") != std::string::npos;
          if (!kv && !replicated && !tied) {
            EXPECT_EQ(copies, 1) << name;
          }
          if (kv) {
            EXPECT_EQ(copies, std::max<int64_t>(1, layout.tp / config.num_kv_heads)) << name;
          }
        }
        EXPECT_EQ(static_cast<uint64_t>(elements), config.NumParameters());
      }
    }
  }
}

}  // namespace
}  // namespace trireme
