#include "tests/coordinator/fake_gang.h"

#include <map>
#include <utility>

namespace trireme {
namespace {

struct FakeSequence {
  std::vector<int32_t> tokens;
  size_t computed = 0;
  size_t blocks = 0;
  uint64_t seed = 0;
  uint32_t logprobs = 0;
  size_t prompt = 0;
  bool prompt_logprobs = false;
};

// Computes one plan; false if it contradicts the state.
bool Step(const v1::StepPlan& plan, const FakeGangOptions& options,
          std::map<uint64_t, FakeSequence>& state, v1::StepResult& result) {
  for (const uint64_t id : plan.finished_ids()) {
    if (state.erase(id) == 0) return false;
  }
  for (const v1::NewSequence& added : plan.new_sequences()) {
    const bool is_new =
        state
            .insert({added.id(),
                     {.tokens = {added.token_ids().begin(), added.token_ids().end()},
                      .computed = added.computed_tokens(),
                      .blocks = 0,
                      .seed = added.sampling().seed(),
                      .logprobs = added.sampling().logprobs(),
                      .prompt = added.prompt_tokens(),
                      .prompt_logprobs = added.sampling().has_prompt_logprobs()}})
            .second;
    if (!is_new) return false;
  }
  result.set_epoch(plan.epoch());
  result.set_step(plan.step());
  for (const v1::ScheduledSequence& scheduled : plan.scheduled()) {
    const auto found = state.find(scheduled.id());
    if (found == state.end()) return false;
    FakeSequence& sequence = found->second;
    sequence.blocks += static_cast<size_t>(scheduled.new_block_ids_size());
    for (uint32_t i = 0; i < scheduled.num_tokens() && sequence.prompt_logprobs; ++i) {
      const size_t position = sequence.computed + i + 1;
      if (position >= sequence.prompt) break;
      v1::PromptLogprob& logprob = *result.add_prompt_logprobs();
      logprob.set_sequence_id(scheduled.id());
      logprob.set_position(static_cast<uint32_t>(position));
      logprob.set_logprob(-static_cast<float>(position));
    }
    sequence.computed += scheduled.num_tokens();
    if (sequence.computed > sequence.tokens.size() ||
        sequence.computed > sequence.blocks * options.kv_block_size ||
        scheduled.sample() != (sequence.computed == sequence.tokens.size())) {
      return false;
    }
    if (!scheduled.sample()) continue;
    sequence.tokens.push_back(options.cheap_tokens
                                  ? 'a' + static_cast<int32_t>(sequence.tokens.size() % 26)
                                  : NextFakeToken(sequence.tokens, sequence.seed));
    v1::SampledToken& token = *result.add_tokens();
    token.set_sequence_id(scheduled.id());
    token.set_token_id(sequence.tokens.back());
    token.set_logprob(-0.5f);
    for (uint32_t i = 0; i < sequence.logprobs; ++i) {
      token.add_top_ids(sequence.tokens.back());
      token.add_top_logprobs(-0.5f);
    }
  }
  return true;
}

}  // namespace

int32_t NextFakeToken(const std::vector<int32_t>& tokens, uint64_t seed) {
  uint64_t hash = seed * 0x9E3779B97F4A7C15u + 1;
  for (const int32_t token : tokens) hash = (hash ^ static_cast<uint64_t>(token)) * 0x100000001B3u;
  return 'a' + static_cast<int32_t>((hash >> 20) % 26);
}

FakeGang::FakeGang(FakeGangOptions options)
    : options_(std::move(options)),
      channel_(grpc::CreateChannel(options_.server, grpc::InsecureChannelCredentials())) {
  for (uint32_t rank = 0; rank < options_.tp * options_.pp; ++rank) {
    ranks_.push_back(std::make_unique<Rank>());
  }
  for (uint32_t rank = 0; rank < ranks_.size(); ++rank) {
    ranks_[rank]->thread = std::thread([this, rank] { Serve(rank); });
  }
}

FakeGang::~FakeGang() {
  Kill();
  Join(0);
}

bool FakeGang::WaitReady() const {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (welcome_ < ranks_.size()) {
    if (ended_ > 0 || std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

void FakeGang::Kill() {
  for (const auto& rank : ranks_) rank->context.TryCancel();
}

grpc::Status FakeGang::Join(uint32_t rank) {
  for (const auto& each : ranks_) {
    if (each->thread.joinable()) each->thread.join();
  }
  return ranks_[rank]->status;
}

v1::Register FakeGang::MakeRegister(uint32_t rank) const {
  v1::Register registration;
  registration.set_gang_id(options_.gang_id);
  registration.set_world_size(options_.tp * options_.pp);
  registration.set_tensor_parallel_size(options_.tp);
  registration.set_pipeline_parallel_size(options_.pp);
  registration.set_communicator("fake");
  registration.set_kv_block_size(options_.kv_block_size);
  registration.set_kv_blocks(options_.kv_blocks);
  registration.set_max_model_len(options_.max_model_len);
  registration.set_max_num_batched_tokens(512);
  v1::ModelIdentity& model = *registration.mutable_model();
  model.set_architecture(options_.config.architecture);
  model.set_vocab_size(static_cast<uint32_t>(options_.config.vocab_size));
  model.set_hidden_size(static_cast<uint32_t>(options_.config.hidden_size));
  model.set_num_layers(static_cast<uint32_t>(options_.config.num_layers));
  model.set_parameters(options_.config.NumParameters());
  model.set_version(options_.version);
  v1::RankInfo& info = *registration.mutable_info();
  info.set_rank(rank);
  info.set_tp_rank(rank % options_.tp);
  info.set_pp_rank(rank / options_.tp);
  info.set_host("fake");
  info.set_device("cpu fake");
  registration.set_device_model("cpu fake");
  options_.change(registration);
  return registration;
}

void FakeGang::Serve(uint32_t rank) {
  Rank& self = *ranks_[rank];
  const auto stub = v1::WorkerControl::NewStub(channel_);
  const auto stream = stub->Connect(&self.context);
  v1::WorkerMessage hello;
  *hello.mutable_register_() = MakeRegister(rank);
  stream->Write(hello);
  const bool responder = rank == (options_.pp - 1) * options_.tp;
  std::map<uint64_t, FakeSequence> state;
  v1::CoordinatorMessage message;
  while (stream->Read(&message)) {
    if (message.has_welcome()) {
      epoch_ = message.welcome().epoch();
      ++welcome_;
    } else if (message.has_shutdown()) {
      self.shutdown_reason = message.shutdown().reason();
      stream->WritesDone();
    } else if (message.has_plan()) {
      if (options_.step_delay.count() > 0) std::this_thread::sleep_for(options_.step_delay);
      if (drain_) {
        v1::WorkerMessage drain;
        drain.mutable_drain();
        stream->Write(drain);
      }
      v1::WorkerMessage answer;
      if (!Step(message.plan(), options_, state, *answer.mutable_result())) {
        answer.mutable_failure()->set_message("the plan contradicts the state");
        stream->Write(answer);
      } else if (responder) {
        answer.mutable_result()->set_step_ms(static_cast<double>(options_.step_delay.count()));
        options_.spoil(*answer.mutable_result());
        ++steps_;
        stream->Write(answer);
      }
    }
  }
  self.status = stream->Finish();
  ++ended_;
}

}  // namespace trireme
