#include "cluster/planner/planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/file.h"
#include "parallel/layer_costs.h"
#include "tests/cluster/planner/planner_models.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;

Plan MustPlan(const ModelShape& shape, const WeightTypes& types, const ClusterSpec& cluster,
              const PlanOptions& options) {
  const absl::StatusOr<Plan> plan = MakePlan(shape, types, cluster, options);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return plan.ok() ? *plan : Plan();
}

Plan PlanOf(const ModelShape& shape, const ClusterSpec& cluster, const PlanOptions& options) {
  return MustPlan(shape, *WeightTypes::Named("BF16"), cluster, options);
}

class VisionTest : public ::testing::Test {
 protected:
  Plan On(const std::string& gpu, int nodes, int per_node, int64_t images = 1) {
    PlanOptions options = Request(8192);
    options.images = images;
    return MustPlan(shape_, *WeightTypes::Load(VisionConfigPath(), shape_),
                    Gpus(gpu, nodes, per_node), options);
  }
  const ModelShape shape_ = *ModelShape::Load(VisionConfigPath());
};

// The sum of numel() over named_parameters() of transformers 5.24's MllamaForConditionalGeneration
// for this config, on torch's meta device.
TEST_F(VisionTest, HasTransformersParameters) {
  EXPECT_EQ(shape_.NumParameters(), 88'593'355'323u);
  EXPECT_FALSE(shape_.computed);
}

// The same for Llama-3.2-11B-Vision's sizes: all defaults of the classes.
TEST(SmallVisionTest, HasTransformersParameters) {
  const auto shape = ModelShape::Parse(
      R"({"architectures": ["MllamaForConditionalGeneration"], "text_config": {},
          "vision_config": {}})",
      "config.json");
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_EQ(shape->NumParameters(), 10'642'941'475u);
}

