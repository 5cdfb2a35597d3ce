#include "worker/model_runner.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "worker/agreement.h"
#include "worker/load_broadcast.h"

namespace trireme {
namespace {

double MillisecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

// Logits are large: they are computed for so many tokens at a time. More would not be faster.
constexpr size_t kLogitsSlice = 64;
// What --kv-memory auto provides for.
constexpr int64_t kUsualContext = 16384;
constexpr int64_t kUsualKvBytes = int64_t{1} << 30;

// --load broadcast: of the one rank that reads.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenAsReader(const std::filesystem::path& model) {
  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = Checkpoint::Open(model);
  if (checkpoint.ok()) return checkpoint;
  return absl::Status(
      checkpoint.status().code(),
      absl::StrCat(checkpoint.status().message(),
                   ". With --load broadcast the weights must be where rank 0 is once the ranks are "
                   "placed; --placement as-given keeps the launcher's numbers"));
}

LoadOptions LoadingOptions(const RunnerOptions& options) {
  return {.threads = options.load_threads,
          .float32 = options.float32,
          .mapped = options.mapped && !options.broadcast,
          .count = options.load_count};
}

}  // namespace

int64_t NeededKvBlocks(const RunnerOptions& options, int64_t context, int64_t block_bytes) {
  const int64_t usual = options.max_model_len > 0 ? context : std::min(context, kUsualContext);
  const int64_t blocks = (usual + options.kv_block_size - 1) / options.kv_block_size;
  return std::max(blocks, kUsualKvBytes / block_bytes);
}

absl::StatusOr<std::unique_ptr<ModelRunner>> ModelRunner::Load(const RunnerOptions& options,
                                                               Ops* ops, Communicator* world) {
  std::unique_ptr<ModelRunner> runner(new ModelRunner(options, ops, world));
  CHECK(world->size() == options.layout.world_size());
  runner->coord_ = CoordOf(options.layout, world->rank());
  const DeviceLink link = options.link ? options.link : LinkThroughHost(ops->memory());
  ASSIGN_OR_RETURN(runner->tp_group_, world->Split(runner->coord_.pp_rank, runner->coord_.tp_rank));
  ASSIGN_OR_RETURN(runner->tp_, link(*runner->tp_group_, LinkUse::kLayers));
  if (options.layout.pp > 1) {
    ASSIGN_OR_RETURN(runner->stages_, link(*world, LinkUse::kStages));
  }
  if (world->size() > 1) {
    ops->memory().WaitBy(
        [runner = runner.get()](const auto& done) { return runner->WaitForDevice(done); });
  }
  options.phase_ended("connections");
  absl::Status loaded = runner->LoadModel();
  if (loaded.ok()) loaded = runner->MakeSampler();
  options.phase_ended("weights");
  // What is available then is what all ranks have left.
  RETURN_IF_ERROR(Agree(loaded, *world));
  options.phase_ended("other ranks' weights");
  RETURN_IF_ERROR(runner->AllocateKvCache());
  options.phase_ended("KV cache");
  return runner;
}

ModelRunner::~ModelRunner() { ops_->memory().WaitBy(nullptr); }

absl::Status ModelRunner::Configure() {
  ASSIGN_OR_RETURN(config_, ModelConfig::Load(options_.model_dir));
  RETURN_IF_ERROR(CheckLayout(config_, options_.layout));
  shard_ = ComputeShard(config_, options_.layout, coord_);
  responder_ = RankOf(options_.layout, {.tp_rank = 0, .pp_rank = options_.layout.pp - 1});
  return absl::OkStatus();
}

absl::Status ModelRunner::LoadWeights() {
  RETURN_IF_ERROR(Configure());
  ASSIGN_OR_RETURN(checkpoint_, Checkpoint::Open(options_.model_dir));
  ASSIGN_OR_RETURN(weights_, Weights::Load(*checkpoint_, ShardTensors(config_, shard_), *ops_,
                                           LoadingOptions(options_)));
  load_report_.bytes_read = checkpoint_->bytes_read();
  if (weights_.bytes_to_come() == 0) checkpoint_.reset();
  return absl::OkStatus();
}

