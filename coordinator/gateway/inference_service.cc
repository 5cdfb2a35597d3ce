#include "coordinator/gateway/inference_service.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <ctime>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "coordinator/gateway/wire.h"
#include "coordinator/prefix_hash.h"
#include "coordinator/retry_hint.h"

namespace trireme {
namespace {

constexpr size_t kRequestIdBytesMax = 128;

uint64_t DrawSeed() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

// What the client asks for: the same for a call that goes on with an answer. The method's name
// keeps those apart that look alike.
template <typename Request>
std::string Fingerprint(const Request& request) {
  Request asked = request;
  asked.clear_idempotency_key();
  asked.clear_tokens_received();
  asked.clear_request_id();
  std::string bytes = Request::descriptor()->full_name();
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    asked.SerializeToCodedStream(&coded);
  }
  const BlockHash hash = HashNamespace(HashKey{}, bytes);
  return absl::StrCat(absl::Hex(hash.high, absl::kZeroPad16),
                      absl::Hex(hash.low, absl::kZeroPad16));
}

// Without max_tokens, the answer's were decided when it began.
absl::Status CheckReceived(const PreparedRequest& prepared, bool has_max_tokens) {
  const std::vector<uint32_t>& received = prepared.tokens_received;
  if (prepared.idempotency_key.empty()) {
    if (received.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError("tokens_received without an idempotency_key");
  }
  const uint32_t most = received.empty() ? 0 : *std::max_element(received.begin(), received.end());
  if (received.size() > prepared.sampling.n ||
      (has_max_tokens && most > prepared.sampling.max_tokens)) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokens_received names ", received.size(), " continuations and up to ", most,
                     " tokens; this request has ", prepared.sampling.n, " of at most ",
                     prepared.sampling.max_tokens));
  }
  if (prepared.sampling.step.has_prompt_logprobs()) {
    return absl::UnimplementedError("unsupported: prompt_logprobs with an idempotency_key");
  }
  return absl::OkStatus();
}

size_t NumThreads() { return std::clamp(std::thread::hardware_concurrency() / 2, 2U, 16U); }

// What may wait to be tokenised: a queue before the engine's, which is bounded in sequences.
constexpr size_t kDeferredBytesMax = size_t{512} << 20;
constexpr size_t kCallBytes = 16 << 10;  // about, beside its request

template <typename Message>
grpc::Status Fill(const absl::StatusOr<Message>& message, grpc::ByteBuffer& response) {
  if (message.ok()) response = SerializeMessage(*message);
  return ToGrpcStatus(message.status());
}

}  // namespace

InferenceService::InferenceService(const ServedModel& model, Engine& engine, KeyedRequests& keyed)
    : model_(model), engine_(engine), keyed_(keyed), threads_(NumThreads()) {}

InferenceService::~InferenceService() { threads_.join(); }

absl::Status InferenceService::Defer(size_t bytes, std::function<void()> work) {
  bytes += kCallBytes;
  if (deferred_bytes_ += bytes; deferred_bytes_ > kDeferredBytesMax) {
    deferred_bytes_ -= bytes;
    return WithRetry(absl::ResourceExhaustedError(absl::StrCat(
                         kDeferredBytesMax >> 20,
                         " MiB of requests wait to be tokenised or found; try again later")),
                     kNoGangRetryMs);
  }
  boost::asio::post(threads_, [this, bytes, work = std::move(work)] {
    work();
    deferred_bytes_ -= bytes;
  });
  return absl::OkStatus();
}

ResponseWriter* InferenceService::Generate(grpc::CallbackServerContext* context,
                                           const grpc::ByteBuffer* request) {
  return StartCall(context, *request, &InferenceService::PrepareGenerate);
}

ResponseWriter* InferenceService::Chat(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request) {
  return StartCall(context, *request, &InferenceService::PrepareChat);
}

ResponseWriter* InferenceService::StartCall(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer& request,
    Prepared (InferenceService::*prepare)(const grpc::ByteBuffer&)) {
  const std::shared_ptr<GenerateCall> call = GenerateCall::Create(context, model_);
  // The copy shares the bytes.
  const absl::Status deferred = Defer(request.Length(), [this, call, request, prepare] {
    if (call->over()) return;
    Prepared prepared = (this->*prepare)(request);
    if (!prepared.ok()) {
      call->OnError(prepared.status());
    } else if (!prepared->idempotency_key.empty()) {
      keyed_.Start(call, *prepared);
    } else {
      call->Submit(engine_, *std::move(prepared));
    }
  });
  if (!deferred.ok()) call->OnError(deferred);
  return call.get();
}

