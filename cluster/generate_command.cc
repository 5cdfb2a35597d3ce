// trireme generate "prompt": continues a prompt, or answers it with --chat, and streams the text.

#include <google/protobuf/util/json_util.h>

#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "cluster/answer_stream.h"
#include "cluster/client.h"
#include "cluster/command.h"
#include "cluster/sampling_flags.h"

namespace trireme {
namespace {

struct GenerateFlags {
  std::string server = kDefaultServer;
  std::string prompt;
  SamplingFlags sampling;
  bool chat = false;
  bool no_special_tokens = false;
  bool stats = false;
  bool json = false;
  double timeout_s = 0;
  RetryFlags retry;
};

std::string PromptText(const GenerateFlags& flags) {
  if (flags.prompt != "-") return flags.prompt;
  return {std::istreambuf_iterator<char>(std::cin), {}};
}

StartAnswer MakeCall(const GenerateFlags& flags, v1::Inference::Stub& stub) {
  const std::string prompt = PromptText(flags);
  if (flags.chat) {
    v1::ChatRequest request;
    v1::ChatMessage& message = *request.add_messages();
    message.set_role("user");
    message.set_content(prompt);
    *request.mutable_sampling() = flags.sampling.Params();
    *request.mutable_scheduling() = flags.sampling.Scheduling();
    return [request, &stub](grpc::ClientContext& context, const std::string& key,
                            const std::vector<uint32_t>& received) mutable {
      SetIdempotency(request, key, received);
      return stub.Chat(&context, request);
    };
  }
  v1::GenerateRequest request;
  request.set_prompt(prompt);
  *request.mutable_sampling() = flags.sampling.Params();
  *request.mutable_scheduling() = flags.sampling.Scheduling();
  if (flags.no_special_tokens) request.set_add_special_tokens(false);
  return [request, &stub](grpc::ClientContext& context, const std::string& key,
                          const std::vector<uint32_t>& received) mutable {
    SetIdempotency(request, key, received);
    return stub.Generate(&context, request);
  };
}

void PrintJson(const v1::GenerateResponse& response) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string text;
  if (google::protobuf::util::MessageToJsonString(response, &text, options).ok()) {
    std::cout << text << std::endl;
  }
}

void PrintStats(const v1::Usage& usage) {
  const double decode_ms = usage.total_ms() - usage.time_to_first_token_ms();
  const double rate = usage.completion_tokens() > 1 && decode_ms > 0
                          ? (usage.completion_tokens() - 1) / decode_ms * 1e3
                          : 0;
  std::cerr << absl::StrFormat(
                   "%d prompt tokens, %d new tokens, first token after %.1f ms, %.1f tokens/s",
                   usage.prompt_tokens(), usage.completion_tokens(), usage.time_to_first_token_ms(),
                   rate)
            << std::endl;
}

int RunGenerate(const GenerateFlags& flags) {
  const auto stub = v1::Inference::NewStub(ConnectTo(flags.server));
  const bool several = flags.sampling.Params().n() > 1;
  std::map<uint32_t, std::string> texts;
  bool printed = false;
  v1::Usage usage;
  const AnswerOptions options = {.retry = flags.retry,
                                 .tenant = flags.sampling.Scheduling().tenant(),
                                 .timeout_s = flags.timeout_s,
                                 .keyed = !flags.retry.idempotency_key.empty() ||
                                          !flags.sampling.Params().has_prompt_logprobs()};
  const auto on_response = [&](const v1::GenerateResponse& response) {
    if (response.has_usage()) usage = response.usage();
    if (flags.json) return PrintJson(response);
    if (several) {
      texts[response.index()] += response.text();
    } else {
      std::cout << response.text() << std::flush;
      printed |= !response.text().empty();
    }
  };
  const AnswerOutcome outcome = StreamAnswer(*stub, options, MakeCall(flags, *stub), on_response);
  if (!flags.json) {
    for (const auto& [index, text] : texts) {
      std::cout << "--- continuation " << index << " ---\n" << text << std::endl;
    }
    if (printed) std::cout << std::endl;
  }
  if (!outcome.status.ok()) return ReportError(flags.server, outcome.status, outcome.retry_after);
  if (flags.stats) PrintStats(usage);
  return 0;
}

}  // namespace

void AddGenerateCommand(CLI::App& app, Command& chosen) {
  CLI::App* command = app.add_subcommand("generate", "Continue a prompt and stream the text");
  auto flags = std::make_shared<GenerateFlags>();
  command->add_option("prompt", flags->prompt, "the prompt; - reads standard input")->required();
  AddServerFlag(*command, flags->server);
  command->add_flag("--chat", flags->chat, "answer the prompt with the model's chat template");
  command->add_flag("--no-special-tokens", flags->no_special_tokens,
                    "do not put the beginning-of-text token first");
  command->add_flag("--stats", flags->stats, "print tokens and speed to standard error");
  command->add_flag("--json", flags->json, "print each message of the stream as a line of JSON");
  command->add_option("--timeout", flags->timeout_s, "seconds; 0 waits as long as it takes")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  flags->retry.Define(*command);
  flags->sampling.Define(*command);
  flags->sampling.DefineForGenerate(*command);
  command->callback([flags, &chosen] { chosen = [flags] { return RunGenerate(*flags); }; });
}

}  // namespace trireme
