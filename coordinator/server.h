#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/cordoned_hosts.h"
#include "coordinator/engine.h"
#include "coordinator/gateway/cluster_service.h"
#include "coordinator/gateway/inference_service.h"
#include "coordinator/gateway/keyed_requests.h"
#include "coordinator/gateway/loading_service.h"
#include "coordinator/gateway/metrics.h"
#include "coordinator/gateway/rendezvous_service.h"
#include "coordinator/gateway/worker_control_service.h"
#include "coordinator/loading_ranks.h"
#include "coordinator/served_model.h"

namespace trireme {

struct ServerOptions {
  std::filesystem::path model_dir;         // or a .gguf file
  std::string address = "127.0.0.1:8001";  // HOST:PORT; port 0 takes a free one
  std::string metrics_address;             // HOST:PORT of Prometheus' endpoint; empty: none
  bool insecure = false;                   // allow an address that other machines reach
  std::string served_model_name;           // empty: the directory's name
  std::optional<uint32_t> max_model_len;   // unset: the model's own, or what the workers can hold
  uint32_t max_num_seqs = 64;
  uint32_t max_num_batched_tokens = 512;
  uint32_t max_waiting = 4096;
  uint32_t max_waiting_per_tenant = 4096;
  std::map<std::string, double> tenant_weights;
  uint64_t starvation_steps = 2000;
  bool prefix_caching = true;
  std::chrono::milliseconds step_target{0};
  std::chrono::milliseconds client_timeout{30'000};
  std::chrono::milliseconds worker_timeout{4'000};
  bool keep_workers = false;  // they outlive this coordinator and wait for the next
  std::chrono::milliseconds step_timeout{120'000};
  std::chrono::milliseconds gang_timeout{60'000};
  KeyedRequestsOptions keyed;
};

// The whole coordinator in one object: model, engine, gRPC services. Thread safe.
class Server {
 public:
  // Loads the model's files and listens. InvalidArgument names the file or option; UNAVAILABLE if
  // the port is in use.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options);
  ~Server();  // shuts down

  // Ends every stream with UNAVAILABLE and this reason, tells the workers to stop, and returns when
  // all is over, within about two seconds.
  void Shutdown(const std::string& reason);

  int port() const { return port_; }
  int metrics_port() const { return metrics_ == nullptr ? 0 : metrics_->port(); }
  const ServedModel& model() const { return model_; }
  Engine& engine() { return engine_; }

 private:
  Server(ServedModel model, EngineOptions engine_options, std::unique_ptr<Journal> journal,
         const KeyedRequestsOptions& keyed);
  absl::Status Listen(const std::string& address);
  void PublishHealth(bool ready);

  const ServedModel model_;
  CordonedHosts cordoned_;
  LoadingRanks loading_;
  Engine engine_;
  KeyedRequests keyed_;
  InferenceService inference_;
  RendezvousService rendezvous_;
  ClusterService cluster_;
  WorkerControlService worker_control_;
  LoadingService loading_service_;
  std::unique_ptr<grpc::Server> grpc_;
  std::unique_ptr<MetricsEndpoint> metrics_;
  int port_ = 0;
};

}  // namespace trireme
