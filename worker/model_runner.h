#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "parallel/communicator.h"
#include "parallel/layout.h"
#include "parallel/model_config.h"
#include "trireme/v1/worker.pb.h"
#include "worker/kv_cache.h"
#include "worker/layers/rotary_embedding.h"
#include "worker/models/model.h"
#include "worker/weights.h"

namespace trireme {

struct RunnerOptions {
  std::filesystem::path model_dir;
  ParallelLayout layout;
  int64_t kv_block_size = 32;               // tokens; a multiple of 16
  int64_t kv_bytes_max = int64_t{1} << 30;  // of this rank's KV cache
  int64_t max_model_len = 0;                // 0: the model's own, as far as the KV cache holds it
  int64_t max_num_batched_tokens = 512;
  // Sees the logits of every sampled token, on the ranks that have them. For tests.
  std::function<void(uint64_t sequence_id, std::span<const float> logits)> on_logits;
};

// What loading a shard came to.
struct LoadReport {
  uint64_t shard_bytes = 0;  // held in memory
  uint64_t bytes_read = 0;   // of the checkpoint's tensors
  double load_ms = 0;
};

// One rank's engine: keeps the state of the sequences and computes one step at a time. Every rank
// of the gang calls Step with the same plans in the same order. Not thread safe.
class ModelRunner {
 public:
  // Loads this rank's shard. `world` holds layout.world_size() ranks; collective.
  // Does not own `ops` and `world`.
  static absl::StatusOr<std::unique_ptr<ModelRunner>> Load(const RunnerOptions& options, Ops* ops,
                                                           Communicator* world);

  // Computes one plan. The tokens sampled are the same in every rank's result. After an error the
  // gang is of no further use: a peer is gone or the plan does not fit the state.
  absl::StatusOr<v1::StepResult> Step(const v1::StepPlan& plan);

  const ModelConfig& config() const { return config_; }
  const ModelShard& shard() const { return shard_; }
  const LoadReport& load_report() const { return load_report_; }
  const KvCache& kv_cache() const { return cache_; }
  int64_t kv_bytes() const;
  int64_t max_model_len() const { return max_model_len_; }
  // The rank whose results the coordinator hears: the first of the last pipeline stage.
  bool is_responder() const { return world_->rank() == responder_; }

 private:
  struct SequenceState {
    std::vector<int32_t> token_ids;  // prompt and output
    size_t prompt_tokens = 0;
    size_t computed = 0;  // tokens whose keys and values are in the cache
    std::vector<int32_t> block_table;
    v1::StepSampling sampling;
  };

  ModelRunner(const RunnerOptions& options, Ops* ops, Communicator* world)
      : options_(options), ops_(ops), world_(world) {}

  absl::Status LoadShard();
  absl::Status AllocateKvCache();
  absl::Status ApplyDelta(const v1::StepPlan& plan);
  absl::Status CheckScheduled(const v1::ScheduledSequence& scheduled) const;
  absl::StatusOr<StepBatch> BuildBatch(const v1::StepPlan& plan);
  absl::Status ForwardStage(const StepBatch& batch);
  absl::StatusOr<std::vector<v1::SampledToken>> Sample(const StepBatch& batch,
                                                       const v1::StepPlan& plan);
  absl::Status ShareTokens(std::vector<v1::SampledToken>& tokens, size_t count);

  const RunnerOptions options_;
  Ops* const ops_;
  Communicator* const world_;
  std::unique_ptr<Communicator> tp_;
  ModelConfig config_;
  ModelShard shard_;
  RankCoord coord_;
  int responder_ = 0;
  Weights weights_;
  KvCache cache_;
  std::unique_ptr<RotaryEmbedding> rotary_;
  std::unique_ptr<Model> model_;
  LoadReport load_report_;
  int64_t max_model_len_ = 0;
  uint64_t last_epoch_ = 0;
  absl::flat_hash_map<uint64_t, SequenceState> sequences_;
  std::vector<float> hidden_;  // [tokens, hidden_size]
  std::vector<float> logits_;
};

}  // namespace trireme
