// Several gangs behind one coordinator, over real gRPC on loopback, without a model.

#include <atomic>
#include <utility>

#include "tests/coordinator/server_fixture.h"

namespace trireme {
namespace {

class ReplicasTest : public ServerTest {
 protected:
  ReplicasTest() {
    options_.gang_timeout = milliseconds(50);  // who waits for a lost gang to come back, fails
  }

  std::unique_ptr<FakeGang> StartNamed(const std::string& name, FakeGangOptions options) {
    options.gang_id = name;
    return StartGang(options);
  }

  FakeGangOptions SlowGang() const {
    FakeGangOptions options = Gang();
    options.step_delay = milliseconds(5);
    return options;
  }

  v1::ListRanksResponse Ranks() {
    grpc::ClientContext context;
    v1::ListRanksResponse ranks;
    EXPECT_TRUE(v1::Cluster::NewStub(channel_)->ListRanks(&context, {}, &ranks).ok());
    return ranks;
  }

  // Clients that each ask once for `max_tokens`, with prompts and seeds of their own.
  void StartClients(int count, uint32_t max_tokens) {
    for (int i = 0; i < count; ++i) {
      clients_.emplace_back([this, i, max_tokens] {
        const std::string prompt(1 + i * 5, static_cast<char>('A' + i));
        const Answer answer = Ask(Request(prompt, max_tokens, i));
        EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
        right_ += answer.texts[0] == FakeText(prompt, i, max_tokens);
      });
    }
  }

  // How many answers were right.
  int Join() {
    for (std::thread& client : clients_) client.join();
    clients_.clear();
    return right_.exchange(0);
  }

  static void AwaitSteps(const FakeGang& gang, uint64_t steps) {
    while (gang.steps() < steps) std::this_thread::sleep_for(milliseconds(1));
  }

