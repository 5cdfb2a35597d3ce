// trireme serve MODEL: a cluster on this machine that serves until it is told to stop.

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <iostream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "cluster/client.h"
#include "cluster/command.h"
#include "cluster/local_cluster.h"
#include "cluster/local_flags.h"

namespace trireme {
namespace {

struct ServeFlags {
  LocalFlags local{"info", /*load=*/"slices"};
  int replicas = 1;
  std::string address = kDefaultServer;
  std::string metrics;
  bool insecure = false;
};

LocalClusterOptions Options(const ServeFlags& flags) {
  LocalClusterOptions options = flags.local.Options(flags.replicas);
  if (flags.address != "127.0.0.1:0") options.address = flags.address;
  auto& coordinator = options.coordinator_flags;
  if (!flags.metrics.empty()) coordinator.insert(coordinator.end(), {"--metrics", flags.metrics});
  if (flags.insecure) coordinator.emplace_back("--insecure");
  return options;
}

int Report(const absl::Status& status) {
  std::cerr << "trireme: " << status.message() << std::endl;
  return 1;
}

int Serve(const ServeFlags& flags) {
  if (flags.replicas > 1 && flags.local.device() != "cpu") {
    return Report(absl::UnimplementedError(
        "--replicas on GPUs is unsupported: all would take the same ones; start the gangs by hand "
        "(docs/replicas.md)"));
  }
  std::atomic<bool> failed = false;
  LocalCluster cluster(Options(flags), [&failed](const absl::Status& status) {
    Report(status);
    failed = true;
    kill(getpid(), SIGTERM);  // ends the wait below
  });
  // Until then a signal ends this process, and the kernel its children.
  const absl::StatusOr<v1::GetModelResponse> model = cluster.AwaitReady();
  if (!model.ok()) return Report(model.status());
  flags.local.TellContext(*model);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::cout << model->name() << " is ready: gRPC at " << cluster.address();
  if (!flags.metrics.empty()) std::cout << ", metrics at http://" << flags.metrics << "/metrics";
  std::cout << "\n  trireme chat --server " << cluster.address() << std::endl;
  int signal = 0;
  sigwait(&signals, &signal);
  return failed ? 1 : 0;
}

}  // namespace

void AddServeCommand(CLI::App& app, Command& chosen) {
  CLI::App* command =
      app.add_subcommand("serve", "Start a model on this machine and serve it until Ctrl-C");
  auto flags = std::make_shared<ServeFlags>();
  flags->local.Define(*command);
  command
      ->add_option("--replicas", flags->replicas,
                   "copies of the model, each of --tp x --pp workers: more throughput, and one "
                   "that is lost costs no more than a pause")
      ->envname("TRIREME_REPLICAS")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  command->add_option("--grpc", flags->address, "address to listen on, HOST:PORT")
      ->envname("TRIREME_GRPC")
      ->capture_default_str();
  command->add_option("--metrics", flags->metrics, "address of the metrics for Prometheus")
      ->envname("TRIREME_METRICS");
  command->add_flag("--insecure", flags->insecure, "allow an address that other machines reach")
      ->envname("TRIREME_INSECURE");
  command->callback([flags, &chosen] { chosen = [flags] { return Serve(*flags); }; });
}

}  // namespace trireme
