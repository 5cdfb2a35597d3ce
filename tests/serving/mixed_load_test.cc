// The signature under load: real ranks driven by the real scheduler, plans ahead, with more
// requests than the KV cache holds, shared prefixes, swapping, every mixture of sampling
// parameters, continuations, cancels, pauses and lost gangs. Every token and every bit of every
// logit must be those of the request alone on one rank.
//
// TRIREME_MIXED_LOAD_SEEDS sets the seeds for each checkpoint and layout.

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <random>
#include <set>

#include "coordinator/scheduler.h"
#include "tests/serving/thread_gang.h"
#include "tests/worker/gang_driver.h"

namespace trireme {
namespace {

const std::filesystem::path kRoot = TRIREME_SOURCE_DIR;
constexpr int32_t kVocab = 150;
constexpr size_t kDistinct = 24;  // requests whose outputs are known
constexpr int kRequestsPerSeed = 16;
constexpr int64_t kPoolBlocks = 48;

// Prompts begin with one of a few common texts, and have any parameters.
TestRequest MakeRequest(std::mt19937_64& random) {
  const auto below = [&](uint64_t n) { return static_cast<int32_t>(random() % n); };
  TestRequest request;
  const int32_t text = below(3);
  const int32_t shared = 16 * below(5);
  for (int32_t i = 0; i < shared; ++i) request.prompt.push_back((i * 31 + text * 57) % kVocab);
  for (int32_t i = 0, own = 1 + below(40); i < own; ++i) request.prompt.push_back(below(kVocab));
  request.steps = 1 + below(24);
  request.sampling = GreedySampling();
  v1::StepSampling& sampling = request.sampling;
  sampling.set_seed(random());
  if (below(3) > 0) sampling.set_temperature(0.5f + 0.25f * static_cast<float>(below(5)));
  if (below(3) == 0) sampling.set_top_p(0.8f);
  if (below(3) == 0) sampling.set_top_k(1 + below(40));
  if (below(4) == 0) sampling.set_min_p(0.05f);
  if (below(4) == 0) sampling.set_repetition_penalty(1.2f);
  if (below(4) == 0) sampling.set_presence_penalty(0.5f);
  if (below(4) == 0) sampling.set_frequency_penalty(-0.3f);
  if (below(4) == 0) sampling.set_logprobs(static_cast<uint32_t>(below(4)));
  if (below(4) == 0) {
    sampling.add_bias_ids(below(kVocab));
    sampling.add_bias(5.0f);
  }
  return request;
}

struct Known {
  TestRequest request;
  TestOutput output;
};

// One seed's worth of load on a gang.
class Load {
 public:
  Load(const std::vector<Known>& known, ThreadGang& gang, const ParallelLayout& layout,
       uint64_t epoch, uint64_t seed)
      : known_(known), gang_(gang), random_(seed) {
    SchedulerOptions options;
    options.max_num_seqs = 1 + Below(12);
    options.max_num_batched_tokens = options.max_num_seqs + Below(60);
    options.vocab_size = 1 << 20;
    options.prefix_caching = Below(4) > 0;
    options.gangs_lost_max = 100;
    scheduler_ = std::make_unique<Scheduler>(options);
    capacity_ = {.epoch = epoch,
                 .pipeline_stages = static_cast<uint32_t>(layout.pp),
                 .kv_block_size = 16,
                 .kv_blocks = 9 + Below(20),  // the longest request needs nine
                 .swap_blocks = Below(2) * Below(20),
                 .max_model_len = 512,
                 .max_num_batched_tokens = 256};
  }

