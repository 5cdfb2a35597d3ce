#include "coordinator/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/listen_address.h"
#include "base/status_macros.h"

namespace trireme {
namespace {

constexpr int kReceiveBytesMax = 16 << 20;
constexpr std::chrono::milliseconds kShutdownTimeout{1500};
// A rank reports its load once a second, and each report may take two.
constexpr std::chrono::milliseconds kLoadingSilenceMin{10'000};

absl::Status CheckOptions(const ServerOptions& options, const ModelConfig& config) {
  RETURN_IF_ERROR(CheckListenAddress("--grpc", options.address, options.insecure));
  if (!options.metrics_address.empty()) {
    RETURN_IF_ERROR(CheckListenAddress("--metrics", options.metrics_address, options.insecure));
  }
  const auto at_least_one = [](uint64_t value, const char* flag) {
    return value > 0 ? absl::OkStatus()
                     : absl::InvalidArgumentError(absl::StrCat(flag, " must be at least 1"));
  };
  RETURN_IF_ERROR(at_least_one(options.max_num_seqs, "--max-num-seqs"));
  RETURN_IF_ERROR(at_least_one(options.max_waiting, "--max-waiting"));
  RETURN_IF_ERROR(at_least_one(options.keyed.entries_max, "--idempotency-keys-max"));
  RETURN_IF_ERROR(at_least_one(options.max_waiting_per_tenant, "--max-waiting-per-tenant"));
  if (options.max_num_batched_tokens < options.max_num_seqs) {
    return absl::InvalidArgumentError(
        absl::StrCat("--max-num-batched-tokens ", options.max_num_batched_tokens,
                     " must be at least --max-num-seqs ", options.max_num_seqs,
                     ": every running sequence decodes a token in each step"));
  }
  const uint32_t max_model_len = options.max_model_len.value_or(2);
  if (max_model_len < 2 || max_model_len > config.max_position_embeddings) {
    return absl::InvalidArgumentError(absl::StrCat("--max-model-len ", max_model_len,
                                                   " must be from 2 to the model's ",
                                                   config.max_position_embeddings, " positions"));
  }
  return absl::OkStatus();
}

HashKey DrawHashKey() {
  std::random_device device;
  const auto draw = [&] { return uint64_t{device()} << 32 | device(); };
  return {draw(), draw()};
}

EngineOptions ToEngineOptions(const ServerOptions& options, const ServedModel& model) {
  EngineOptions engine;
  engine.gang.config = model.config;
  engine.gang.max_model_len =
      options.max_model_len.value_or(static_cast<uint32_t>(model.config.max_position_embeddings));
  engine.gang.max_model_len_required = options.max_model_len.has_value();
  engine.gang.worker_timeout = options.worker_timeout;
  engine.gang.keep_workers = options.keep_workers;
  engine.replica.scheduler.max_num_seqs = options.max_num_seqs;
  engine.replica.scheduler.max_num_batched_tokens = options.max_num_batched_tokens;
  engine.replica.scheduler.vocab_size = model.vocab_size();
  engine.replica.scheduler.prefix_caching = options.prefix_caching;
  engine.replica.scheduler.hash_key = DrawHashKey();
  engine.replica.scheduler.queue.starvation_steps = options.starvation_steps;
  engine.replica.scheduler.queue.tenant_weights = options.tenant_weights;
  engine.model_name = absl::StrCat(model.name, "/", model.config.NumParameters());
  engine.max_waiting = options.max_waiting;
  engine.max_waiting_per_tenant = options.max_waiting_per_tenant;
  engine.replica.step_target = options.step_target;
  engine.client_timeout = options.client_timeout;
  engine.replica.step_timeout = options.step_timeout;
  engine.replica.slow_step = options.worker_timeout;
  engine.gang.self_test_timeout = options.step_timeout;
  engine.gang_timeout = options.gang_timeout;
  engine.worker_hint = absl::StrCat("start them with: mpirun -np N trireme-worker --coordinator ",
                                    options.address, " --model ", options.model_dir.string());
  return engine;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options) {
  ASSIGN_OR_RETURN(ServedModel model,
                   ServedModel::Load(options.model_dir, options.served_model_name));
  RETURN_IF_ERROR(CheckOptions(options, model.config));
  EngineOptions engine_options = ToEngineOptions(options, model);
  std::unique_ptr<Journal> journal;
  if (!options.keyed.journal.empty()) {
    ASSIGN_OR_RETURN(journal, Journal::Open(options.keyed.journal, options.keyed.bytes_max));
  }
  std::unique_ptr<Server> server(
      new Server(std::move(model), std::move(engine_options), std::move(journal), options.keyed));
  RETURN_IF_ERROR(server->Listen(options.address));
  if (!options.metrics_address.empty()) {
    ASSIGN_OR_RETURN(server->metrics_,
                     MetricsEndpoint::Listen(options.metrics_address, server->engine_));
  }
  return server;
}

Server::Server(ServedModel model, EngineOptions engine_options, std::unique_ptr<Journal> journal,
               const KeyedRequestsOptions& keyed)
    : model_(std::move(model)),
      loading_(std::max(engine_options.gang.worker_timeout * 5 / 2, kLoadingSilenceMin), cordoned_),
      engine_([&] {
        engine_options.gang.cordoned = &cordoned_;
        engine_options.on_ready_change = [this](bool ready) { PublishHealth(ready); };
        return std::move(engine_options);
      }()),
      keyed_(model_, engine_, std::move(journal), keyed),
      inference_(model_, engine_, keyed_),
      rendezvous_(cordoned_),
      cluster_(engine_, cordoned_, loading_, rendezvous_),
      worker_control_(engine_),
      loading_service_(loading_, engine_) {}

Server::~Server() { Shutdown("the coordinator has stopped"); }

absl::Status Server::Listen(const std::string& address) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(&inference_);
  builder.RegisterService(&cluster_);
  builder.RegisterService(&worker_control_);
  builder.RegisterService(&rendezvous_);
  builder.RegisterService(&loading_service_);
  builder.SetMaxReceiveMessageSize(kReceiveBytesMax);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a port in use is an error
  // Finds peers whose host has vanished, also while nothing is sent. The ranks that serve are
  // watched more closely, with --worker-timeout-s.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 60'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Peers may ping as often as we do.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
  grpc_ = builder.BuildAndStart();
  if (grpc_ == nullptr || port_ == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address,
                     ": the port is in use or the address is not of this machine"));
  }
  PublishHealth(false);
  engine_.Start();
  return absl::OkStatus();
}

void Server::Shutdown(const std::string& reason) {
  if (grpc_ == nullptr) return;
  engine_.Stop(reason);
  keyed_.Stop();
  rendezvous_.Stop(reason);
  grpc_->Shutdown(std::chrono::system_clock::now() + kShutdownTimeout);
  grpc_->Wait();
  grpc_ = nullptr;
}

void Server::PublishHealth(bool ready) {
  grpc::HealthCheckServiceInterface* health = grpc_->GetHealthCheckService();
  for (const char* service :
       {"", v1::Inference::service_full_name(), v1::Cluster::service_full_name(),
        v1::WorkerControl::service_full_name()}) {
    health->SetServingStatus(service, ready);
  }
}

}  // namespace trireme
