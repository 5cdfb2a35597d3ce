// How gangs form, what is refused, and how they end, with streams that only record.

#include "coordinator/gangs.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace trireme {
namespace {

struct RecordingStream : WorkerStream {
  void Send(const v1::CoordinatorMessage& message) override { sent.push_back(message); }
  void Close(const absl::Status& status) override { closed.push_back(status); }
  std::vector<v1::CoordinatorMessage> sent;
  std::vector<absl::Status> closed;
};

class GangsTest : public testing::Test {
 protected:
  GangsTest() {
    config_.architecture = "LlamaForCausalLM";
    config_.hidden_size = 64;
    config_.intermediate_size = 96;
    config_.num_layers = 4;
    config_.num_heads = 8;
    config_.num_kv_heads = 4;
    config_.head_dim = 8;
    config_.vocab_size = 100;
    config_.max_position_embeddings = 512;
  }

  void SetUp() override {
    supervisor_ = std::make_unique<GangSupervisor>(GangRequirements{
        .config = config_, .max_model_len = 512, .worker_timeout = std::chrono::seconds(5)});
  }

  v1::WorkerMessage Register(const std::string& gang, uint32_t rank) const {
    v1::WorkerMessage message;
    v1::Register& registration = *message.mutable_register_();
    registration.set_gang_id(gang);
    registration.set_world_size(2);
    registration.set_tensor_parallel_size(2);
    registration.set_pipeline_parallel_size(1);
    registration.set_kv_block_size(32);
    registration.set_kv_blocks(100 + rank);
    registration.set_max_model_len(512);
    registration.set_max_num_batched_tokens(256);
    registration.mutable_model()->set_architecture(config_.architecture);
    registration.mutable_model()->set_vocab_size(100);
    registration.mutable_model()->set_hidden_size(64);
    registration.mutable_model()->set_num_layers(4);
    registration.mutable_model()->set_parameters(config_.NumParameters());
    registration.mutable_info()->set_rank(rank);
    registration.mutable_info()->set_tp_rank(rank);
    registration.mutable_info()->set_host("node" + std::to_string(rank));
    registration.mutable_info()->set_pid(10 + rank);
    return message;
  }

  std::shared_ptr<RecordingStream> Connect(uint64_t id) {
    auto stream = std::make_shared<RecordingStream>();
    supervisor_->OnConnect(id, stream, "peer" + std::to_string(id), now_);
    return stream;
  }

  // Connects and registers both ranks of a gang; returns the last event.
  GangEvent StartGang(const std::string& gang, uint64_t first_id) {
    streams_ = {Connect(first_id), Connect(first_id + 1)};
    EXPECT_TRUE(std::holds_alternative<std::monostate>(
        supervisor_->OnMessage(first_id, Register(gang, 0), now_)));
    return supervisor_->OnMessage(first_id + 1, Register(gang, 1), now_);
  }

