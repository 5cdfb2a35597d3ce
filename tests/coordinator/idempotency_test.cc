// Requests with an idempotency key, over real gRPC on loopback, with a gang that has no model.

#include <sqlite3.h>

#include <atomic>
#include <fstream>
#include <map>
#include <set>

#include "tests/coordinator/server_fixture.h"

namespace trireme {
namespace {

class IdempotencyTest : public ServerTest {
 protected:
  IdempotencyTest() { options_.keyed.client_grace = std::chrono::seconds(20); }
  ~IdempotencyTest() override {
    for (const char* suffix : {"", "-wal", "-shm"}) std::filesystem::remove(Path() + suffix);
  }

  static std::string Path() {
    return absl::StrCat(testing::TempDir(), "journal_", getpid(), ".db");
  }

  v1::GenerateRequest Keyed(const std::string& key, uint32_t max_tokens = 100) {
    v1::GenerateRequest request = Request("keyed", max_tokens, 7);
    request.set_idempotency_key(key);
    return request;
  }

  std::unique_ptr<FakeGang> StartSlowGang() {
    FakeGangOptions options = Gang();
    options.step_delay = milliseconds(5);
    return StartGang(options);
  }

  // Asks, and goes after so many messages; what had come is in the answer.
  Answer AskAndLeave(const v1::GenerateRequest& request, size_t messages) {
    grpc::ClientContext context;
    return Ask(request, context, [&](const Answer& so_far) {
      if (so_far.messages == messages) context.TryCancel();
    });
  }

  // Asks again with what `so_far` has, and adds what comes.
  Answer GoOn(v1::GenerateRequest request, const Answer& so_far) {
    for (const auto& ids : so_far.ids) {
      request.add_tokens_received(static_cast<uint32_t>(ids.size()));
    }
    Answer rest = Ask(request);
    for (size_t i = 0; i < so_far.texts.size(); ++i) {
      rest.texts[i] = so_far.texts[i] + rest.texts[i];
      rest.ids[i].insert(rest.ids[i].begin(), so_far.ids[i].begin(), so_far.ids[i].end());
    }
    return rest;
  }

  // The coordinator ends as if it were killed, as far as one process can show it, or in order.
  void Restart() {
    server_->Shutdown("restart");
    server_.reset();
    StartServer();
  }

