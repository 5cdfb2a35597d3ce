// bench/coordinator: what a step costs the coordinator beside the workers' computing. A coordinator
// in a process of its own, a gang of one rank that answers at once, and N streams: the way of every
// token is scheduler, plan, gRPC, result, detokeniser, stream. Prints the CPU time of the
// coordinator's process and the wall time of a step.
//   bench/coordinator [STREAMS [TOKENS]]     default: 256 streams of 400 tokens

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "tests/coordinator/server_fixture.h"

namespace trireme {
namespace {

struct Usage {
  double cpu_s = 0;
  long rss_mb = 0;
};

// Of another process, from /proc.
Usage UsageOf(pid_t pid) {
  std::ifstream stat(absl::StrCat("/proc/", pid, "/stat"));
  std::string field;
  double ticks = 0;
  long pages = 0;
  for (int i = 1; stat >> field && i <= 24; ++i) {
    if (i == 14 || i == 15) ticks += std::atof(field.c_str());
    if (i == 24) pages = std::atol(field.c_str());
  }
  return {.cpu_s = ticks / static_cast<double>(sysconf(_SC_CLK_TCK)),
          .rss_mb = pages * sysconf(_SC_PAGESIZE) >> 20};
}

struct Stream : grpc::ClientReadReactor<v1::GenerateResponse> {
  void OnReadDone(bool ok) override {
    if (!ok) return;
    tokens += response.token_ids_size();
    ++messages;
    StartRead(&response);
  }
  void OnDone(const grpc::Status& end) override {
    status = end;
    ++*ended;
  }
  grpc::ClientContext context;
  v1::GenerateRequest request;
  v1::GenerateResponse response;
  int tokens = 0;
  int messages = 0;
  grpc::Status status;
  std::atomic<int>* ended = nullptr;
};

// Serves in a child process; its port comes through a pipe.
pid_t StartServer(const ServerOptions& options, int* port) {
  int pipe_ends[2];
  if (pipe(pipe_ends) != 0) return -1;
  const pid_t pid = fork();
  if (pid != 0) {
    close(pipe_ends[1]);
    if (read(pipe_ends[0], port, sizeof(*port)) != sizeof(*port)) return -1;
    return pid;
  }
  absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(options);
  const int own = server.ok() ? (*server)->port() : 0;
  if (write(pipe_ends[1], &own, sizeof(own)) != sizeof(own)) _exit(1);
  pause();
  _exit(0);
}

int Run(int streams, uint32_t tokens) {
  InitLog("bench", LogLevel::kOff);
  const ModelDir model;
  nlohmann::json config = nlohmann::json::parse(std::ifstream(model.path() / "config.json"));
  config["max_position_embeddings"] = 4096;
  model.Write("config.json", config);
  ServerOptions options;
  options.model_dir = model.path();
  options.address = "127.0.0.1:0";
  options.worker_timeout = std::chrono::hours(1);  // fake gangs show no life between steps
  options.max_num_seqs = static_cast<uint32_t>(streams);
  options.max_num_batched_tokens = static_cast<uint32_t>(streams) + 256;
  int port = 0;
  const pid_t server = StartServer(options, &port);
  if (server < 0 || port == 0) return 1;
  const std::string address = absl::StrCat("127.0.0.1:", port);
  FakeGangOptions gang_options{.server = address,
                               .config = *ModelConfig::Load(model.path()),
                               .kv_block_size = 32,
                               .kv_blocks = static_cast<uint32_t>(streams) * 128,
                               .max_model_len = 4096};
  gang_options.cheap_tokens = true;
  FakeGang gang(gang_options);
  if (!gang.WaitReady()) return 1;

  const auto channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  const auto stub = v1::Inference::NewStub(channel);
  std::atomic<int> ended = 0;
  std::vector<std::unique_ptr<Stream>> calls;
  const Usage before = UsageOf(server);
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < streams; ++i) {
    Stream& call = *calls.emplace_back(std::make_unique<Stream>());
    call.ended = &ended;
    call.request = Request(absl::StrCat("stream ", i), tokens, static_cast<uint64_t>(i));
    stub->async()->Generate(&call.context, &call.request, &call);
    call.StartRead(&call.response);
    call.StartCall();
  }
  while (ended < streams) std::this_thread::sleep_for(milliseconds(1));
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const Usage after = UsageOf(server);
  const double steps = static_cast<double>(gang.steps());
  double messages = 0;
  for (const auto& call : calls) {
    messages += call->messages;
    if (!call->status.ok() || call->tokens != static_cast<int>(tokens)) return 1;
  }
  std::printf(
      "%d streams x %u tokens: %.0f steps, a step %.3f ms CPU of the coordinator (bar 1), %.3f ms "
      "wall "
      "with gang and clients on the same cores; %.2f us CPU a token, %.1f tokens a message, RSS "
      "%ld MB\n",
      streams, tokens, steps, (after.cpu_s - before.cpu_s) / steps * 1e3, seconds / steps * 1e3,
      (after.cpu_s - before.cpu_s) / streams / tokens * 1e6, streams * tokens / messages,
      after.rss_mb);
  kill(server, SIGKILL);
  waitpid(server, nullptr, 0);
  return 0;
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  const int streams = argc > 1 ? std::atoi(argv[1]) : 256;
  const int tokens = argc > 2 ? std::atoi(argv[2]) : 400;
  if (streams < 1 || streams > 4096 || tokens < 1 || tokens > 4000) {
    std::fprintf(stderr, "usage: coordinator [STREAMS 1-4096 [TOKENS 1-4000]]\n");
    return 2;
  }
  return trireme::Run(streams, static_cast<uint32_t>(tokens));
}