  // Runs to the end; the number of sequences that were compared whole.
  int Run(uint64_t* last_epoch) {
    scheduler_->GangReady(capacity_);
    while (arrived_ < kRequestsPerSeed || scheduler_->num_sequences() > 0) {
      if (arrived_ < kRequestsPerSeed && Below(3) == 0) Arrive();
      Disturb();
      while (const auto plan = scheduler_->Plan()) {
        gang_.Send(*plan);
        ++unanswered_;
      }
      EXPECT_TRUE(scheduler_->CheckIntegrity().ok()) << scheduler_->CheckIntegrity();
      if (scheduler_->plans_in_flight() > 0) {
        Answer();
      } else {
        for (const uint64_t id : paused_) scheduler_->Resume(id);
        paused_.clear();
      }
      if (testing::Test::HasFailure()) return 0;
    }
    while (unanswered_ > 0) Answer();
    *last_epoch = capacity_.epoch;
    return Compare();
  }

  const SchedulerStats& stats() const { return scheduler_->stats(); }

 private:
  struct Running {
    size_t known = 0;
    std::vector<int32_t> tokens;
    std::vector<std::vector<float>> logits;
    bool cancelled = false;
    bool ended = false;
  };

  uint32_t Below(uint32_t n) { return static_cast<uint32_t>(random_() % n); }

  void Arrive() {
    ++arrived_;
    // Continuations of one prompt may have different seeds: take known requests with that prompt.
    const size_t which = Below(kDistinct);
    const Known& known = known_[which];
    std::vector<Sequence> siblings;
    for (uint32_t i = 0, n = 1 + (Below(4) == 0 ? Below(3) : 0); i < n; ++i) {
      Sequence& sequence = siblings.emplace_back();
      sequence.id = ++last_id_;
      sequence.tokens = known.request.prompt;
      sequence.sampling = known.request.sampling;
      sequence.max_tokens = static_cast<uint32_t>(known.request.steps);
      sequence.priority = static_cast<v1::Priority>(1 + Below(3));
      sequence.tenant_name = std::string(1, static_cast<char>('a' + Below(2)));
      running_[sequence.id].known = which;
    }
    scheduler_->Add(std::move(siblings));
  }

  void Disturb() {
    if (last_id_ == 0) return;
    const uint64_t id = 1 + random_() % last_id_;
    const uint32_t what = Below(60);
    if (what == 0) {
      if (!running_[id].ended) running_[id].cancelled = true;
      scheduler_->Cancel(id);
    } else if (what == 1) {
      scheduler_->Pause(id);
      paused_.insert(id);
    } else if (what == 2) {
      scheduler_->Resume(id);
    } else if (what == 3) {
      LoseGang();
    }
  }

  // The ranks are the same, and forget everything at the first plan of the new epoch. What was on
  // its way still comes, and is stale.
  void LoseGang() {
    EXPECT_TRUE(scheduler_->GangLost().empty());
    ++capacity_.epoch;
    scheduler_->GangReady(capacity_);
  }

  void Answer() {
    absl::StatusOr<v1::StepResult> result = gang_.Receive();
    ASSERT_TRUE(result.ok()) << result.status();
    --unanswered_;
    TakeLogits();
    const bool stale = result->epoch() != capacity_.epoch;
    const absl::StatusOr<StepOutput> output = scheduler_->Apply(*std::move(result));
    ASSERT_TRUE(output.ok()) << output.status();
    EXPECT_TRUE(!stale || output->tokens.empty());
    for (const SequenceOutput& each : output->tokens) {
      Running& running = running_.at(each.token.sequence_id());
      EXPECT_FALSE(running.ended);
      running.tokens.push_back(each.token.token_id());
      running.ended = each.finish_reason != v1::FINISH_REASON_UNSPECIFIED;
    }
  }

  // A lost gang's tokens are sampled again, from logits that must be the same again.
  void TakeLogits() {
    for (auto& [id, rows] : gang_.TakeLogits()) {
      auto& all = running_.at(id).logits;
      all.insert(all.end(), rows.begin(), rows.end());
    }
  }