// Collective, and so goes on where a rank has failed, which the others are told.
absl::Status ModelRunner::LoadWeightsByBroadcast() {
  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint{nullptr};
  std::vector<std::vector<TensorSlice>> slices(static_cast<size_t>(world_->size()));
  if (const absl::Status configured = Configure(); !configured.ok()) {
    checkpoint = configured;
  } else {
    for (int rank = 0; rank < world_->size(); ++rank) {
      const RankCoord coord = CoordOf(options_.layout, rank);
      slices[static_cast<size_t>(rank)] =
          ShardTensors(config_, ComputeShard(config_, options_.layout, coord));
    }
    if (world_->rank() == 0) checkpoint = OpenAsReader(options_.model_dir);
  }
  ASSIGN_OR_RETURN(BroadcastWeights loaded,
                   LoadByBroadcast(checkpoint, slices, *ops_, LoadingOptions(options_), *world_));
  weights_ = std::move(loaded.weights);
  load_report_.bytes_read = loaded.bytes_read;
  return absl::OkStatus();
}

absl::Status ModelRunner::LoadModel() {
  const auto start = std::chrono::steady_clock::now();
  RETURN_IF_ERROR(options_.broadcast ? LoadWeightsByBroadcast() : LoadWeights());
  rotary_ = RotaryEmbedding(config_);
  if (config_.rope_local_theta > 0) local_rotary_ = RotaryEmbedding::Local(config_);
  const RankContext rank{
      .ops = ops_, .tp = tp_.get(), .weights = &weights_, .scratch = &scratch_, .shard = shard_};
  ASSIGN_OR_RETURN(model_, MakeModel(config_, rank));
  load_report_.shard_bytes = weights_.bytes();
  load_report_.mapped_bytes = static_cast<uint64_t>(weights_.bytes_to_come());
  load_report_.lookup_bytes = static_cast<uint64_t>(model_->lookup_bytes());
  load_report_.load_ms = MillisecondsSince(start);
  return absl::OkStatus();
}

absl::Status ModelRunner::MakeSampler() {
  ASSIGN_OR_RETURN(sampler_, options_.sampler ? options_.sampler(*ops_) : MakeHostSampler(*ops_));
  return absl::OkStatus();
}

absl::Status ModelRunner::AllocateKvCache() {
  const int64_t block_size = options_.kv_block_size;
  if (block_size < 16 || block_size % 16 != 0 || block_size > 4096) {
    return absl::InvalidArgumentError(
        absl::StrCat("--block-size must be a multiple of 16 from 16 to 4096, not ", block_size));
  }
  const int64_t wanted =
      options_.max_model_len > 0 ? options_.max_model_len : config_.max_position_embeddings;
  const bool on_device = !ops_->memory().on_host();
  if (on_device) {
    RETURN_IF_ERROR(Agree(PlanMemory(wanted), *world_));  // ranks may share the device
  }
  // A gang that comes back must hold what its requests need: its context does not depend on what
  // happens to be free.
  const bool same_each_time = options_.kv_memory.as_needed && !on_device;
  const absl::StatusOr<int64_t> available =
      same_each_time ? HostMemoryTotal() : ops_->memory().Available();
  // No rank takes its share before all have seen what there is, those that need not see it, too.
  if (on_device) RETURN_IF_ERROR(Agree(available.status(), *world_));
  int64_t bytes = options_.kv_memory.bytes;
  if (options_.kv_memory.fraction > 0) {
    RETURN_IF_ERROR(available.status());
    const int64_t ranks = options_.ranks_sharing_memory;
    // As if the others of this host were like this one.
    const int64_t taken = same_each_time ? 0 : weights_.bytes_to_come() * ranks;
    bytes = static_cast<int64_t>(options_.kv_memory.fraction *
                                 static_cast<double>(std::max<int64_t>(*available - taken, 0))) /
            ranks;
    if (options_.kv_memory.as_needed) {
      bytes = std::min(bytes, NeededKvBlocks(options_, wanted, block_bytes()) * block_bytes());
    }
  }
  const int64_t num_blocks = std::min(bytes / block_bytes(), options_.kv_blocks_max);
  swap_blocks_ = std::min(options_.swap_bytes_max / block_bytes(), options_.kv_blocks_max);
  const int64_t tokens = num_blocks * block_size;
  if (tokens == 0 || (options_.max_model_len > 0 && tokens < options_.max_model_len)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--kv-memory of ", bytes, " bytes holds ", tokens, " tokens, less than the context of ",
        wanted, "; raise --kv-memory or lower --max-model-len"));
  }
  max_model_len_ = std::min(wanted, tokens);
  ASSIGN_OR_RETURN(cache_, KvCache::Allocate(config_, shard_, num_blocks + swap_blocks_, block_size,
                                             options_.kv_dtype, ops_->memory()));
  ASSIGN_OR_RETURN(test_cache_, KvCache::Allocate(config_, shard_, 1, block_size, options_.kv_dtype,
                                                  ops_->memory()));
  sequences_ = Sequences({.vocab_size = config_.vocab_size,
                          .num_blocks = num_blocks,
                          .block_size = block_size,
                          .max_batched_tokens = options_.max_num_batched_tokens});
  return absl::OkStatus();
}

