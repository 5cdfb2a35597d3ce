#include "cluster/conversation.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <iostream>

#include "cluster/client.h"

namespace trireme {
namespace {

constexpr std::chrono::seconds kTokenizeTimeout{10};

}  // namespace

Conversation::Conversation(const ConversationOptions& options)
    : options_(options), stub_(v1::Inference::NewStub(ConnectTo(options.server))) {
  *request_.mutable_sampling() = options.sampling;
  *request_.mutable_scheduling() = options.scheduling;
  Reset();
}

void Conversation::Reset() {
  request_.clear_messages();
  if (!options_.system.empty()) Add("system", options_.system);
}

int Conversation::Ask(const std::string& question) {
  v1::GenerateRequest text;
  text.set_prompt(question);
  *text.mutable_sampling() = options_.sampling;
  *text.mutable_scheduling() = options_.scheduling;
  if (options_.chat) {
    Add("user", question);
    MakeRoom();
  }
  v1::ChatRequest chat = request_;
  const auto start = [&](grpc::ClientContext& context, const std::string& key,
                         const std::vector<uint32_t>& received) {
    SetIdempotency(text, key, received);
    SetIdempotency(chat, key, received);
    return options_.chat ? stub_->Chat(&context, chat) : stub_->Generate(&context, text);
  };
  std::string answer;
  const AnswerOptions options = {.retry = options_.retry, .tenant = options_.scheduling.tenant()};
  const AnswerOutcome outcome =
      StreamAnswer(*stub_, options, start, [&](const v1::GenerateResponse& response) {
        answer += response.text();
        std::cout << response.text() << std::flush;
      });
  if (!answer.empty()) std::cout << std::endl;
  const bool failed = !outcome.status.ok() && !outcome.interrupted;
  if (options_.chat && failed) request_.mutable_messages()->RemoveLast();
  if (failed) return ReportError(options_.server, outcome.status, outcome.retry_after);
  if (options_.chat) Add("assistant", answer);
  return 0;
}

int Conversation::Run() {
  const bool terminal = isatty(STDIN_FILENO) != 0;
  if (terminal) {
    std::cout << "/reset starts anew, /exit or Ctrl-D ends, Ctrl-C stops an answer" << std::endl;
  }
  std::string line;
  while (true) {
    if (terminal) std::cout << "> " << std::flush;
    if (!std::getline(std::cin, line) || line == "/exit") break;
    if (line.empty()) continue;
    if (line == "/reset") {
      Reset();
    } else if (line == "/help") {
      std::cout << "/reset  /exit  /help; anything else is said to the model" << std::endl;
    } else if (const int code = Ask(line); code != 0 && !terminal) {
      return code;
    }
  }
  if (terminal) std::cout << std::endl;
  return 0;
}

void Conversation::MakeRoom() {
  const int first = options_.system.empty() ? 0 : 1;  // of the messages that may go
  v1::TokenizeRequest request;
  v1::ChatConversation& chat = *request.mutable_chat();
  *chat.mutable_messages() = request_.messages();
  int64_t tokens = 0;
  int64_t context = 0;
  const auto measure = [&] {
    grpc::ClientContext call;
    call.set_deadline(std::chrono::system_clock::now() + kTokenizeTimeout);
    v1::TokenizeResponse response;
    // The question itself will tell what is wrong.
    if (!stub_->Tokenize(&call, request, &response).ok()) return false;
    tokens = response.token_ids_size();
    context = response.max_model_len();
    return true;
  };
  if (chat.messages_size() == first + 1 || !measure()) return;
  const v1::SamplingParams& sampling = options_.sampling;
  const int64_t answer = sampling.has_max_tokens() ? sampling.max_tokens() : context / 4;
  if (tokens + answer <= context) return;
  // By half, so that not each question from now on changes what the prefix cache has.
  while (tokens > std::min(context / 2, context - answer) && chat.messages_size() > first + 1) {
    chat.mutable_messages()->DeleteSubrange(first, 2);
    if (!measure()) return;
  }
  const int64_t least = sampling.has_max_tokens() ? sampling.max_tokens() : 1;
  if (tokens + least > context) return;  // the question alone is too long
  std::cerr << "trireme: the conversation nearly fills the context of " << context
            << " tokens; its oldest " << request_.messages_size() - chat.messages_size()
            << " messages are forgotten" << std::endl;
  *request_.mutable_messages() = chat.messages();
}

void Conversation::Add(const std::string& role, const std::string& content) {
  v1::ChatMessage& message = *request_.add_messages();
  message.set_role(role);
  message.set_content(content);
}

}  // namespace trireme
