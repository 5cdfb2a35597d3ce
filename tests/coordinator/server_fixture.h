#pragma once

#include <google/protobuf/stubs/logging.h>
#include <grpcpp/support/byte_buffer.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "coordinator/server.h"
#include "coordinator/text/byte_alphabet.h"
#include "coordinator/text/utf8.h"
#include "nlohmann/json.hpp"
#include "tests/coordinator/fake_gang.h"
#include "trireme/v1/cluster.grpc.pb.h"
#include "trireme/v1/inference.grpc.pb.h"

// A coordinator over real gRPC on loopback, and what tests of it share.

namespace trireme {

using std::chrono::milliseconds;
constexpr uint32_t kContext = 256;

// A model's directory without weights: a tokenizer of bytes, one end token.
class ModelDir {
 public:
  ModelDir() {
    std::string name = (std::filesystem::temp_directory_path() / "server_test_XXXXXX").string();
    path_ = mkdtemp(name.data());
    Write("config.json", nlohmann::json::parse(R"({
      "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
      "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
      "num_key_value_heads": 4, "vocab_size": 260, "max_position_embeddings": 256,
      "rms_norm_eps": 1e-5, "hidden_act": "silu", "eos_token_id": 122})"));  // 'z'
    nlohmann::json tokenizer = nlohmann::json::parse(R"({
      "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
      "post_processor": null, "decoder": {"type": "ByteLevel"},
      "added_tokens": [{"id": 256, "content": "<s>", "special": true}],
      "model": {"type": "BPE", "vocab": {}, "merges": []}})");
    for (int byte = 0; byte < 256; ++byte) {
      std::string symbol;
      AppendUtf8(ByteToSymbol(static_cast<uint8_t>(byte)), symbol);
      tokenizer["model"]["vocab"][symbol] = byte;
    }
    Write("tokenizer.json", tokenizer);
  }
  ~ModelDir() { std::filesystem::remove_all(path_); }

  void Write(const std::string& name, const nlohmann::json& json) const {
    std::ofstream(path_ / name) << json.dump();
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

struct Answer {
  grpc::Status status;
  std::vector<std::string> texts;
  std::vector<std::vector<int32_t>> ids;
  std::vector<v1::FinishReason> reasons;
  v1::Usage usage;
  size_t messages = 0;
};

// What the fake gang makes of a prompt, up to `count` tokens.
inline std::string FakeText(const std::string& prompt, uint64_t seed, size_t count) {
  std::vector<int32_t> tokens(prompt.begin(), prompt.end());
  std::string text;
  while (text.size() < count) {
    tokens.push_back(NextFakeToken(tokens, seed));
    text.push_back(static_cast<char>(tokens.back()));
  }
  return text;
}

inline v1::GenerateRequest Request(const std::string& prompt, uint32_t max_tokens,
                                   uint64_t seed = 0) {
  v1::GenerateRequest request;
  request.set_prompt(prompt);
  request.mutable_sampling()->set_max_tokens(max_tokens);
  request.mutable_sampling()->set_seed(seed);
  request.mutable_sampling()->set_ignore_eos(true);
  return request;
}

class ServerTest : public testing::Test {
 protected:
  ServerTest() {
    InitLog("server_test", LogLevel::kOff);
    google::protobuf::SetLogHandler(nullptr);  // a test sends text that is not UTF-8
    options_.model_dir = model_.path();
    options_.address = "127.0.0.1:0";
    options_.worker_timeout = std::chrono::minutes(1);  // fake gangs show no life between steps
    options_.max_num_seqs = 8;
    options_.max_num_batched_tokens = 64;
  }

  void StartServer() {
    absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(options_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    address_ = absl::StrCat("127.0.0.1:", server_->port());
    channel_ = grpc::CreateChannel(address_, grpc::InsecureChannelCredentials());
    stub_ = v1::Inference::NewStub(channel_);
  }

  FakeGangOptions Gang() const {
    return {.server = address_, .config = server_->model().config, .max_model_len = kContext};
  }

  std::unique_ptr<FakeGang> StartGang(const FakeGangOptions& options) {
    auto gang = std::make_unique<FakeGang>(options);
    EXPECT_TRUE(gang->WaitReady());
    return gang;
  }

  Answer Ask(
      const v1::GenerateRequest& request, grpc::ClientContext& context,
      const std::function<void(const Answer&)>& on_message = [](const Answer&) {}) {
    const uint32_t n = request.sampling().has_n() ? request.sampling().n() : 1;
    Answer answer;
    answer.texts.resize(n);
    answer.ids.resize(n);
    answer.reasons.resize(n);
    const auto stream = stub_->Generate(&context, request);
    v1::GenerateResponse response;
    while (stream->Read(&response)) {
      ++answer.messages;
      answer.texts[response.index()] += response.text();
      auto& ids = answer.ids[response.index()];
      ids.insert(ids.end(), response.token_ids().begin(), response.token_ids().end());
      answer.reasons[response.index()] = response.finish_reason();
      if (response.has_usage()) answer.usage = response.usage();
      on_message(answer);
    }
    answer.status = stream->Finish();
    return answer;
  }

  Answer Ask(const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    return Ask(request, context);
  }

  void ExpectRefused(const v1::GenerateRequest& request, grpc::StatusCode code,
                     const std::string& words) {
    const Answer answer = Ask(request);
    EXPECT_EQ(answer.status.error_code(), code) << answer.status.error_message();
    EXPECT_NE(answer.status.error_message().find(words), std::string::npos)
        << answer.status.error_message();
  }

  // Calls a method with hand-written bytes; one answer at most.
  grpc::Status CallRaw(const char* path, const std::string& request, std::string* answer) {
    const grpc::Slice slice(request);
    grpc::ClientContext context;
    const grpc::internal::RpcMethod method(path, grpc::internal::RpcMethod::SERVER_STREAMING,
                                           channel_);
    const std::unique_ptr<grpc::ClientReader<grpc::ByteBuffer>> reader(
        grpc::internal::ClientReaderFactory<grpc::ByteBuffer>::Create(
            channel_.get(), method, &context, grpc::ByteBuffer(&slice, 1)));
    grpc::ByteBuffer bytes;
    std::vector<grpc::Slice> slices;
    if (reader->Read(&bytes) && bytes.Dump(&slices).ok()) {
      for (const grpc::Slice& part : slices) answer->append(part.begin(), part.end());
    }
    return reader->Finish();
  }

  // Whether the gang comes to rest: nothing is scheduled any more.
  bool GoesIdle(const FakeGang& gang) {
    for (int i = 0; i < 50; ++i) {
      const uint64_t before = gang.steps();
      std::this_thread::sleep_for(milliseconds(400));
      if (gang.steps() == before) return true;
    }
    return false;
  }

  ModelDir model_;
  ServerOptions options_;
  std::unique_ptr<Server> server_;
  std::string address_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

}  // namespace trireme