// Computes the largest step there can be, of padding alone, so that all that steps need beside
// weights and cache is allocated, and the cache can have its share of the rest. Collective.
absl::Status ModelRunner::PlanMemory(int64_t context) {
  const absl::StatusOr<int64_t> before = ops_->memory().Available();
  StepBatch batch;
  RETURN_IF_ERROR(
      Agree(before.ok() ? PrepareLargestStep(context, batch) : before.status(), *world_));
  RETURN_IF_ERROR(ComputeStage(batch, cache_, hidden_.span()));
  RETURN_IF_ERROR(WaitForHidden());
  cache_ = KvCache();
  ASSIGN_OR_RETURN(const int64_t after, ops_->memory().Available());
  LogInfo(absl::StrFormat(
      "memory: %.1f MiB of weights; %.1f MiB for steps of up to %d tokens and contexts of %d; "
      "%.1f MiB free",
      static_cast<double>(weights_.bytes()) / (1 << 20),
      static_cast<double>(*before - after) / (1 << 20), options_.max_num_batched_tokens, context,
      static_cast<double>(after) / (1 << 20)));
  return absl::OkStatus();
}

absl::Status ModelRunner::PrepareLargestStep(int64_t context, StepBatch& batch) {
  const int64_t blocks = (context + options_.kv_block_size - 1) / options_.kv_block_size;
  const std::vector<int32_t> table(static_cast<size_t>(blocks));
  for (int64_t t = 0; t < options_.max_num_batched_tokens; ++t) {
    AppendToken(0, {.position = TokenPlace::kPadding, .block_table = table}, batch);
  }
  if (shard_.last_stage) {
    batch.wanted.resize(
        static_cast<size_t>(std::min<int64_t>(batch.tokens(), int64_t{kLogitsSlice})));
  }
  if (samples()) {
    RETURN_IF_ERROR(sampler_->Reserve(static_cast<int64_t>(batch.wanted.size()), batch.tokens(),
                                      config_.vocab_size));
  }
  ASSIGN_OR_RETURN(cache_, KvCache::Allocate(config_, shard_, 1, options_.kv_block_size,
                                             options_.kv_dtype, ops_->memory()));
  ASSIGN_OR_RETURN(const std::span<float> hidden,
                   hidden_.Resize(ops_->memory(), batch.tokens() * config_.hidden_size));
  RETURN_IF_ERROR(ops_->memory().Zero(hidden.data(), hidden.size_bytes()));
  return ops_->BeginStep(batch);
}

int64_t ModelRunner::block_bytes() const {
  return KvCache::BlockBytes(config_, shard_, options_.kv_block_size, options_.kv_dtype);
}

