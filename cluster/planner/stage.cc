#include "cluster/planner/stage.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "base/status_macros.h"

namespace trireme {
namespace {

constexpr int64_t kActivationBytes = 4;

bool Contains(const TensorSlice& slice, std::string_view part) {
  return slice.name.find(part) != slice.name.npos;
}

// Computed once for an image, or never in a step.
bool IsOutsideSteps(const TensorSlice& slice) {
  return slice.name.starts_with("vision_model.") ||
         slice.name.starts_with("multi_modal_projector.") || Contains(slice, "cross_attn.k_") ||
         Contains(slice, "cross_attn.v_");
}

void AddProducts(const TensorSlice& slice, const HeldSlice& held, const DeviceSpec& device,
                 bool is_head, StageWork& work) {
  const bool quantized = IsQuantized(held.dtype) && device.products_8bit;
  const Products products = {.bytes = static_cast<double>(held.bytes),
                             .elements = static_cast<double>(slice.elements()),
                             .rate_8bit = quantized || held.dtype == DType::kFp8};
  if (is_head) {
    work.head.push_back(products);
  } else if (Contains(slice, ".experts.")) {
    work.experts.push_back(products);
  } else {
    work.dense.push_back(products);
  }
}

// One entry for each rate: the sums are what counts.
void Merge(std::vector<Products>& list) {
  std::vector<Products> merged;
  for (const bool rate_8bit : {false, true}) {
    Products sum = {.bytes = 0, .elements = 0, .rate_8bit = rate_8bit};
    for (const Products& products : list) {
      if (products.rate_8bit != rate_8bit) continue;
      sum.bytes += products.bytes;
      sum.elements += products.elements;
    }
    if (sum.bytes > 0) merged.push_back(sum);
  }
  list = std::move(merged);
}

// The bytes of one rank's slices; with `work` also what they cost.
absl::StatusOr<int64_t> WeightBytes(const ModelShape& shape, const WeightTypes& types,
                                    const ModelShard& shard, const DeviceSpec& device,
                                    StageWork* work) {
  int64_t total = 0;
  for (const TensorSlice& slice : shape.Tensors(shard)) {
    ASSIGN_OR_RETURN(const HeldSlice held, HeldAs(slice, types, HoldingOf(device)));
    total += held.bytes;
    if (work == nullptr || IsOutsideSteps(slice)) continue;
    const bool embedding = Contains(slice, "embed_tokens.");
    const bool head = shard.last_stage && (Contains(slice, "lm_head.") ||
                                           (embedding && shape.config.tie_word_embeddings));
    if (embedding && !head) continue;  // looked up
    AddProducts(slice, held, device, head, *work);
  }
  return total;
}

void DescribeAttention(const ModelShape& shape, const ModelShard& shard, const PlanOptions& options,
                       StageWork& work) {
  const ModelConfig& config = shape.config;
  const int64_t head_bytes = KvHeadBytes(options.kv_dtype, options.block_size, config.head_dim);
  work.kv_bytes_per_token = 2.0 * static_cast<double>(shard.kv_heads.size() * head_bytes) /
                            static_cast<double>(options.block_size);
  work.attention_elements = 2.0 * static_cast<double>(shard.heads.size() * config.head_dim);
  for (int64_t layer = shard.layers.begin; layer < shard.layers.end; ++layer) {
    if (shape.IsCrossAttention(layer)) {
      ++work.cross_layers;
    } else {
      work.windows.push_back(config.LayerWindow(layer));
    }
  }
  work.image_tokens = shape.image_tokens * options.images;
}

void DescribeCollectives(const ModelShape& shape, const ModelShard& shard,
                         const ParallelLayout& layout, StageWork& work) {
  const ModelConfig& config = shape.config;
  work.tp = layout.tp;
  work.hidden_size = config.hidden_size;
  work.num_experts = config.num_experts;
  work.experts_per_token = config.num_experts_per_token;
  // One behind attention, one behind the feed-forward, in which each chosen expert has its own row.
  const int64_t feed_forward = std::max<int64_t>(config.num_experts_per_token, 1);
  work.all_reduces = static_cast<double>(shard.layers.size() * (1 + feed_forward));
  if (shard.first_stage) work.all_reduces += 1;
  if (shard.last_stage) work.logits = config.vocab_size;
}

int64_t Blocks(int64_t tokens, int64_t block_size) {
  return (tokens + block_size - 1) / block_size;
}

// KvCache::BlockBytes of the worker, in each layer.
int64_t LayerBlockBytes(const ModelShape& shape, const ModelShard& shard,
                        const PlanOptions& options) {
  return 2 * shard.kv_heads.size() *
         KvHeadBytes(options.kv_dtype, options.block_size, shape.config.head_dim);
}

}  // namespace

DeviceSpec StageDevice(const ClusterSpec& cluster, const LayoutPlan& plan, int pp_rank) {
  if (cluster.node_devices.empty()) return cluster.device;
  const int world = plan.layout.world_size();
  const int per_node = cluster.devices_per_node;
  std::optional<DeviceSpec> least;
  for (int copy = 0; copy < plan.replicas; ++copy) {
    // A copy that does not share hosts fills them.
    const int first = world <= per_node ? copy / (per_node / world) * per_node : copy * world;
    for (int tp_rank = 0; tp_rank < plan.layout.tp; ++tp_rank) {
      const int rank = RankOf(plan.layout, {.tp_rank = tp_rank, .pp_rank = pp_rank});
      const int device = world <= per_node ? first : first + rank;
      const DeviceSpec& own = cluster.DeviceOf(device / per_node);
      least = least.has_value() ? LesserOf(*least, own) : own;
    }
  }
  return *least;
}

WeightHolding HoldingOf(const DeviceSpec& device) {
  return {.packs_bf16 = !device.gpu, .keeps_fp8 = device.keeps_fp8};
}

double UsableBytes(const DeviceSpec& device, const PlanOptions& options) {
  return device.memory_bytes * options.memory_share - device.reserved_bytes;
}

// An image's keys and values are in cross-attention's layers alone.
int64_t RequestBytes(const ModelShape& shape, const ModelShard& shard, const PlanOptions& options) {
  int64_t blocks = 0;
  for (int64_t layer = shard.layers.begin; layer < shard.layers.end; ++layer) {
    blocks += Blocks(
        shape.IsCrossAttention(layer) ? shape.image_tokens * options.images : options.context,
        options.block_size);
  }
  return LayerBlockBytes(shape, shard, options) * blocks;
}

// The activations that layers keep at once: input, normed, output and its partner, query, key,
// value, and the feed-forward's two halves; then the logits, whole.
int64_t WorkspaceBytes(const ModelShape& shape, const ModelShard& shard,
                       const PlanOptions& options) {
  const ModelConfig& config = shape.config;
  const int64_t experts = std::max<int64_t>(config.num_experts_per_token, 1);
  const int64_t elements = 4 * config.hidden_size * experts +
                           (shard.heads.size() + 2 * shard.kv_heads.size()) * config.head_dim +
                           2 * shard.intermediate.size() * experts;
  const int64_t sampled = std::min<int64_t>(options.concurrency, options.max_num_batched_tokens);
  const int64_t logits = shard.last_stage ? config.vocab_size * sampled : 0;
  return kActivationBytes * (options.max_num_batched_tokens * elements + logits);
}

absl::StatusOr<SizedStage> SizeStage(const ModelShape& shape, const WeightTypes& types,
                                     const DeviceSpec& device, const PlanOptions& options,
                                     const ParallelLayout& layout, int pp_rank) {
  SizedStage stage;
  StageWork& work = stage.work;
  for (int tp_rank = 0; tp_rank < layout.tp; ++tp_rank) {
    const ModelShard shard =
        ComputeShard(shape.config, layout, {.tp_rank = tp_rank, .pp_rank = pp_rank});
    // The first rank has the most rows of the vocabulary, and as much as the others of the rest.
    const bool busiest = tp_rank == 0;
    ASSIGN_OR_RETURN(const int64_t bytes,
                     WeightBytes(shape, types, shard, device, busiest ? &work : nullptr));
    stage.plan.weight_bytes.push_back(bytes);
    if (!busiest) continue;
    for (std::vector<Products>* list : {&work.dense, &work.experts, &work.head}) Merge(*list);
    work.layers = shard.layers.size();
    DescribeAttention(shape, shard, options, work);
    DescribeCollectives(shape, shard, layout, work);
    stage.plan.layers = shard.layers;
    stage.plan.block_bytes =
        LayerBlockBytes(shape, shard, options) * static_cast<int64_t>(work.windows.size());
    stage.plan.request_bytes = RequestBytes(shape, shard, options);
    stage.plan.workspace_bytes = WorkspaceBytes(shape, shard, options);
  }
  stage.device = device;
  stage.plan.kv_bytes_max = static_cast<int64_t>(UsableBytes(device, options)) -
                            stage.plan.max_weight_bytes() - stage.plan.workspace_bytes;
  return stage;
}

}  // namespace trireme
