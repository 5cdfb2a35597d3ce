// The coordinator as a whole, over real gRPC on loopback, with a gang that has no model.

#include "tests/coordinator/server_fixture.h"

#include <grpcpp/impl/client_unary_call.h>

#include <atomic>

#include "trireme/v1/loading.grpc.pb.h"

namespace trireme {
namespace {

TEST_F(ServerTest, StreamsTokensWithUsage) {
  StartServer();
  FakeGangOptions options = Gang();
  options.tp = 2;
  options.pp = 2;
  const auto gang = StartGang(options);
  const std::string prompt(100, 'p');  // two chunks of prefill
  const Answer answer = Ask(Request(prompt, 50, 7));
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.texts[0], FakeText(prompt, 7, 50));
  EXPECT_EQ(answer.reasons[0], v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(answer.usage.prompt_tokens(), 100u);
  EXPECT_EQ(answer.usage.completion_tokens(), 50u);
  EXPECT_GT(answer.usage.total_ms(), 0);

  const auto cluster = v1::Cluster::NewStub(channel_);
  grpc::ClientContext context;
  v1::ListRanksResponse ranks;
  ASSERT_TRUE(cluster->ListRanks(&context, {}, &ranks).ok());
  EXPECT_TRUE(ranks.ready());
  ASSERT_EQ(ranks.gangs_size(), 1);
  EXPECT_EQ(ranks.gangs(0).ranks_size(), 4);
  EXPECT_EQ(ranks.gangs(0).max_model_len(), kContext);
  EXPECT_EQ(ranks.steps(), 51u);
  EXPECT_EQ(ranks.tokens_generated(), 50u);
}

TEST_F(ServerTest, ContinuationsHaveSeedsInARow) {
  StartServer();
  const auto gang = StartGang(Gang());
  v1::GenerateRequest request = Request("hello", 20, 40);
  request.mutable_sampling()->set_n(3);
  const Answer answer = Ask(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  for (uint64_t i = 0; i < 3; ++i) EXPECT_EQ(answer.texts[i], FakeText("hello", 40 + i, 20));
  EXPECT_EQ(answer.usage.completion_tokens(), 60u);
}

TEST_F(ServerTest, StopStringsAndEndTokensEndTheText) {
  StartServer();
  const auto gang = StartGang(Gang());
  const std::string full = FakeText("stop", 3, 200);
  v1::GenerateRequest request = Request("stop", 200, 3);
  request.mutable_sampling()->add_stop(full.substr(10, 4));
  const Answer stopped = Ask(request);
  ASSERT_TRUE(stopped.status.ok()) << stopped.status.error_message();
  EXPECT_EQ(stopped.texts[0], full.substr(0, full.find(full.substr(10, 4))));
  EXPECT_EQ(stopped.reasons[0], v1::FINISH_REASON_STOP);
  EXPECT_EQ(stopped.usage.completion_tokens(), full.find(full.substr(10, 4)) + 4);

  request = Request("stop", 200, 3);
  request.mutable_sampling()->set_ignore_eos(false);
  ASSERT_NE(full.find('z'), std::string::npos);
  const Answer ended = Ask(request);
  EXPECT_EQ(ended.texts[0], full.substr(0, full.find('z')));
  EXPECT_EQ(ended.ids[0].back(), 'z');
  EXPECT_EQ(ended.reasons[0], v1::FINISH_REASON_STOP);
  EXPECT_TRUE(GoesIdle(*gang));
}

TEST_F(ServerTest, ManyClientsTogetherGetWhatEachGetsAlone) {
  StartServer();
  const auto gang = StartGang(Gang());
  std::vector<std::thread> clients;
  std::atomic<int> right = 0;
  for (int i = 0; i < 24; ++i) {
    clients.emplace_back([this, i, &right] {
      const std::string prompt(1 + i * 7, static_cast<char>('A' + i));
      const Answer answer = Ask(Request(prompt, 40, i));
      right += answer.status.ok() && answer.texts[0] == FakeText(prompt, i, 40);
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(right, 24);
}

TEST_F(ServerTest, RefusesBadRequestsWithAReason) {
  StartServer();
  const auto gang = StartGang(Gang());
  const auto kInvalid = grpc::StatusCode::INVALID_ARGUMENT;
  ExpectRefused(Request("", 5), kInvalid, "the prompt is empty");
  ExpectRefused(Request("a", 0), kInvalid, "max_tokens is 0");
  ExpectRefused(Request(std::string(300, 'x'), 1), kInvalid, "has 300 tokens; the context of 256");
  ExpectRefused(Request(std::string(200, 'x'), 57), kInvalid, "at most 56");
  ExpectRefused({}, kInvalid, "neither prompt nor prompt_token_ids");
  v1::GenerateRequest request = Request("a", 5);
  request.mutable_prompt_token_ids()->add_ids(260);
  ExpectRefused(request, kInvalid, "token id 260");
  request = Request("a", 5);
  request.mutable_sampling()->set_temperature(-1);
  ExpectRefused(request, kInvalid, "temperature is -1");
  request = Request("a", 5);
  request.set_request_id(std::string(129, 'i'));
  ExpectRefused(request, kInvalid, "request_id");

  grpc::ClientContext context;
  v1::ChatRequest chat;
  chat.add_messages()->set_role("user");
  const auto stream = stub_->Chat(&context, chat);
  v1::GenerateResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(ServerTest, TextThatIsNotUtf8IsAnInvalidArgument) {
  StartServer();
  const auto gang = StartGang(Gang());
  // Field 1 (prompt), two bytes that are no UTF-8: written by hand, as protobuf would warn.
  std::string answer;
  const grpc::Status status =
      CallRaw("/trireme.v1.Inference/Generate", "\x0A\x02\xC3\x28", &answer);
  EXPECT_EQ(answer, "");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_NE(status.error_message().find("UTF-8"), std::string::npos) << status.error_message();
}

TEST_F(ServerTest, TokenizesAndDetokenizes) {
  StartServer();
  v1::TokenizeRequest text;
  text.set_text("h\xC3\xA9<s>");
  v1::TokenizeResponse ids;
  grpc::ClientContext first;
  ASSERT_TRUE(stub_->Tokenize(&first, text, &ids).ok());
  EXPECT_EQ(std::vector<int32_t>(ids.token_ids().begin(), ids.token_ids().end()),
            (std::vector<int32_t>{'h', 0xC3, 0xA9, 256}));
  EXPECT_EQ(ids.max_model_len(), kContext);
  v1::DetokenizeRequest back;
  *back.mutable_token_ids() = ids.token_ids();
  v1::DetokenizeResponse decoded;
  grpc::ClientContext second;
  ASSERT_TRUE(stub_->Detokenize(&second, back, &decoded).ok());
  EXPECT_EQ(decoded.text(), text.text());
  back.add_token_ids(-1);
  grpc::ClientContext third;
  EXPECT_EQ(stub_->Detokenize(&third, back, &decoded).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

// Whose threads also carry the workers' signs of life: with two CPUs gRPC has two.
TEST_F(ServerTest, LongTextsDoNotHoldUpOthers) {
  StartServer();
  v1::TokenizeRequest text;
  for (int i = 0; i < 3'000'000; ++i) text.mutable_text()->append(" text");
  std::atomic<int> done = 0;
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([&] {
      grpc::ClientContext context;
      v1::TokenizeResponse ids;
      const auto stub =
          v1::Inference::NewStub(grpc::CreateChannel(address_, grpc::InsecureChannelCredentials()));
      stub->Tokenize(&context, text, &ids);  // the answer may be too long
      ++done;
    });
  }
  std::this_thread::sleep_for(milliseconds(50));
  grpc::ClientContext context;
  v1::GetModelResponse model;
  EXPECT_TRUE(stub_->GetModel(&context, {}, &model).ok());
  EXPECT_LT(done, 2);
  for (std::thread& client : clients) client.join();
}

TEST_F(ServerTest, CancelAndDeadlineFreeTheSequence) {
  StartServer();
  FakeGangOptions options = Gang();
  options.step_delay = milliseconds(20);
  const auto gang = StartGang(options);
  grpc::ClientContext cancelled;
  const Answer answer = Ask(Request("cancel", 250), cancelled, [&](const Answer& so_far) {
    if (so_far.messages == 3) cancelled.TryCancel();
  });
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(GoesIdle(*gang));
  EXPECT_LT(gang->steps(), 30u);

  grpc::ClientContext late;
  late.set_deadline(std::chrono::system_clock::now() + milliseconds(150));
  EXPECT_EQ(Ask(Request("late", 250), late).status.error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(GoesIdle(*gang));
  EXPECT_LT(gang->steps(), 60u);
  EXPECT_TRUE(Ask(Request("next", 5)).status.ok());
}

TEST_F(ServerTest, ALostGangCostsAPauseNotTheRequest) {
  StartServer();
  FakeGangOptions options = Gang();
  options.tp = 2;
  options.step_delay = milliseconds(5);
  std::unique_ptr<FakeGang> gang = StartGang(options);
  EXPECT_EQ(gang->epoch(), 1u);
  grpc::ClientContext context;
  v1::GenerateRequest request = Request("replay", 100, 11);
  request.mutable_sampling()->set_n(2);
  const Answer answer = Ask(request, context, [&](const Answer& so_far) {
    if (so_far.messages != 20) return;
    gang->Kill();
    options.gang_id = "second";
    gang = StartGang(options);
    EXPECT_EQ(gang->epoch(), 2u);
  });
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.texts[0], FakeText("replay", 11, 100));
  EXPECT_EQ(answer.texts[1], FakeText("replay", 12, 100));
  EXPECT_EQ(answer.usage.completion_tokens(), 200u);
}

TEST_F(ServerTest, WithoutWorkersRequestsAreRefusedOrGivenUp) {
  options_.gang_timeout = milliseconds(100);
  StartServer();
  ExpectRefused(Request("a", 5), grpc::StatusCode::UNAVAILABLE, "trireme-worker --coordinator");
  grpc::ClientContext hinted;
  Ask(Request("a", 5), hinted);
  EXPECT_EQ(hinted.GetServerTrailingMetadata().count("retry-after"), 1u);
  FakeGangOptions options = Gang();
  options.step_delay = milliseconds(20);
  const auto gang = StartGang(options);
  grpc::ClientContext context;
  const Answer answer = Ask(Request("given up", 200), context, [&](const Answer& so_far) {
    if (so_far.messages == 2) gang->Kill();
  });
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_NE(answer.status.error_message().find("none came back"), std::string::npos);
}

TEST_F(ServerTest, NewRequestsWaitForAGangThatIsStartedAnew) {
  options_.max_waiting = 4;
  StartServer();
  std::unique_ptr<FakeGang> gang = StartGang(Gang());
  gang->Kill();
  while (server_->engine().ready()) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_EQ(server_->engine().max_model_len(), kContext);
  std::vector<std::thread> clients;
  std::atomic<int> right = 0;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([this, i, &right] {
      const Answer answer = Ask(Request("between", 40, i));
      EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
      right += answer.texts[0] == FakeText("between", i, 40);
    });
  }
  while (server_->engine().Stats().waiting() < 4) std::this_thread::sleep_for(milliseconds(1));
  ExpectRefused(Request("a", 5), grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue is full");
  FakeGangOptions second = Gang();
  second.gang_id = "second";
  gang = StartGang(second);
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(right, 4);
}

TEST_F(ServerTest, NobodyWaitsForAGangThatDoesNotComeBack) {
  options_.gang_timeout = milliseconds(200);
  StartServer();
  StartGang(Gang())->Kill();
  while (server_->engine().ready()) std::this_thread::sleep_for(milliseconds(1));
  ExpectRefused(Request("a", 5), grpc::StatusCode::UNAVAILABLE, "none came back within 0.2 s");
  ExpectRefused(Request("a", 5), grpc::StatusCode::UNAVAILABLE, "no workers are ready");
}

v1::LoadingRank LoadingRank(uint64_t bytes) {
  v1::LoadingRank rank;
  rank.set_host("a");
  rank.set_bytes_total(1'000'000);
  rank.set_bytes_done(bytes);
  return rank;
}

// 180 GB take longer than the gang timeout.
TEST_F(ServerTest, RequestsWaitForAGangThatLoads) {
  options_.gang_timeout = milliseconds(500);
  StartServer();
  StartGang(Gang())->Kill();
  while (server_->engine().ready()) std::this_thread::sleep_for(milliseconds(1));
  Answer answer;
  std::thread client([&] { answer = Ask(Request("later", 40, 3)); });
  const auto stub = v1::Loading::NewStub(channel_);
  for (uint64_t bytes = 1; bytes <= 20; ++bytes) {
    grpc::ClientContext context;
    v1::LoadingReported reported;
    EXPECT_TRUE(stub->Report(&context, LoadingRank(bytes), &reported).ok());
    std::this_thread::sleep_for(milliseconds(50));
  }
  FakeGangOptions second = Gang();
  second.gang_id = "second";
  const std::unique_ptr<FakeGang> gang = StartGang(second);
  client.join();
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.texts[0], FakeText("later", 3, 40));
}

// It may load again and again, and never serve.
TEST_F(ServerTest, NobodyWaitsForeverForAGangThatLoads) {
  options_.gang_timeout = milliseconds(50);
  StartServer();
  StartGang(Gang())->Kill();
  while (server_->engine().ready()) std::this_thread::sleep_for(milliseconds(1));
  std::atomic<bool> over = false;
  Answer answer;
  std::thread client([&] {
    answer = Ask(Request("in vain", 40));
    over = true;
  });
  const auto stub = v1::Loading::NewStub(channel_);
  for (uint64_t bytes = 1; bytes <= 2000 && !over; ++bytes) {
    grpc::ClientContext context;
    v1::LoadingReported reported;
    EXPECT_TRUE(stub->Report(&context, LoadingRank(bytes), &reported).ok());
    std::this_thread::sleep_for(milliseconds(5));
  }
  EXPECT_TRUE(over);
  client.join();
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(ServerTest, AGangThatIsStuckOrLiesIsLost) {
  options_.step_timeout = milliseconds(100);
  options_.gang_timeout = milliseconds(50);
  StartServer();
  FakeGangOptions stuck = Gang();
  stuck.step_delay = milliseconds(400);
  {
    const auto gang = StartGang(stuck);
    ExpectRefused(Request("stuck", 5), grpc::StatusCode::UNAVAILABLE, "it is stuck");
    EXPECT_TRUE(gang->Join(0).ok());
    EXPECT_NE(gang->shutdown_reason(0).find("stuck"), std::string::npos);
  }
  FakeGangOptions liar = Gang();
  liar.spoil = [](v1::StepResult& result) { result.mutable_tokens(0)->set_token_id(260); };
  const auto gang = StartGang(liar);
  ExpectRefused(Request("liar", 5), grpc::StatusCode::UNAVAILABLE, "outside of the vocabulary");
}

TEST_F(ServerTest, ARequestThatKillsItsWorkersIsGivenUp) {
  StartServer();
  std::atomic<bool> over = false;
  std::thread launcher([&] {  // starts a new gang whenever the last one has died
    for (int i = 0; !over; ++i) {
      FakeGangOptions options = Gang();
      options.gang_id = absl::StrCat("gang", i);
      options.spoil = [](v1::StepResult& result) { result.set_step(99); };
      FakeGang gang(options);
      while (!over && gang.steps() == 0) std::this_thread::sleep_for(milliseconds(1));
      if (!over) gang.Join(0);
    }
  });
  while (!server_->engine().ready()) std::this_thread::sleep_for(milliseconds(1));
  ExpectRefused(Request("poison", 5), grpc::StatusCode::INTERNAL, "at least 4 times in a row");
  over = true;
  launcher.join();
}

TEST_F(ServerTest, RanksThatDoNotFitHearWhyAndNobodyElseNotices) {
  options_.max_model_len = 200;
  StartServer();
  FakeGangOptions other = Gang();
  other.gang_id = "wrong";
  other.change = [](v1::Register& registration) {
    registration.mutable_model()->set_hidden_size(65);
  };
  FakeGang wrong_model(other);
  EXPECT_EQ(wrong_model.Join(0).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_NE(wrong_model.Join(0).error_message().find("hidden_size 65"), std::string::npos);
  FakeGangOptions small = Gang();
  small.gang_id = "small";
  small.kv_blocks = 5;
  FakeGang too_small(small);
  EXPECT_NE(too_small.Join(0).error_message().find("context of 80"), std::string::npos);

  const auto gang = StartGang(Gang());
  FakeGangOptions second = Gang();
  second.gang_id = "second";
  second.change = [](v1::Register& registration) { registration.set_kv_cache_dtype("int8"); };
  FakeGang refused(second);
  EXPECT_NE(refused.Join(0).error_message().find("kv_cache_dtype int8"), std::string::npos);

  const grpc::Slice slice(std::string("\xFF\xFF\xFF not a message"));
  const grpc::ByteBuffer garbage(&slice, 1);
  grpc::ClientContext context;
  const grpc::internal::RpcMethod method("/trireme.v1.WorkerControl/Connect",
                                         grpc::internal::RpcMethod::BIDI_STREAMING, channel_);
  using Stream = grpc::ClientReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>;
  const std::unique_ptr<Stream> stream(
      grpc::internal::ClientReaderWriterFactory<grpc::ByteBuffer, grpc::ByteBuffer>::Create(
          channel_.get(), method, &context));
  stream->Write(garbage);
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(Ask(Request("still there", 20)).status.ok());
}

// gRPC's own parsing would answer UNIMPLEMENTED.
TEST_F(ServerTest, AMalformedMessageOfAnOperatorIsNamed) {
  StartServer();
  const grpc::Slice slice(std::string("\xFF\xFF\xFF not a message"));
  const grpc::ByteBuffer garbage(&slice, 1);
  for (const char* call : {"Cluster/ListRanks", "Cluster/GetStats", "Cluster/Drain",
                           "Cluster/Uncordon", "Loading/Report"}) {
    grpc::ClientContext context;
    const std::string path = absl::StrCat("/trireme.v1.", call);
    const grpc::internal::RpcMethod method(path.c_str(), grpc::internal::RpcMethod::NORMAL_RPC,
                                           channel_);
    grpc::ByteBuffer answer;
    const grpc::Status status =
        grpc::internal::BlockingUnaryCall(channel_.get(), method, &context, garbage, &answer);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << call;
    EXPECT_NE(status.error_message().find("not a valid trireme.v1."), std::string::npos) << call;
  }
}

TEST_F(ServerTest, AFullQueueRefusesTheNext) {
  options_.max_num_seqs = 2;
  options_.max_waiting = 1;
  StartServer();
  FakeGangOptions options = Gang();
  options.step_delay = milliseconds(20);
  const auto gang = StartGang(options);
  v1::GenerateRequest three = Request("three", 200);
  three.mutable_sampling()->set_n(3);
  grpc::ClientContext context;
  const Answer answer = Ask(three, context, [&](const Answer& so_far) {
    if (so_far.messages != 1) return;
    grpc::ClientContext refused;
    const Answer full = Ask(Request("a", 5), refused);
    EXPECT_EQ(full.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_NE(full.status.error_message().find("the queue is full"), std::string::npos);
    EXPECT_EQ(refused.GetServerTrailingMetadata().count("retry-after"), 1u);
    EXPECT_EQ(refused.GetServerTrailingMetadata().count("grpc-retry-pushback-ms"), 1u);
    context.TryCancel();
  });
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::CANCELLED);
}

class SlowReaderTest : public ServerTest {
 protected:
  // Continuations that come to far more than a stream buffers.
  void StartSlow() {
    nlohmann::json config = nlohmann::json::parse(std::ifstream(model_.path() / "config.json"));
    config["max_position_embeddings"] = 4096;
    model_.Write("config.json", config);
    options_.max_num_seqs = 17;
    StartServer();
    FakeGangOptions options = Gang();
    options.max_model_len = 4096;
    options.kv_blocks = 17 * 4096 / 16;
    gang_ = StartGang(options);
    request_ = Request("slow", 4000);
    request_.mutable_sampling()->set_n(16);
    request_.mutable_sampling()->set_logprobs(20);
  }

  std::unique_ptr<FakeGang> gang_;
  v1::GenerateRequest request_;
};

TEST_F(SlowReaderTest, APausedClientGoesOnWhereItWasAndDisturbsNobody) {
  StartSlow();
  grpc::ClientContext context;
  const auto stream = stub_->Generate(&context, request_);
  while (gang_->steps() == 0) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_TRUE(GoesIdle(*gang_));
  EXPECT_LT(gang_->steps(), 4000u);
  EXPECT_EQ(Ask(Request("quick", 50)).texts[0], FakeText("quick", 0, 50));
  std::vector<std::string> texts(16);
  v1::GenerateResponse response;
  while (stream->Read(&response)) texts[response.index()] += response.text();
  EXPECT_TRUE(stream->Finish().ok());
  for (uint32_t i = 0; i < 16; ++i) EXPECT_EQ(texts[i], FakeText("slow", i, 4000)) << i;
}

TEST_F(SlowReaderTest, AClientThatDoesNotReadIsGivenUp) {
  options_.client_timeout = milliseconds(300);
  StartSlow();
  grpc::ClientContext context;
  const auto stream = stub_->Generate(&context, request_);
  while (gang_->steps() == 0) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_TRUE(GoesIdle(*gang_));
  EXPECT_LT(gang_->steps(), 4000u);
  v1::GenerateResponse response;
  while (stream->Read(&response)) EXPECT_FALSE(response.has_usage());
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_NE(status.error_message().find("reads too slowly"), std::string::npos);
}

TEST_F(ServerTest, HealthFollowsTheGang) {
  StartServer();
  // The second byte of a HealthCheckResponse: 1 is SERVING, 2 is NOT_SERVING.
  const auto health = [this](const std::string& service) {
    std::string answer;
    const std::string size(1, static_cast<char>(service.size()));
    const grpc::Status status =
        CallRaw("/grpc.health.v1.Health/Check", "\x0A" + size + service, &answer);
    return status.ok() && answer.size() == 2 ? int{answer[1]} : -1;
  };
  for (const char* service : {"", "trireme.v1.Inference"}) EXPECT_EQ(health(service), 2);
  {
    const auto gang = StartGang(Gang());
    for (const char* service : {"", "trireme.v1.Inference"}) EXPECT_EQ(health(service), 1);
  }
  while (server_->engine().ready()) std::this_thread::sleep_for(milliseconds(1));
  std::this_thread::sleep_for(milliseconds(20));
  EXPECT_EQ(health(""), 2);
  EXPECT_EQ(health("nothing"), -1);
}

TEST_F(ServerTest, LogprobsComeWithEveryToken) {
  StartServer();
  const auto gang = StartGang(Gang());
  v1::GenerateRequest request = Request("logprobs", 30);
  request.mutable_sampling()->set_logprobs(2);
  grpc::ClientContext context;
  const auto stream = stub_->Generate(&context, request);
  v1::GenerateResponse response;
  int tokens = 0;
  while (stream->Read(&response)) {
    ASSERT_EQ(response.token_ids_size(), response.logprobs_size());
    for (int i = 0; i < response.logprobs_size(); ++i) {
      EXPECT_EQ(response.logprobs(i).chosen().token_id(), response.token_ids(i));
      EXPECT_EQ(response.logprobs(i).chosen().token()[0], response.token_ids(i));
      EXPECT_EQ(response.logprobs(i).top_size(), 2);
    }
    tokens += response.token_ids_size();
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(tokens, 30);
}

TEST_F(ServerTest, ShutdownIsOrderly) {
  StartServer();
  FakeGangOptions options = Gang();
  options.tp = 2;
  options.step_delay = milliseconds(20);
  const auto gang = StartGang(options);
  std::thread stopper;
  grpc::ClientContext context;
  const auto start = std::chrono::steady_clock::now();
  const Answer answer = Ask(Request("a", 200), context, [&](const Answer& so_far) {
    if (so_far.messages == 2) stopper = std::thread([this] { server_->Shutdown("maintenance"); });
  });
  stopper.join();
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(4));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(answer.status.error_message(), "maintenance");
  EXPECT_TRUE(gang->Join(0).ok());
  EXPECT_EQ(gang->shutdown_reason(1), "maintenance");
  EXPECT_EQ(context.GetServerTrailingMetadata().count("retry-after"), 1u);
}

TEST_F(ServerTest, ARequestThatComesAfterTheEndIsToBeTriedAgain) {
  StartServer();
  server_->engine().Stop("maintenance");
  grpc::ClientContext context;
  const Answer answer = Ask(Request("a", 5), context);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(context.GetServerTrailingMetadata().count("retry-after"), 1u);
}

TEST_F(ServerTest, WorkersThatAreKeptAreNotToldToEnd) {
  options_.keep_workers = true;
  StartServer();
  const auto gang = StartGang(Gang());
  server_->Shutdown("maintenance");
  EXPECT_EQ(gang->Join(0).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(gang->shutdown_reason(0), "");
}

TEST_F(ServerTest, BadStartsSayWhatIsWrong) {
  StartServer();
  const auto error = [this] { return std::string(Server::Start(options_).status().message()); };
  options_.address = address_;
  EXPECT_NE(error().find("port is in use"), std::string::npos) << error();
  options_.address = "0.0.0.0:0";
  EXPECT_NE(error().find("--insecure"), std::string::npos) << error();
  options_.address = "nonsense";
  EXPECT_NE(error().find("HOST:PORT"), std::string::npos) << error();
  options_.address = "127.0.0.1:0";
  options_.max_model_len = 257;
  EXPECT_NE(error().find("--max-model-len 257"), std::string::npos) << error();
  options_.max_model_len.reset();
  options_.max_num_batched_tokens = 7;
  EXPECT_NE(error().find("--max-num-batched-tokens"), std::string::npos) << error();
  nlohmann::json config = nlohmann::json::parse(std::ifstream(model_.path() / "config.json"));
  config["vocab_size"] = 200;
  config["eos_token_id"] = 1;
  model_.Write("config.json", config);
  EXPECT_NE(error().find("tokenizer.json has 257 tokens"), std::string::npos) << error();
}

}  // namespace
}  // namespace trireme