absl::Status ModelRunner::Launch(const v1::StepPlan& plan) {
  CHECK(under_way() <= plans_ahead());
  Launched step{.result = {}, .begun = Clock::now()};
  bubble_ms_ = 0;
  RETURN_IF_ERROR(CheckPeers());
  RETURN_IF_ERROR(sequences_.Apply(plan));
  RETURN_IF_ERROR(LearnTokens(plan));
  RETURN_IF_ERROR(CopyBlocks(plan));
  batch_ = BuildBatch(plan);
  std::vector<LogitsWanted> wanted;
  if (shard_.last_stage) wanted = WantedLogits(plan);
  for (const LogitsWanted& want : wanted) batch_.wanted.push_back(want.token);
  // Padding's logits too, so that steps of as many tokens have the same shape.
  if (!wanted.empty() && batch_.places.back().position == TokenPlace::kPadding) {
    batch_.wanted.resize(batch_.ids.size(), wanted.back().token);
  }
  RETURN_IF_ERROR(ops_->BeginStep(batch_));
  RETURN_IF_ERROR(ForwardStage(batch_, cache_));
  ASSIGN_OR_RETURN(step.samplings, Sample(batch_, wanted));
  sequences_.Finish(plan, /*to_fill=*/samples() || takes_tokens());
  constexpr size_t kUnfilledMax = 64;  // what may wait in the responder's memory
  while (takes_tokens() && sequences_.steps_unfilled() > kUnfilledMax) {
    RETURN_IF_ERROR(TakeOldestTokens());
  }
  ASSIGN_OR_RETURN(step.end, ops_->memory().Mark());
  ++steps_;
  step.result.set_epoch(plan.epoch());
  step.result.set_step(plan.step());
  step.result.set_bubble_ms(bubble_ms_);
  launched_.push_back(std::move(step));
  return absl::OkStatus();
}

bool ModelRunner::LaunchWaits(const v1::StepPlan& plan) const {
  if (config_.num_experts == 0) return false;
  int64_t tokens = 0;
  int64_t query_max = 0;
  for (const v1::ScheduledSequence& scheduled : plan.scheduled()) {
    tokens += scheduled.num_tokens();
    query_max = std::max<int64_t>(query_max, scheduled.num_tokens());
  }
  return ops_->ExpertLinearWaits(tokens, query_max);
}

absl::StatusOr<v1::StepResult> ModelRunner::Collect() {
  CHECK(under_way() > 0);
  if (results_.empty()) RETURN_IF_ERROR(FinishOldest());
  v1::StepResult result = std::move(results_.front());
  results_.pop_front();
  return result;
}

absl::StatusOr<bool> ModelRunner::WaitForResult(const std::function<bool()>& instead) {
  CHECK(under_way() > 0);
  if (!results_.empty()) return true;
  return ops_->memory().Reach(launched_.front().end, instead);
}

absl::StatusOr<v1::StepResult> ModelRunner::Step(const v1::StepPlan& plan) {
  RETURN_IF_ERROR(Launch(plan));
  return Collect();
}

// Brings the tokens that this rank must know before it computes the plan. A device that samples has
// those of the step before; only penalties, which the host counts, need them here.
absl::Status ModelRunner::LearnTokens(const v1::StepPlan& plan) {
  while (takes_tokens() && sequences_.ComputesUnknown(plan)) RETURN_IF_ERROR(TakeOldestTokens());
  while (samples() && sequences_.SamplesByUnknown(plan)) RETURN_IF_ERROR(FinishOldest());
  return absl::OkStatus();
}

absl::Status ModelRunner::FinishOldest() {
  Launched& step = launched_.front();
  RETURN_IF_ERROR(ops_->memory().Reach(step.end, nullptr).status());
  for (size_t i = 0; i < step.samplings; ++i) {
    ASSIGN_OR_RETURN(const double milliseconds, sampler_->Collect(step.result));
    sampling_ms_ += milliseconds;
  }
  std::vector<int32_t> ids;
  for (const v1::SampledToken& token : step.result.tokens()) ids.push_back(token.token_id());
  if (!ids.empty()) {
    sequences_.Fill(ids);
    RETURN_IF_ERROR(PostTokens(ids));
  }
  const Clock::time_point begun = std::max(step.begun, step_end_);
  step_end_ = Clock::now();
  step.result.set_step_ms(std::chrono::duration<double, std::milli>(step_end_ - begun).count());
  results_.push_back(std::move(step.result));
  launched_.pop_front();
  return absl::OkStatus();
}

