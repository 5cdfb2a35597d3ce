#include "worker/model_runner.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "worker/sampler.h"

namespace trireme {
namespace {

double MillisecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

absl::Status BadPlan(const v1::ScheduledSequence& scheduled, const char* what) {
  return absl::InternalError(absl::StrCat("step plan: sequence ", scheduled.id(), ": ", what));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelRunner>> ModelRunner::Load(const RunnerOptions& options,
                                                               Ops* ops, Communicator* world) {
  std::unique_ptr<ModelRunner> runner(new ModelRunner(options, ops, world));
  CHECK(world->size() == options.layout.world_size());
  runner->coord_ = CoordOf(options.layout, world->rank());
  // The only collective call here comes before anything that can fail on one rank alone.
  ASSIGN_OR_RETURN(runner->tp_, world->Split(runner->coord_.pp_rank, runner->coord_.tp_rank));
  ASSIGN_OR_RETURN(runner->config_, ModelConfig::Load(options.model_dir));
  RETURN_IF_ERROR(CheckLayout(runner->config_, options.layout));
  runner->shard_ = ComputeShard(runner->config_, options.layout, runner->coord_);
  runner->responder_ = RankOf(options.layout, {.tp_rank = 0, .pp_rank = options.layout.pp - 1});
  RETURN_IF_ERROR(runner->LoadShard());
  RETURN_IF_ERROR(runner->AllocateKvCache());
  runner->rotary_ = std::make_unique<RotaryEmbedding>(runner->config_);
  const RankContext rank{
      .ops = ops, .tp = runner->tp_.get(), .weights = &runner->weights_, .shard = runner->shard_};
  ASSIGN_OR_RETURN(runner->model_, MakeModel(runner->config_, rank));
  return runner;
}

absl::Status ModelRunner::LoadShard() {
  const auto start = std::chrono::steady_clock::now();
  ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint,
                   Checkpoint::Open(options_.model_dir));
  ASSIGN_OR_RETURN(weights_,
                   Weights::Load(*checkpoint, ShardTensors(config_, shard_), ops_->threads()));
  load_report_ = {.shard_bytes = weights_.bytes(),
                  .bytes_read = checkpoint->bytes_read(),
                  .load_ms = MillisecondsSince(start)};
  return absl::OkStatus();
}

absl::Status ModelRunner::AllocateKvCache() {
  const int64_t block_size = options_.kv_block_size;
  if (block_size < 16 || block_size % 16 != 0 || block_size > 4096) {
    return absl::InvalidArgumentError(
        absl::StrCat("--block-size must be a multiple of 16 from 16 to 4096, not ", block_size));
  }
  const int64_t block_bytes = KvCache::BlockBytes(config_, shard_, block_size, KvDType::kF32);
  const int64_t wanted =
      options_.max_model_len > 0 ? options_.max_model_len : config_.max_position_embeddings;
  // More than 64 requests of full length is more than a scheduler uses.
  const int64_t useful = 64 * ((wanted + block_size - 1) / block_size);
  const int64_t num_blocks = std::min(options_.kv_bytes_max / block_bytes, useful);
  const int64_t tokens = num_blocks * block_size;
  if (tokens == 0 || (options_.max_model_len > 0 && tokens < options_.max_model_len)) {
    return absl::InvalidArgumentError(absl::StrCat("--kv-memory of ", options_.kv_bytes_max,
                                                   " bytes holds ", tokens,
                                                   " tokens, less than the context of ", wanted,
                                                   "; raise --kv-memory or lower --max-model-len"));
  }
  max_model_len_ = std::min(wanted, tokens);
  ASSIGN_OR_RETURN(cache_,
                   KvCache::Allocate(config_, shard_, num_blocks, block_size, KvDType::kF32));
  return absl::OkStatus();
}

int64_t ModelRunner::kv_bytes() const {
  return cache_.num_blocks() *
         KvCache::BlockBytes(config_, shard_, cache_.block_size(), cache_.dtype());
}

absl::StatusOr<v1::StepResult> ModelRunner::Step(const v1::StepPlan& plan) {
  const auto start = std::chrono::steady_clock::now();
  RETURN_IF_ERROR(ApplyDelta(plan));
  ASSIGN_OR_RETURN(const StepBatch batch, BuildBatch(plan));
  RETURN_IF_ERROR(ForwardStage(batch));
  ASSIGN_OR_RETURN(std::vector<v1::SampledToken> tokens, Sample(batch, plan));
  RETURN_IF_ERROR(ShareTokens(tokens, batch.sample_rows.size()));
  v1::StepResult result;
  result.set_epoch(plan.epoch());
  result.set_step(plan.step());
  size_t next = 0;
  for (const v1::ScheduledSequence& scheduled : plan.scheduled()) {
    SequenceState& sequence = sequences_.at(scheduled.id());
    sequence.computed += scheduled.num_tokens();
    if (!scheduled.sample()) continue;
    v1::SampledToken& token = tokens[next++];
    token.set_sequence_id(scheduled.id());
    sequence.token_ids.push_back(token.token_id());
    *result.add_tokens() = std::move(token);
  }
  result.set_step_ms(MillisecondsSince(start));
  return result;
}

absl::Status ModelRunner::ApplyDelta(const v1::StepPlan& plan) {
  if (plan.epoch() != last_epoch_) sequences_.clear();
  last_epoch_ = plan.epoch();
  for (const uint64_t id : plan.finished_ids()) sequences_.erase(id);
  for (const v1::NewSequence& added : plan.new_sequences()) {
    const auto valid = [&](int32_t id) { return id >= 0 && id < config_.vocab_size; };
    if (!std::all_of(added.token_ids().begin(), added.token_ids().end(), valid) ||
        added.prompt_tokens() > static_cast<uint32_t>(added.token_ids_size())) {
      return absl::InternalError(
          absl::StrCat("step plan: new sequence ", added.id(), " has tokens out of range"));
    }
    sequences_[added.id()] = {.token_ids = {added.token_ids().begin(), added.token_ids().end()},
                              .prompt_tokens = added.prompt_tokens(),
                              .computed = 0,
                              .block_table = {},
                              .sampling = added.sampling()};
  }
  for (const v1::ScheduledSequence& scheduled : plan.scheduled()) {
    const auto found = sequences_.find(scheduled.id());
    if (found == sequences_.end()) return BadPlan(scheduled, "is not known");
    for (const uint32_t block : scheduled.new_block_ids()) {
      if (block >= cache_.num_blocks()) return BadPlan(scheduled, "has a block out of range");
      found->second.block_table.push_back(static_cast<int32_t>(block));
    }
  }
  return absl::OkStatus();
}

absl::Status ModelRunner::CheckScheduled(const v1::ScheduledSequence& scheduled) const {
  const SequenceState& sequence = sequences_.at(scheduled.id());
  const size_t end = sequence.computed + scheduled.num_tokens();
  if (scheduled.num_tokens() == 0 || end > sequence.token_ids.size()) {
    return BadPlan(scheduled, "has fewer tokens than are to be computed");
  }
  if (scheduled.sample() != (end == sequence.token_ids.size())) {
    return BadPlan(scheduled, "must be sampled exactly when its last token is computed");
  }
  if (end > sequence.block_table.size() * static_cast<size_t>(cache_.block_size())) {
    return BadPlan(scheduled, "has too few blocks");
  }
  return absl::OkStatus();
}

absl::StatusOr<StepBatch> ModelRunner::BuildBatch(const v1::StepPlan& plan) {
  StepBatch batch;
  for (const v1::ScheduledSequence& scheduled : plan.scheduled()) {
    RETURN_IF_ERROR(CheckScheduled(scheduled));
    const SequenceState& sequence = sequences_.at(scheduled.id());
    for (size_t i = 0; i < scheduled.num_tokens(); ++i) {
      const size_t position = sequence.computed + i;
      batch.ids.push_back(sequence.token_ids[position]);
      batch.places.push_back(
          {.position = static_cast<int64_t>(position), .block_table = sequence.block_table});
      rotary_->Append(static_cast<int64_t>(position), batch.cos, batch.sin);
    }
    if (scheduled.sample()) batch.sample_rows.push_back(batch.tokens() - 1);
    if (batch.tokens() > options_.max_num_batched_tokens) {
      return BadPlan(scheduled, "exceeds --max-num-batched-tokens");
    }
  }
  return batch;
}

absl::Status ModelRunner::ForwardStage(const StepBatch& batch) {
  if (batch.tokens() == 0) return absl::OkStatus();
  hidden_.resize(static_cast<size_t>(batch.tokens() * config_.hidden_size));
  const std::span<float> hidden(hidden_);
  if (shard_.first_stage) {
    RETURN_IF_ERROR(model_->Embed(batch, hidden));
  } else {
    const RankCoord previous{.tp_rank = coord_.tp_rank, .pp_rank = coord_.pp_rank - 1};
    RETURN_IF_ERROR(
        world_->Recv(std::as_writable_bytes(hidden), RankOf(options_.layout, previous)));
  }
  RETURN_IF_ERROR(model_->Layers(batch, cache_, hidden));
  if (shard_.last_stage) return absl::OkStatus();
  const RankCoord next{.tp_rank = coord_.tp_rank, .pp_rank = coord_.pp_rank + 1};
  return world_->Send(std::as_bytes(hidden), RankOf(options_.layout, next));
}

// On the responder the sampled tokens; on other ranks nothing.
absl::StatusOr<std::vector<v1::SampledToken>> ModelRunner::Sample(const StepBatch& batch,
                                                                  const v1::StepPlan& plan) {
  std::vector<v1::SampledToken> tokens;
  if (!shard_.last_stage || batch.sample_rows.empty()) return tokens;
  RETURN_IF_ERROR(model_->Logits(batch, hidden_, logits_));
  const size_t vocab = static_cast<size_t>(config_.vocab_size);
  size_t row = 0;
  for (const v1::ScheduledSequence& scheduled : plan.scheduled()) {
    if (!scheduled.sample()) continue;
    const std::span<const float> logits = std::span(logits_).subspan(row++ * vocab, vocab);
    if (options_.on_logits) options_.on_logits(scheduled.id(), logits);
    if (!is_responder()) continue;
    const SequenceState& sequence = sequences_.at(scheduled.id());
    tokens.push_back(SampleToken({.logits = logits,
                                  .token_ids = sequence.token_ids,
                                  .prompt_tokens = sequence.prompt_tokens,
                                  .params = &sequence.sampling}));
  }
  return tokens;
}

// Every rank learns the tokens, so that the next step needs nothing from the coordinator.
absl::Status ModelRunner::ShareTokens(std::vector<v1::SampledToken>& tokens, size_t count) {
  if (count == 0) return absl::OkStatus();
  std::vector<int32_t> ids(count);
  for (size_t i = 0; i < tokens.size(); ++i) ids[i] = tokens[i].token_id();
  RETURN_IF_ERROR(world_->Broadcast(std::as_writable_bytes(std::span(ids)), responder_));
  tokens.resize(count);
  for (size_t i = 0; i < count; ++i) tokens[i].set_token_id(ids[i]);
  return absl::OkStatus();
}

}  // namespace trireme