  std::vector<std::thread> clients_;
  std::atomic<int> right_ = 0;
};

TEST_F(ReplicasTest, GangsShareTheWork) {
  StartServer();
  const auto a = StartNamed("a", SlowGang());
  FakeGangOptions wide = SlowGang();
  wide.tp = 2;
  wide.pp = 2;
  const auto b = StartNamed("b", wide);
  StartClients(16, 60);
  EXPECT_EQ(Join(), 16);
  EXPECT_GT(a->steps(), 30u);
  EXPECT_GT(b->steps(), 30u);
  const v1::ListRanksResponse ranks = Ranks();
  ASSERT_EQ(ranks.gangs_size(), 2);
  EXPECT_EQ(ranks.gangs(1).ranks_size(), 4);
  EXPECT_EQ(ranks.steps(), a->steps() + b->steps());
  EXPECT_EQ(ranks.tokens_generated(), 16 * 60u);
  EXPECT_EQ(server_->engine().Stats().gangs(), 2u);
}

TEST_F(ReplicasTest, ALostGangsRequestsGoOnAtTheOther) {
  StartServer();
  auto a = StartNamed("a", SlowGang());
  auto b = StartNamed("b", SlowGang());
  StartClients(20, 100);  // more than run at a time
  AwaitSteps(*a, 20);
  AwaitSteps(*b, 20);
  b->Kill();
  EXPECT_EQ(Join(), 20);
  // And back, with the gang that comes in its place.
  const auto c = StartNamed("c", SlowGang());
  StartClients(20, 100);
  AwaitSteps(*c, 20);
  a->Kill();
  EXPECT_EQ(Join(), 20);
  EXPECT_EQ(Ranks().gangs_size(), 1);
  EXPECT_EQ(Ranks().epoch(), 3u);
  EXPECT_EQ(server_->engine().Stats().tokens_generated(), 2 * 20 * 100u);
}

TEST_F(ReplicasTest, ContinuationsMoveTogether) {
  StartServer();
  auto a = StartNamed("a", SlowGang());
  const auto b = StartNamed("b", SlowGang());
  grpc::ClientContext context;
  v1::GenerateRequest request = Request("replay", 100, 11);
  request.mutable_sampling()->set_n(3);
  const Answer answer = Ask(request, context, [&](const Answer& so_far) {
    if (so_far.messages == 20) a->Kill();
  });
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  for (uint64_t i = 0; i < 3; ++i) EXPECT_EQ(answer.texts[i], FakeText("replay", 11 + i, 100));
  EXPECT_GT(b->steps(), 0u);
}

TEST_F(ReplicasTest, ARollingUpdateFailsNoRequest) {
  StartServer();
  std::unique_ptr<FakeGang> serving = StartNamed("gang0", SlowGang());
  for (int i = 1; i <= 3; ++i) {
    StartClients(12, 80);
    AwaitSteps(*serving, 20);
    std::unique_ptr<FakeGang> next = StartNamed(absl::StrCat("gang", i), SlowGang());
    serving->Drain();
    EXPECT_TRUE(serving->Join(0).ok());
    EXPECT_NE(serving->shutdown_reason(0).find("told to end"), std::string::npos);
    serving = std::move(next);
    EXPECT_EQ(Join(), 12);
  }
  EXPECT_EQ(Ranks().gangs_size(), 1);
}

TEST_F(ReplicasTest, AnAnswerIsOfOneVersionAndItsGangFinishesIt) {
  StartServer();
  FakeGangOptions old_version = SlowGang();
  old_version.version = "1";
  FakeGangOptions new_version = SlowGang();
  new_version.version = "2";
  auto a = StartNamed("a", old_version);
  StartClients(8, 100);
  AwaitSteps(*a, 20);
  const auto b = StartNamed("b", new_version);
  a->Drain();
  while (!Ranks().gangs(0).draining()) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_TRUE(Ask(Request("new", 5)).status.ok());
  EXPECT_GE(b->steps(), 5u);
  EXPECT_LT(b->steps(), 20u);  // what has begun stays
  EXPECT_TRUE(a->Join(0).ok());
  EXPECT_GE(a->steps(), 100u);
  EXPECT_EQ(Join(), 8);
}

TEST_F(ReplicasTest, AnAnswerThatHasBegunWaitsForItsVersion) {
  options_.gang_timeout = std::chrono::minutes(1);
  StartServer();
  FakeGangOptions old_version = SlowGang();
  old_version.version = "1";
  FakeGangOptions new_version = SlowGang();
  new_version.version = "2";
  auto a = StartNamed("a", old_version);
  StartClients(4, 100);
  AwaitSteps(*a, 20);
  a->Kill();
  a->Join(0);
  const auto b = StartNamed("b", new_version);
  EXPECT_TRUE(Ask(Request("new", 5)).status.ok());
  EXPECT_EQ(server_->engine().Stats().waiting(), 4u);
  const auto c = StartNamed("c", old_version);
  EXPECT_EQ(Join(), 4);
  EXPECT_LT(b->steps(), 20u);
}

TEST_F(ReplicasTest, TheSmallerGangGetsOnlyWhatFitsIt) {
  options_.gang_timeout = std::chrono::minutes(1);
  StartServer();
  FakeGangOptions small = SlowGang();
  small.kv_blocks = 5;  // 80 tokens
  const auto a = StartNamed("a", small);
  ExpectRefused(Request(std::string(50, 'x'), 100), grpc::StatusCode::INVALID_ARGUMENT, "80");
  std::unique_ptr<FakeGang> b = StartNamed("b", SlowGang());
  EXPECT_EQ(server_->engine().max_model_len(), kContext);
  const std::string prompt(50, 'x');
  grpc::ClientContext context;
  const Answer answer = Ask(Request(prompt, 150), context, [&](const Answer& so_far) {
    if (so_far.messages != 10) return;
    b->Kill();
    b->Join(0);
    // Meanwhile the small one serves what it can; the large request waits for a large gang.
    EXPECT_EQ(Ask(Request("small", 40)).texts[0], FakeText("small", 0, 40));
    EXPECT_EQ(server_->engine().max_model_len(), kContext);
    small.gang_id = "another";
    const FakeGang another(small);
    EXPECT_TRUE(another.WaitReady());
    EXPECT_EQ(server_->engine().Stats().waiting(), 1u);
    b = StartNamed("c", SlowGang());
  });
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.texts[0], FakeText(prompt, 0, 150));
}

// It is not refused for being too large, nor made smaller, because the gang is away just now.
TEST_F(ReplicasTest, ARequestThatOnlyALostGangHoldsWaitsForItToComeBack) {
  options_.gang_timeout = std::chrono::minutes(1);
  StartServer();
  FakeGangOptions small = SlowGang();
  small.kv_blocks = 5;  // 80 tokens
  auto a = StartNamed("a", small);
  StartNamed("b", SlowGang())->Kill();  // idle
  while (Ranks().gangs_size() > 1) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_EQ(server_->engine().max_model_len(), kContext);
  StartClients(2, 150);
  v1::GenerateRequest fills = Request("fills the context", kContext - 17);
  Answer full;
  clients_.emplace_back([&] { full = Ask(fills); });
  EXPECT_EQ(Ask(Request("small", 40)).texts[0], FakeText("small", 0, 40));
  // Who names no length gets what there is.
  v1::GenerateRequest any = Request("any length", 1);
  any.mutable_sampling()->clear_max_tokens();
  EXPECT_EQ(Ask(any).usage.completion_tokens(), 80 - any.prompt().size());
  while (server_->engine().Stats().waiting() < 3) std::this_thread::sleep_for(milliseconds(1));
  // The place of the large one is not that of another small one.
  a->Kill();
  a->Join(0);
  a = StartNamed("c", small);
  EXPECT_EQ(server_->engine().max_model_len(), kContext);
  const auto b = StartNamed("d", SlowGang());
  EXPECT_EQ(Join(), 2);
  ASSERT_TRUE(full.status.ok()) << full.status.error_message();
  EXPECT_EQ(full.usage.completion_tokens(), kContext - fills.prompt().size());
}

// It holds one of the two that the lost one computed.
TEST_F(ReplicasTest, ASmallerGangGoesOnWithWhatItHolds) {
  options_.gang_timeout = std::chrono::minutes(1);
  StartServer();
  const auto large = StartNamed("large", SlowGang());
  StartClients(1, 150);
  Answer answer;
  std::thread client([&] { answer = Ask(Request("begun", 40)); });
  while (server_->engine().Stats().running() < 2) std::this_thread::sleep_for(milliseconds(1));
  AwaitSteps(*large, large->steps() + 5);
  large->Kill();
  FakeGangOptions options = SlowGang();
  options.kv_blocks = 5;  // 80 tokens
  const auto small = StartNamed("small", options);
  client.join();
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.texts[0], FakeText("begun", 0, 40));
  const auto again = StartNamed("again", SlowGang());
  EXPECT_EQ(Join(), 1);
}