absl::StatusOr<double> ModelRunner::RepeatStep(int times) {
  CHECK(options_.layout.pp == 1);
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < times; ++i) RETURN_IF_ERROR(ForwardStage(batch_, cache_));
  RETURN_IF_ERROR(WaitForHidden());
  return MillisecondsSince(start) / times;
}

absl::Status ModelRunner::WaitForHidden() {
  float done = 0;
  return ops_->memory().CopyOut(std::as_writable_bytes(std::span(&done, 1)), hidden_.span().data());
}

absl::Status ModelRunner::SelfTest() {
  RETURN_IF_ERROR(CheckPeers());
  const std::vector<int32_t> block_table{0};
  StepBatch batch;
  AppendToken(0, {.position = 0, .block_table = block_table}, batch);
  if (shard_.last_stage) batch.wanted.push_back(0);
  RETURN_IF_ERROR(ops_->BeginStep(batch));
  RETURN_IF_ERROR(ForwardStage(batch, test_cache_));
  ++steps_;
  if (!shard_.last_stage) return WaitForHidden();
  const std::span<const float> made = logits_.span().first(static_cast<size_t>(config_.vocab_size));
  ASSIGN_OR_RETURN(const std::span<const float> logits, ops_->memory().Read(made, logits_room_));
  const bool numbers =
      std::all_of(logits.begin(), logits.end(), [](float logit) { return std::isfinite(logit); });
  return numbers ? absl::OkStatus()
                 : absl::InternalError(absl::StrCat(
                       "self-test: the logits of a token are no numbers; the weights may be "
                       "damaged, or the ",
                       std::string(ops_->name()), " device"));
}

absl::Status ModelRunner::Finish() { return Settle(/*stay=*/false).status(); }

absl::Status ModelRunner::Reset() {
  ASSIGN_OR_RETURN(const bool all_stay, Settle(/*stay=*/true));
  if (!all_stay) return absl::AbortedError("the coordinator has ended other ranks of the gang");
  sequences_.Clear();
  return absl::OkStatus();
}

// Brings the ranks to the same point, with nothing under way; true if all of them want to stay.
// Ranks that are not at the same step would wait for each other's tokens, or take the wrong ones.
absl::StatusOr<bool> ModelRunner::Settle(bool stay) {
  struct Point {
    uint64_t steps;
    uint64_t stay;
  };
  const Point mine{.steps = steps_, .stay = stay ? 1U : 0U};
  std::vector<Point> all(static_cast<size_t>(world_->size()));
  RETURN_IF_ERROR(world_->AllGather(std::as_bytes(std::span(&mine, 1)),
                                    std::as_writable_bytes(std::span(all))));
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].steps == mine.steps) continue;
    return absl::InternalError(absl::StrCat("rank ", rank, " has computed ", all[rank].steps,
                                            " steps, this one ", mine.steps));
  }
  while (!launched_.empty()) RETURN_IF_ERROR(FinishOldest());
  results_.clear();
  while (takes_tokens() && sequences_.steps_unfilled() > 0) RETURN_IF_ERROR(TakeOldestTokens());
  RETURN_IF_ERROR(world_->Barrier());
  return std::all_of(all.begin(), all.end(), [](const Point& point) { return point.stay == 1; });
}

absl::Status ModelRunner::CopyBlocks(const v1::StepPlan& plan) {
  const auto blocks = static_cast<uint64_t>(cache_.num_blocks());
  for (const v1::BlockCopy& copy : plan.copies()) {
    if (copy.from() >= blocks || copy.to() >= blocks) {
      return absl::InternalError(absl::StrCat("step plan: copy of block ", copy.from(), " to ",
                                              copy.to(), ": there are ", blocks));
    }
    RETURN_IF_ERROR(cache_.CopyBlock(copy.from(), copy.to()));
  }
  return absl::OkStatus();
}