  // Starts a server with a journal, which holds the beginning of the answer that is returned.
  Answer BeginInJournal(const v1::GenerateRequest& request) {
    options_.keyed.journal = Path();
    StartServer();
    const auto gang = StartSlowGang();
    return AskAndLeave(request, 20);
  }
};

TEST_F(IdempotencyTest, ASecondCallGetsTheSameAnswerAndNothingIsComputedAgain) {
  StartServer();
  const auto gang = StartGang(Gang());
  const Answer first = Ask(Keyed("a"));
  ASSERT_TRUE(first.status.ok()) << first.status.error_message();
  EXPECT_EQ(first.texts[0], FakeText("keyed", 7, 100));
  const uint64_t steps = gang->steps();
  const Answer second = Ask(Keyed("a"));
  EXPECT_EQ(second.texts, first.texts);
  EXPECT_EQ(second.ids, first.ids);
  EXPECT_EQ(second.reasons, first.reasons);
  EXPECT_EQ(second.usage.completion_tokens(), 100u);
  EXPECT_EQ(gang->steps(), steps);
  // One that has all of it gets its end only.
  v1::GenerateRequest all = Keyed("a");
  all.add_tokens_received(100);
  const Answer end = Ask(all);
  EXPECT_TRUE(end.status.ok());
  EXPECT_TRUE(end.ids[0].empty());
  EXPECT_EQ(end.reasons[0], v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(end.usage.completion_tokens(), 100u);
}

TEST_F(IdempotencyTest, ARequestGoesOnWithoutItsClientWhichComesBack) {
  StartServer();
  const auto gang = StartSlowGang();
  v1::GenerateRequest request = Keyed("a");
  request.mutable_sampling()->set_n(3);
  const Answer begun = AskAndLeave(request, 10);
  EXPECT_EQ(begun.status.error_code(), grpc::StatusCode::CANCELLED);
  std::this_thread::sleep_for(milliseconds(100));
  const Answer whole = GoOn(request, begun);
  ASSERT_TRUE(whole.status.ok()) << whole.status.error_message();
  for (uint64_t i = 0; i < 3; ++i) EXPECT_EQ(whole.texts[i], FakeText("keyed", 7 + i, 100));
  EXPECT_EQ(server_->engine().Stats().tokens_generated(), 300u);
}

TEST_F(IdempotencyTest, WhoDoesNotComeBackInTimeIsGivenUpAndStillGoesOn) {
  options_.keyed.client_grace = milliseconds(50);
  StartServer();
  const auto gang = StartSlowGang();
  const Answer begun = AskAndLeave(Keyed("a", 240), 5);
  EXPECT_TRUE(GoesIdle(*gang));
  EXPECT_LT(gang->steps(), 200u);
  const Answer whole = GoOn(Keyed("a", 240), begun);
  ASSERT_TRUE(whole.status.ok()) << whole.status.error_message();
  EXPECT_EQ(whole.texts[0], FakeText("keyed", 7, 240));
  // A token that comes as the request is given up is computed again; statistics follow the answer.
  EXPECT_NEAR(static_cast<double>(server_->engine().Stats().tokens_generated()), 240, 2);
}

TEST_F(IdempotencyTest, TheLastCallHasTheAnswer) {
  StartServer();
  const auto gang = StartSlowGang();
  grpc::ClientContext context;
  Answer second;
  std::thread other;
  const Answer first = Ask(Keyed("a"), context, [&](const Answer& so_far) {
    if (so_far.messages == 5) other = std::thread([&] { second = Ask(Keyed("a")); });
  });
  other.join();
  EXPECT_EQ(first.status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(second.texts[0], FakeText("keyed", 7, 100));
}

TEST_F(IdempotencyTest, AStopStringEndsTheAnswerAlsoWithoutAClient) {
  StartServer();
  const auto gang = StartSlowGang();
  const std::string full = FakeText("keyed", 7, 200);
  v1::GenerateRequest request = Keyed("a", 200);
  request.mutable_sampling()->add_stop(full.substr(60, 4));
  const Answer begun = AskAndLeave(request, 5);
  EXPECT_TRUE(GoesIdle(*gang));
  EXPECT_LT(gang->steps(), 100u);
  const Answer whole = GoOn(request, begun);
  EXPECT_EQ(whole.texts[0], full.substr(0, full.find(full.substr(60, 4))));
  EXPECT_EQ(whole.reasons[0], v1::FINISH_REASON_STOP);
}

TEST_F(IdempotencyTest, TheBestOfSeveralIsTheSameForEachCall) {
  StartServer();
  const auto gang = StartSlowGang();
  v1::GenerateRequest request = Keyed("a", 40);
  request.mutable_sampling()->set_n(2);
  request.mutable_sampling()->set_best_of(4);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + milliseconds(100));
  EXPECT_EQ(Ask(request, context).status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  const Answer first = Ask(request);
  const Answer second = Ask(request);
  ASSERT_TRUE(first.status.ok()) << first.status.error_message();
  EXPECT_EQ(first.texts, second.texts);
  EXPECT_EQ(server_->engine().Stats().tokens_generated(), 160u);
}

TEST_F(IdempotencyTest, AKeyIsOfOneRequestAndOneTenant) {
  StartServer();
  const auto gang = StartGang(Gang());
  ASSERT_TRUE(Ask(Keyed("a")).status.ok());
  v1::GenerateRequest other = Keyed("a");
  other.mutable_sampling()->set_seed(8);
  ExpectRefused(other, grpc::StatusCode::ALREADY_EXISTS, "is that of another request");
  other.mutable_scheduling()->set_tenant("somebody else");
  EXPECT_EQ(Ask(other).texts[0], FakeText("keyed", 8, 100));
  const auto kInvalid = grpc::StatusCode::INVALID_ARGUMENT;
  ExpectRefused(Keyed("with space"), kInvalid, "printable ASCII");
  ExpectRefused(Keyed(std::string(129, 'k')), kInvalid, "1 to 128");
  v1::GenerateRequest keyless = Request("a", 5);
  keyless.add_tokens_received(1);
  ExpectRefused(keyless, kInvalid, "without an idempotency_key");
  v1::GenerateRequest too_many = Keyed("b");
  too_many.add_tokens_received(101);
  ExpectRefused(too_many, kInvalid, "up to 101 tokens");
}

TEST_F(IdempotencyTest, ForgetEndsTheRequestAndFreesTheKey) {
  StartServer();
  const auto gang = StartSlowGang();
  grpc::ClientContext context;
  const Answer answer = Ask(Keyed("a", 240), context, [&](const Answer& so_far) {
    if (so_far.messages != 5) return;
    grpc::ClientContext forget;
    v1::ForgetRequest request;
    request.set_idempotency_key("a");
    v1::ForgetResponse response;
    EXPECT_TRUE(stub_->Forget(&forget, request, &response).ok());
  });
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(GoesIdle(*gang));
  EXPECT_LT(gang->steps(), 200u);
  EXPECT_EQ(Ask(Keyed("a", 20)).texts[0], FakeText("keyed", 7, 20));
}

TEST_F(IdempotencyTest, TheJournalOutlivesTheCoordinator) {
  options_.keyed.journal = Path();
  StartServer();
  Answer begun;
  v1::GenerateRequest request = Keyed("a", 200);
  request.mutable_sampling()->set_n(2);
  request.mutable_sampling()->clear_seed();
  {
    const auto gang = StartSlowGang();
    grpc::ClientContext context;
    std::thread restart;
    begun = Ask(request, context, [&](const Answer& so_far) {
      if (so_far.messages == 60) restart = std::thread([this] { server_->Shutdown("restart"); });
    });
    restart.join();
    EXPECT_EQ(begun.status.error_code(), grpc::StatusCode::UNAVAILABLE);
    server_.reset();
  }
  StartServer();
  EXPECT_EQ(GoOn(request, begun).status.error_code(), grpc::StatusCode::UNAVAILABLE);  // no gang
  const auto gang = StartGang(Gang());
  const Answer whole = GoOn(request, begun);
  ASSERT_TRUE(whole.status.ok()) << whole.status.error_message();
  const uint64_t seed = SeedOfKey("", "a");
  for (uint64_t i = 0; i < 2; ++i) EXPECT_EQ(whole.texts[i], FakeText("keyed", seed + i, 200));
  EXPECT_EQ(whole.usage.completion_tokens(), 400u);
  EXPECT_LT(server_->engine().Stats().tokens_generated(), 360u);  // not all once more
}

TEST_F(IdempotencyTest, AnAnswerIsOfOneVersionOfTheModel) {
  options_.gang_timeout = milliseconds(1);
  BeginInJournal(Keyed("a", 240));
  Restart();
  FakeGangOptions options = Gang();
  options.version = "2";
  const auto gang = StartGang(options);
  ExpectRefused(Keyed("a", 240), grpc::StatusCode::FAILED_PRECONDITION, "begun with version 1");
  EXPECT_TRUE(Ask(Keyed("b", 240)).status.ok());
}

// Gangs that outlive their coordinator join the next one by one.
TEST_F(IdempotencyTest, AnAnswerGoesOnWhenItsGangHasJoinedANewCoordinator) {
  v1::GenerateRequest fills = Keyed("b");
  fills.mutable_sampling()->clear_max_tokens();
  for (const auto& [request, tokens] : {std::pair(Keyed("a"), 100), std::pair(fills, 251)}) {
    const Answer begun = BeginInJournal(request);
    Restart();
    FakeGangOptions small = Gang();
    small.kv_blocks = 1;  // 16 tokens, fewer than have come
    small.gang_id = "too small";
    const auto first = StartGang(small);
    EXPECT_EQ(GoOn(request, begun).status.error_code(), grpc::StatusCode::UNAVAILABLE);
    ExpectRefused(Keyed("new"), grpc::StatusCode::INVALID_ARGUMENT, "context of 16");
    FakeGangOptions other = Gang();
    other.version = "2";
    other.gang_id = "of another version";
    const auto second = StartGang(other);
    EXPECT_EQ(GoOn(request, begun).status.error_code(), grpc::StatusCode::UNAVAILABLE);
    const auto third = StartGang(Gang());
    const Answer whole = GoOn(request, begun);
    ASSERT_TRUE(whole.status.ok()) << whole.status.error_message();
    EXPECT_EQ(whole.texts[0], FakeText("keyed", 7, static_cast<size_t>(tokens)));
    server_.reset();
  }
}

// Also one that nobody computes now.
TEST_F(IdempotencyTest, AnAnswerWaitsForItsLostGangWhereAnotherVersionIsServed) {
  options_.keyed.client_grace = milliseconds(1);
  StartServer();
  auto lost = StartSlowGang();
  const Answer begun = AskAndLeave(Keyed("a", 240), 20);
  while (server_->engine().Stats().running() > 0) std::this_thread::sleep_for(milliseconds(1));
  FakeGangOptions options = Gang();
  options.version = "2";
  options.gang_id = "of another version";
  const auto other = StartGang(options);
  lost->Kill();
  while (server_->engine().Stats().gangs() > 1) std::this_thread::sleep_for(milliseconds(1));
  Answer whole;
  std::thread again([&] { whole = GoOn(Keyed("a", 240), begun); });
  std::this_thread::sleep_for(milliseconds(100));
  const auto back = StartGang(Gang());
  again.join();
  ASSERT_TRUE(whole.status.ok()) << whole.status.error_message();
  EXPECT_EQ(whole.texts[0], FakeText("keyed", 7, 240));
}

// What a damaged journal asks for would end the gang that computes it.
TEST_F(IdempotencyTest, ARequestThatNoWorkerCanComputeIsNotResumed) {
  BeginInJournal(Keyed("a", 240));
  server_->Shutdown("restart");
  server_.reset();
  {
    const auto journal = Journal::Open(Path(), 1 << 20);
    ASSERT_TRUE(journal.ok()) << journal.status();
    const auto good = (*journal)->Find("", "a");
    ASSERT_TRUE(good.ok() && good->has_value());
    v1::JournaledRequest request = (*good)->request;
    request.mutable_sampling()->add_bias_ids(1 << 30);
    request.mutable_sampling()->add_bias(1);
    ASSERT_TRUE((*journal)->Erase("", "a").ok());
    const auto id = (*journal)->Insert("", "a", request, std::time(nullptr));
    JournalBatch batch{.id = *id, .first = 0, .version = (*good)->version, .tokens = {}};
    for (const auto& token : (*good)->tokens) *batch.tokens.add_tokens() = token;
    ASSERT_TRUE((*journal)->Append({&batch, 1}, std::time(nullptr)).ok());
  }
  StartServer();
  const auto gang = StartGang(Gang());
  ExpectRefused(Keyed("a", 240), grpc::StatusCode::FAILED_PRECONDITION, "is damaged");
  EXPECT_TRUE(Ask(Keyed("b", 240)).status.ok());
}

// Keys and values of another type are another arithmetic: half an answer of each would be nobody's.
TEST_F(IdempotencyTest, AnAnswerIsOfOneArithmetic) {
  options_.gang_timeout = milliseconds(1);
  const Answer begun = BeginInJournal(Keyed("a", 240));
  Restart();
  {
    FakeGangOptions options = Gang();
    options.change = [](v1::Register& registration) { registration.set_kv_cache_dtype("int8"); };
    const auto gang = StartGang(options);
    ExpectRefused(Keyed("a", 240), grpc::StatusCode::FAILED_PRECONDITION,
                  "begun with version 1; KV cache in");
    EXPECT_TRUE(Ask(Keyed("b", 240)).status.ok());
  }
  Restart();
  const auto gang = StartGang(Gang());  // as it was
  const Answer whole = GoOn(Keyed("a", 240), begun);
  EXPECT_TRUE(whole.status.ok()) << whole.status.error_message();
}

TEST_F(IdempotencyTest, WithoutAJournalAnAnswerIsComputedOnceMore) {
  StartServer();
  Answer begun;
  v1::GenerateRequest request = Keyed("a", 200);
  request.mutable_sampling()->clear_seed();
  {
    const auto gang = StartSlowGang();
    begun = AskAndLeave(request, 20);
  }
  Restart();
  const auto gang = StartGang(Gang());
  const Answer whole = GoOn(request, begun);
  EXPECT_EQ(whole.texts[0], FakeText("keyed", SeedOfKey("", "a"), 200));
}

TEST_F(IdempotencyTest, OldAnswersMakeRoom) {
  options_.keyed.journal = Path();
  options_.keyed.entries_max = 2;
  StartServer();
  const auto gang = StartGang(Gang());
  for (const char* key : {"a", "b", "c"}) ASSERT_TRUE(Ask(Keyed(key, 10)).status.ok());
  const uint64_t tokens = server_->engine().Stats().tokens_generated();
  ASSERT_TRUE(Ask(Keyed("c", 10)).status.ok());
  EXPECT_EQ(server_->engine().Stats().tokens_generated(), tokens);
  ASSERT_TRUE(Ask(Keyed("a", 10)).status.ok());
  EXPECT_EQ(server_->engine().Stats().tokens_generated(), tokens + 10);
}

// It would kill as many more.
TEST_F(IdempotencyTest, ARequestThatKillsGangsDoesNotDoSoAgainAfterARestart) {
  options_.keyed.journal = Path();
  StartServer();
  FakeGangOptions options = Gang();
  options.spoil = [](v1::StepResult& result) { result.set_step(999'999); };
  Answer poison;
  std::thread client([&] {
    while (poison.status.error_code() != grpc::StatusCode::INTERNAL) poison = Ask(Keyed("a"));
  });
  int gangs = 0;
  while (server_->engine().Stats().requests_failed() == 0) {
    options.gang_id = absl::StrCat("gang", gangs++);
    FakeGang gang(options);
    while (gang.lives()) std::this_thread::sleep_for(milliseconds(1));
  }
  client.join();
  EXPECT_GE(gangs, 4);
  Restart();
  options.server = address_;
  const auto gang = StartGang(options);
  const Answer again = Ask(Keyed("a"));
  EXPECT_EQ(again.status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(again.status.error_message(), poison.status.error_message());
  EXPECT_TRUE(gang->lives());
}

// What was written before stays good, also where later tokens could be written again.
TEST_F(IdempotencyTest, AJournalThatFailsForAWhileKeepsTheBeginning) {
  ASSERT_TRUE(Journal::Open(Path(), 1 << 20).ok());
  sqlite3* file = nullptr;
  ASSERT_EQ(sqlite3_open(Path().c_str(), &file), SQLITE_OK);
  EXPECT_EQ(sqlite3_exec(file,
                         "CREATE TRIGGER fail BEFORE INSERT ON tokens WHEN NEW.first BETWEEN 1 AND "
                         "99 BEGIN SELECT RAISE(ABORT, 'no'); END",
                         nullptr, nullptr, nullptr),
            SQLITE_OK);
  sqlite3_close(file);
  options_.keyed.journal = Path();
  StartServer();
  {
    const auto gang = StartSlowGang();
    ASSERT_TRUE(Ask(Keyed("a", 240)).status.ok());
  }
  Restart();
  const auto gang = StartGang(Gang());
  const Answer whole = Ask(Keyed("a", 240));
  ASSERT_TRUE(whole.status.ok()) << whole.status.error_message();
  EXPECT_EQ(whole.texts[0], FakeText("keyed", 7, 240));
  EXPECT_LT(server_->engine().Stats().tokens_generated(), 240u);
}

// Another request takes no place of one that a call has found and not begun to compute.
TEST_F(IdempotencyTest, ARequestThatIsAboutToStartIsNotForgotten) {
  constexpr uint32_t kContinuations = 8;
  options_.max_num_seqs = 4 * kContinuations;
  options_.keyed.journal = Path();
  options_.keyed.entries_max = 1;
  StartServer();
  std::atomic<size_t> most{0};
  FakeGangOptions options = Gang();
  options.step_delay = milliseconds(5);
  options.spoil = [&](const v1::StepResult& result) {
    std::set<uint64_t> sequences;
    for (const auto& token : result.tokens()) sequences.insert(token.sequence_id());
    most = std::max(most.load(), sequences.size());
  };
  const auto gang = StartGang(options);
  for (int round = 0; round < 100; ++round) {
    std::vector<std::thread> clients;
    for (int client = 0; client < 4; ++client) {
      v1::GenerateRequest request = Keyed(absl::StrCat(round, "-", client), 4);
      request.mutable_sampling()->set_n(kContinuations);
      clients.emplace_back([this, request] { (void)Ask(request); });
    }
    for (std::thread& client : clients) client.join();
  }
  EXPECT_EQ(most, kContinuations);
}

// Also not for a call that had found it before.
TEST_F(IdempotencyTest, WhatIsForgottenIsNotComputedAnyMore) {
  StartServer();
  std::map<uint64_t, int> late;  // by sequence, tokens beside one that began after it
  FakeGangOptions options = Gang();
  options.step_delay = milliseconds(1);
  options.spoil = [&](const v1::StepResult& result) {
    std::set<uint64_t> sequences;
    for (const auto& token : result.tokens()) sequences.insert(token.sequence_id());
    if (!sequences.empty()) sequences.erase(*sequences.rbegin());
    for (const uint64_t id : sequences) ++late[id];
  };
  auto gang = StartGang(options);
  std::atomic<bool> done{false};
  std::vector<std::thread> clients;
  for (int client = 0; client < 2; ++client) {
    clients.emplace_back([&] {
      while (!done) (void)Ask(Keyed("a", 50));
    });
  }
  for (int i = 0; i < 2000; ++i) {
    grpc::ClientContext context;
    v1::ForgetRequest request;
    request.set_idempotency_key("a");
    v1::ForgetResponse response;
    EXPECT_TRUE(stub_->Forget(&context, request, &response).ok());
  }
  done = true;
  for (std::thread& client : clients) client.join();
  gang.reset();
  // Its end may come to the engine before its beginning: then the first token ends it.
  for (const auto& [id, tokens] : late) EXPECT_LT(tokens, 5) << id;
}

TEST_F(IdempotencyTest, AForeignOrDamagedJournalIsRefused) {
  options_.keyed.journal = Path();
  std::ofstream(Path()) << std::string(8192, 'x');
  const auto error = [this] { return std::string(Server::Start(options_).status().message()); };
  EXPECT_NE(error().find("the file is no journal"), std::string::npos) << error();
  std::filesystem::remove(Path());
  StartServer();
  EXPECT_NE(error().find("another process has it open"), std::string::npos) << error();
}

}  // namespace
}  // namespace trireme