TEST_F(ReplicasTest, ALostGangThatDoesNotComeBackIsNotWaitedForLonger) {
  StartServer();
  FakeGangOptions small = SlowGang();
  small.kv_blocks = 5;  // 80 tokens
  const auto a = StartNamed("a", small);
  StartNamed("b", SlowGang())->Kill();
  while (server_->engine().max_model_len() == kContext) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  ExpectRefused(Request("large", 100), grpc::StatusCode::INVALID_ARGUMENT, "80");
}

// One that was told to end need not come back: who could wait for it goes to those that stay.
TEST_F(ReplicasTest, AGangThatHasDrainedIsNotWaitedFor) {
  options_.gang_timeout = std::chrono::minutes(1);
  StartServer();
  FakeGangOptions small = SlowGang();
  small.kv_blocks = 5;  // 80 tokens
  const auto a = StartNamed("a", small);
  const auto b = StartNamed("b", SlowGang());
  b->Drain();
  EXPECT_TRUE(Ask(Request("told with the next answer", 150)).status.ok());
  EXPECT_TRUE(b->Join(0).ok());
  v1::GenerateRequest fills = Request("fills the context", 1);
  fills.mutable_sampling()->clear_max_tokens();
  EXPECT_EQ(Ask(fills).usage.completion_tokens(), 80 - fills.prompt().size());
}

