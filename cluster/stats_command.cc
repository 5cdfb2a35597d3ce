// trireme stats: what the serving engine does, in numbers.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cluster/client.h"
#include "cluster/command.h"
#include "cluster/server_stats.h"

namespace trireme {
namespace {

using Clock = std::chrono::steady_clock;

struct StatsFlags {
  std::string server = kDefaultServer;
  double watch_s = 0;
  bool json = false;
};

double Percent(uint64_t part, uint64_t whole) {
  return whole > 0 ? 100 * static_cast<double>(part) / static_cast<double>(whole) : 0;
}

void Row(const char* name, const std::string& value) {
  std::cout << absl::StrFormat("%-26s %s\n", name, value);
}

void PrintTable(const v1::GetStatsResponse& stats) {
  const StatsDelta all = StatsDelta::Between({}, stats).value_or(StatsDelta());
  Row("sequences", absl::StrFormat("%d running, %d waiting, %d paused", stats.running(),
                                   stats.waiting(), stats.paused()));
  Row("KV cache",
      absl::StrFormat("%.1f %% used, %.1f %% cached, of %d tokens",
                      Percent(stats.kv_tokens_used(), stats.kv_tokens()),
                      Percent(stats.kv_tokens_cached(), stats.kv_tokens()), stats.kv_tokens()));
  Row("prefix cache", absl::StrFormat("%.1f %% hit: %d of %d tokens", 100 * all.HitShare(),
                                      all.prefix_tokens_hit, all.prefix_tokens_asked));
  Row("steps", absl::StrFormat("%d, mean %.2f ms", all.steps, all.MeanStepMs()));
  Row("idle between steps",
      absl::StrFormat("%.1f %% of the time with work", 100 * all.IdleShare()));
  Row("pipeline bubbles", absl::StrFormat("%.1f %% of the steps' time", 100 * all.BubbleShare()));
  Row("tokens",
      absl::StrFormat("%d prefilled, %d generated", all.tokens_prefilled, all.tokens_generated));
  Row("preemptions", absl::StrFormat("%d, of these %d swapped", all.preemptions, all.swaps));
  Row("requests",
      absl::StrFormat("%d finished, %d cancelled, %d refused, %d failed", all.requests_finished,
                      all.requests_cancelled, all.requests_refused, all.requests_failed));
  std::cout.flush();
}

void PrintWatchHeading() {
  std::cout << absl::StrFormat("%7s %7s %6s %6s %7s %9s %9s %6s %8s %6s %8s %7s", "running",
                               "waiting", "paused", "kv %", "cache %", "prefill/s", "decode/s",
                               "hit %", "step ms", "idle %", "preempt", "refused")
            << std::endl;
}

// What happened within `seconds`, as one line.
void PrintWatchLine(const v1::GetStatsResponse& now, const StatsDelta& delta, double seconds) {
  const double prefilled = static_cast<double>(delta.tokens_prefilled) / seconds;
  const double generated = static_cast<double>(delta.tokens_generated) / seconds;
  std::cout << absl::StrFormat("%7d %7d %6d %6.1f %7.1f %9.1f %9.1f %6.1f %8.2f %6.1f %8d %7d",
                               now.running(), now.waiting(), now.paused(),
                               Percent(now.kv_tokens_used(), now.kv_tokens()),
                               Percent(now.kv_tokens_cached(), now.kv_tokens()), prefilled,
                               generated, 100 * delta.HitShare(), delta.MeanStepMs(),
                               100 * delta.IdleShare(), delta.preemptions, delta.requests_refused)
            << std::endl;
}

int ReportStatsError(const StatsFlags& flags, const grpc::Status& status) {
  if (status.error_code() != grpc::StatusCode::UNIMPLEMENTED) {
    return ReportError(flags.server, status);
  }
  std::cerr << "trireme: the coordinator at " << flags.server
            << " has no GetStats: it is older than this command" << std::endl;
  return 1;
}

int Watch(const StatsFlags& flags, v1::Cluster::Stub& stub) {
  constexpr int kLinesPerHeading = 20;
  std::atomic<bool> stop = false;
  const InterruptScope interrupt([&stop] { stop = true; });
  const auto interval =
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(flags.watch_s));
  std::optional<v1::GetStatsResponse> before;
  auto before_at = Clock::now();
  for (int line = 0; !stop; ++line) {
    v1::GetStatsResponse now;
    if (const grpc::Status status = GetStats(stub, now); !status.ok()) {
      return ReportStatsError(flags, status);
    }
    const auto now_at = Clock::now();
    if (flags.json) {
      std::cout << ToJsonLine(now) << std::endl;
    } else {
      if (line % kLinesPerHeading == 0) PrintWatchHeading();
      // After a restart of the coordinator, its counters are the difference to nothing.
      std::optional<StatsDelta> delta;
      if (before) delta = StatsDelta::Between(*before, now);
      if (!delta) delta = StatsDelta();
      const double seconds = std::chrono::duration<double>(now_at - before_at).count();
      PrintWatchLine(now, *delta, std::max(seconds, 1e-3));
    }
    before = now;
    before_at = now_at;
    while (!stop && Clock::now() < now_at + interval) {
      std::this_thread::sleep_for(
          std::min<Clock::duration>(interval, std::chrono::milliseconds(50)));
    }
  }
  return 130;
}

int RunStats(const StatsFlags& flags) {
  std::optional<InterruptBlocked> blocked;
  if (flags.watch_s > 0) blocked.emplace();
  const auto stub = v1::Cluster::NewStub(ConnectTo(flags.server));
  if (flags.watch_s > 0) return Watch(flags, *stub);
  v1::GetStatsResponse stats;
  if (const grpc::Status status = GetStats(*stub, stats); !status.ok()) {
    return ReportStatsError(flags, status);
  }
  if (flags.json) {
    std::cout << ToJsonLine(stats) << std::endl;
  } else {
    PrintTable(stats);
  }
  return 0;
}

}  // namespace

void AddStatsCommand(CLI::App& app, Command& chosen) {
  CLI::App* command = app.add_subcommand(
      "stats", "Show what the serving engine does: sequences, KV cache, steps, requests");
  auto flags = std::make_shared<StatsFlags>();
  AddServerFlag(*command, flags->server);
  command
      ->add_option("--watch", flags->watch_s,
                   "print a line every so many seconds: what is now, and rates since the last")
      ->check(CLI::Range(0.05, 86400.0));
  command->add_flag("--json", flags->json, "print JSON, each answer on a line");
  command->callback([flags, &chosen] { chosen = [flags] { return RunStats(*flags); }; });
}

}  // namespace trireme
