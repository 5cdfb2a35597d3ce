// trireme chat: a conversation with a running server.

#include <iostream>
#include <memory>
#include <string>

#include "cluster/client.h"
#include "cluster/command.h"
#include "cluster/conversation.h"
#include "cluster/sampling_flags.h"

namespace trireme {
namespace {

struct ChatFlags {
  std::string server = kDefaultServer;
  std::string question;
  std::string system;
  RetryFlags retry;
  SamplingFlags sampling;
};

int RunChat(const ChatFlags& flags) {
  if (flags.question.empty() && !flags.retry.idempotency_key.empty()) {
    std::cerr << "trireme: --idempotency-key names one request: give the question, too"
              << std::endl;
    return 1;
  }
  Conversation conversation({.server = flags.server,
                             .system = flags.system,
                             .sampling = flags.sampling.Params(),
                             .scheduling = flags.sampling.Scheduling(),
                             .retry = flags.retry});
  return flags.question.empty() ? conversation.Run() : conversation.Ask(flags.question);
}

}  // namespace

void AddChatCommand(CLI::App& app, Command& chosen) {
  CLI::App* command = app.add_subcommand("chat", "Talk with the model; keeps the conversation");
  auto flags = std::make_shared<ChatFlags>();
  command->add_option("question", flags->question, "ask this one question and end");
  AddServerFlag(*command, flags->server);
  command->add_option("--system", flags->system, "system message");
  flags->retry.Define(*command);
  flags->sampling.Define(*command);
  command->callback([flags, &chosen] { chosen = [flags] { return RunChat(*flags); }; });
}

}  // namespace trireme