TEST_F(ReplicasTest, AGangThatDrainsFinishesWhatIsTooLargeForOthers) {
  StartServer();
  const auto large = StartNamed("large", SlowGang());
  FakeGangOptions options = SlowGang();
  options.kv_blocks = 5;  // 80 tokens
  const auto small = StartNamed("small", options);
  const std::string prompt(50, 'x');
  grpc::ClientContext context;
  const Answer answer = Ask(Request(prompt, 150), context, [&](const Answer& so_far) {
    if (so_far.messages == 5) large->Drain();
  });
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.texts[0], FakeText(prompt, 0, 150));
  EXPECT_TRUE(large->Join(0).ok());
  EXPECT_EQ(small->steps(), 0u);
}

TEST_F(ReplicasTest, APromptGoesWhereItsBeginningIs) {
  StartServer();
  const auto a = StartNamed("a", SlowGang());
  const auto b = StartNamed("b", SlowGang());
  const std::string prompt(96, 'p');
  EXPECT_EQ(Ask(Request(prompt, 5)).usage.cached_tokens(), 0u);  // at the first: both are idle
  std::atomic<bool> over = false;
  std::thread busy([&] {
    while (!over) EXPECT_TRUE(Ask(Request("busy", 100)).status.ok());
  });
  AwaitSteps(*a, 20);
  for (int i = 0; i < 5; ++i) EXPECT_GE(Ask(Request(prompt, 5)).usage.cached_tokens(), 80u);
  over = true;
  busy.join();
}

TEST_F(ReplicasTest, AGangThatJoinsTakesOverSomeOfThoseThatWait) {
  options_.max_num_seqs = 2;
  StartServer();
  const auto a = StartNamed("a", SlowGang());
  StartClients(8, 100);
  AwaitSteps(*a, 10);
  while (server_->engine().Stats().waiting() < 6) std::this_thread::sleep_for(milliseconds(1));
  const auto b = StartNamed("b", SlowGang());
  EXPECT_EQ(Join(), 8);
  EXPECT_GE(b->steps(), 100u);
}

// Asked for three log probabilities, both gangs die. Who asks for none goes on, at whatever gang
// there is.
TEST_F(ReplicasTest, APoisonRequestIsGivenUpAndOthersAreNot) {
  options_.gang_timeout = std::chrono::minutes(1);
  StartServer();
  std::atomic<bool> over = false;
  std::vector<std::thread> launchers;
  for (const char* name : {"a", "b"}) {
    launchers.emplace_back([this, name, &over] {
      for (int i = 0; !over; ++i) {
        FakeGangOptions options = SlowGang();
        options.gang_id = absl::StrCat(name, i);
        options.spoil = [](v1::StepResult& result) {
          for (const v1::SampledToken& token : result.tokens()) {
            if (token.top_ids_size() == 3) result.set_step(999'999);
          }
        };
        FakeGang gang(options);
        // Killed by the coordinator, or by the end of the test.
        while (!over && gang.lives()) std::this_thread::sleep_for(milliseconds(5));
      }
    });
  }
  while (server_->engine().Stats().gangs() < 2) std::this_thread::sleep_for(milliseconds(1));
  StartClients(10, 150);
  v1::GenerateRequest poison = Request("poison", 20);
  poison.mutable_sampling()->set_logprobs(3);
  ExpectRefused(poison, grpc::StatusCode::INTERNAL, "at least 4 times in a row");
  EXPECT_EQ(Join(), 10);
  over = true;
  for (std::thread& launcher : launchers) launcher.join();
}

}  // namespace
}  // namespace trireme
