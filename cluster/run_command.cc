// trireme run MODEL: a cluster on this machine and a conversation with it, in one command.

#include <cstdlib>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>

#include "cluster/command.h"
#include "cluster/conversation.h"
#include "cluster/local_cluster.h"
#include "cluster/local_flags.h"
#include "cluster/sampling_flags.h"

namespace trireme {
namespace {

struct RunFlags {
  LocalFlags local{"error", /*load=*/"mapped"};
  std::string prompt;
  std::string system;
  std::optional<uint32_t> tokens;
  SamplingFlags sampling;
};

std::string PromptText(const std::string& prompt) {
  if (prompt != "-") return prompt;
  return {std::istreambuf_iterator<char>(std::cin), {}};
}

int Run(const RunFlags& flags) {
  // Ctrl-C while no answer comes ends this process, and the kernel its children.
  LocalCluster cluster(flags.local.Options(/*replicas=*/1), [](const absl::Status& status) {
    std::cerr << "trireme: " << status.message() << std::endl;
    std::_Exit(1);  // the other threads may wait for the terminal
  });
  const absl::StatusOr<v1::GetModelResponse> model = cluster.AwaitReady();
  if (!model.ok()) {
    std::cerr << "trireme: " << model.status().message() << std::endl;
    return 1;
  }
  flags.local.TellContext(*model);
  ConversationOptions options;
  options.server = cluster.address();
  options.system = flags.system;
  options.sampling = flags.sampling.Params();
  if (!model->has_sampling_defaults()) SetUsualSampling(options.sampling);
  options.scheduling = flags.sampling.Scheduling();
  options.retry.retry_s = 0;  // without its coordinator this program ends
  options.chat = model->has_chat_template();
  if (flags.tokens) options.sampling.set_max_tokens(*flags.tokens);
  if (!options.chat) {
    std::cerr << "trireme: " << model->name() << " cannot chat ("
              << model->no_chat_template_reason() << "): it goes on with each text as it is"
              << std::endl;
  }
  Conversation conversation(options);
  if (!flags.prompt.empty()) return conversation.Ask(PromptText(flags.prompt));
  return conversation.Run();
}

}  // namespace

void AddRunCommand(CLI::App& app, Command& chosen) {
  CLI::App* command =
      app.add_subcommand("run", "Start a model on this machine and talk with it; ends with you");
  auto flags = std::make_shared<RunFlags>();
  flags->local.Define(*command);
  command->add_option("-p,--prompt", flags->prompt,
                      "answer this and end; - reads it from standard input");
  command->add_option("--system", flags->system, "system message");
  command->add_option("-n", flags->tokens, "new tokens at most, as --max-tokens");
  flags->sampling.Define(*command);
  command->callback([flags, &chosen] { chosen = [flags] { return Run(*flags); }; });
}

}  // namespace trireme
