// The load generator against a server in this process that does what each request's id says.

#include "cluster/bench_serve_client.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <thread>

namespace trireme {
namespace {

using Records = std::vector<RequestRecord>;

// "ok": max_tokens messages; "merged": the same tokens in two messages; "refuse", "hint": refused,
// without and with retry-after; "break": two tokens, then UNAVAILABLE; "hang": a token, then
// nothing.
class Answer : public grpc::ServerWriteReactor<v1::GenerateResponse> {
 public:
  Answer(grpc::CallbackServerContext& context, const v1::GenerateRequest& request,
         std::atomic<int>& open, std::atomic<int>& open_max)
      : kind_(request.request_id()), left_(request.sampling().max_tokens()), open_(open) {
    const int now = ++open_;
    for (int seen = open_max; now > seen && !open_max.compare_exchange_weak(seen, now);) {
    }
    if (kind_ == "hint") context.AddTrailingMetadata("retry-after", "3");
    if (kind_ == "break") left_ = 2;
    if (kind_ == "hint" || kind_ == "refuse") {
      Finish(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full"));
    } else {
      Next();
    }
  }

  void OnWriteDone(bool ok) override {
    if (kind_ == "hang") {
      FinishHanging();
    } else if (!ok) {
      Finish(grpc::Status::CANCELLED);
    } else if (left_ > 0) {
      Next();
    } else {
      Finish(kind_ == "break" ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone")
                              : grpc::Status::OK);
    }
  }
  void OnCancel() override {
    if (kind_ == "hang") FinishHanging();
  }
  void OnDone() override {
    --open_;
    delete this;
  }

 private:
  // Called when the token is written and when the client has gone; the later of them ends the call.
  void FinishHanging() {
    if (++hang_ends_ == 2) Finish(grpc::Status::CANCELLED);
  }

  void Next() {
    const uint32_t count = kind_ == "merged" ? (left_ + 1) / 2 : 1;
    response_.clear_token_ids();
    for (uint32_t i = 0; i < count; ++i) response_.add_token_ids(5);
    left_ -= count;
    if (left_ == 0) response_.mutable_usage()->set_cached_tokens(9);
    StartWrite(&response_);
  }

  std::string kind_;
  uint32_t left_;
  std::atomic<int> hang_ends_{0};
  std::atomic<int>& open_;
  v1::GenerateResponse response_;
};

class Service : public v1::Inference::CallbackService {
 public:
  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override {
    return new Answer(*context, *request, open_, open_max_);
  }
  int open_max() const { return open_max_; }

 private:
  std::atomic<int> open_{0};
  std::atomic<int> open_max_{0};
};

class LoadGeneratorTest : public testing::Test {
 protected:
  LoadGeneratorTest() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    for (int i = 0; i < 2; ++i) {
      grpc::ChannelArguments arguments;
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      channels_.push_back(grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port),
                                                    grpc::InsecureChannelCredentials(), arguments));
    }
    generator_.emplace(channels_);
  }

  static Workload::Request Request(const std::string& kind, uint32_t tokens = 4) {
    Workload::Request request;
    request.message.set_request_id(kind);
    request.message.mutable_prompt_token_ids()->add_ids(1);
    request.message.mutable_sampling()->set_max_tokens(tokens);
    return request;
  }

  LoadGenerator::Result Run(const LoadOptions& options, const std::vector<std::string>& kinds) {
    return generator_->Run(
        options, [&](uint64_t number) { return Request(kinds[number % kinds.size()]); },
        [] { return 0.0; }, std::nullopt);
  }

  Service service_;
  std::unique_ptr<grpc::Server> server_;
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
  std::optional<LoadGenerator> generator_;
};

TEST_F(LoadGeneratorTest, KeepsWhatBecameOfEachRequest) {
  const Records records =
      Run({.requests = 50}, {"ok", "merged", "refuse", "hint", "break"}).records;
  ASSERT_EQ(records.size(), 50u);
  const Report report = MakeReport(records, std::nullopt, std::nullopt);
  EXPECT_EQ(report.completed, 20u);
  EXPECT_EQ(report.short_answers, 0u);
  EXPECT_EQ(report.refused, 20u);
  EXPECT_EQ(report.refused_with_retry_after, 10u);
  EXPECT_EQ(report.failed_by_code, (std::map<std::string, uint64_t>{{"UNAVAILABLE", 10}}));
  EXPECT_EQ(report.output_tokens, 80u);
  EXPECT_EQ(report.partial_tokens, 20u);
  EXPECT_EQ(report.cached_tokens, 180u);
  for (const RequestRecord& record : records) {
    EXPECT_LE(record.start_s, record.end_s);
    EXPECT_EQ(record.prompt_tokens, 1u);
    EXPECT_EQ(record.retry_after.value_or("3"), "3");
  }
}