void ModelRunner::AppendToken(int32_t id, const TokenPlace& place, StepBatch& batch) const {
  batch.ids.push_back(id);
  batch.places.push_back(place);
  const int64_t position = std::max<int64_t>(place.position, 0);
  rotary_->Append(position, batch.rope);
  if (local_rotary_) local_rotary_->Append(position, batch.local_rope);
}

StepBatch ModelRunner::BuildBatch(const v1::StepPlan& plan) const {
  StepBatch batch;
  batch.sampled = sampler_->sampled();
  for (const v1::ScheduledSequence& scheduled : plan.scheduled()) {
    const RankSequence& sequence = sequences_.at(scheduled.id());
    for (size_t i = 0; i < scheduled.num_tokens(); ++i) {
      const size_t position = sequence.computed + i;
      AppendToken(sequence.token_ids[position],
                  {.position = static_cast<int64_t>(position), .block_table = sequence.block_table},
                  batch);
    }
  }
  if (batch.tokens() == 0 || batch.tokens() > plan.scheduled_size()) return batch;
  for (int64_t padded = ops_->PaddedTokens(batch.tokens()); batch.tokens() < padded;) {
    AppendToken(0, {.position = TokenPlace::kPadding, .block_table = {}}, batch);
  }
  return batch;
}

// Activations go by Send, not Post: a large message needs the sender's help to get under way, and a
// stage that computes the next step gives none. No stage waits for a later step of another, so
// they cannot wait in a circle.
absl::Status ModelRunner::ForwardStage(const StepBatch& batch, const KvCache& cache) {
  if (batch.tokens() == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::span<float> hidden,
                   hidden_.Resize(ops_->memory(), batch.tokens() * config_.hidden_size));
  if (!shard_.first_stage) {
    const RankCoord previous{.tp_rank = coord_.tp_rank, .pp_rank = coord_.pp_rank - 1};
    RETURN_IF_ERROR(Wait([&] {
      return stages_->Recv(std::as_writable_bytes(hidden), RankOf(options_.layout, previous));
    }));
  }
  // What is recorded to be repeated is of one cache.
  const bool repeatable = stays_on_device() && &cache == &cache_;
  const auto compute = [&] { return ComputeStage(batch, cache, hidden); };
  RETURN_IF_ERROR(repeatable ? ops_->Run(compute) : compute());
  if (shard_.last_stage) return absl::OkStatus();
  const RankCoord next{.tp_rank = coord_.tp_rank, .pp_rank = coord_.pp_rank + 1};
  return Wait([&] { return stages_->Send(std::as_bytes(hidden), RankOf(options_.layout, next)); });
}

// With the first logits that are wanted, which in most steps are all.
absl::Status ModelRunner::ComputeStage(const StepBatch& batch, const KvCache& cache,
                                       std::span<float> hidden) {
  if (shard_.first_stage) RETURN_IF_ERROR(model_->Embed(batch, hidden));
  RETURN_IF_ERROR(model_->Layers(batch, cache, hidden));
  if (batch.wanted.empty()) return absl::OkStatus();
  return ComputeLogits(batch, 0, std::min(kLogitsSlice, batch.wanted.size()));
}

absl::Status ModelRunner::ComputeLogits(const StepBatch& batch, size_t begin, size_t count) {
  ASSIGN_OR_RETURN(
      const std::span<float> logits,
      logits_.Resize(ops_->memory(), static_cast<int64_t>(count) * config_.vocab_size));
  return model_->Logits(ops_->Wanted(batch).subspan(begin, count), hidden_.span(), logits);
}

