#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <boost/asio/thread_pool.hpp>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/engine.h"
#include "coordinator/gateway/generate_call.h"
#include "coordinator/gateway/keyed_requests.h"
#include "coordinator/served_model.h"
#include "trireme/v1/inference.grpc.pb.h"

namespace trireme {

// The methods that take text are raw (see gateway/wire.h).
using InferenceBase = v1::Inference::WithRawCallbackMethod_Generate<
    v1::Inference::WithRawCallbackMethod_Chat<v1::Inference::WithRawCallbackMethod_Tokenize<
        v1::Inference::WithRawCallbackMethod_Detokenize<v1::Inference::WithCallbackMethod_GetModel<
            v1::Inference::WithCallbackMethod_Forget<v1::Inference::Service>>>>>>;

// The clients' gRPC service: text to tokens, into the engine, and back (GenerateCall). Thread safe:
// gRPC calls it from its own threads. They are few, and carry the workers' signs of life: what
// may take long, a long prompt or the journal's disk, is done by threads of the service's own.
class InferenceService : public InferenceBase {
 public:
  InferenceService(const ServedModel& model, Engine& engine, KeyedRequests& keyed);
  ~InferenceService() override;

  ResponseWriter* Generate(grpc::CallbackServerContext* context,
                           const grpc::ByteBuffer* request) override;
  ResponseWriter* Chat(grpc::CallbackServerContext* context,
                       const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override;
  grpc::ServerUnaryReactor* Forget(grpc::CallbackServerContext* context,
                                   const v1::ForgetRequest* request,
                                   v1::ForgetResponse* response) override;

 private:
  absl::StatusOr<PreparedRequest> PrepareGenerate(const grpc::ByteBuffer& bytes);
  absl::StatusOr<PreparedRequest> PrepareChat(const grpc::ByteBuffer& bytes);
  // What both kinds of requests have, and the prompt.
  template <typename Request>
  absl::StatusOr<PreparedRequest> Prepare(const Request& request, std::vector<int32_t> prompt);
  // Does it by a thread of its own. RESOURCE_EXHAUSTED: too many bytes of requests wait for one.
  absl::Status Defer(size_t bytes, std::function<void()> work);

  using Prepared = absl::StatusOr<PreparedRequest>;
  ResponseWriter* StartCall(grpc::CallbackServerContext* context, const grpc::ByteBuffer& request,
                            Prepared (InferenceService::*prepare)(const grpc::ByteBuffer&));
  grpc::ServerUnaryReactor* StartUnary(grpc::CallbackServerContext* context, size_t bytes,
                                       std::function<grpc::Status()> answer);
  absl::StatusOr<std::vector<int32_t>> EncodeChat(
      const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages) const;
  absl::StatusOr<v1::TokenizeResponse> DoTokenize(const grpc::ByteBuffer& bytes) const;
  absl::StatusOr<v1::DetokenizeResponse> DoDetokenize(const grpc::ByteBuffer& bytes) const;
  absl::Status CheckTokenIds(const google::protobuf::RepeatedField<int32_t>& ids) const;

  const ServedModel& model_;
  Engine& engine_;
  KeyedRequests& keyed_;
  std::atomic<uint64_t> next_request_number_{1};
  std::atomic<size_t> deferred_bytes_{0};
  boost::asio::thread_pool threads_;
};

}  // namespace trireme
