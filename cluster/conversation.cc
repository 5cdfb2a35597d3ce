#include "cluster/conversation.h"

#include <unistd.h>

#include <iostream>

#include "cluster/client.h"

namespace trireme {

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
  if (options_.chat) Add("user", question);
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

void Conversation::Add(const std::string& role, const std::string& content) {
  v1::ChatMessage& message = *request_.add_messages();
  message.set_role(role);
  message.set_content(content);
}

}  // namespace trireme