  ModelConfig config_;
  GangSupervisor::Time now_{};
  std::unique_ptr<GangSupervisor> supervisor_;
  std::vector<std::shared_ptr<RecordingStream>> streams_;
};

// How many self-tests a stream was sent.
int SelfTests(const RecordingStream& stream) {
  return static_cast<int>(std::count_if(stream.sent.begin(), stream.sent.end(),
                                        [](const auto& sent) { return sent.has_self_test(); }));
}

TEST_F(GangsTest, AnIdleGangTestsItself) {
  now_ += std::chrono::hours(1);
  StartGang("a", 1);
  v1::WorkerMessage message;
  v1::Progress& progress = *message.mutable_progress();
  const auto both_report = [&] {
    for (const uint64_t id : {2, 1}) supervisor_->OnMessage(id, message, now_);
    EXPECT_EQ(SelfTests(*streams_[0]), SelfTests(*streams_[1]));
    return SelfTests(*streams_[0]);
  };
  EXPECT_EQ(both_report(), 0);  // requests come first
  now_ += std::chrono::seconds(60);
  EXPECT_EQ(both_report(), 1);
  now_ += std::chrono::seconds(60);
  EXPECT_EQ(both_report(), 1);  // it has not passed yet
  progress.set_self_tests(1);
  EXPECT_EQ(both_report(), 2);
  progress.set_self_tests(2);
  EXPECT_EQ(both_report(), 2);  // it is not long ago
  now_ += std::chrono::seconds(60);
  progress.set_step_begun(1);
  EXPECT_EQ(both_report(), 2);  // it computes
  now_ += std::chrono::seconds(60);
  progress.set_step_done(1);
  EXPECT_EQ(both_report(), 2);  // it has got on
  now_ += std::chrono::seconds(60);
  EXPECT_EQ(both_report(), 3);
}

TEST_F(GangsTest, ServesWhenEveryRankHasRegistered) {
  const GangEvent event = StartGang("a", 1);
  ASSERT_TRUE(std::holds_alternative<GangIsReady>(event));
  const GangCapacity& capacity = std::get<GangIsReady>(event).capacity;
  EXPECT_EQ(capacity.epoch, 1u);
  EXPECT_EQ(capacity.kv_blocks, 100u);  // the smallest pool
  for (const auto& stream : streams_) {
    ASSERT_EQ(stream->sent.size(), 2u);
    EXPECT_EQ(stream->sent[1].welcome().epoch(), 1u);
  }
  v1::StepPlan plan;
  plan.set_epoch(1);
  plan.set_step(1);
  supervisor_->SendPlan(plan);
  for (const auto& stream : streams_) EXPECT_TRUE(stream->sent[2].has_plan());
}

TEST_F(GangsTest, OneLostRankEndsTheGangAndTheNextHasAnotherEpoch) {
  StartGang("a", 1);
  const auto old = streams_;
  const GangEvent lost = supervisor_->OnDisconnect(2, "connection reset", now_);
  ASSERT_TRUE(std::holds_alternative<GangIsLost>(lost));
  EXPECT_NE(std::get<GangIsLost>(lost).reason.find("rank 1 (node1)"), std::string::npos);
  EXPECT_TRUE(old[0]->sent.back().has_shutdown());
  EXPECT_FALSE(supervisor_->has_gang());
  const GangEvent ready = StartGang("b", 3);
  ASSERT_TRUE(std::holds_alternative<GangIsReady>(ready));
  EXPECT_EQ(std::get<GangIsReady>(ready).capacity.epoch, 2u);
}

TEST_F(GangsTest, AFailureMessageIsPassedOn) {
  StartGang("a", 1);
  v1::WorkerMessage message;
  message.mutable_failure()->set_message("out of memory");
  const GangEvent lost = supervisor_->OnMessage(1, message, now_);
  ASSERT_TRUE(std::holds_alternative<GangIsLost>(lost));
  EXPECT_NE(std::get<GangIsLost>(lost).reason.find("out of memory"), std::string::npos);
}

TEST_F(GangsTest, TwoGangsServeAndDieApart) {
  StartGang("a", 1);
  const auto first = streams_;
  const GangEvent ready = StartGang("b", 9);
  ASSERT_TRUE(std::holds_alternative<GangIsReady>(ready));
  EXPECT_EQ(std::get<GangIsReady>(ready).capacity.epoch, 2u);
  v1::StepPlan plan;
  plan.set_epoch(2);
  supervisor_->SendPlan(plan);
  for (const auto& stream : first) EXPECT_FALSE(stream->sent.back().has_plan());
  for (const auto& stream : streams_) EXPECT_TRUE(stream->sent.back().has_plan());
  EXPECT_EQ(supervisor_->Describe().gangs_size(), 2);
  const GangEvent lost = supervisor_->OnDisconnect(1, "connection reset", now_);
  ASSERT_TRUE(std::holds_alternative<GangIsLost>(lost));
  EXPECT_EQ(std::get<GangIsLost>(lost).epoch, 1u);
  EXPECT_TRUE(first[1]->sent.back().has_shutdown());
  EXPECT_TRUE(streams_[0]->closed.empty());
  ASSERT_EQ(supervisor_->Describe().gangs_size(), 1);
  EXPECT_EQ(supervisor_->Describe().gangs(0).epoch(), 2u);
  EXPECT_TRUE(std::holds_alternative<std::monostate>(supervisor_->LoseGang(1, "again")));
  ASSERT_TRUE(std::holds_alternative<GangIsLost>(supervisor_->LoseGang(2, "stuck")));
  EXPECT_FALSE(supervisor_->has_gang());
}

TEST_F(GangsTest, AResultForAnotherGangEndsTheLiarsGangAlone) {
  StartGang("a", 1);
  StartGang("b", 9);
  v1::WorkerMessage message;
  message.mutable_result()->set_epoch(1);
  const GangEvent lost = supervisor_->OnMessage(9, message, now_);
  ASSERT_TRUE(std::holds_alternative<GangIsLost>(lost));
  EXPECT_EQ(std::get<GangIsLost>(lost).epoch, 2u);
  const GangEvent result = supervisor_->OnMessage(1, message, now_);
  EXPECT_TRUE(std::holds_alternative<v1::StepResult>(result));
}

TEST_F(GangsTest, AGangThatComputesOtherBitsIsRefusedByWhatDiffers) {
  const auto start = [this](uint64_t id, auto change) {
    const auto stream = Connect(id);
    v1::WorkerMessage message = Register("gang" + std::to_string(id), 0);
    v1::Register& registration = *message.mutable_register_();
    registration.set_world_size(1);
    registration.set_tensor_parallel_size(1);
    registration.set_kv_cache_dtype("f32");
    registration.set_device_model("cpu avx2");
    change(registration);
    supervisor_->OnMessage(id, message, now_);
    return stream->closed.empty() ? "" : std::string(stream->closed[0].message());
  };
  using R = v1::Register;
  EXPECT_EQ(start(1, [](R&) {}), "");
  EXPECT_EQ(start(2, [](R& r) { r.set_device_model("cpu avx512"); }), "");
  EXPECT_NE(start(3, [](R& r) { r.set_kv_cache_dtype("bf16"); })
                .find("kv_cache_dtype bf16, but the first gang has f32"),
            std::string::npos);
  EXPECT_NE(start(4, [](R& r) { r.set_device_model("cuda H100"); })
                .find("device cuda H100, but the first gang has cpu avx2"),
            std::string::npos);
  EXPECT_EQ(supervisor_->Describe().gangs_size(), 2);
  // Also when none serves any more: requests may wait that have tokens.
  for (const uint64_t epoch : {1, 2}) supervisor_->LoseGang(epoch, "stuck");
  EXPECT_NE(start(5, [](R& r) { r.set_kv_cache_dtype("bf16"); }), "");
}

// Which of its host's GPUs a rank has does not matter, nor that a gang has GPUs of several models.
TEST_F(GangsTest, AGangOnGpusComesBackAfterALossAndBesideAReplicaOnOtherGpus) {
  uint64_t id = 0;
  // Starts a gang of two ranks on these GPUs: its version, or why one of them was refused.
  const auto start = [&](int first_gpu, const std::vector<std::string>& models,
                         uint32_t layers = 4) {
    GangEvent event;
    for (uint32_t rank = 0; rank < 2; ++rank) {
      const auto stream = Connect(++id);
      v1::WorkerMessage message = Register("gang" + std::to_string((id + 1) / 2), rank);
      v1::Register& registration = *message.mutable_register_();
      registration.set_device_model("cuda " + models[rank]);
      registration.mutable_info()->set_device(
          "cuda " + std::to_string(first_gpu + static_cast<int>(rank)) + " " + models[rank]);
      registration.mutable_info()->set_layer_end(layers);
      event = supervisor_->OnMessage(id, message, now_);
      if (!stream->closed.empty()) return std::string(stream->closed[0].message());
    }
    const auto* ready = std::get_if<GangIsReady>(&event);
    return ready == nullptr ? "" : ready->version;
  };
  for (const std::string second : {"X", "Y"}) {
    SetUp();
    const std::string version = start(0, {"X", second});
    EXPECT_EQ(version, second == "X" ? "; KV cache in ; tp 2 on cuda X"
                                     : "; KV cache in ; tp 2 on cuda X, layers 0 to 4; "
                                       "cuda Y, layers 0 to 4");
    EXPECT_EQ(start(4, {"X", second}), version) << "a replica";
    for (const uint64_t epoch : {1, 2}) supervisor_->LoseGang(epoch, "stuck");
    EXPECT_EQ(start(0, {"X", second}), version) << "after a loss";
    EXPECT_NE(start(0, {"X", "Z"}).find("rank 1 (node1) has device cuda Z, but "),
              std::string::npos);
  }
  // Unlike GPUs round differently, so it matters which of them computes a layer.
  EXPECT_NE(start(0, {"X", "Y"}, 3).find("has layers 0 to 3, but "), std::string::npos);
}

TEST_F(GangsTest, RefusesRanksThatDoNotFit) {
  uint64_t id = 100;
  const auto refused = [&](auto change, const std::string& word) {
    const auto stream = Connect(++id);
    v1::WorkerMessage message = Register("x" + std::to_string(id), 0);
    change(*message.mutable_register_());
    supervisor_->OnMessage(id, message, now_);
    ASSERT_FALSE(stream->closed.empty()) << word;
    EXPECT_NE(std::string(stream->closed[0].message()).find(word), std::string::npos)
        << stream->closed[0];
  };
  using R = v1::Register;
  refused([](R& r) { r.mutable_model()->set_architecture("Qwen3ForCausalLM"); }, "Qwen3");
  refused([](R& r) { r.mutable_model()->set_vocab_size(7); }, "7");
  refused([](R& r) { r.mutable_model()->set_parameters(7); }, "7");
  refused([](R& r) { r.set_world_size(3); }, "");
  refused([](R& r) { r.set_gang_id(""); }, "");
  refused([](R& r) { r.mutable_info()->set_rank(9); }, "");
  refused([](R& r) { r.set_kv_blocks(0); }, "");
  refused([](R& r) { r.set_kv_block_size(0); }, "");
  refused([](R& r) { r.set_tensor_parallel_size(4000000000u); }, "");
}

TEST_F(GangsTest, RefusesTheSameRankTwiceAndMessagesOutOfTurn) {
  const auto first = Connect(1);
  supervisor_->OnMessage(1, Register("a", 0), now_);
  const auto twin = Connect(2);
  supervisor_->OnMessage(2, Register("a", 0), now_);
  EXPECT_FALSE(twin->closed.empty());
  EXPECT_TRUE(first->closed.empty());
  const auto early = Connect(3);
  v1::WorkerMessage result;
  result.mutable_result()->set_step(1);
  supervisor_->OnMessage(3, result, now_);
  EXPECT_FALSE(early->closed.empty());
  const auto empty = Connect(4);
  supervisor_->OnMessage(4, v1::WorkerMessage(), now_);
  EXPECT_FALSE(empty->closed.empty());
}

v1::WorkerMessage ProgressMessage(uint64_t begun, uint64_t done) {
  v1::WorkerMessage message;
  message.mutable_progress()->set_sent_ns(77);
  message.mutable_progress()->set_step_begun(begun);
  message.mutable_progress()->set_step_done(done);
  return message;
}

bool LostSilent(const GangEvent& event) {
  const auto* lost = std::get_if<GangIsLost>(&event);
  return lost != nullptr && lost->silent;
}

// "1: why; 2: why" of the gangs that are lost.
std::string Lost(const std::vector<GangEvent>& events) {
  std::string text;
  for (const GangEvent& event : events) {
    const auto* lost = std::get_if<GangIsLost>(&event);
    if (lost == nullptr) continue;
    text += (text.empty() ? "" : "; ") + std::to_string(lost->epoch) + ": " + lost->reason;
  }
  return text;
}

TEST_F(GangsTest, ASilentRankEndsTheGangByNameAndABusyOneDoesNot) {
  EXPECT_EQ(supervisor_->NextSilence(), std::nullopt);
  StartGang("a", 1);
  // Half a minute within one step, as both ranks tell.
  for (int i = 0; i < 10; ++i) {
    now_ += std::chrono::seconds(3);
    for (const uint64_t id : {1, 2}) supervisor_->OnMessage(id, ProgressMessage(4, 3), now_);
    EXPECT_EQ(Lost(supervisor_->CheckSilence(now_)), "");
  }
  EXPECT_EQ(streams_[0]->sent.back().heartbeat().sent_ns(), 77);
  EXPECT_EQ(supervisor_->NextSilence(), now_ + std::chrono::seconds(5));
  now_ += std::chrono::seconds(4);
  supervisor_->OnMessage(1, ProgressMessage(4, 4), now_);
  now_ += std::chrono::seconds(1);
  const std::vector<GangEvent> events = supervisor_->CheckSilence(now_);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_TRUE(LostSilent(events.front()));
  const std::string reason = Lost(events);
  EXPECT_NE(reason.find("rank 1 (node1), pid 11, last seen computing step 4: has been silent"),
            std::string::npos)
      << reason;
  EXPECT_TRUE(streams_[0]->sent.back().has_shutdown());
  EXPECT_FALSE(supervisor_->has_gang());
}

// Its lease has ended it, and the network came back before anyone missed it.
TEST_F(GangsTest, ARankThatWasNotHeardForLongBeforeItsStreamEndsWasSilent) {
  for (const int silent_s : {2, 4}) {
    const uint64_t first = 10 * static_cast<uint64_t>(silent_s);
    StartGang(std::to_string(silent_s), first);
    now_ += std::chrono::seconds(silent_s);
    EXPECT_EQ(LostSilent(supervisor_->OnDisconnect(first, "has gone", now_)), silent_s == 4);
  }
}

TEST_F(GangsTest, ARankThatFallsSilentBeforeItsGangIsCompleteEndsThatGangAlone) {
  StartGang("a", 1);
  const auto waiting = Connect(3);
  supervisor_->OnMessage(3, Register("b", 0), now_);
  now_ += std::chrono::seconds(5);
  for (const uint64_t id : {1, 2}) supervisor_->OnMessage(id, ProgressMessage(1, 0), now_);
  EXPECT_EQ(Lost(supervisor_->CheckSilence(now_)), "");
  EXPECT_TRUE(waiting->sent.back().has_shutdown());
  EXPECT_TRUE(supervisor_->has_gang());
}

// Its ranks do not watch each other: one that was killed after it had loaded is missed by nobody.
TEST_F(GangsTest, AGangThatDoesNotComeTogetherEndsAndNamesWhoIsMissing) {
  const auto waiting = Connect(1);
  supervisor_->OnMessage(1, Register("a", 0), now_);
  ASSERT_EQ(supervisor_->WaitingGangs().size(), 1u);
  EXPECT_EQ(supervisor_->WaitingGangs()[0].ShortDebugString(),
            "name: \"a\" world_size: 2 joined: 1 missing_ranks: 1 hosts: \"node0\"");
  for (int s = 0; s < 15; ++s) {
    supervisor_->CheckSilence(now_);
    EXPECT_TRUE(waiting->closed.empty());
    now_ += std::chrono::seconds(1);
    supervisor_->OnMessage(1, ProgressMessage(0, 0), now_);
  }
  EXPECT_EQ(supervisor_->NextSilence(), now_);
  supervisor_->CheckSilence(now_);
  EXPECT_FALSE(waiting->closed.empty());
  const v1::Shutdown& shutdown = waiting->sent.back().shutdown();
  EXPECT_EQ(shutdown.reason(),
            "the gang has ended: rank 1 of 2 has not registered within 15 s of the first one");
  EXPECT_TRUE(shutdown.lost());
  EXPECT_EQ(supervisor_->NextSilence(), std::nullopt);
  EXPECT_TRUE(supervisor_->WaitingGangs().empty());
  EXPECT_TRUE(std::holds_alternative<std::monostate>(
      supervisor_->OnMessage(1, ProgressMessage(0, 0), now_)));
}

TEST_F(GangsTest, ARankThatIsRefusedEndsItsGangWithItsMessage) {
  for (const uint32_t refused : {0, 1}) {
    SetUp();
    const auto bad = Connect(1);
    const auto good = Connect(2);
    v1::WorkerMessage message = Register("a", refused);
    message.mutable_register_()->mutable_model()->set_parameters(7);
    if (refused == 1) supervisor_->OnMessage(2, Register("a", 0), now_);
    supervisor_->OnMessage(1, message, now_);
    const std::string why(bad->closed.at(0).message());
    EXPECT_NE(why.find("has parameters 7"), std::string::npos) << why;
    if (refused == 1) {
      EXPECT_EQ(good->sent.back().shutdown().reason(), "the gang has ended: " + why);
    } else {
      supervisor_->OnMessage(2, Register("a", 1), now_);
    }
    ASSERT_FALSE(good->closed.empty());
    // And who comes later, but only as long as somebody may.
    for (const bool later : {false, true}) {
      if (later) now_ += std::chrono::seconds(15);
      EXPECT_TRUE(supervisor_->CheckSilence(now_).empty());
      const auto late = Connect(3);
      supervisor_->OnMessage(3, Register("a", 0), now_);
      EXPECT_EQ(late->closed.empty(), later);
      if (!later) {
        EXPECT_EQ(late->closed[0].message(), "the gang has ended: " + why);
      }
    }
  }
}

// Streams that have not registered yet have no gang, either.
TEST_F(GangsTest, ARankOfNoGangEndsNobody) {
  const auto nameless = Connect(1);
  supervisor_->OnMessage(1, Register("", 0), now_);
  ASSERT_FALSE(nameless->closed.empty());
  now_ += std::chrono::seconds(10);
  const auto fresh = Connect(2);
  EXPECT_TRUE(supervisor_->CheckSilence(now_).empty());
  EXPECT_TRUE(fresh->sent.empty() && fresh->closed.empty());
}

TEST_F(GangsTest, ARankThatIsRefusedDoesNotEndAGangThatServes) {
  StartGang("a", 1);
  Connect(3);
  v1::WorkerMessage message = Register("a", 0);
  message.mutable_register_()->mutable_model()->set_parameters(7);
  supervisor_->OnMessage(3, message, now_);
  EXPECT_TRUE(supervisor_->has_gang());
}

TEST_F(GangsTest, AStreamThatNeverRegistersIsClosed) {
  StartGang("a", 1);
  now_ += std::chrono::seconds(2);
  const auto idle = Connect(3);
  const GangSupervisor::Time late = now_ + std::chrono::seconds(5);
  for (; now_ < late; now_ += std::chrono::seconds(1)) {
    EXPECT_EQ(Lost(supervisor_->CheckSilence(now_)), "");
    EXPECT_TRUE(idle->closed.empty());
    for (const uint64_t id : {1, 2}) supervisor_->OnMessage(id, ProgressMessage(1, 0), now_);
  }
  EXPECT_EQ(supervisor_->NextSilence(), late);
  EXPECT_EQ(Lost(supervisor_->CheckSilence(late)), "");
  ASSERT_FALSE(idle->closed.empty());
  EXPECT_NE(idle->closed[0].message().find("has not registered"), std::string::npos);
  EXPECT_TRUE(supervisor_->has_gang());
  EXPECT_GT(supervisor_->NextSilence(), late);
}

TEST_F(GangsTest, GangsMayDifferInVersionButNotTheRanksOfOne) {
  StartGang("a", 1);
  const auto register_as = [this](const std::string& gang, uint64_t id, uint32_t rank,
                                  const std::string& version) {
    const auto stream = Connect(id);
    v1::WorkerMessage message = Register(gang, rank);
    message.mutable_register_()->mutable_model()->set_version(version);
    const GangEvent event = supervisor_->OnMessage(id, message, now_);
    EXPECT_EQ(stream->closed.empty(), std::holds_alternative<GangIsReady>(event) || rank == 0);
    return event;
  };
  register_as("b", 3, 0, "2");
  register_as("b", 4, 1, "3");
  register_as("c", 5, 0, "2");
  const GangEvent event = register_as("c", 6, 1, "2");
  ASSERT_TRUE(std::holds_alternative<GangIsReady>(event));
  EXPECT_EQ(std::get<GangIsReady>(event).version.substr(0, 3), "2; ");
}

TEST_F(GangsTest, GangsThatFallSilentTogetherAreAllLost) {
  StartGang("a", 1);
  StartGang("b", 3);
  now_ += std::chrono::seconds(5);
  const std::string lost = Lost(supervisor_->CheckSilence(now_));
  EXPECT_NE(lost.find("1: rank 0"), std::string::npos) << lost;
  EXPECT_NE(lost.find("2: rank 0"), std::string::npos) << lost;
}

TEST_F(GangsTest, ALeaseEndsBeforeTheRankIsGivenUp) {
  StartGang("a", 1);
  const uint32_t lease_ms = streams_[0]->sent[0].registered().lease_ms();
  EXPECT_GT(lease_ms, 0u);
  EXPECT_LT(lease_ms, 5000u);
}

TEST_F(GangsTest, AResultIsASignOfLife) {
  StartGang("a", 1);
  now_ += std::chrono::seconds(4);
  v1::WorkerMessage result;
  result.mutable_result()->set_epoch(1);
  supervisor_->OnMessage(1, result, now_);
  now_ += std::chrono::seconds(1);
  EXPECT_NE(Lost(supervisor_->CheckSilence(now_)).find("rank 1"), std::string::npos);
}

TEST_F(GangsTest, NamesTheRanksThatKeepAStepFromItsEnd) {
  StartGang("a", 1);
  supervisor_->OnMessage(1, ProgressMessage(7, 6), now_);
  supervisor_->OnMessage(2, ProgressMessage(6, 6), now_);
  EXPECT_EQ(supervisor_->Laggards(1, 7),
            "not begun by rank 1 (node1), pid 11, last seen idle after step 6");
  supervisor_->OnMessage(2, ProgressMessage(7, 7), now_);
  EXPECT_EQ(supervisor_->Laggards(1, 7),
            "not done by rank 0 (node0), pid 10, last seen computing step 7");
}

// A rank of step `begun` in an exchange with rank `peer`.
v1::WorkerMessage Exchanging(uint64_t begun, uint64_t exchanges_done, uint32_t peer,
                             uint64_t bytes = 4096) {
  v1::WorkerMessage message = ProgressMessage(begun, begun - 1);
  v1::Progress& progress = *message.mutable_progress();
  progress.set_exchanges_done(exchanges_done);
  progress.mutable_exchange()->set_what("all-reduce");
  progress.mutable_exchange()->add_ranks(peer);
  progress.mutable_exchange()->set_bytes(bytes);
  return message;
}

class DeadlockTest : public GangsTest {
 protected:
  void SetUp() override {
    GangsTest::SetUp();
    StartGang("a", 1);
  }

