#include "worker/cuda_sampler.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/cuda/cuda_memory.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/sampling_batch.h"
#include "kernels/cuda/sampling_workspace.h"

namespace trireme {
namespace {

using cuda::LogprobRequest;
using cuda::SamplingParams;
using cuda::SeenToken;
using cuda::TokenBias;
using cuda::TokenLogprobs;

// Of what is asked for; more than the kernels have room for stays more.
int32_t TopCount(uint32_t asked) {
  return static_cast<int32_t>(std::min<uint32_t>(asked, cuda::kTopLogprobsMax + 1));
}

cuda::SamplingRow RowOf(const RankSequence& sequence) {
  const v1::StepSampling& sampling = sequence.sampling;
  cuda::SamplingRow row;
  row.params = {.seed = sampling.seed(),
                .position = static_cast<int64_t>(sequence.token_ids.size()),
                .temperature = sampling.temperature(),
                .top_k = sampling.top_k(),
                .top_p = sampling.top_p(),
                .min_p = sampling.min_p(),
                .repetition_penalty = sampling.repetition_penalty(),
                .presence_penalty = sampling.presence_penalty(),
                .frequency_penalty = sampling.frequency_penalty(),
                .logprobs = sampling.has_logprobs() ? TopCount(sampling.logprobs()) : -1};
  row.bias_ids = {sampling.bias_ids().data(), static_cast<size_t>(sampling.bias_ids_size())};
  row.biases = {sampling.bias().data(), static_cast<size_t>(sampling.bias_size())};
  return row;
}

// What a step's rows tell the kernels.
struct Inputs {
  explicit Inputs(int32_t vocab_size) : batch(vocab_size) {}

  cuda::SamplingBatch batch;
  std::vector<LogprobRequest> requests;      // of prompt tokens; padding for the others
  std::vector<std::vector<SeenToken>> seen;  // of the penalised rows
  int32_t seen_max = 0;                      // of the longest
  bool samples = false;
  bool asks_prompt = false;
};

absl::StatusOr<Inputs> InputsOf(std::span<const LogitsWanted> wanted, int32_t vocab_size) {
  Inputs inputs(vocab_size);
  for (const LogitsWanted& want : wanted) {
    const RankSequence& sequence = *want.sequence;
    if (!want.sample) {
      inputs.asks_prompt = true;
      inputs.batch.PadTo(inputs.batch.params().size() + 1);
      inputs.requests.push_back({.token_id = sequence.token_ids[want.position + 1],
                                 .top_count = TopCount(sequence.sampling.prompt_logprobs())});
      if (inputs.requests.back().top_count > cuda::kTopLogprobsMax) {
        return absl::InvalidArgumentError(
            absl::StrCat("unsupported: ", sequence.sampling.prompt_logprobs(),
                         " top log probabilities of prompt tokens on a GPU; ask for ",
                         cuda::kTopLogprobsMax, " at most"));
      }
      continue;
    }
    inputs.samples = true;
    cuda::SamplingRow row = RowOf(sequence);
    row.params.sequence = static_cast<int32_t>(inputs.seen.size());
    if (IsPenalised(row.params)) {
      inputs.seen.push_back(cuda::CountSeen(sequence.token_ids, sequence.prompt_tokens));
      inputs.seen_max = std::max(inputs.seen_max, static_cast<int32_t>(inputs.seen.back().size()));
    }
    RETURN_IF_ERROR(inputs.batch.Add(row));
    inputs.requests.push_back({});
  }
  return inputs;
}

// The arrays of one upload, at the same places in host and device memory.
struct UploadArrays {
  UploadArrays(void* memory, const Inputs& inputs) {
    cuda::Workspace workspace(memory);
    params = workspace.Take<SamplingParams>(inputs.batch.params().size());
    biases = workspace.Take<TokenBias>(inputs.batch.biases().size());
    requests = workspace.Take<LogprobRequest>(inputs.requests.size());
    seen_counts = workspace.Take<int32_t>(inputs.seen.size());
    seen = workspace.Take<SeenToken>(inputs.seen.size() * static_cast<size_t>(inputs.seen_max));
    bytes = workspace.bytes();
  }

  SamplingParams* params;
  TokenBias* biases;
  LogprobRequest* requests;
  int32_t* seen_counts;
  SeenToken* seen;
  size_t bytes;
};

// Of one download.
struct ResultArrays {
  ResultArrays(void* memory, size_t rows) {
    cuda::Workspace workspace(memory);
    token_ids = workspace.Take<int32_t>(rows);
    logprobs = workspace.Take<TokenLogprobs>(rows);
    bytes = workspace.bytes();
  }

