// What the serving engine does for clients: sharing prefixes, classes and tenants, refusing in
// time, many streams at once. Over real gRPC, with a gang that has no model.

#include <algorithm>
#include <atomic>

#include "tests/coordinator/server_fixture.h"

namespace trireme {
namespace {

class ServingTest : public ServerTest {
 protected:
  v1::GetStatsResponse Stats() {
    grpc::ClientContext context;
    v1::GetStatsResponse stats;
    EXPECT_TRUE(v1::Cluster::NewStub(channel_)->GetStats(&context, {}, &stats).ok());
    return stats;
  }

  uint32_t CachedTokens(const std::string& prompt, const std::string& tenant,
                        const std::string& salt) {
    v1::GenerateRequest request = Request(prompt, 4);
    request.mutable_scheduling()->set_tenant(tenant);
    request.mutable_scheduling()->set_cache_salt(salt);
    const Answer answer = Ask(request);
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_EQ(answer.texts[0], FakeText(prompt, 0, 4));
    return answer.usage.cached_tokens();
  }
};

TEST_F(ServingTest, PrefixesAreSharedWithinATenantAndSaltOnly) {
  StartServer();
  const auto gang = StartGang(Gang());
  const std::string prompt(100, 'p');
  EXPECT_EQ(CachedTokens(prompt, "a", ""), 0u);
  EXPECT_EQ(CachedTokens(prompt, "a", ""), 96u);  // whole blocks of 16
  EXPECT_EQ(CachedTokens(prompt + "different", "a", ""), 96u);
  EXPECT_EQ(CachedTokens(prompt, "b", ""), 0u);
  EXPECT_EQ(CachedTokens(prompt, "a", "salt"), 0u);
  EXPECT_EQ(CachedTokens(prompt, "", ""), 0u);
  EXPECT_EQ(CachedTokens("q" + prompt, "a", ""), 0u);
  const v1::GetStatsResponse stats = Stats();
  EXPECT_EQ(stats.prefix_tokens_hit(), 192u);
  EXPECT_GT(stats.kv_tokens_cached(), 0u);
  EXPECT_EQ(stats.requests_finished(), 7u);
}

TEST_F(ServingTest, CachingCanBeTurnedOff) {
  options_.prefix_caching = false;
  StartServer();
  const auto gang = StartGang(Gang());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(CachedTokens(std::string(100, 'p'), "", ""), 0u);
}

TEST_F(ServingTest, ContinuationsComputeTheirPromptOnce) {
  StartServer();
  const auto gang = StartGang(Gang());
  v1::GenerateRequest request = Request(std::string(150, 'x'), 20, 7);
  request.mutable_sampling()->set_n(6);
  const Answer answer = Ask(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  for (uint32_t i = 0; i < 6; ++i) {
    EXPECT_EQ(answer.texts[i], FakeText(std::string(150, 'x'), 7 + i, 20)) << i;
  }
  // The first computes 150, each of the others the last token alone, whose logits it needs.
  EXPECT_EQ(Stats().tokens_prefilled(), 155u);
}

TEST_F(ServingTest, ForcedExhaustionCostsPausesNotTokens) {
  options_.max_num_seqs = 16;
  StartServer();
  FakeGangOptions options = Gang();
  options.kv_blocks = 20;  // two or three of sixteen sequences fit to their end
  const auto gang = StartGang(options);
  std::vector<std::thread> clients;
  for (int i = 0; i < 16; ++i) {
    clients.emplace_back([this, i] {
      const std::string prompt = absl::StrCat("client ", i, " asks");
      const Answer answer = Ask(Request(prompt, 100, static_cast<uint64_t>(i)));
      EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
      EXPECT_EQ(answer.texts[0], FakeText(prompt, static_cast<uint64_t>(i), 100));
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_GT(Stats().preemptions(), 0u);
}

TEST_F(ServingTest, BestOfSendsTheMostProbable) {
  StartServer();
  FakeGangOptions options = Gang();
  // Continuation i of seed 10 is as probable as its number is high.
  options.spoil = [](v1::StepResult& result) {
    for (v1::SampledToken& token : *result.mutable_tokens()) {
      token.set_logprob(-10.0f + static_cast<float>(token.sequence_id()));
    }
  };
  const auto gang = StartGang(options);
  v1::GenerateRequest request = Request("best", 12, 10);
  request.mutable_sampling()->set_n(2);
  request.mutable_sampling()->set_best_of(5);
  const Answer answer = Ask(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.texts[0], FakeText("best", 14, 12));
  EXPECT_EQ(answer.texts[1], FakeText("best", 13, 12));
  EXPECT_EQ(answer.usage.completion_tokens(), 60u);
}

TEST_F(ServingTest, PromptLogprobsComeOnceForEachTokenButTheFirst) {
  StartServer();
  const auto gang = StartGang(Gang());
  const std::string prompt(100, 'l');
  CachedTokens(prompt, "", "");  // what is cached is computed again, as its logits are wanted
  v1::GenerateRequest request = Request(prompt, 5);
  request.mutable_sampling()->set_prompt_logprobs(0);
  request.mutable_sampling()->set_n(2);
  grpc::ClientContext context;
  const auto stream = stub_->Generate(&context, request);
  v1::GenerateResponse response;
  std::vector<float> logprobs;
  bool text = false;
  while (stream->Read(&response)) {
    text = text || (response.token_ids_size() > 0 && response.prompt_logprobs_size() == 0);
    if (response.prompt_logprobs_size() > 0) {
      EXPECT_FALSE(text);
    }
    for (const v1::LogprobEntry& entry : response.prompt_logprobs()) {
      EXPECT_EQ(entry.chosen().token(), "l");
      logprobs.push_back(entry.chosen().logprob());
    }
  }
  EXPECT_TRUE(stream->Finish().ok());
  ASSERT_EQ(logprobs.size(), 99u);
  for (size_t i = 0; i < 99; ++i) EXPECT_EQ(logprobs[i], -static_cast<float>(i + 1));
}

TEST_F(ServingTest, WhatCannotBeAnsweredInTimeIsRefusedAtOnce) {
  options_.max_num_seqs = 1;
  StartServer();
  FakeGangOptions options = Gang();
  options.step_delay = milliseconds(20);
  const auto gang = StartGang(options);
  ASSERT_TRUE(Ask(Request("teach it how fast it is", 20)).status.ok());
  std::atomic<bool> done = false;
  std::thread busy([&] {
    for (int i = 0; i < 2; ++i) EXPECT_TRUE(Ask(Request("busy", 100)).status.ok());
    done = true;
  });
  while (Stats().running() == 0) std::this_thread::sleep_for(milliseconds(1));
  grpc::ClientContext context;
  const auto start = std::chrono::steady_clock::now();
  context.set_deadline(std::chrono::system_clock::now() + milliseconds(150));
  const Answer answer = Ask(Request("hurry", 100), context);
  EXPECT_LT(std::chrono::steady_clock::now() - start, milliseconds(120));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED)
      << answer.status.error_message();
  EXPECT_NE(answer.status.error_message().find("deadline"), std::string::npos);
  EXPECT_EQ(context.GetServerTrailingMetadata().count("retry-after"), 1u);
  EXPECT_FALSE(done);
  busy.join();
  EXPECT_EQ(Stats().requests_refused(), 1u);
}

TEST_F(ServingTest, AHighClassGoesFirstAndTenantsTakeTurns) {
  options_.max_num_seqs = 1;
  StartServer();
  FakeGangOptions options = Gang();
  options.step_delay = milliseconds(2);
  const auto gang = StartGang(options);
  std::mutex mutex;
  std::vector<std::string> order;
  std::vector<std::thread> clients;
  const auto ask = [&](const std::string& name, v1::Priority priority, uint32_t tokens) {
    clients.emplace_back([&, name, priority, tokens] {
      v1::GenerateRequest request = Request(name, tokens);
      request.mutable_scheduling()->set_priority(priority);
      request.mutable_scheduling()->set_tenant(name.substr(0, 1));
      EXPECT_EQ(Ask(request).texts[0], FakeText(name, 0, tokens));
      const std::lock_guard lock(mutex);
      order.push_back(name);
    });
    const size_t expected = clients.size();
    while (Stats().waiting() + Stats().running() < expected) {
      std::this_thread::sleep_for(milliseconds(1));
    }
  };
  ask("x1", v1::PRIORITY_NORMAL, 200);
  ask("a1", v1::PRIORITY_NORMAL, 20);
  ask("a2", v1::PRIORITY_NORMAL, 20);
  ask("b1", v1::PRIORITY_NORMAL, 20);
  ask("low", v1::PRIORITY_BATCH, 20);
  ask("high", v1::PRIORITY_HIGH, 20);
  for (std::thread& client : clients) client.join();
  const auto place = [&](const char* name) {
    return std::find(order.begin(), order.end(), name) - order.begin();
  };
  EXPECT_EQ(place("high"), 0);  // x1 gave way
  EXPECT_EQ(place("low"), 5);
  EXPECT_LT(place("a1"), place("b1"));
  EXPECT_LT(place("b1"), place("a2"));  // though a2 came first
}

TEST_F(ServingTest, RefusesBadScheduling) {
  StartServer();
  const auto gang = StartGang(Gang());
  v1::GenerateRequest request = Request("x", 5);
  request.mutable_scheduling()->set_tenant(std::string(129, 't'));
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "tenant");
  request.mutable_scheduling()->set_tenant("");
  request.mutable_scheduling()->set_priority(static_cast<v1::Priority>(9));
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "priority 9");
}

TEST_F(ServingTest, APromptOfExactlyTheContextIsRefusedOneLessIsAnswered) {
  StartServer();
  const auto gang = StartGang(Gang());
  v1::GenerateRequest request = Request(std::string(kContext, 'x'), 1);
  ExpectRefused(request, grpc::StatusCode::INVALID_ARGUMENT, "must leave room");
  const std::string prompt(kContext - 1, 'x');
  EXPECT_EQ(Ask(Request(prompt, 1)).texts[0], FakeText(prompt, 0, 1));
  ExpectRefused(Request("", 1), grpc::StatusCode::INVALID_ARGUMENT, "empty");
}

TEST_F(ServingTest, MetricsAreServedAsText) {
  options_.metrics_address = "127.0.0.1:0";
  StartServer();
  const auto gang = StartGang(Gang());
  CachedTokens(std::string(100, 'p'), "", "");
  CachedTokens(std::string(100, 'p'), "", "");
  FILE* curl = popen(
      absl::StrCat("curl -s http://127.0.0.1:", server_->metrics_port(), "/metrics").c_str(), "r");
  std::string text;
  for (int c = fgetc(curl); c != EOF; c = fgetc(curl)) text.push_back(static_cast<char>(c));
  EXPECT_EQ(pclose(curl), 0);
  for (const char* line :
       {"trireme_prefix_cache_hits_tokens_total 96\n", "trireme_ready 1\n",
        "trireme_requests_finished_total 2\n", "# TYPE trireme_prefix_cache_hit_ratio gauge\n"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "in:\n" << text;
  }
}

// Every one of two thousand streams at once gets its own text, with a pool for a few of them.
TEST_F(ServingTest, TwoThousandStreamsAtOnce) {
  options_.max_num_seqs = 64;
  options_.max_num_batched_tokens = 512;
  StartServer();
  const auto gang = StartGang(Gang());
  constexpr int kStreams = 2000;
  struct Stream : grpc::ClientReadReactor<v1::GenerateResponse> {
    void OnReadDone(bool ok) override {
      if (!ok) return;
      text += response.text();
      StartRead(&response);
    }
    void OnDone(const grpc::Status& end) override {
      status = end;
      ++*ended;
    }
    grpc::ClientContext context;
    v1::GenerateRequest request;
    v1::GenerateResponse response;
    std::string text;
    grpc::Status status;
    std::atomic<int>* ended = nullptr;
  };
  std::atomic<int> ended = 0;
  std::vector<std::unique_ptr<Stream>> streams;
  for (int i = 0; i < kStreams; ++i) {
    Stream& stream = *streams.emplace_back(std::make_unique<Stream>());
    stream.ended = &ended;
    stream.request = Request(absl::StrCat("stream ", i), 30, static_cast<uint64_t>(i));
    stub_->async()->Generate(&stream.context, &stream.request, &stream);
    stream.StartRead(&stream.response);
    stream.StartCall();
  }
  while (ended < kStreams) std::this_thread::sleep_for(milliseconds(5));
  for (int i = 0; i < kStreams; ++i) {
    EXPECT_TRUE(streams[static_cast<size_t>(i)]->status.ok());
    EXPECT_EQ(streams[static_cast<size_t>(i)]->text,
              FakeText(absl::StrCat("stream ", i), static_cast<uint64_t>(i), 30));
  }
  EXPECT_EQ(Stats().requests_finished(), 2000u);
  EXPECT_EQ(Stats().waiting() + Stats().running(), 0u);
}

// Also those that wait for the first one's prompt.
TEST_F(ServingTest, ATenantsContinuationsCountForItsQueue) {
  options_.max_waiting_per_tenant = 8;
  StartServer();
  FakeGangOptions options = Gang();
  options.step_delay = milliseconds(50);
  const auto gang = StartGang(options);
  std::vector<std::thread> clients;
  std::atomic<int> refused = 0;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([&, i] {
      v1::GenerateRequest request = Request(std::string(100, static_cast<char>('a' + i)), 4);
      request.mutable_sampling()->set_n(8);
      request.mutable_scheduling()->set_tenant("greedy");
      refused += Ask(request).status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED;
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_GE(refused, 2);  // 8 run, 8 may wait
}

}  // namespace
}  // namespace trireme