  // Both ranks tell twice a second, for so long; then why the gang was lost, if it was.
  std::string Tell(const v1::WorkerMessage& first, const v1::WorkerMessage& second,
                   std::chrono::milliseconds length) {
    for (const GangSupervisor::Time end = now_ + length; now_ < end;) {
      now_ += std::chrono::milliseconds(500);
      std::vector<GangEvent> events = supervisor_->CheckSilence(now_);
      events.push_back(supervisor_->OnMessage(1, first, now_));
      events.push_back(supervisor_->OnMessage(2, second, now_));
      if (const std::string lost = Lost(events); !lost.empty()) return lost;
    }
    return "";
  }
};

using std::chrono::seconds;

TEST_F(DeadlockTest, RanksThatReachTheCoordinatorButNotEachOtherAreNamedWithTheirExchange) {
  ASSERT_EQ(Tell(Exchanging(7, 20, 1), Exchanging(7, 20, 0), seconds(5)), "");
  EXPECT_EQ(Tell(Exchanging(7, 20, 1), Exchanging(7, 20, 0), seconds(1)),
            "1: it is stuck: no rank has got on for 5.0 s (--worker-timeout-s): "
            "rank 0 (node0), pid 10, last seen in step 7, waiting for rank 1: all-reduce of 4096 "
            "bytes; rank 1 (node1), pid 11, last seen in step 7, waiting for rank 0: all-reduce of "
            "4096 bytes; the network between node0, node1 is cut, though each reaches the "
            "coordinator");
  EXPECT_TRUE(streams_[0]->sent.back().shutdown().lost());
}

TEST_F(DeadlockTest, ARankThatDoesNotComeIsNamedAsMissing) {
  const std::string lost = Tell(Exchanging(7, 20, 1), ProgressMessage(6, 6), seconds(7));
  EXPECT_NE(lost.find("waiting for rank 1: all-reduce of 4096 bytes; missing: rank 1 (node1), pid "
                      "11, last seen idle after step 6"),
            std::string::npos)
      << lost;
}

TEST_F(DeadlockTest, TheRanksThatAreTheFurthestBehindTellWhy) {
  const std::string lost = Tell(Exchanging(8, 20, 1), Exchanging(7, 9, 0), seconds(7));
  EXPECT_EQ(lost.find("rank 0 (node0)"), std::string::npos) << lost;
  EXPECT_NE(lost.find("rank 1 (node1), pid 11, last seen in step 7"), std::string::npos) << lost;
}

TEST_F(DeadlockTest, AGangOfWhichARankComputesOrExchangesIsNotStuck) {
  EXPECT_EQ(Tell(Exchanging(7, 20, 1), ProgressMessage(7, 6), seconds(100)), "");
  for (uint64_t i = 20; i < 60; ++i) {
    ASSERT_EQ(Tell(Exchanging(7, 20, 1), Exchanging(7, i, 0), seconds(3)), "");
  }
  EXPECT_EQ(Tell(ProgressMessage(7, 7), ProgressMessage(7, 7), seconds(100)), "");
}

TEST_F(DeadlockTest, AnExchangeAfterALongRestIsNew) {
  v1::WorkerMessage idle = ProgressMessage(7, 7);
  idle.mutable_progress()->set_exchanges_done(20);
  EXPECT_EQ(Tell(idle, idle, seconds(4)), "");
  v1::WorkerMessage testing = Exchanging(8, 20, 1);
  testing.mutable_progress()->set_step_begun(7);
  EXPECT_EQ(Tell(testing, idle, seconds(5)), "");
  const std::string lost = Tell(testing, idle, seconds(1));
  EXPECT_NE(lost.find("last seen in a self-test, waiting for rank 1"), std::string::npos) << lost;
}

TEST_F(DeadlockTest, ALargeExchangeMayTakeItsTime) {
  EXPECT_EQ(Tell(Exchanging(7, 20, 1, 16 << 20), Exchanging(7, 20, 0), seconds(69)), "");
  EXPECT_NE(Tell(Exchanging(7, 20, 1, 16 << 20), Exchanging(7, 20, 0), seconds(1)), "");
}

// A coordinator that was stopped does not know what the ranks did meanwhile.
TEST_F(DeadlockTest, OnlyWhatRanksHaveToldCounts) {
  ASSERT_EQ(Tell(Exchanging(7, 20, 1), Exchanging(7, 20, 0), seconds(2)), "");
  now_ += seconds(60);
  EXPECT_EQ(Lost({supervisor_->OnMessage(1, Exchanging(7, 20, 1), now_)}), "");
  EXPECT_EQ(Lost({supervisor_->OnMessage(2, Exchanging(8, 30, 0), now_)}), "");
  EXPECT_EQ(Tell(Exchanging(8, 30, 1), Exchanging(8, 30, 0), seconds(4)), "");
}

TEST_F(DeadlockTest, ASelfTestHasTheDeadlineOfAStep) {
  v1::WorkerMessage idle = ProgressMessage(0, 0);
  ASSERT_EQ(Tell(idle, idle, seconds(6)), "");
  ASSERT_EQ(SelfTests(*streams_[1]), 1);
  v1::WorkerMessage tested = idle;
  tested.mutable_progress()->set_self_tests(1);
  EXPECT_EQ(Tell(tested, idle, seconds(118)), "");
  const std::string lost = Tell(tested, idle, seconds(2));
  EXPECT_NE(lost.find("a self-test has not ended within 120 s (--step-timeout-s): not done by rank "
                      "1 (node1), pid 11"),
            std::string::npos)
      << lost;
}

TEST_F(GangsTest, WhatARankTellsOfItsExchangeIsBounded) {
  StartGang("a", 1);
  v1::WorkerMessage message = Exchanging(7, 20, 1, ~uint64_t{0});
  v1::Exchange& exchange = *message.mutable_progress()->mutable_exchange();
  exchange.set_what(std::string(100'000, '\n'));
  for (uint32_t rank = 0; rank < 10'000; ++rank) exchange.add_ranks(rank);
  for (const uint64_t id : {1, 2}) supervisor_->OnMessage(id, message, now_);
  const std::string text = supervisor_->Laggards(1, 7);
  EXPECT_LT(text.size(), 500U);
  EXPECT_EQ(text.find('\n'), std::string::npos);
  EXPECT_NE(text.find("ranks 1, 0, 1, 2 and 9997 more"), std::string::npos) << text;
}

TEST_F(GangsTest, AReleasedGangEndsInAnOrderlyWay) {
  StartGang("a", 1);
  EXPECT_TRUE(std::holds_alternative<GangIsLost>(supervisor_->ReleaseGang(1, "drained")));
  EXPECT_TRUE(streams_[0]->sent.back().has_shutdown());
  EXPECT_FALSE(streams_[0]->sent.back().shutdown().lost());
}

TEST_F(GangsTest, ARankThatIsToldToEndDrainsItsGang) {
  Connect(9);
  supervisor_->OnMessage(9, Register("early", 0), now_);
  v1::WorkerMessage drain;
  drain.mutable_drain();
  EXPECT_TRUE(std::holds_alternative<std::monostate>(supervisor_->OnMessage(9, drain, now_)));
  StartGang("a", 1);
  const GangEvent event = supervisor_->OnMessage(2, drain, now_);
  ASSERT_TRUE(std::holds_alternative<GangDrains>(event));
  EXPECT_NE(std::get<GangDrains>(event).reason.find("rank 1 (node1)"), std::string::npos);
  EXPECT_TRUE(supervisor_->has_gang());
}

TEST_F(GangsTest, ADrainedHostsGangsEndAndItsWorkersMayNotJoin) {
  CordonedHosts cordoned;
  supervisor_ = std::make_unique<GangSupervisor>(
      GangRequirements{.config = config_, .max_model_len = 512, .cordoned = &cordoned});
  StartGang("a", 1);
  StartGang("b", 3);
  const auto forming = Connect(9);
  supervisor_->OnMessage(9, Register("early", 1), now_);
  ASSERT_TRUE(cordoned.Cordon("node1", true).ok());
  const std::vector<GangEvent> events = supervisor_->DrainHost("node1");
  const auto drains = std::count_if(events.begin(), events.end(), [](const GangEvent& event) {
    return std::holds_alternative<GangDrains>(event);
  });
  EXPECT_EQ(drains, 2);
  EXPECT_EQ(forming->closed.size(), 1U);
  EXPECT_TRUE(supervisor_->DrainHost("node7").empty());
  EXPECT_EQ(std::get<GangDrains>(supervisor_->DrainGang(2).at(0)).epoch, 2U);
  EXPECT_TRUE(supervisor_->DrainGang(3).empty());

  const auto refused = Connect(10);
  supervisor_->OnMessage(10, Register("new", 1), now_);
  ASSERT_FALSE(refused->closed.empty());  // only the first close counts
  EXPECT_NE(refused->closed[0].message().find("`trireme uncordon node1`"), std::string::npos);
  ASSERT_TRUE(cordoned.Uncordon("node1").ok());
  EXPECT_EQ(cordoned.Uncordon("node1").code(), absl::StatusCode::kNotFound);
  const auto taken = Connect(11);
  supervisor_->OnMessage(11, Register("newer", 1), now_);
  EXPECT_TRUE(taken->closed.empty());
}

}  // namespace
}  // namespace trireme
