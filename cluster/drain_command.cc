// trireme drain, trireme uncordon: hosts and gangs that are to serve no more.

#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cluster/client.h"
#include "cluster/command.h"
#include "trireme/v1/cluster.grpc.pb.h"

namespace trireme {
namespace {

using Clock = std::chrono::steady_clock;

struct DrainFlags {
  std::string server = kDefaultServer;
  std::string host;
  uint64_t gang = 0;
  double timeout_s = 600;
};

void SetDeadline(grpc::ClientContext& context) {
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
}

// Those of the gangs that still serve.
grpc::Status Remaining(v1::Cluster::Stub& stub, std::vector<uint64_t>& epochs,
                       v1::ListRanksResponse& response) {
  grpc::ClientContext context;
  SetDeadline(context);
  const grpc::Status status = stub.ListRanks(&context, {}, &response);
  if (!status.ok()) return status;
  std::erase_if(epochs, [&](uint64_t epoch) {
    return std::none_of(response.gangs().begin(), response.gangs().end(),
                        [&](const v1::Gang& gang) { return gang.epoch() == epoch; });
  });
  return status;
}

// Waits for the gangs to end; returns the exit code.
int Await(const DrainFlags& flags, v1::Cluster::Stub& stub, std::vector<uint64_t> epochs) {
  const auto end =
      Clock::now() + std::chrono::milliseconds(static_cast<int64_t>(flags.timeout_s * 1e3));
  while (true) {
    v1::ListRanksResponse response;
    const grpc::Status status = Remaining(stub, epochs, response);
    if (!status.ok()) return ReportError(flags.server, status);
    if (epochs.empty()) {
      std::cout << "drained";
      if (!response.ready()) std::cout << "; no gang serves now: requests wait for the next one";
      std::cout << std::endl;
      return 0;
    }
    if (Clock::now() >= end) {
      std::cerr << "trireme: still finishing what no other gang can take: gang "
                << absl::StrJoin(epochs, ", ") << "; it goes on draining" << std::endl;
      return 1;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

int RunDrain(const DrainFlags& flags) {
  const auto stub = v1::Cluster::NewStub(ConnectTo(flags.server));
  v1::DrainRequest request;
  if (flags.host.empty()) {
    request.set_epoch(flags.gang);
  } else {
    request.set_host(flags.host);
  }
  grpc::ClientContext context;
  SetDeadline(context);
  v1::DrainResponse response;
  const grpc::Status status = stub->Drain(&context, request, &response);
  if (!status.ok()) return ReportError(flags.server, status);
  if (response.epochs().empty() && flags.host.empty()) {
    std::cerr << "trireme: gang " << flags.gang << " does not serve; `trireme nodes` shows those "
              << "that do" << std::endl;
    return 1;
  }
  if (!flags.host.empty()) std::cout << "host " << flags.host << " cordoned\n";
  for (const uint64_t epoch : response.epochs()) std::cout << "gang " << epoch << " drains\n";
  std::cout.flush();
  if (response.host_unknown() && response.epochs().empty()) {
    std::cerr << "trireme: no rank of any gang is on host " << flags.host << "; hosts are: "
              << (response.hosts().empty() ? "none" : absl::StrJoin(response.hosts(), ", "))
              << ". If it was mistyped: trireme uncordon " << flags.host << std::endl;
    return 1;
  }
  return Await(flags, *stub, {response.epochs().begin(), response.epochs().end()});
}

int RunUncordon(const DrainFlags& flags) {
  const auto stub = v1::Cluster::NewStub(ConnectTo(flags.server));
  v1::UncordonRequest request;
  request.set_host(flags.host);
  grpc::ClientContext context;
  SetDeadline(context);
  v1::UncordonResponse response;
  const grpc::Status status = stub->Uncordon(&context, request, &response);
  if (!status.ok()) return ReportError(flags.server, status);
  std::cout << "host " << flags.host << " uncordoned" << std::endl;
  return 0;
}

}  // namespace

void AddDrainCommands(CLI::App& app, Command& chosen) {
  CLI::App* drain = app.add_subcommand(
      "drain", "End the gangs of a host, whose workers may then not join, or one gang");
  auto flags = std::make_shared<DrainFlags>();
  CLI::Option* host = drain->add_option("host", flags->host, "as `trireme nodes` names it");
  CLI::Option* gang = drain->add_option("--gang", flags->gang, "as `trireme nodes` numbers it")
                          ->check(CLI::PositiveNumber);
  host->excludes(gang);
  drain->add_option("--timeout", flags->timeout_s, "seconds to wait for the gangs to end")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  AddServerFlag(*drain, flags->server);
  drain->callback([flags, &chosen] {
    if (flags->host.empty() && flags->gang == 0) {
      throw CLI::RequiredError("a host, or --gang");
    }
    chosen = [flags] { return RunDrain(*flags); };
  });

  CLI::App* uncordon = app.add_subcommand("uncordon", "Let a drained host's workers join again");
  auto uncordon_flags = std::make_shared<DrainFlags>();
  uncordon->add_option("host", uncordon_flags->host, "as `trireme drain` named it")->required();
  AddServerFlag(*uncordon, uncordon_flags->server);
  uncordon->callback([uncordon_flags, &chosen] {
    chosen = [uncordon_flags] { return RunUncordon(*uncordon_flags); };
  });
}

}  // namespace trireme
