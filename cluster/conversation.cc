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
  grpc::ClientContext context;
  const InterruptScope interrupt(context);
  std::unique_ptr<ResponseReader> reader;
  if (options_.chat) {
    Add("user", question);
    reader = stub_->Chat(&context, request_);
  } else {
    v1::GenerateRequest request;
    request.set_prompt(question);
    *request.mutable_sampling() = options_.sampling;
    *request.mutable_scheduling() = options_.scheduling;
    reader = stub_->Generate(&context, request);
  }
  std::string answer;
  const grpc::Status status = ReadResponses(*reader, [&](const v1::GenerateResponse& response) {
    answer += response.text();
    std::cout << response.text() << std::flush;
  });
  if (!answer.empty()) std::cout << std::endl;
  const bool failed = !status.ok() && !interrupt.interrupted();
  if (options_.chat && failed) request_.mutable_messages()->RemoveLast();
  if (failed) return ReportError(options_.server, status, context);
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