// Those that are sampled first, so that the i-th sampled token is of row i.
std::vector<LogitsWanted> ModelRunner::WantedLogits(const v1::StepPlan& plan) const {
  std::vector<LogitsWanted> wanted;
  int32_t token = 0;
  for (const v1::ScheduledSequence& scheduled : plan.scheduled()) {
    const RankSequence& sequence = sequences_.at(scheduled.id());
    const size_t end = sequence.computed + scheduled.num_tokens();
    for (size_t position = sequence.computed; position < end; ++position, ++token) {
      const bool sample = scheduled.sample() && position + 1 == end;
      const bool prompt =
          sequence.sampling.has_prompt_logprobs() && position + 1 < sequence.prompt_tokens;
      if (!sample && !prompt) continue;
      wanted.push_back({.token = token,
                        .id = scheduled.id(),
                        .sequence = &sequence,
                        .position = position,
                        .sample = sample});
    }
  }
  std::stable_partition(wanted.begin(), wanted.end(),
                        [](const LogitsWanted& want) { return want.sample; });
  return wanted;
}

// Returns the launches of the sampler. The first slice of logits is there already.
absl::StatusOr<size_t> ModelRunner::Sample(const StepBatch& batch,
                                           std::span<const LogitsWanted> wanted) {
  size_t launches = 0;
  const auto vocab = static_cast<size_t>(config_.vocab_size);
  for (size_t begin = 0; begin < wanted.size(); begin += kLogitsSlice) {
    const size_t count = std::min(kLogitsSlice, wanted.size() - begin);
    if (begin > 0) RETURN_IF_ERROR(ComputeLogits(batch, begin, count));
    const std::span<const float> logits = logits_.span().first(count * vocab);
    if (options_.on_logits) RETURN_IF_ERROR(ShowLogits(wanted.subspan(begin, count), logits));
    if (!samples()) continue;
    RETURN_IF_ERROR(sampler_->Launch(wanted.subspan(begin, count), logits, begin));
    ++launches;
  }
  return launches;
}

absl::Status ModelRunner::ShowLogits(std::span<const LogitsWanted> wanted,
                                     std::span<const float> logits) {
  ASSIGN_OR_RETURN(const std::span<const float> all, ops_->memory().Read(logits, logits_room_));
  const auto vocab = static_cast<size_t>(config_.vocab_size);
  for (size_t row = 0; row < wanted.size(); ++row) {
    if (wanted[row].sample) {
      options_.on_logits(wanted[row].id, all.subspan(row * vocab, vocab));
    }
  }
  return absl::OkStatus();
}

// To the ranks that embed the tokens and do not sample them. They take them when a plan needs them:
// so the first stage may be steps ahead of the last.
absl::Status ModelRunner::PostTokens(std::span<const int32_t> ids) {
  if (queues_steps()) return absl::OkStatus();
  for (int tp_rank = 0; tp_rank < options_.layout.tp; ++tp_rank) {
    const int rank = RankOf(options_.layout, {.tp_rank = tp_rank, .pp_rank = 0});
    if (rank != world_->rank()) RETURN_IF_ERROR(world_->Post(std::as_bytes(ids), rank));
  }
  return absl::OkStatus();
}

absl::Status ModelRunner::TakeOldestTokens() {
  std::vector<int32_t> ids(sequences_.oldest_unfilled());
  RETURN_IF_ERROR(
      Wait([&] { return world_->Take(std::as_writable_bytes(std::span(ids)), responder_); }));
  sequences_.Fill(ids);
  return absl::OkStatus();
}

absl::Status ModelRunner::CheckPeers() {
  RETURN_IF_ERROR(tp_->Check());
  return stages_ == nullptr ? absl::OkStatus() : stages_->Check();
}

// One communicator's Wait has the deadline; the other's errors are asked for meanwhile.
absl::Status ModelRunner::WaitForDevice(const std::function<absl::StatusOr<bool>()>& done) {
  DeviceCommunicator& waiting = stages_ == nullptr || tp_->size() > 1 ? *tp_ : *stages_;
  return waiting.Wait([&]() -> absl::StatusOr<bool> {
    RETURN_IF_ERROR(CheckPeers());
    return done();
  });
}

absl::Status ModelRunner::Wait(const std::function<absl::Status()>& transfer) {
  const auto start = std::chrono::steady_clock::now();
  const absl::Status status = transfer();
  bubble_ms_ += MillisecondsSince(start);
  return status;
}

}  // namespace trireme
