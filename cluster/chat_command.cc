// trireme chat: a conversation at the terminal.

#include <unistd.h>

#include <iostream>
#include <memory>
#include <string>

#include "cluster/client.h"
#include "cluster/command.h"
#include "cluster/sampling_flags.h"

namespace trireme {
namespace {

struct ChatFlags {
  std::string server = kDefaultServer;
  std::string question;
  std::string system;
  SamplingFlags sampling;
};

// The messages so far, and the calls that continue them.
class Conversation {
 public:
  explicit Conversation(const ChatFlags& flags)
      : flags_(flags), stub_(v1::Inference::NewStub(ConnectTo(flags.server))) {
    *request_.mutable_sampling() = flags.sampling.Params();
    *request_.mutable_scheduling() = flags.sampling.Scheduling();
    Reset();
  }

  void Reset() {
    request_.clear_messages();
    if (!flags_.system.empty()) Add("system", flags_.system);
  }

  // Streams the answer. A cancelled answer stays in the conversation as far as it got; a failed
  // question does not.
  int Ask(const std::string& question) {
    Add("user", question);
    grpc::ClientContext context;
    const InterruptScope interrupt(context);
    const auto reader = stub_->Chat(&context, request_);
    std::string answer;
    const grpc::Status status = ReadResponses(*reader, [&](const v1::GenerateResponse& response) {
      answer += response.text();
      std::cout << response.text() << std::flush;
    });
    if (!answer.empty()) std::cout << std::endl;
    if (!status.ok() && !interrupt.interrupted()) {
      request_.mutable_messages()->RemoveLast();
      return ReportError(flags_.server, status, context);
    }
    Add("assistant", answer);
    return 0;
  }

 private:
  void Add(const std::string& role, const std::string& content) {
    v1::ChatMessage& message = *request_.add_messages();
    message.set_role(role);
    message.set_content(content);
  }

  const ChatFlags& flags_;
  std::unique_ptr<v1::Inference::Stub> stub_;
  v1::ChatRequest request_;
};

int RunChat(const ChatFlags& flags) {
  Conversation conversation(flags);
  if (!flags.question.empty()) return conversation.Ask(flags.question);
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
      conversation.Reset();
    } else if (line == "/help") {
      std::cout << "/reset  /exit  /help; anything else is said to the model" << std::endl;
    } else if (const int code = conversation.Ask(line); code != 0 && !terminal) {
      return code;
    }
  }
  if (terminal) std::cout << std::endl;
  return 0;
}

}  // namespace

void AddChatCommand(CLI::App& app, Command& chosen) {
  CLI::App* command = app.add_subcommand("chat", "Talk with the model; keeps the conversation");
  auto flags = std::make_shared<ChatFlags>();
  command->add_option("question", flags->question, "ask this one question and end");
  command->add_option("--server", flags->server, "HOST:PORT of the coordinator")
      ->envname("TRIREME_SERVER")
      ->capture_default_str();
  command->add_option("--system", flags->system, "system message");
  flags->sampling.Define(*command);
  command->callback([flags, &chosen] { chosen = [flags] { return RunChat(*flags); }; });
}

}  // namespace trireme