TEST_F(LoadGeneratorTest, ThousandsOfStreamsAreOpenTogether) {
  std::thread stop([this] {
    for (int i = 0; i < 600 && service_.open_max() < 3000; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    generator_->Stop();
  });
  const Records records = Run({.requests = 3000}, {"hang"}).records;
  stop.join();
  EXPECT_EQ(service_.open_max(), 3000);
  ASSERT_EQ(records.size(), 3000u);
  for (const RequestRecord& record : records) EXPECT_EQ(record.code, grpc::StatusCode::CANCELLED);
}

TEST_F(LoadGeneratorTest, AClosedLoopHasSoManyOpenAndNoMore) {
  const Records records = Run({.requests = 200, .concurrency = 3}, {"ok"}).records;
  EXPECT_EQ(records.size(), 200u);
  // The server sees the end of a call a moment after the client does.
  std::vector<std::pair<double, int>> changes;
  for (const RequestRecord& record : records) {
    changes.push_back({record.start_s, 1});
    changes.push_back({record.end_s, -1});
  }
  std::sort(changes.begin(), changes.end());
  int open = 0, open_max = 0;
  for (const auto& [at, change] : changes) open_max = std::max(open_max, open += change);
  EXPECT_LE(open_max, 3);
}

TEST_F(LoadGeneratorTest, ArrivalsKeepTheirTimes) {
  double next = 0;
  const auto result = generator_->Run(
      {.requests = 20}, [](uint64_t) { return Request("ok"); }, [&] { return next += 0.01; },
      std::nullopt);
  ASSERT_EQ(result.records.size(), 20u);
  for (const RequestRecord& record : result.records) {
    EXPECT_GE(record.start_s, 0.01);
    EXPECT_GE(record.lag_s, 0);
  }
}

TEST_F(LoadGeneratorTest, NothingIsSentAfterTheDuration) {
  const Records records =
      Run({.requests = 1'000'000, .duration_s = 0.2, .concurrency = 2}, {"ok"}).records;
  EXPECT_GT(records.size(), 2u);
  for (const RequestRecord& record : records) {
    EXPECT_LT(record.start_s, 0.25);
    EXPECT_EQ(record.code, grpc::StatusCode::OK);
  }
}

TEST_F(LoadGeneratorTest, DeadlinesEndCalls) {
  const Records records = Run({.requests = 3, .deadline_s = 0.1}, {"hang"}).records;
  ASSERT_EQ(records.size(), 3u);
  for (const RequestRecord& record : records) {
    EXPECT_EQ(record.code, grpc::StatusCode::DEADLINE_EXCEEDED);
    EXPECT_EQ(record.Tokens(), 1u);
  }
}

TEST_F(LoadGeneratorTest, TheIntruderEntersBesideAFullHouse) {
  const auto result = generator_->Run(
      {.requests = 2, .concurrency = 2, .deadline_s = 0.4, .intrude_at_s = 0.1},
      [](uint64_t) { return Request("hang"); }, [] { return 0.0; }, Request("ok", 1));
  EXPECT_EQ(result.records.size(), 2u);
  ASSERT_TRUE(result.intruder.has_value());
  EXPECT_GE(result.intruder->start_s, 0.1);
  EXPECT_EQ(result.intruder->Tokens(), 1u);
  // Nobody to disturb: it does not enter.
  const auto early = generator_->Run(
      {.requests = 2, .intrude_at_s = 30}, [](uint64_t) { return Request("ok"); },
      [] { return 0.0; }, Request("ok", 1));
  EXPECT_EQ(early.records.size(), 2u);
  EXPECT_FALSE(early.intruder.has_value());
}

TEST_F(LoadGeneratorTest, AfterStopNothingIsSent) {
  generator_->Stop();
  EXPECT_TRUE(Run({.requests = 5}, {"ok"}).records.empty());
}

TEST_F(LoadGeneratorTest, AServerThatIsGoneIsAFailureOfEach) {
  server_->Shutdown();
  const Records records = Run({.requests = 5}, {"ok"}).records;
  ASSERT_EQ(records.size(), 5u);
  for (const RequestRecord& record : records) {
    EXPECT_EQ(record.code, grpc::StatusCode::UNAVAILABLE);
  }
}

}  // namespace
}  // namespace trireme