  int32_t* token_ids;
  TokenLogprobs* logprobs;
  size_t bytes;
};

void Pack(const Inputs& inputs, const UploadArrays& to) {
  std::ranges::copy(inputs.batch.params(), to.params);
  std::ranges::copy(inputs.batch.biases(), to.biases);
  std::ranges::copy(inputs.requests, to.requests);
  for (size_t i = 0; i < inputs.seen.size(); ++i) {
    to.seen_counts[i] = static_cast<int32_t>(inputs.seen[i].size());
    std::ranges::copy(inputs.seen[i], to.seen + i * static_cast<size_t>(inputs.seen_max));
  }
}

template <class Message>
void FillLogprobs(const TokenLogprobs& from, Message& message) {
  message.set_logprob(from.logprob);
  for (int i = 0; i < from.top_count; ++i) {
    message.add_top_ids(from.top_ids[i]);
    message.add_top_logprobs(from.top_logprobs[i]);
  }
}

// What a result says of a row beside what was computed.
struct ResultRow {
  uint64_t id = 0;
  size_t position = 0;
  bool sampled = false;
  bool logprobs = false;
};

void AppendResults(std::span<const ResultRow> rows, const ResultArrays& got,
                   v1::StepResult& result) {
  for (size_t i = 0; i < rows.size(); ++i) {
    const ResultRow& row = rows[i];
    if (row.sampled) {
      v1::SampledToken& token = *result.add_tokens();
      token.set_sequence_id(row.id);
      token.set_token_id(got.token_ids[i]);
      if (row.logprobs) FillLogprobs(got.logprobs[i], token);
    } else {
      v1::PromptLogprob& prompt = *result.add_prompt_logprobs();
      prompt.set_sequence_id(row.id);
      prompt.set_position(static_cast<uint32_t>(row.position + 1));
      FillLogprobs(got.logprobs[i], prompt);
    }
  }
}

// One launch that was not collected yet, with the memory that the device copies from and to
// meanwhile.
struct SamplerLaunch {
  std::vector<ResultRow> rows;
  cuda::PinnedMemory upload, results;
  cuda::Event begin, end;
};

class CudaSampler final : public BatchSampler {
 public:
  explicit CudaSampler(cuda::CudaMemory& memory) : memory_(memory) {}

  bool on_device() const override { return true; }

  absl::Status Reserve(int64_t row_count, int64_t step_rows, int64_t vocab_size) override {
    const auto rows = static_cast<int>(row_count);
    const auto vocab = static_cast<int>(vocab_size);
    RETURN_IF_ERROR(Grow(workspace_, std::max(cuda::SampleWorkspaceBytes(rows, vocab),
                                              cuda::LogprobWorkspaceBytes(rows, vocab))));
    RETURN_IF_ERROR(Grow(tokens_, static_cast<size_t>(step_rows) * sizeof(int32_t)));
    return Grow(logprobs_, static_cast<size_t>(rows) * sizeof(TokenLogprobs));
  }

  absl::Status Launch(std::span<const LogitsWanted> wanted, std::span<const float> logits,
                      size_t first) override {
    const size_t rows = wanted.size();
    const size_t vocab = logits.size() / rows;
    RETURN_IF_ERROR(Reserve(static_cast<int64_t>(rows), static_cast<int64_t>(first + rows),
                            static_cast<int64_t>(vocab)));
    ASSIGN_OR_RETURN(const Inputs inputs, InputsOf(wanted, static_cast<int32_t>(vocab)));
    ASSIGN_OR_RETURN(SamplerLaunch launch, TakeLaunch());
    for (const LogitsWanted& want : wanted) {
      launch.rows.push_back({.id = want.id,
                             .position = want.position,
                             .sampled = want.sample,
                             .logprobs = want.sequence->sampling.has_logprobs()});
    }
    const size_t upload_bytes = UploadArrays(nullptr, inputs).bytes;
    RETURN_IF_ERROR(Grow(upload_, upload_bytes));
    RETURN_IF_ERROR(Grow(launch.upload, upload_bytes));
    RETURN_IF_ERROR(Grow(launch.results, ResultArrays(nullptr, rows).bytes));
    Pack(inputs, UploadArrays(launch.upload.data(), inputs));
    const cuda::Stream& stream = memory_.stream();
    RETURN_IF_ERROR(launch.begin.Record(stream.get()));
    RETURN_IF_ERROR(
        stream.Copy(upload_.data(), launch.upload.data(), static_cast<int64_t>(upload_bytes)));
    LaunchKernels(inputs, logits.data(), static_cast<int>(rows), static_cast<int>(vocab), first);
    RETURN_IF_ERROR(CopyResults(inputs, ResultArrays(launch.results.data(), rows), rows, first));
    RETURN_IF_ERROR(launch.end.Record(stream.get()));
    launched_.push_back(std::move(launch));
    return absl::OkStatus();
  }