grpc::ServerUnaryReactor* InferenceService::StartUnary(grpc::CallbackServerContext* context,
                                                       size_t bytes,
                                                       std::function<grpc::Status()> answer) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::Status deferred =
      Defer(bytes, [reactor, answer = std::move(answer)] { reactor->Finish(answer()); });
  if (!deferred.ok()) reactor->Finish(ToGrpcStatus(deferred));
  return reactor;
}

grpc::ServerUnaryReactor* InferenceService::Forget(grpc::CallbackServerContext* context,
                                                   const v1::ForgetRequest* request,
                                                   v1::ForgetResponse*) {
  return StartUnary(context, request->ByteSizeLong(), [this, request] {
    const absl::Status status = CheckIdempotencyKey(request->idempotency_key());
    return ToGrpcStatus(status.ok() ? keyed_.Forget(request->tenant(), request->idempotency_key())
                                    : status);
  });
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request,
                                                     grpc::ByteBuffer* response) {
  return StartUnary(context, request->Length(),
                    [this, request, response] { return Fill(DoTokenize(*request), *response); });
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request,
                                                       grpc::ByteBuffer* response) {
  return StartUnary(context, request->Length(),
                    [this, request, response] { return Fill(DoDetokenize(*request), *response); });
}

grpc::ServerUnaryReactor* InferenceService::GetModel(grpc::CallbackServerContext* context,
                                                     const v1::GetModelRequest*,
                                                     v1::GetModelResponse* response) {
  response->set_name(model_.name);
  response->set_architecture(model_.config.architecture);
  response->set_parameters(model_.config.NumParameters());
  response->set_max_model_len(engine_.max_model_len());
  response->set_model_context(static_cast<uint32_t>(model_.config.max_position_embeddings));
  response->set_vocab_size(model_.vocab_size());
  response->set_has_chat_template(model_.chat_template.has_value());
  response->set_no_chat_template_reason(model_.no_chat_template_reason);
  response->set_has_sampling_defaults(model_.sampling.stated);
  response->set_ready(engine_.ready());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

absl::StatusOr<PreparedRequest> InferenceService::PrepareGenerate(const grpc::ByteBuffer& bytes) {
  v1::GenerateRequest request;
  RETURN_IF_ERROR(ParseMessage(bytes, request));
  std::vector<int32_t> prompt;
  if (request.has_prompt_token_ids()) {
    const auto& ids = request.prompt_token_ids().ids();
    RETURN_IF_ERROR(CheckTokenIds(ids));
    prompt.assign(ids.begin(), ids.end());
  } else if (request.has_prompt()) {
    const bool add_special = !request.has_add_special_tokens() || request.add_special_tokens();
    ASSIGN_OR_RETURN(
        prompt, model_.tokenizer.Encode(request.prompt(), {.add_special_tokens = add_special}));
  } else {
    return absl::InvalidArgumentError("the request has neither prompt nor prompt_token_ids");
  }
  return Prepare(request, std::move(prompt));
}

absl::StatusOr<PreparedRequest> InferenceService::PrepareChat(const grpc::ByteBuffer& bytes) {
  v1::ChatRequest request;
  RETURN_IF_ERROR(ParseMessage(bytes, request));
  ASSIGN_OR_RETURN(std::vector<int32_t> prompt, EncodeChat(request.messages()));
  return Prepare(request, std::move(prompt));
}

template <typename Request>
absl::StatusOr<PreparedRequest> InferenceService::Prepare(const Request& request,
                                                          std::vector<int32_t> prompt) {
  const std::string& request_id = request.request_id();
  const v1::Scheduling& scheduling = request.scheduling();
  if (request_id.size() > kRequestIdBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("request_id has ", request_id.size(), " bytes; at most ", kRequestIdBytesMax));
  }
  if (scheduling.tenant().size() > kRequestIdBytesMax ||
      scheduling.cache_salt().size() > kRequestIdBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("tenant and cache_salt have at most ", kRequestIdBytesMax, " bytes"));
  }
  if (!v1::Priority_IsValid(scheduling.priority())) {
    return absl::InvalidArgumentError(
        absl::StrCat("priority ", static_cast<int>(scheduling.priority()), " is not known"));
  }
  PreparedRequest prepared;
  prepared.scheduling = scheduling;
  prepared.request_id = request_id.empty() ? absl::StrCat("request-", next_request_number_++)
                                           : absl::CHexEscape(request_id);
  uint64_t seed = 0;
  if (request.idempotency_key().empty()) {
    seed = DrawSeed();
  } else {
    RETURN_IF_ERROR(CheckIdempotencyKey(request.idempotency_key()));
    prepared.idempotency_key = request.idempotency_key();
    prepared.fingerprint = Fingerprint(request);
    seed = SeedOfKey(scheduling.tenant(), request.idempotency_key());
  }
  prepared.tokens_received.assign(request.tokens_received().begin(),
                                  request.tokens_received().end());
  const auto resolve = [&](uint32_t max_model_len) {
    return ResolveSampling(request.sampling(),
                           {.defaults = &model_.sampling,
                            .prompt_tokens = static_cast<uint32_t>(prompt.size()),
                            .max_model_len = max_model_len,
                            .default_model_len = engine_.default_model_len(),
                            .vocab_size = model_.vocab_size(),
                            .drawn_seed = seed});
  };
  absl::StatusOr<ResolvedSampling> sampling = resolve(engine_.max_model_len());
  if (!sampling.ok() && !prepared.idempotency_key.empty()) {
    // What has begun was not too large for a gang that may come back: the engine knows.
    absl::StatusOr<ResolvedSampling> begun =
        resolve(static_cast<uint32_t>(model_.config.max_position_embeddings));
    if (begun.ok()) sampling = std::move(begun);
  }
  ASSIGN_OR_RETURN(prepared.sampling, std::move(sampling));
  RETURN_IF_ERROR(CheckReceived(prepared, request.sampling().has_max_tokens()));
  prepared.prompt = std::move(prompt);
  return prepared;
}

