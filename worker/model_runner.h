#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "parallel/communicator.h"
#include "parallel/layout.h"
#include "parallel/model_config.h"
#include "trireme/v1/worker.pb.h"
#include "worker/batch_sampler.h"
#include "worker/kv_cache.h"
#include "worker/layers/device_link.h"
#include "worker/layers/rotary_embedding.h"
#include "worker/memory_amount.h"
#include "worker/models/model.h"
#include "worker/sequences.h"
#include "worker/weights.h"

namespace trireme {

struct RunnerOptions {
  std::filesystem::path model_dir;  // or a .gguf file
  ParallelLayout layout;
  int64_t kv_block_size = 32;  // tokens; a multiple of 16
  // This rank's KV cache, without the blocks behind it for swapped sequences.
  MemoryAmount kv_memory = {.bytes = int64_t{1} << 30};
  int ranks_sharing_memory = 1;  // that a fraction of the memory is divided among
  int64_t kv_blocks_max = int64_t{1} << 20;
  int64_t swap_bytes_max = 0;
  KvDType kv_dtype = KvDType::kF32;
  int load_threads = 1;         // that read and pack weights; computing has the Ops' own
  DeviceLink link = {};         // what connects the ranks' memory; null: LinkThroughHost
  SamplerFactory sampler = {};  // what chooses tokens; null: MakeHostSampler
  bool float32 = false;         // widens weights of 16 bits, so that activations are not rounded
  int64_t max_model_len = 0;    // 0: the model's own, as far as the KV cache holds it
  int64_t max_num_batched_tokens = 512;
  bool broadcast = false;           // rank 0 alone reads the weights (worker/load_broadcast.h)
  bool mapped = false;              // packs them when they are used (worker/mapped_panels.h)
  LoadCount* load_count = nullptr;  // counts the bytes of Load's weights; may be null
  // Told when a phase of Load has ended, by its name.
  std::function<void(std::string_view phase)> phase_ended = [](std::string_view) {};
  // Sees the logits of every sampled token, on the ranks of the last stage. For tests.
  std::function<void(uint64_t sequence_id, std::span<const float> logits)> on_logits;
};

// Blocks of the KV cache that --kv-memory auto provides for: one request of the whole `context`, if
// that is asked for or usual, and many short ones. `block_bytes`: a block's, in all of a rank's
// layers.
int64_t NeededKvBlocks(const RunnerOptions& options, int64_t context, int64_t block_bytes);

// What loading a shard came to.
struct LoadReport {
  uint64_t shard_bytes = 0;   // in memory
  uint64_t lookup_bytes = 0;  // of them, a table that steps read only a token's row of
  uint64_t mapped_bytes = 0;  // of them, those that steps pack when they use them
  uint64_t bytes_read = 0;    // of the checkpoint's tensors
  double load_ms = 0;
};

// One rank's engine: keeps the state of the sequences and computes steps in order. Every rank of
// the gang launches the same plans in the same order, without waiting for the others' results: each
// learns what it needs from the ranks themselves. So pipeline stages can be as many steps apart as
// there are stages. Not thread safe.
class ModelRunner {
 public:
  // Loads this rank's shard. `world` holds layout.world_size() ranks; collective.
  // Does not own `ops` and `world`.
  static absl::StatusOr<std::unique_ptr<ModelRunner>> Load(const RunnerOptions& options, Ops* ops,
                                                           Communicator* world);
  ~ModelRunner();

  // Begins with this rank's part of one plan: all of it, or on a device, the queueing. Before it,
  // plans_ahead() plans may be under way at most. After an error here or in Collect the gang is of
  // no further use: a peer is gone, or the plan does not fit the state; plans that were launched
  // before may still be collected.
  absl::Status Launch(const v1::StepPlan& plan);
  // The result of the oldest plan under way; waits for it. The responder's holds the sampled tokens
  // and the prompt's log probabilities, the others' also them or only times. step_ms counts from
  // the end of the step before, if that was later than the launch. bubble_ms is the time in Launch
  // that this rank waited to hand activations on, or for activations or tokens; idle_ms is the
  // caller's to set.
  absl::StatusOr<v1::StepResult> Collect();
  // Waits until Collect would not: true. Or false, as soon as `instead`, which may be null, says
  // true. A plan is under way.
  absl::StatusOr<bool> WaitForResult(const std::function<bool()>& instead);
  // Plans launched and not collected.
  size_t under_way() const { return launched_.size() + results_.size(); }
  // How many plans may be under way while another is launched, so that the device need not wait for
  // it: 0 where tokens or activations go through the host in a step.
  size_t plans_ahead() const { return queues_steps() ? 1 : 0; }
  // Whether Launch of this plan ends only when most of its work is done: then what is under way is
  // better collected before, or its results are late.
  bool LaunchWaits(const v1::StepPlan& plan) const;
  // Launch and Collect.
  absl::StatusOr<v1::StepResult> Step(const v1::StepPlan& plan);

  // Computes this rank's part of the last Step again, `times` times, and returns the milliseconds
  // of each: all are queued at once, so that a device never waits for the host. For measurements;
  // what the rank knows stays as it is. Collective, without pipeline stages.
  absl::StatusOr<double> RepeatStep(int times);

  // Computes one token of no request through all stages, in memory of its own, as a step does.
  // Collective, in place of a Step. INTERNAL if what comes out is no number.
  absl::Status SelfTest();

