// The planner's bytes are what a rank allocates: against the worker's own loader, on a CPU and on
// emulated GPUs, of which the fourth multiplies no fp8.

#include <gtest/gtest.h>

#include "tests/cluster/planner/planner_models.h"
#include "worker/checkpoint/checkpoint.h"
#include "worker/device.h"
#include "worker/kv_cache.h"
#include "worker/weights.h"

namespace trireme {
namespace {

void ExpectExactOn(const std::string& planned, const DeviceOptions& loaded,
                   const std::filesystem::path& model) {
  SCOPED_TRACE(model.string() + " on " + planned);
  const auto shape = ModelShape::Load(model);
  ASSERT_TRUE(shape.ok()) << shape.status();
  const auto types = WeightTypes::Load(model, *shape);
  ASSERT_TRUE(types.ok()) << types.status();
  const auto checkpoint = Checkpoint::Open(model);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto device = MakeDevice(loaded);
  ASSERT_TRUE(device.ok()) << device.status();
  PlanOptions options = Request(96);
  options.output_tokens = 32;
  options.kv_dtype = KvDType::kInt8;
  const auto plan = MakePlan(*shape, *types, Gpus(planned, 1, 4), options);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_FALSE(plan->layouts.empty());
  for (const LayoutPlan& layout : plan->layouts) {
    for (int rank = 0; rank < layout.layout.world_size(); ++rank) {
      const RankCoord coord = CoordOf(layout.layout, rank);
      const ModelShard shard = ComputeShard(shape->config, layout.layout, coord);
      const auto weights =
          Weights::Load(**checkpoint, ShardTensors(shape->config, shard), *device->ops);
      ASSERT_TRUE(weights.ok()) << weights.status();
      const StagePlan& stage = layout.stages[static_cast<size_t>(coord.pp_rank)];
      EXPECT_EQ(stage.weight_bytes[static_cast<size_t>(coord.tp_rank)],
                static_cast<int64_t>(weights->bytes()))
          << "tp " << layout.layout.tp << " pp " << layout.layout.pp << " rank " << rank;
      EXPECT_EQ(stage.request_bytes, 3 * KvCache::BlockBytes(shape->config, shard,
                                                             options.block_size, options.kv_dtype));
    }
  }
}

void ExpectExact(const std::filesystem::path& model) {
  ExpectExactOn("cpu", {}, model);
  ExpectExactOn("h100", {.name = "cuda"}, model);
  ExpectExactOn("a100", {.name = "cuda", .local_rank = 3}, model);
}

TEST(PlannerMemoryTest, ADirectory) {
  ExpectExact(std::filesystem::path(TRIREME_SOURCE_DIR) / "models/pilot");
}

TEST(PlannerMemoryTest, Architectures) {
  for (const char* name : {"llama3", "qwen3", "gemma3", "mixtral", "llama_bias"}) {
    ExpectExact(std::filesystem::path(TRIREME_SOURCE_DIR) / "tests/golden/models" / name);
  }
}

TEST(PlannerMemoryTest, QuantizedDirectories) {
  for (const char* name : {"awq", "gptq", "gptq_act_order", "int8", "fp8", "fp8_block"}) {
    ExpectExact(std::filesystem::path(TRIREME_SOURCE_DIR) / "tests/golden/quantized" / name);
  }
}

TEST(PlannerMemoryTest, GgufFiles) {
  for (const char* name : {"llama32", "mixtral", "gemma3", "qwen2-00001-of-00003"}) {
    ExpectExact(std::filesystem::path(TRIREME_SOURCE_DIR) / "tests/golden/gguf" /
                (std::string(name) + ".gguf"));
  }
}

}  // namespace
}  // namespace trireme
