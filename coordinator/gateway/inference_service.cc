#include "coordinator/gateway/inference_service.h"

#include <ctime>
#include <random>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "coordinator/gateway/wire.h"

namespace trireme {
namespace {

constexpr size_t kRequestIdBytesMax = 128;

uint64_t DrawSeed() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

ResponseWriter* StartCall(grpc::CallbackServerContext* context, const ServedModel& model,
                          Engine& engine, absl::StatusOr<PreparedRequest> prepared) {
  if (!prepared.ok()) return GenerateCall::Fail(prepared.status());
  return GenerateCall::Start(context, model, engine, *std::move(prepared));
}

template <typename Message>
grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context,
                                 const absl::StatusOr<Message>& message,
                                 grpc::ByteBuffer* response) {
  if (message.ok()) *response = SerializeMessage(*message);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(message.status()));
  return reactor;
}

}  // namespace

ResponseWriter* InferenceService::Generate(grpc::CallbackServerContext* context,
                                           const grpc::ByteBuffer* request) {
  return StartCall(context, model_, engine_, PrepareGenerate(*request));
}

ResponseWriter* InferenceService::Chat(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request) {
  return StartCall(context, model_, engine_, PrepareChat(*request));
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request,
                                                     grpc::ByteBuffer* response) {
  return Answer(context, DoTokenize(*request), response);
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request,
                                                       grpc::ByteBuffer* response) {
  return Answer(context, DoDetokenize(*request), response);
}

grpc::ServerUnaryReactor* InferenceService::GetModel(grpc::CallbackServerContext* context,
                                                     const v1::GetModelRequest*,
                                                     v1::GetModelResponse* response) {
  response->set_name(model_.name);
  response->set_architecture(model_.config.architecture);
  response->set_parameters(model_.config.NumParameters());
  response->set_max_model_len(engine_.max_model_len());
  response->set_vocab_size(model_.vocab_size());
  response->set_has_chat_template(model_.chat_template.has_value());
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
  return Prepare(std::move(prompt), request.sampling(), request.request_id(), request.scheduling());
}

absl::StatusOr<PreparedRequest> InferenceService::PrepareChat(const grpc::ByteBuffer& bytes) {
  v1::ChatRequest request;
  RETURN_IF_ERROR(ParseMessage(bytes, request));
  ASSIGN_OR_RETURN(std::vector<int32_t> prompt, EncodeChat(request.messages()));
  return Prepare(std::move(prompt), request.sampling(), request.request_id(), request.scheduling());
}

absl::StatusOr<PreparedRequest> InferenceService::Prepare(std::vector<int32_t> prompt,
                                                          const v1::SamplingParams& params,
                                                          const std::string& request_id,
                                                          const v1::Scheduling& scheduling) {
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
  ASSIGN_OR_RETURN(prepared.sampling,
                   ResolveSampling(params, {.defaults = &model_.sampling,
                                            .prompt_tokens = static_cast<uint32_t>(prompt.size()),
                                            .max_model_len = engine_.max_model_len(),
                                            .vocab_size = model_.vocab_size(),
                                            .drawn_seed = DrawSeed()}));
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