  std::span<const int32_t> sampled() const override {
    return {Tokens(), tokens_.size() / sizeof(int32_t)};
  }

  absl::StatusOr<double> Collect(v1::StepResult& result) override {
    SamplerLaunch launch = std::move(launched_.front());
    launched_.pop_front();
    AppendResults(launch.rows, ResultArrays(launch.results.data(), launch.rows.size()), result);
    ASSIGN_OR_RETURN(const float milliseconds, cuda::Event::Milliseconds(launch.begin, launch.end));
    free_.push_back(std::move(launch));
    return milliseconds;
  }

 private:
  int32_t* Tokens() const { return reinterpret_cast<int32_t*>(tokens_.data()); }
  TokenLogprobs* Logprobs() const { return reinterpret_cast<TokenLogprobs*>(logprobs_.data()); }

  // One that is done, or another.
  absl::StatusOr<SamplerLaunch> TakeLaunch() {
    SamplerLaunch launch;
    if (free_.empty()) {
      ASSIGN_OR_RETURN(launch.begin, cuda::Event::Create(cuda::Event::Timing::kOn));
      ASSIGN_OR_RETURN(launch.end, cuda::Event::Create(cuda::Event::Timing::kOn));
      return launch;
    }
    launch = std::move(free_.back());
    free_.pop_back();
    launch.rows.clear();
    return launch;
  }

  void LaunchKernels(const Inputs& inputs, const float* logits, int rows, int vocab, size_t first) {
    const UploadArrays in(upload_.data(), inputs);
    const cudaStream_t stream = memory_.stream().get();
    if (inputs.samples) {
      cuda::Sample(
          {.logits = logits,
           .stride = vocab,
           .rows = rows,
           .vocab_size = vocab,
           .needs = inputs.batch.needs(),
           .params = in.params,
           .biases = in.biases,
           .seen = {.tokens = in.seen, .counts = in.seen_counts, .capacity = inputs.seen_max},
           .token_ids = Tokens() + first,
           .logprobs = Logprobs(),
           .workspace = workspace_.data(),
           .stream = stream});
    }
    if (inputs.asks_prompt) {
      cuda::TokenLogprobsOf({.logits = logits,
                             .stride = vocab,
                             .rows = rows,
                             .vocab_size = vocab,
                             .requests = in.requests,
                             .logprobs = Logprobs(),
                             .workspace = workspace_.data(),
                             .stream = stream});
    }
  }

  absl::Status CopyResults(const Inputs& inputs, const ResultArrays& to, size_t rows,
                           size_t first) const {
    const cuda::Stream& stream = memory_.stream();
    const auto copy = [&](auto* there, const auto* here) {
      return stream.Copy(there, here, static_cast<int64_t>(rows * sizeof(*here)));
    };
    if (inputs.samples) RETURN_IF_ERROR(copy(to.token_ids, Tokens() + first));
    if (inputs.asks_prompt || inputs.batch.needs().logprobs) {
      RETURN_IF_ERROR(copy(to.logprobs, Logprobs()));
    }
    return absl::OkStatus();
  }

  // Twice what is asked for, so that growing contexts seldom ask: what is freed drops the records.
  absl::Status Grow(Buffer& buffer, size_t bytes) {
    if (buffer.size() >= bytes) return absl::OkStatus();
    const size_t grown = buffer.size() == 0 ? bytes : 2 * bytes;
    buffer = Buffer();
    ASSIGN_OR_RETURN(buffer, memory_.Allocate(grown));
    return absl::OkStatus();
  }
  static absl::Status Grow(cuda::PinnedMemory& memory, size_t bytes) {
    if (memory.bytes() >= static_cast<int64_t>(bytes)) return absl::OkStatus();
    ASSIGN_OR_RETURN(memory,
                     cuda::PinnedMemory::Allocate(2 * static_cast<int64_t>(bytes), {"sampling"}));
    return absl::OkStatus();
  }

  cuda::CudaMemory& memory_;
  Buffer workspace_, upload_, logprobs_;
  Buffer tokens_;  // of a step
  std::deque<SamplerLaunch> launched_;
  std::vector<SamplerLaunch> free_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<BatchSampler>> MakeCudaSampler(Ops& ops) {
  return std::make_unique<CudaSampler>(static_cast<cuda::CudaMemory&>(ops.memory()));
}

}  // namespace trireme