  // To be called after the last Step or SelfTest, so that nothing is under way when the
  // communicators are destroyed. Collective. INTERNAL if the ranks have not computed the same
  // steps.
  absl::Status Finish();

  // Forgets everything but the weights, so that the next Step can be of another coordinator, whose
  // epochs and sequences begin anew. Collective, with Finish: ABORTED if other ranks have called
  // that instead. After an error the gang ends.
  absl::Status Reset();

  const ModelConfig& config() const { return config_; }
  const ModelShard& shard() const { return shard_; }
  const LoadReport& load_report() const { return load_report_; }
  const KvCache& kv_cache() const { return cache_; }
  // The blocks of the cache: the pool that sequences may have, then those to swap to.
  int64_t pool_blocks() const { return cache_.num_blocks() - swap_blocks_; }
  int64_t swap_blocks() const { return swap_blocks_; }
  int64_t block_bytes() const;
  int64_t max_model_len() const { return max_model_len_; }
  // Spent choosing tokens and on log probabilities, in all steps, on the host or the device.
  double sampling_ms() const { return sampling_ms_; }
  // The rank whose results the coordinator hears: the first of the last pipeline stage.
  int responder() const { return responder_; }
  bool is_responder() const { return world_->rank() == responder_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Launched {
    v1::StepResult result;  // what is known of it
    Clock::time_point begun;
    uint64_t end = 0;      // its Mark
    size_t samplings = 0;  // launches of the sampler
  };

  ModelRunner(const RunnerOptions& options, Ops* ops, Communicator* world)
      : options_(options), ops_(ops), world_(world) {}

  absl::Status LoadModel();
  absl::Status Configure();
  absl::Status LoadWeights();
  absl::Status LoadWeightsByBroadcast();
  absl::Status MakeSampler();
  absl::Status AllocateKvCache();
  absl::Status CopyBlocks(const v1::StepPlan& plan);
  absl::Status PlanMemory(int64_t context);
  absl::Status PrepareLargestStep(int64_t context, StepBatch& batch);
  void AppendToken(int32_t id, const TokenPlace& place, StepBatch& batch) const;
  StepBatch BuildBatch(const v1::StepPlan& plan) const;
  absl::Status ForwardStage(const StepBatch& batch, const KvCache& cache);
  absl::Status WaitForHidden();
  absl::Status ComputeStage(const StepBatch& batch, const KvCache& cache, std::span<float> hidden);
  absl::Status ComputeLogits(const StepBatch& batch, size_t begin, size_t count);
  std::vector<LogitsWanted> WantedLogits(const v1::StepPlan& plan) const;
  absl::StatusOr<size_t> Sample(const StepBatch& batch, std::span<const LogitsWanted> wanted);
  absl::Status ShowLogits(std::span<const LogitsWanted> wanted, std::span<const float> logits);
  absl::Status LearnTokens(const v1::StepPlan& plan);
  absl::Status FinishOldest();
  absl::Status PostTokens(std::span<const int32_t> ids);
  absl::Status TakeOldestTokens();
  absl::StatusOr<bool> Settle(bool stay);
  absl::Status Wait(const std::function<absl::Status()>& transfer);
  absl::Status CheckPeers();
  absl::Status WaitForDevice(const std::function<absl::StatusOr<bool>()>& done);
  // Whether layers and logits need no communication by the host, so that a device can have them
  // queued.
  bool stays_on_device() const { return tp_->size() == 1 || tp_->capturable(); }
  // Whether a step can be queued before the tokens of the one before are known. Then every rank
  // samples, from equal logits, and has the tokens where it embeds them.
  bool queues_steps() const {
    return options_.layout.pp == 1 && sampler_->on_device() && stays_on_device();
  }
  bool samples() const { return is_responder() || queues_steps(); }
  // Ranks of the first stage embed tokens, and get those that they do not sample.
  bool takes_tokens() const { return shard_.first_stage && !samples(); }

  const RunnerOptions options_;
  Ops* const ops_;
  Communicator* const world_;
  std::unique_ptr<Communicator> tp_group_;
  std::unique_ptr<DeviceCommunicator> tp_;
  std::unique_ptr<DeviceCommunicator> stages_;  // of all ranks; null without pipeline stages
  ModelConfig config_;
  ModelShard shard_;
  RankCoord coord_;
  int responder_ = 0;
  std::unique_ptr<Checkpoint> checkpoint_;  // of mapped weights
  Weights weights_;
  LayerScratch scratch_;
  KvCache cache_;
  std::optional<RotaryEmbedding> rotary_, local_rotary_;
  std::unique_ptr<Model> model_;
  LoadReport load_report_;
  int64_t max_model_len_ = 0;
  int64_t swap_blocks_ = 0;
  Sequences sequences_;
  StepBatch batch_;       // of the step launched last
  KvCache test_cache_;    // a block for SelfTest
  uint64_t steps_ = 0;    // launched
  double bubble_ms_ = 0;  // of the step that is launched
  double sampling_ms_ = 0;
  DeviceVector<float> hidden_;  // [tokens, hidden_size]
  DeviceVector<float> logits_;  // of wanted tokens, a slice at a time
  std::unique_ptr<BatchSampler> sampler_;
  std::deque<Launched> launched_;       // not known to be done, oldest first
  std::deque<v1::StepResult> results_;  // of the steps before them
  Clock::time_point step_end_;          // of the last of those
  std::vector<float> logits_room_;      // for on_logits and SelfTest
};

}  // namespace trireme