absl::StatusOr<std::vector<int32_t>> InferenceService::EncodeChat(
    const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages) const {
  if (!model_.chat_template.has_value()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "model ", model_.name, " cannot chat, use Generate: ", model_.no_chat_template_reason));
  }
  if (messages.empty()) return absl::InvalidArgumentError("the conversation has no message");
  ChatInput input;
  input.messages = nlohmann::ordered_json::array();
  for (const v1::ChatMessage& message : messages) {
    if (message.role().empty()) return absl::InvalidArgumentError("a message has no role");
    nlohmann::ordered_json entry;
    entry["role"] = message.role();
    entry["content"] = message.content();
    input.messages.push_back(std::move(entry));
  }
  input.now_unix_s = std::time(nullptr);
  ASSIGN_OR_RETURN(const std::string text, model_.chat_template->Render(input));
  // The template writes the special tokens itself.
  return model_.tokenizer.Encode(text, {.add_special_tokens = false});
}

absl::StatusOr<v1::TokenizeResponse> InferenceService::DoTokenize(
    const grpc::ByteBuffer& bytes) const {
  v1::TokenizeRequest request;
  RETURN_IF_ERROR(ParseMessage(bytes, request));
  std::vector<int32_t> ids;
  if (request.has_chat()) {
    ASSIGN_OR_RETURN(ids, EncodeChat(request.chat().messages()));
  } else {
    const bool add_special = !request.has_add_special_tokens() || request.add_special_tokens();
    ASSIGN_OR_RETURN(ids,
                     model_.tokenizer.Encode(request.text(), {.add_special_tokens = add_special}));
  }
  v1::TokenizeResponse response;
  response.mutable_token_ids()->Add(ids.begin(), ids.end());
  response.set_max_model_len(engine_.max_model_len());
  return response;
}

absl::StatusOr<v1::DetokenizeResponse> InferenceService::DoDetokenize(
    const grpc::ByteBuffer& bytes) const {
  v1::DetokenizeRequest request;
  RETURN_IF_ERROR(ParseMessage(bytes, request));
  RETURN_IF_ERROR(CheckTokenIds(request.token_ids()));
  const std::vector<int32_t> ids(request.token_ids().begin(), request.token_ids().end());
  v1::DetokenizeResponse response;
  response.set_text(model_.tokenizer.Decode(ids, request.skip_special_tokens()));
  return response;
}

absl::Status InferenceService::CheckTokenIds(
    const google::protobuf::RepeatedField<int32_t>& ids) const {
  for (const int32_t id : ids) {
    if (id < 0 || static_cast<uint32_t>(id) >= model_.vocab_size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", id, " is outside of the vocabulary of ", model_.vocab_size()));
    }
  }
  return absl::OkStatus();
}

}  // namespace trireme
