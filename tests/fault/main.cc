// Faults in a server under load, and whether its clients notice more than a pause:
//   fault_driver --server HOST:PORT --kind kill --faults 200
// The server must be one whose workers are started anew when they have ended, as `trireme serve`
// does. Prints what was compared and how long recoveries took; exits with 1 if any answer is not
// bit for bit that of the same server before the first fault.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "tests/fault/injector.h"
#include "tests/fault/processes.h"
#include "tests/fault/streams.h"

namespace trireme::fault {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// Connections come and go; requests under way have memory.
constexpr int64_t kDescriptorsMargin = 8;
constexpr double kMemoryMargin = 1.1;

struct Flags {
  InjectorOptions injector;
  int faults = 10;
  double for_s = 0;  // instead of a number of faults
  double every_s = 0;
  int streams = 16;
  int requests = 32;
  std::vector<pid_t> watch;
};

void DefineFlags(CLI::App& app, Flags& flags) {
  const std::map<std::string, FaultKind> kinds = {{"kill", FaultKind::kKill},
                                                  {"kill-again", FaultKind::kKillAgain},
                                                  {"term", FaultKind::kTerm},
                                                  {"stop", FaultKind::kStop},
                                                  {"command", FaultKind::kCommand}};
  app.add_option("--server", flags.injector.server, "HOST:PORT, as in the workers' --coordinator")
      ->required();
  app.add_option("--kind", flags.injector.kinds, "of faults; of several, any at a time")
      ->required()
      ->delimiter(',')
      ->transform(CLI::CheckedTransformer(kinds));
  app.add_option("--faults", flags.faults, "how many")->capture_default_str();
  app.add_option("--for-s", flags.for_s, "for so long, instead of --faults");
  app.add_option("--every-s", flags.every_s, "a fault every so often, not when one is over");
  app.add_option("--streams", flags.streams, "requests at a time")->capture_default_str();
  app.add_option("--requests", flags.requests, "that differ")->capture_default_str();
  app.add_option("--seed", flags.injector.seed, "of requests and faults")->capture_default_str();
  app.add_option("--command", flags.injector.command,
                 "of --kind command: called with begin, and later with end");
  const auto milliseconds_option = [&](const char* name, milliseconds& value, const char* help) {
    app.add_option_function<int64_t>(
        name, [&value](int64_t count) { value = milliseconds(count); }, help);
  };
  milliseconds_option("--duration-ms-min", flags.injector.duration_min, "of a stop or command");
  milliseconds_option("--duration-ms-max", flags.injector.duration_max, "of a stop or command");
  milliseconds_option("--pause-ms-max", flags.injector.pause_max, "from a recovery to a fault");
  milliseconds_option("--worker-timeout-ms", flags.injector.worker_timeout, "of the coordinator");
  app.add_option("--watch", flags.watch,
                 "processes whose memory and file descriptors shall not grow");
}

double Percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const auto last = static_cast<double>(values.size() - 1);
  return values[static_cast<size_t>(share * last + 0.5)];
}

// What the watched processes hold, minute by minute.
class Ledger {
 public:
  explicit Ledger(const Flags& flags) : watched_(flags.watch) {}

  void Add();
  // From the second half of the time to its end: what grows at first are caches.
  bool Grows() const;

 private:
  const std::vector<pid_t> watched_;
  const Clock::time_point start_ = Clock::now();
  std::map<pid_t, std::vector<Holdings>> held_;
};

void Ledger::Add() {
  for (const pid_t pid : watched_) {
    const std::optional<Holdings> holdings = HoldingsOf(pid);
    if (!holdings.has_value()) continue;
    held_[pid].push_back(*holdings);
    std::printf("%6.0f s  process %d: %.1f MiB resident, %lld file descriptors\n",
                std::chrono::duration<double>(Clock::now() - start_).count(), pid,
                static_cast<double>(holdings->resident_bytes) / 1048576,
                static_cast<long long>(holdings->file_descriptors));
  }
  std::fflush(stdout);
}

bool Ledger::Grows() const {
  bool grows = false;
  for (const auto& [pid, held] : held_) {
    const Holdings& middle = held[held.size() / 2];
    const Holdings& end = held.back();
    if (end.file_descriptors <= middle.file_descriptors + kDescriptorsMargin &&
        static_cast<double>(end.resident_bytes) <=
            kMemoryMargin * static_cast<double>(middle.resident_bytes)) {
      continue;
    }
    std::printf("process %d has grown since half of the time\n", pid);
    grows = true;
  }
  return grows;
}

absl::Status MakeFaults(const Flags& flags, Injector& injector, Ledger& ledger) {
  const auto start = Clock::now();
  auto next_report = start;
  for (int i = 0; flags.for_s > 0 || i < flags.faults; ++i) {
    const std::chrono::duration<double> elapsed = Clock::now() - start;
    if (flags.for_s > 0 && elapsed.count() >= flags.for_s) break;
    RETURN_IF_ERROR(injector.One());
    if (Clock::now() >= next_report) {
      ledger.Add();
      next_report = Clock::now() + std::chrono::seconds(60);
    }
    if (flags.every_s > 0) {
      std::this_thread::sleep_until(start +
                                    std::chrono::duration_cast<Clock::duration>(
                                        std::chrono::duration<double>(flags.every_s * (i + 1))));
    }
  }
  ledger.Add();
  return absl::OkStatus();
}

int Run(int argc, char** argv) {
  CLI::App app("Faults in a server under load.");
  Flags flags;
  DefineFlags(app, flags);
  CLI11_PARSE(app, argc, argv);
  const std::vector<v1::GenerateRequest> requests =
      MakeRequests(flags.requests, flags.injector.seed);
  const absl::StatusOr<std::vector<Answer>> want =
      AskUndisturbed(flags.injector.server, flags.streams, requests);
  if (!want.ok()) {
    std::cerr << "before the first fault: " << want.status().message() << std::endl;
    return 1;
  }
  Streams streams(flags.injector.server, flags.streams, requests, *want, flags.injector.seed + 1);
  flags.injector.last_message = [&] { return streams.last_message(); };
  Injector injector(flags.injector);
  Ledger ledger(flags);
  const absl::Status status = MakeFaults(flags, injector, ledger);
  const Totals totals = streams.Finish();
  const std::vector<double>& recoveries = injector.recovery_seconds();
  std::printf(
      "%zu faults, %llu gangs lost, %llu requests, %llu tokens: %llu refused, %llu failed, %llu "
      "unequal; "
      "%zu tokens lost, %zu surplus, %zu differ\n"
      "recovery: median %.2f s, p99 %.2f s, longest %.2f s\n",
      recoveries.size(), static_cast<unsigned long long>(injector.gangs_lost()),
      static_cast<unsigned long long>(totals.requests),
      static_cast<unsigned long long>(totals.tokens),
      static_cast<unsigned long long>(totals.refused),
      static_cast<unsigned long long>(totals.failed),
      static_cast<unsigned long long>(totals.unequal), totals.damage.lost, totals.damage.surplus,
      totals.damage.differing, Percentile(recoveries, 0.5), Percentile(recoveries, 0.99),
      Percentile(recoveries, 1));
  if (!status.ok()) std::cerr << status.message() << std::endl;
  return status.ok() && totals.failed == 0 && totals.unequal == 0 && !ledger.Grows() ? 0 : 1;
}

}  // namespace
}  // namespace trireme::fault

int main(int argc, char** argv) { return trireme::fault::Run(argc, argv); }