  int Compare() {
    int compared = 0;
    for (const auto& [id, running] : running_) {
      const TestOutput& want = known_[running.known].output;
      if (running.cancelled) {
        EXPECT_LE(running.tokens.size(), want.tokens.size());
        EXPECT_TRUE(std::equal(running.tokens.begin(), running.tokens.end(), want.tokens.begin()));
        continue;
      }
      EXPECT_EQ(running.tokens, want.tokens) << "sequence " << id;
      // Every row of logits is one of the reference's, and each of those has been seen.
      std::set<size_t> seen;
      for (const std::vector<float>& row : running.logits) {
        const auto same = [&](const std::vector<float>& other) {
          return row.size() == other.size() &&
                 std::memcmp(row.data(), other.data(), row.size() * sizeof(float)) == 0;
        };
        const auto found = std::find_if(want.logits.begin(), want.logits.end(), same);
        EXPECT_NE(found, want.logits.end()) << "sequence " << id << ": other bits";
        seen.insert(static_cast<size_t>(found - want.logits.begin()));
      }
      EXPECT_EQ(seen.size(), want.logits.size()) << "sequence " << id;
      ++compared;
    }
    return compared;
  }

  const std::vector<Known>& known_;
  ThreadGang& gang_;
  std::mt19937_64 random_;
  std::unique_ptr<Scheduler> scheduler_;
  GangCapacity capacity_;
  std::map<uint64_t, Running> running_;
  std::set<uint64_t> paused_;
  int arrived_ = 0;
  int unanswered_ = 0;  // plans, those of lost gangs included
  uint64_t last_id_ = 0;
};

class MixedLoadTest : public testing::TestWithParam<std::string> {};

TEST_P(MixedLoadTest, GivesTheBitsOfEachRequestAlone) {
  const std::filesystem::path model = kRoot / GetParam();
  const ModelConfig config = *ModelConfig::Load(model);
  std::mt19937_64 random(7);
  std::vector<Known> known(kDistinct);
  for (Known& each : known) {
    each.request = MakeRequest(random);
    auto output = DriveGang({.model_dir = model, .layout = {}}, {each.request});
    ASSERT_TRUE(output.ok()) << output.status();
    each.output = std::move(output->front());
  }
  const char* text = std::getenv("TRIREME_MIXED_LOAD_SEEDS");
  const uint64_t seeds = text == nullptr ? 4 : std::strtoull(text, nullptr, 10);
  int compared = 0;
  uint64_t preemptions = 0;
  uint64_t swaps = 0;
  uint64_t hits = 0;
  for (int world = 1; world <= 8; world *= 2) {
    for (const ParallelLayout& layout : LegalLayouts(config, world)) {
      ThreadGang gang({.model_dir = model,
                       .layout = layout,
                       .kv_blocks = kPoolBlocks,
                       .swap_bytes_max = int64_t{32} << 20});
      uint64_t epoch = 0;
      for (uint64_t seed = 1; seed <= seeds; ++seed) {
        SCOPED_TRACE(testing::Message()
                     << "tp " << layout.tp << " pp " << layout.pp << " seed " << seed);
        Load load(known, gang, layout, epoch + 1, seed * 1000 + static_cast<uint64_t>(world));
        compared += load.Run(&epoch);
        preemptions += load.stats().preemptions;
        swaps += load.stats().swaps;
        hits += load.stats().prefix_tokens_hit;
        if (HasFailure()) return;
      }
    }
  }
  std::printf("%d sequences compared, %llu preemptions (%llu swaps), %llu tokens from the cache\n",
              compared, static_cast<unsigned long long>(preemptions),
              static_cast<unsigned long long>(swaps), static_cast<unsigned long long>(hits));
  EXPECT_GT(preemptions, 0u);
  EXPECT_GT(swaps, 0u);
  EXPECT_GT(hits, 0u);
}

INSTANTIATE_TEST_SUITE_P(Models, MixedLoadTest,
                         testing::Values("models/pilot", "tests/golden/models/llama2",
                                         "tests/golden/models/llama_bias",
                                         "tests/golden/models/mistral_window",
                                         "tests/golden/models/qwen2", "tests/golden/models/qwen3"),
                         [](const auto& info) {
                           return std::filesystem::path(info.param).filename().string();
                         });

}  // namespace
}  // namespace trireme
