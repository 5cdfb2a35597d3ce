// trireme-coordinator: takes requests, plans the workers' steps, streams the answers.

#include <google/protobuf/stubs/logging.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "coordinator/server.h"
#include "parallel/gguf_file.h"

namespace trireme {
namespace {

struct Flags {
  ServerOptions server;
  std::string model;
  uint32_t max_model_len = 0;
  double worker_timeout_s = 4;
  double step_timeout_s = 120;
  double gang_timeout_s = 60;
  double client_timeout_s = 30;
  std::string journal;
  double idempotency_grace_s = 30;
  double idempotency_ttl_s = 3600;
  double idempotency_mib = 256;
  double max_step_ms = 250;
  std::vector<std::string> tenant_weights;
  bool no_prefix_caching = false;
  std::string log_level = "info";
};

// A check of CLI11: empty if it is fine.
std::string ModelPath(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return "";
  if (IsGgufPath(path) && std::filesystem::exists(path, error)) return "";
  return path + " is neither a directory nor a .gguf file";
}

void AddIdempotencyFlags(CLI::App& app, Flags& flags) {
  const auto add = [&app](const char* name, auto& value, const char* env, const char* help) {
    return app.add_option(name, value, help)->envname(env)->capture_default_str();
  };
  add("--journal", flags.journal, "TRIREME_JOURNAL",
      "File that keeps requests with an idempotency key and their tokens, so that they go on after "
      "this coordinator has ended or was killed; none if empty");
  add("--idempotency-grace-s", flags.idempotency_grace_s, "TRIREME_IDEMPOTENCY_GRACE_S",
      "How long a request with an idempotency key is computed on after its client has gone")
      ->check(CLI::Range(0.0, 1e6));
  add("--idempotency-ttl-s", flags.idempotency_ttl_s, "TRIREME_IDEMPOTENCY_TTL_S",
      "How long the answer under an idempotency key is kept after it was last used")
      ->check(CLI::Range(1.0, 1e8));
  add("--idempotency-keys-max", flags.server.keyed.entries_max, "TRIREME_IDEMPOTENCY_KEYS_MAX",
      "Answers that are kept; the oldest make room");
  add("--idempotency-mib", flags.idempotency_mib, "TRIREME_IDEMPOTENCY_MIB",
      "MiB that answers may take in memory, and the journal's file")
      ->check(CLI::Range(1.0, 1e6));
}

void AddFlags(CLI::App& app, Flags& flags) {
  const auto add = [&app](const char* name, auto& value, const char* env, const char* help) {
    return app.add_option(name, value, help)->envname(env)->capture_default_str();
  };
  add("--model", flags.model, "TRIREME_MODEL", "Hugging Face model directory, or a GGUF file")
      ->required()
      ->check(ModelPath);
  add("--grpc", flags.server.address, "TRIREME_GRPC", "Address to listen on, HOST:PORT");
  add("--metrics", flags.server.metrics_address, "TRIREME_METRICS",
      "Address of the metrics for Prometheus, HOST:PORT, at /metrics; none if empty");
  app.add_flag("--insecure", flags.server.insecure,
               "Allow an address that other machines reach: there is no encryption or password")
      ->envname("TRIREME_INSECURE");
  add("--served-model-name", flags.server.served_model_name, "TRIREME_SERVED_MODEL_NAME",
      "The model's name for clients (default: the directory's or file's name)");
  add("--max-model-len", flags.max_model_len, "TRIREME_MAX_MODEL_LEN",
      "Context: prompt and output tokens of a request; 0 takes the model's own, or less if the "
      "workers' KV cache is smaller");
  add("--max-num-seqs", flags.server.max_num_seqs, "TRIREME_MAX_NUM_SEQS",
      "Sequences computed at the same time");
  add("--max-num-batched-tokens", flags.server.max_num_batched_tokens,
      "TRIREME_MAX_NUM_BATCHED_TOKENS", "Tokens computed in one step");
  add("--max-waiting", flags.server.max_waiting, "TRIREME_MAX_WAITING",
      "Sequences that may wait; more are refused with RESOURCE_EXHAUSTED");
  add("--max-waiting-per-tenant", flags.server.max_waiting_per_tenant,
      "TRIREME_MAX_WAITING_PER_TENANT", "Sequences of one tenant that may wait");
  app.add_option(
         "--tenant-weight", flags.tenant_weights,
         "NAME=WEIGHT, repeatable: a tenant's share among those of its priority (default 1)")
      ->envname("TRIREME_TENANT_WEIGHT")
      ->delimiter(',');
  add("--starvation-steps", flags.server.starvation_steps, "TRIREME_STARVATION_STEPS",
      "A sequence that has waited for so many steps goes before every priority");
  app.add_flag("--no-enable-prefix-caching", flags.no_prefix_caching,
               "Compute every prompt anew, also where the KV cache still holds its beginning")
      ->envname("TRIREME_NO_ENABLE_PREFIX_CACHING");
  add("--max-step-ms", flags.max_step_ms, "TRIREME_MAX_STEP_MS",
      "Prompts are cut so that a step that also decodes takes about so long, and no stream waits "
      "longer for its next token; 0: as --max-num-batched-tokens alone allows")
      ->check(CLI::Range(0.0, 1e6));
  add("--client-timeout-s", flags.client_timeout_s, "TRIREME_CLIENT_TIMEOUT_S",
      "How long a client may leave its stream unread before the request is given up")
      ->check(CLI::Range(0.001, 1e6));
  AddIdempotencyFlags(app, flags);
  add("--worker-timeout-s", flags.worker_timeout_s, "TRIREME_WORKER_TIMEOUT_S",
      "A worker that is silent so long is given up, and its gang with it; it ends itself before. "
      "Long steps are not silence: workers report while they compute")
      ->check(CLI::Range(0.2, 60.0));
  app.add_flag("--keep-workers", flags.server.keep_workers,
               "Do not end the workers with this coordinator: they keep their weights and wait for "
               "the next one at this address (their --reconnect-timeout-s)")
      ->envname("TRIREME_KEEP_WORKERS");
  add("--step-timeout-s", flags.step_timeout_s, "TRIREME_STEP_TIMEOUT_S",
      "Workers that need longer for a step are given up")
      ->check(CLI::Range(0.001, 1e6));
  add("--gang-timeout-s", flags.gang_timeout_s, "TRIREME_GANG_TIMEOUT_S",
      "How long requests, also new ones, wait for workers to come back when all are lost; anew "
      "whenever a worker has loaded more of its weights, up to ten times as long")
      ->check(CLI::Range(0.0, 1e6));
  add("--log-level", flags.log_level, "TRIREME_LOG_LEVEL", "What is logged to standard error")
      ->check(CLI::IsMember({"debug", "info", "warning", "error", "off"}));
}

// NAME=WEIGHT
absl::Status AddTenantWeight(const std::string& text, std::map<std::string, double>& weights) {
  const size_t equals = text.rfind('=');
  double weight = 0;
  if (equals == std::string::npos || !absl::SimpleAtod(text.substr(equals + 1), &weight) ||
      !(weight > 0 && weight <= 1e6)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--tenant-weight ", text, " is not NAME=WEIGHT with a weight above 0, at most 1000000"));
  }
  weights[text.substr(0, equals)] = weight;
  return absl::OkStatus();
}

absl::StatusOr<ServerOptions> ToOptions(const Flags& flags) {
  const auto milliseconds = [](double seconds) {
    return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
  };
  ServerOptions options = flags.server;
  options.model_dir = flags.model;
  if (flags.max_model_len > 0) options.max_model_len = flags.max_model_len;
  options.worker_timeout = milliseconds(flags.worker_timeout_s);
  options.step_timeout = milliseconds(flags.step_timeout_s);
  options.gang_timeout = milliseconds(flags.gang_timeout_s);
  options.client_timeout = milliseconds(flags.client_timeout_s);
  options.step_target = std::chrono::milliseconds(static_cast<int64_t>(flags.max_step_ms));
  options.keyed.journal = flags.journal;
  options.keyed.client_grace = milliseconds(flags.idempotency_grace_s);
  options.keyed.ttl = std::chrono::seconds(static_cast<int64_t>(flags.idempotency_ttl_s));
  options.keyed.bytes_max = static_cast<uint64_t>(flags.idempotency_mib * (1 << 20));
  options.prefix_caching = !flags.no_prefix_caching;
  for (const std::string& text : flags.tenant_weights) {
    RETURN_IF_ERROR(AddTenantWeight(text, options.tenant_weights));
  }
  return options;
}

// Our own messages say what is wrong; the libraries' would only repeat it, in many lines.
void QuietLibraries() {
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  google::protobuf::SetLogHandler(nullptr);
}

// SIGINT and SIGTERM, blocked in every thread, so that main can wait for them.
sigset_t BlockStopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

int Run(const Flags& flags) {
  const sigset_t signals = BlockStopSignals();
  InitLog("coordinator", ParseLogLevel(flags.log_level));
  const absl::StatusOr<ServerOptions> parsed = ToOptions(flags);
  if (!parsed.ok()) {
    LogError(std::string(parsed.status().message()));
    return 1;
  }
  const ServerOptions& options = *parsed;
  absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(options);
  if (!server.ok()) {
    LogError(std::string(server.status().message()));
    return 1;
  }
  const ServedModel& model = (*server)->model();
  LogInfo(absl::StrCat("model ", model.name, " (", model.config.architecture, ", ",
                       model.config.NumParameters(), " parameters), context ",
                       (*server)->engine().max_model_len(), ", listening on ",
                       options.address.substr(0, options.address.rfind(':')), ":",
                       (*server)->port(), "; waiting for workers"));
  if (!model.chat_template.has_value()) {
    LogWarning(absl::StrCat("no chat: ", model.no_chat_template_reason));
  }
  int signal = 0;
  sigwait(&signals, &signal);
  LogInfo(absl::StrCat("stopping: ", signal == SIGINT ? "SIGINT" : "SIGTERM"));
  // A second one ends the process at once.
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  (*server)->Shutdown("the coordinator is shutting down");
  return 0;
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  trireme::QuietLibraries();
  CLI::App app("Trireme's coordinator: takes requests, plans the workers' steps, streams answers.");
  app.set_version_flag("--version", "trireme-coordinator " TRIREME_VERSION);
  trireme::Flags flags;
  trireme::AddFlags(app, flags);
  CLI11_PARSE(app, argc, argv);
  return trireme::Run(flags);
}