TEST_F(VisionTest, NeedsMoreThanOneH200) {
  const Plan plan = On("h200", 1, 1);
  EXPECT_EQ(plan.total_weight_bytes, 2 * 88'593'355'323);
  EXPECT_TRUE(plan.layouts.empty());
  EXPECT_THAT(WhyRejected(plan, 1, 1), HasSubstr("needs 177.2 GB for weights"));
}

// A rank's share of the matrices, and norms, gates and vision tower whole, computed apart from the
// code under test: 2 (100 (213909504 + 2 h) + 20 (2 x 128 + 2) + h + 32064 h + 32072 h +
// 926490131). h is 8192; 213909504 a quarter of a layer's matrices; 32072 are the embedding's 32064
// + 8 rows; 926490131 transformers' count of vision_model and multi_modal_projector.
TEST_F(VisionTest, FitsFourH100) {
  const Plan plan = On("h100", 1, 4);
  const LayoutPlan* layout = FindLayout(plan, 4, 1);
  ASSERT_NE(layout, nullptr);
  EXPECT_EQ(layout->stages[0].weight_bytes, std::vector<int64_t>(4, 45'688'988'790));
  // 80 layers of self-attention with 256 blocks of 32 tokens, 20 with the 201 blocks of one image's
  // 4 x 1601 patches; a block is keys and values of 2 heads x 128 in 16 bits.
  EXPECT_EQ(layout->stages[0].request_bytes, (80 * 256 + 20 * 201) * int64_t{2 * 2 * 128 * 2 * 32});
  EXPECT_EQ(plan.layouts.front().layout, (ParallelLayout{.tp = 4, .pp = 1}));
}

TEST_F(VisionTest, FitsTwoNodesOfTwo) {
  const Plan plan = On("h100", 2, 2);
  const LayoutPlan* layout = FindLayout(plan, 2, 2);
  ASSERT_NE(layout, nullptr);
  // The embedding and the vision tower are on the first stage, the head on the second.
  EXPECT_EQ(layout->stages[0].max_weight_bytes(), 45'687'328'846);
  EXPECT_EQ(layout->stages[1].max_weight_bytes(), 43'834'233'896);
  EXPECT_FALSE(layout->tp_across_nodes);
  ASSERT_NE(FindLayout(plan, 4, 1), nullptr);
  EXPECT_TRUE(FindLayout(plan, 4, 1)->tp_across_nodes);
  // Across nodes goes PP, not TP.
  EXPECT_EQ(plan.layouts.front().layout, (ParallelLayout{.tp = 2, .pp = 2}));
}

TEST_F(VisionTest, ImagesAreNotPartOfTheContext) {
  const Plan without = On("h100", 1, 4, 0);
  EXPECT_EQ(FindLayout(without, 4, 1)->stages[0].request_bytes,
            80 * 256 * int64_t{2 * 2 * 128 * 2 * 32});
}

// Of a config.json alone. Layers have 218103808 elements in matrices of 43008 rows, each with a
// scale where they stay FP8.
TEST(PlannerTest, Fp8IsHeldAsTheDeviceMultipliesIt) {
  const auto plan_on = [](const std::string& gpu, const std::string& activations) {
    const ModelShape shape = Llama8B(
        R"(, "quantization_config": {"quant_method": "compressed-tensors",
           "format": "float-quantized", "config_groups": {"g": {"weights": {"num_bits": 8,
           "type": "float", "strategy": "channel"})" +
        activations + "}}}");
    return MustPlan(shape, *WeightTypes::Load("/no/such/config.json", shape), Gpus(gpu, 1, 1),
                    Request(8192));
  };
  const std::string dynamic = R"(, "input_activations": {"num_bits": 8, "dynamic": true})";
  constexpr int64_t kBf16 = 2 * 8'030'261'248;
  for (const char* gpu : {"l40s", "h100", "h200", "b200"}) {
    EXPECT_EQ(plan_on(gpu, dynamic).total_weight_bytes,
              kBf16 - int64_t{32} * (218'103'808 - 4 * 43'008))
        << gpu;
  }
  for (const char* gpu : {"a100", "mi300x", "cpu"}) {
    EXPECT_EQ(plan_on(gpu, dynamic).total_weight_bytes, kBf16) << gpu;
  }
  const Plan widened = plan_on("h100", "");
  EXPECT_EQ(widened.total_weight_bytes, kBf16);
  // Half the bytes and twice the rate, in the layers.
  const LayoutPlan& slow = widened.layouts.at(0);
  const LayoutPlan fast = plan_on("h100", dynamic).layouts.at(0);
  EXPECT_LT(fast.tpot_s, 0.65 * slow.tpot_s);
  EXPECT_LT(fast.ttft_s, 0.65 * slow.ttft_s);
}

// 32 layers x 8 heads x 128 x keys and values x 2 bytes are 128 KiB a token.
TEST(PlannerTest, CacheAndRequestsOfLlama8B) {
  const Plan plan = PlanOf(Llama8B(), Gpus("h100", 1, 1), Request(8192));
  ASSERT_EQ(plan.layouts.size(), 1u);
  // transformers' count of this model, two bytes each.
  EXPECT_EQ(plan.total_weight_bytes, 2 * 8'030'261'248);
  const StagePlan& stage = plan.layouts[0].stages[0];
  EXPECT_EQ(stage.request_bytes, int64_t{1} << 30);
  EXPECT_EQ(stage.kv_bytes_max,
            72'000'000'000 - 2'000'000'000 - 2 * 8'030'261'248 - stage.workspace_bytes);
  EXPECT_EQ(plan.layouts[0].requests(), stage.kv_bytes_max >> 30);
}

TEST(PlannerTest, RanksThatShareAKvHeadHoldItAll) {
  const ModelShape shape = *ModelShape::Parse(
      R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 1024, "intermediate_size": 4096,
          "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
          "vocab_size": 32000, "max_position_embeddings": 8192})",
      "config.json");
  const Plan plan = PlanOf(shape, Gpus("h100", 1, 8), Request(8192));
  ASSERT_NE(FindLayout(plan, 2, 1), nullptr);
  ASSERT_NE(FindLayout(plan, 8, 1), nullptr);
  EXPECT_EQ(FindLayout(plan, 2, 1)->stages[0].request_bytes,
            FindLayout(plan, 8, 1)->stages[0].request_bytes);
}

TEST(PlannerTest, SaysWhyNot) {
  const ModelShape shape = *ModelShape::Parse(
      R"({"architectures": ["Qwen2ForCausalLM"], "hidden_size": 3584, "intermediate_size": 18944,
          "num_hidden_layers": 4, "num_attention_heads": 28, "num_key_value_heads": 4,
          "vocab_size": 152064})",
      "config.json");
  const Plan plan = PlanOf(shape, Gpus("h100", 2, 4), Request(8192));
  EXPECT_THAT(WhyRejected(plan, 3, 0), HasSubstr("a power of two"));
  EXPECT_THAT(WhyRejected(plan, 8, 0), HasSubstr("28 attention heads"));
  EXPECT_THAT(WhyRejected(plan, 1, 5), HasSubstr("there are 4 layers"));
  EXPECT_THAT(WhyRejected(plan, 2, 3), HasSubstr("no multiple"));
  EXPECT_NE(FindLayout(plan, 4, 2), nullptr);
}

TEST(PlannerTest, ALargeClusterIsPlannedAtOnce) {
  const Plan plan = PlanOf(Llama8B(), Gpus("h100", 4096, 64), Request(8192, 10000));
  EXPECT_THAT(WhyRejected(plan, 9, 0), HasSubstr("at most 8"));
  EXPECT_THAT(WhyRejected(plan, 1, 33), HasSubstr("there are 32 layers"));
  EXPECT_LT(plan.rejections.size(), 200u);
  EXPECT_FALSE(plan.layouts.empty());
}

TEST(PlannerTest, QuantizedBlocksAreNotCut) {
  // 8 ranks would have 172 columns of down_proj each.
  const ModelShape shape = *ModelShape::Parse(
      R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 1024, "intermediate_size": 1376,
          "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 8,
          "vocab_size": 32000, "max_position_embeddings": 8192})",
      "config.json");
  const Plan plan = MustPlan(shape, *WeightTypes::Named("int4"), Gpus("h100", 1, 8), Request(8192));
  EXPECT_THAT(WhyRejected(plan, 8, 1), HasSubstr("down_proj.weight"));
  EXPECT_THAT(WhyRejected(plan, 8, 1), HasSubstr("inside a block of 32"));
  EXPECT_NE(FindLayout(plan, 1, 1), nullptr);
}

TEST(PlannerTest, RefusesWhatDoesNotHoldTheRequests) {
  const Plan plan = PlanOf(Llama8B(), Gpus("l40s", 1, 1), Request(8192, 100));
  EXPECT_THAT(WhyRejected(plan, 1, 1), HasSubstr("requests of 8192 tokens at once, not 100"));
  PlanOptions exact = Request(131072);
  exact.kv_dtype = KvDType::kF32;
  const Plan long_one = PlanOf(Llama8B(), Gpus("a100-40", 1, 1), exact);
  EXPECT_THAT(WhyRejected(long_one, 1, 1), HasSubstr("KV cache"));
}

TEST(PlannerTest, CopiesFillHostsAndTheRestIsIdle) {
  const Plan plan = PlanOf(Llama8B(), Gpus("h100", 2, 6), Request(8192));
  ASSERT_NE(FindLayout(plan, 4, 1), nullptr);
  EXPECT_EQ(FindLayout(plan, 4, 1)->replicas, 2);
  EXPECT_EQ(FindLayout(plan, 4, 1)->idle_devices, 4);
  EXPECT_EQ(FindLayout(plan, 2, 6)->replicas, 1);
  EXPECT_EQ(FindLayout(plan, 2, 1)->replicas, 6);
}

// One token reads all weights but the embedding, and the cache; nothing else takes time here.
TEST(PlannerTest, OneRankDecodesAsFastAsItReads) {
  ClusterSpec cluster = Gpus("h100", 1, 1);
  cluster.device.memory_bytes_per_s = 1e12;
  cluster.device.memory_efficiency = 1;
  cluster.device.layer_overhead_s = 0;
  const Plan plan = PlanOf(Llama8B(), cluster, Request(8192));
  const double read = 2.0 * (8'030'261'248 - 128256 * 4096) + (8192 - 128) * 131072.0;
  EXPECT_NEAR(plan.layouts[0].tpot_s, read / 1e12, 1e-9);
  EXPECT_NEAR(plan.layouts[0].tokens_per_s,
              256 / (plan.layouts[0].ttft_s + 255 * plan.layouts[0].tpot_s), 1e-6);
}

// Every layout of the slower cluster is no slower on the faster one.
void ExpectNotSlower(const ClusterSpec& slow, const ClusterSpec& fast, int64_t concurrency) {
  const Plan before = PlanOf(Llama8B(), slow, Request(8192, concurrency));
  const Plan after = PlanOf(Llama8B(), fast, Request(8192, concurrency));
  ASSERT_FALSE(before.layouts.empty());
  for (const LayoutPlan& layout : before.layouts) {
    const LayoutPlan* same = FindLayout(after, layout.layout.tp, layout.layout.pp);
    ASSERT_NE(same, nullptr);
    EXPECT_LE(same->ttft_s, layout.ttft_s);
    EXPECT_LE(same->tpot_s, layout.tpot_s);
    EXPECT_GE(same->tokens_per_s, layout.tokens_per_s);
  }
}

TEST(PlannerTest, FasterHardwareIsNeverSlower) {
  for (const int64_t concurrency : {1, 7, 64}) {
    const ClusterSpec base = Gpus("h100", 2, 4);
    ClusterSpec fast = base;
    fast.device.memory_bytes_per_s *= 1.3;
    ExpectNotSlower(base, fast, concurrency);
    fast = base;
    fast.device.flops_16bit *= 1.3;
    ExpectNotSlower(base, fast, concurrency);
    fast = base;
    fast.link.bytes_per_s *= 1.3;
    ExpectNotSlower(base, fast, concurrency);
    fast = base;
    fast.network.bytes_per_s *= 1.3;
    ExpectNotSlower(base, fast, concurrency);
    fast = base;
    fast.nics_per_node = 4;
    ExpectNotSlower(base, fast, concurrency);
    fast = base;
    fast.link.alpha_s /= 2;
    fast.network.alpha_s /= 2;
    ExpectNotSlower(base, fast, concurrency);
  }
}

// Layers have 218112000 parameters, the embedding 128256 x 4096, the head as many and the final
// norm's 4096: transformers' counts of this model, two bytes each.
TEST(LayerCostsTest, AreLlama8Bs) {
  const auto costs = MeasureLayers(Llama8B(), *WeightTypes::Named("BF16"), /*tp=*/1, {});
  ASSERT_TRUE(costs.ok()) << costs.status();
  EXPECT_EQ(costs->bytes, std::vector<double>(32, 2 * 218'112'000.0));
  EXPECT_EQ(costs->read, costs->bytes);
  EXPECT_EQ(costs->first_bytes, 2.0 * 128256 * 4096);
  EXPECT_EQ(costs->last_bytes, 2.0 * 128256 * 4096 + 2 * 4096);
  const auto widened =
      MeasureLayers(Llama8B(), *WeightTypes::Named("BF16"), /*tp=*/1, {.float32 = true});
  EXPECT_EQ(widened->bytes, std::vector<double>(32, 4 * 218'112'000.0));
}

// A token runs 2 of 8 experts of 3 x 64 x 128 parameters, and all of attention (4 x 64 x 64 with 4
// KV heads), the router and two norms.
TEST(LayerCostsTest, OfAMixtureATokenReadsItsExperts) {
  const ModelShape shape = *ModelShape::Parse(
      R"({"architectures": ["MixtralForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
          "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
          "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 256,
          "max_position_embeddings": 128})",
      "config.json");
  const auto costs = MeasureLayers(shape, *WeightTypes::Named("F32"), /*tp=*/1, {});
  ASSERT_TRUE(costs.ok()) << costs.status();
  const double experts = 4.0 * 8 * 3 * 64 * 128;
  EXPECT_DOUBLE_EQ(costs->bytes[1] - costs->read[1], experts * 3 / 4);
}

// Embedding and head are as large as 2.4 layers: with 8 layers, an outer stage has 4.5 GB.
TEST(UnevenTest, TheStagesAreUnevenWhereEvenOnesDoNotFit) {
  ClusterSpec cluster = Gpus("h100", 1, 4);
  const auto plan_with = [&cluster](double usable) {
    cluster.device.memory_bytes = usable;
    cluster.device.reserved_bytes = 0;
    PlanOptions options = Request(1024);
    options.memory_share = 1;
    return *MakePlan(Llama8B(), *WeightTypes::Named("BF16"), cluster, options);
  };
  EXPECT_NE(FindLayout(plan_with(5e9), 1, 4), nullptr);
  const Plan plan = plan_with(4.45e9);
  EXPECT_EQ(FindLayout(plan, 1, 4), nullptr);
  const auto uneven =
      std::find_if(plan.layouts.begin(), plan.layouts.end(), [](const LayoutPlan& layout) {
        return layout.layout == ParallelLayout{.tp = 1, .pp = 4, .stage_layers = {7, 9, 9, 7}};
      });
  ASSERT_NE(uneven, plan.layouts.end());
  EXPECT_EQ(uneven->stages[1].layers, (IndexRange{.begin = 7, .end = 16}));
  EXPECT_NE(WhyRejected(plan_with(4.1e9), 1, 4), "");
}

ClusterSpec UnlikeNodes(const std::string& first, const std::string& second, int per_node) {
  ClusterSpec cluster = Gpus(first, 2, per_node);
  cluster.node_devices = {*FindDevice(first), *FindDevice(second)};
  return cluster;
}

// The split whose slower stage reads its weights soonest, of all 31, by the data sheets' bandwidth:
// an h100 has 3350 GB/s, an l40s 864, and the head is 2 x 128256 x 4096 + 2 x 4096 bytes.
TEST(UnlikeNodesTest, LayersFollowTheBandwidthAndTheHeadCounts) {
  const double layer = 2 * 218'112'000.0, head = 2.0 * 128256 * 4096 + 2 * 4096;
  const auto fastest = [&](double first_speed, double second_speed) {
    int64_t best = 0;
    double least = 1e18;
    for (int64_t first = 1; first < 32; ++first) {
      const double slowest =
          std::max(static_cast<double>(first) * layer / first_speed,
                   (static_cast<double>(32 - first) * layer + head) / second_speed);
      if (slowest < least) {
        least = slowest;
        best = first;
      }
    }
    return StageSplit({best, 32 - best});
  };
  const auto split = [](const Plan& plan) {
    for (const LayoutPlan& layout : plan.layouts) {
      if (layout.layout.tp == 1 && layout.layout.pp == 2) return layout.layout.stage_layers;
    }
    return StageSplit();
  };
  const StageSplit down = split(PlanOf(Llama8B(), UnlikeNodes("h100", "l40s", 1), Request(8192)));
  EXPECT_EQ(down, fastest(3350, 864));
  const StageSplit up = split(PlanOf(Llama8B(), UnlikeNodes("l40s", "h100", 1), Request(8192)));
  EXPECT_EQ(up, fastest(864, 3350));
  const StageSplit same = split(PlanOf(Llama8B(), UnlikeNodes("h100", "h100", 1), Request(8192)));
  EXPECT_TRUE(same.empty());
}

// 70 billion parameters in 16 bits: 80 layers of 1.71 GB. An a100-40 has room for 19 beside nothing
// else; the layers go where the memory is, as bandwidth alone (1555 to 4800) would give it 19.6.
TEST(UnlikeNodesTest, LayersGoWhereTheMemoryIs) {
  const ModelShape shape = *ModelShape::Parse(
      R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 8192, "intermediate_size": 28672,
          "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
          "vocab_size": 128256, "max_position_embeddings": 131072})",
      "config.json");
  ClusterSpec cluster = UnlikeNodes("h200", "a100-40", 1);
  cluster.node_devices[0].memory_bytes = 200e9;
  const Plan plan = PlanOf(shape, cluster, Request(8192));
  ASSERT_EQ(plan.layouts.size(), 1u);
  const LayoutPlan& layout = plan.layouts[0];
  EXPECT_EQ(layout.layout.pp, 2);
  EXPECT_GE(layout.requests(), 1);
  // 36 GB usable, less 2 reserved, less the head's 2.1, at 1.711 GB a layer, and a request's cache.
  EXPECT_LE(layout.stages[1].layers.size(), 18);
  EXPECT_GE(layout.stages[1].layers.size(), 15);
}

// Copies inside hosts are as slow as the slower host's.
TEST(UnlikeNodesTest, ACopyCountsOnTheLesserHost) {
  const PlanOptions request = Request(8192);
  const Plan unlike = PlanOf(Llama8B(), UnlikeNodes("h100", "l40s", 2), request);
  const Plan slow = PlanOf(Llama8B(), Gpus("l40s", 2, 2), request);
  const Plan fast = PlanOf(Llama8B(), Gpus("h100", 2, 2), request);
  ASSERT_NE(FindLayout(unlike, 1, 1), nullptr);
  EXPECT_EQ(FindLayout(unlike, 1, 1)->replicas, 4);
  EXPECT_DOUBLE_EQ(FindLayout(unlike, 1, 1)->tpot_s, FindLayout(slow, 1, 1)->tpot_s);
  EXPECT_GT(FindLayout(unlike, 1, 1)->tpot_s, FindLayout(fast, 1, 1)->tpot_s);
  EXPECT_EQ(FindLayout(unlike, 1, 1)->requests(), FindLayout(slow, 1, 1)->requests());
}

// The head is 2.41 layers: the slower stage has 18.41 at 16,16, and 17.41 at 17,15.
TEST(PlannerTest, NamesAFasterSplitOfEqualDevices) {
  ClusterSpec cluster = Gpus("h100", 2, 1);
  cluster.device.memory_bytes = 16e9;  // too little for one
  const Plan plan = PlanOf(Llama8B(), cluster, Request(8192));
  ASSERT_FALSE(plan.layouts.empty());
  EXPECT_EQ(plan.layouts.front().layout, (ParallelLayout{.tp = 1, .pp = 2}));
  EXPECT_EQ(plan.faster.layers, (StageSplit{17, 15}));
  EXPECT_NEAR(plan.faster.ratio, 17.41 / 18.41, 1e-3);
}

TEST(PlannerTest, ErrorsSayWhatToDo) {
  const ModelShape shape = Llama8B();
  const WeightTypes types = *WeightTypes::Named("BF16");
  const auto error = [&](const PlanOptions& options) {
    return std::string(MakePlan(shape, types, Gpus("h100", 1, 1), options).status().message());
  };
  EXPECT_THAT(error(Request(131073)), HasSubstr("131072 positions"));
  EXPECT_THAT(error(Request(256)), HasSubstr("--output-len 256"));
  PlanOptions images = Request(8192);
  images.images = 1;
  EXPECT_THAT(error(images), HasSubstr("takes none"));
  EXPECT_THAT(std::string(FindDevice("h900").status().message()),
              HasSubstr("known are a100-40, a100-80, l40s, h100, h200, b200, mi300x, cpu"));
  EXPECT_THAT(std::string(FindLink("string").status().message()), HasSubstr("ib-ndr"));
  EXPECT_TRUE(FindDevice("H100").ok());
  EXPECT_THAT(std::string(WeightTypes::Named("fp3").status().message()), HasSubstr("Q4_K"));
  EXPECT_THAT(std::string(ModelShape::Load("/no/such").status().message()),
              HasSubstr("config.json"));
}

TEST(PlannerTest, BadVisionConfigsAreErrors) {
  const auto error = [](const std::string& text, const std::string& vision) {
    return std::string(ModelShape::Parse(R"({"architectures": ["MllamaForConditionalGeneration"],
                              "text_config": )" +
                                             text + R"(, "vision_config": )" + vision + "}",
                                         "config.json")
                           .status()
                           .message());
  };
  EXPECT_THAT(error("3", "{}"), HasSubstr("text_config"));
  EXPECT_THAT(error("{}", "null"), HasSubstr("vision_config"));
  EXPECT_THAT(error(R"({"cross_attention_layers": [40]})", "{}"), HasSubstr("from 0 to 39"));
  EXPECT_THAT(error(R"({"hidden_size": -1})", "{}"), HasSubstr("hidden_size"));
  EXPECT_THAT(error("{}", R"({"patch_size": 0})"), HasSubstr("patch_size"));
  EXPECT_THAT(error("{}", R"({"image_size": 60000, "patch_size": 1})"), HasSubstr("1024 patches"));
  EXPECT_THAT(error("{}", R"({"supported_aspect_ratios": 3})"), HasSubstr("a list"));
}

}  // namespace
}  // namespace trireme
