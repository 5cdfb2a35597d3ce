#include "worker/batch_sampler.h"

#include <chrono>
#include <deque>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "worker/sampler.h"

namespace trireme {
namespace {

class HostSampler final : public BatchSampler {
 public:
  explicit HostSampler(Ops& ops) : ops_(ops) {}

  bool on_device() const override { return false; }
  absl::Status Reserve(int64_t, int64_t, int64_t) override { return absl::OkStatus(); }
  std::span<const int32_t> sampled() const override { return {}; }

  absl::Status Launch(std::span<const LogitsWanted> wanted, std::span<const float> logits,
                      size_t) override {
    ASSIGN_OR_RETURN(const std::span<const float> all, ops_.memory().Read(logits, room_));
    const auto start = std::chrono::steady_clock::now();
    const size_t vocab = all.size() / wanted.size();
    std::vector<v1::SampledToken> tokens(wanted.size());
    std::vector<v1::PromptLogprob> prompt(wanted.size());
    ops_.ForEach(static_cast<int64_t>(wanted.size()), [&](int64_t index) {
      const size_t row = static_cast<size_t>(index);
      const LogitsWanted& want = wanted[row];
      const RankSequence& sequence = *want.sequence;
      const std::span<const float> mine = all.subspan(row * vocab, vocab);
      if (want.sample) {
        tokens[row] = SampleToken({.logits = mine,
                                   .token_ids = sequence.token_ids,
                                   .prompt_tokens = sequence.prompt_tokens,
                                   .params = &sequence.sampling});
        return;
      }
      prompt[row] = PromptTokenLogprob(mine, sequence.token_ids[want.position + 1],
                                       sequence.sampling.prompt_logprobs());
    });
    Chosen& chosen = chosen_.emplace_back();
    for (size_t row = 0; row < wanted.size(); ++row) {
      if (wanted[row].sample) {
        tokens[row].set_sequence_id(wanted[row].id);
        *chosen.result.add_tokens() = std::move(tokens[row]);
      } else {
        prompt[row].set_sequence_id(wanted[row].id);
        prompt[row].set_position(static_cast<uint32_t>(wanted[row].position + 1));
        *chosen.result.add_prompt_logprobs() = std::move(prompt[row]);
      }
    }
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    chosen.milliseconds = took.count();
    return absl::OkStatus();
  }

  absl::StatusOr<double> Collect(v1::StepResult& result) override {
    const Chosen chosen = std::move(chosen_.front());
    chosen_.pop_front();
    result.MergeFrom(chosen.result);
    return chosen.milliseconds;
  }

 private:
  // What came of one Launch.
  struct Chosen {
    v1::StepResult result;
    double milliseconds = 0;
  };

  Ops& ops_;
  std::vector<float> room_;
  std::deque<Chosen> chosen_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<BatchSampler>> MakeHostSampler(Ops& ops) {
  return std::make_unique<HostSampler>(ops);
}

}  // namespace trireme
