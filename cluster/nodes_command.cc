// trireme nodes: the ranks that serve, those that load, and those that wait for others.

#include <google/protobuf/util/json_util.h>

#include <chrono>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/rank_list.h"
#include "cluster/client.h"
#include "cluster/command.h"
#include "trireme/v1/cluster.grpc.pb.h"

namespace trireme {
namespace {

using Clock = std::chrono::steady_clock;

struct NodesFlags {
  std::string server = kDefaultServer;
  double wait_s = 0;
  bool json = false;
};

grpc::Status ListRanks(v1::Cluster::Stub& stub, v1::ListRanksResponse& response) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
  return stub.ListRanks(&context, {}, &response);
}

void PrintTable(const v1::ListRanksResponse& response) {
  std::cout << absl::StrFormat("%4s %4s %3s %3s  %-16s %-12s %7s %9s %10s %10s %9s %9s\n", "gang",
                               "rank", "tp", "pp", "host", "device", "threads", "layers",
                               "shard MB", "read MB", "load ms", "KV MB");
  for (const v1::Gang& gang : response.gangs()) {
    for (const v1::RankInfo& rank : gang.ranks()) {
      const std::string layers = absl::StrFormat("%d-%d", rank.layer_begin(), rank.layer_end() - 1);
      std::cout << absl::StrFormat("%4d %4d %3d %3d  %-16s %-12s %7d %9s %10.1f %10.1f %9.0f %9.1f",
                                   gang.epoch(), rank.rank(), rank.tp_rank(), rank.pp_rank(),
                                   rank.host(), rank.device(), rank.threads(), layers,
                                   static_cast<double>(rank.shard_bytes()) / 1e6,
                                   static_cast<double>(rank.bytes_read()) / 1e6, rank.load_ms(),
                                   static_cast<double>(rank.kv_bytes()) / 1e6)
                << (gang.draining() ? "  drains" : "") << "\n";
    }
  }
}

// "2.46 of 45.60 GB (5 %), 1.23 GB/s, 35 s to go".
std::string DescribeLoad(const v1::LoadingRank& rank) {
  constexpr double kGB = 1e9;
  if (rank.bytes_total() == 0) return "has not begun to read";
  const auto done = static_cast<double>(rank.bytes_done());
  const auto total = static_cast<double>(rank.bytes_total());
  std::string text = absl::StrFormat("%.2f of %.2f GB (%d %%)", done / kGB, total / kGB,
                                     static_cast<int>(100 * done / total));
  if (rank.bytes_done() == rank.bytes_total()) return text + ", waits for the others";
  if (rank.bytes_per_s() <= 0) return text + ", nothing comes";
  return text + absl::StrFormat(", %.2f GB/s, %.0f s to go", rank.bytes_per_s() / kGB,
                                (total - done) / rank.bytes_per_s());
}

void PrintLoading(const v1::ListRanksResponse& response) {
  for (const v1::LoadingRank& rank : response.loading()) {
    std::cout << "loading: rank " << rank.rank() << " of " << rank.world_size() << " on "
              << rank.host() << ": " << DescribeLoad(rank) << "\n";
  }
}

// "gang g waits: 3 of 4 ranks, rank 2 is missing".
void PrintWaiting(const v1::ListRanksResponse& response) {
  for (const v1::WaitingGang& gang : response.waiting()) {
    const std::vector<uint32_t> missing(gang.missing_ranks().begin(), gang.missing_ranks().end());
    std::cout << "gang " << gang.name() << " waits: " << gang.joined() << " of "
              << gang.world_size() << " ranks";
    if (!missing.empty()) {
      std::cout << ", " << RankList(missing) << (missing.size() == 1 ? " is" : " are")
                << " missing";
    }
    std::cout << "\n";
  }
}

int Print(const NodesFlags& flags, const v1::ListRanksResponse& response) {
  if (flags.json) {
    google::protobuf::util::JsonPrintOptions options;
    options.preserve_proto_field_names = true;
    options.always_print_primitive_fields = true;
    std::string text;
    if (!google::protobuf::util::MessageToJsonString(response, &text, options).ok()) return 1;
    std::cout << text << std::endl;
  } else if (response.ready()) {
    PrintTable(response);
  }
  if (!flags.json) PrintLoading(response);
  if (!flags.json) PrintWaiting(response);
  if (!flags.json && !response.cordoned_hosts().empty()) {
    std::cout << "cordoned: " << absl::StrJoin(response.cordoned_hosts(), ", ") << "\n";
  }
  if (response.ready()) return 0;
  if (!response.loading().empty() || !response.waiting().empty()) {
    std::cout << std::flush;
    std::cerr << "trireme: no gang is serving yet" << std::endl;
    return 1;
  }
  std::cerr << "trireme: no gang is serving; start workers with: mpirun -np N trireme-worker "
               "--coordinator "
            << flags.server << " --model DIR --tp N" << std::endl;
  return 1;
}

int RunNodes(const NodesFlags& flags) {
  const auto stub = v1::Cluster::NewStub(ConnectTo(flags.server));
  const auto end =
      Clock::now() + std::chrono::milliseconds(static_cast<int64_t>(flags.wait_s * 1e3));
  while (true) {
    v1::ListRanksResponse response;
    const grpc::Status status = ListRanks(*stub, response);
    if (status.ok() && response.ready()) return Print(flags, response);
    if (Clock::now() >= end) {
      return status.ok() ? Print(flags, response) : ReportError(flags.server, status);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

}  // namespace

void AddNodesCommand(CLI::App& app, Command& chosen) {
  CLI::App* command =
      app.add_subcommand("nodes",
                         "Show the ranks that serve, how far those are that load, and "
                         "which gangs wait for ranks");
  auto flags = std::make_shared<NodesFlags>();
  AddServerFlag(*command, flags->server);
  command->add_option("--wait", flags->wait_s, "seconds to wait for a gang that serves")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_flag("--json", flags->json, "print JSON");
  command->callback([flags, &chosen] { chosen = [flags] { return RunNodes(*flags); }; });
}

}  // namespace trireme
