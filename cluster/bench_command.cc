// trireme bench offline: the speed of the ranks themselves, without server or clients.

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cluster/command.h"

namespace trireme {
namespace {

using nlohmann::json;

struct BenchFlags {
  std::string model;
  int threads = 0;
  int prompt_tokens = 128;
  int decode_tokens = 64;
  int batch = 1;
  std::string kv_memory = "1GiB";
  bool json = false;
};

// One way to use the machine's threads.
struct Layout {
  int tp = 1;
  int threads = 1;
};

// Single-quoted for the shell.
std::string Quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

std::string WorkerPath() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  const auto beside = self.parent_path() / "trireme-worker";
  return std::filesystem::exists(beside, error) ? beside.string() : "trireme-worker";
}

std::string CommandLine(const BenchFlags& flags, const Layout& layout) {
  std::string command;
  if (layout.tp > 1) {
    command = absl::StrCat("OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 ",
                           "mpirun --bind-to none --oversubscribe -np ", layout.tp, " ");
  }
  return absl::StrCat(command, Quoted(WorkerPath()), " --offline-bench --model ",
                      Quoted(flags.model), " --tp ", layout.tp, " --threads ", layout.threads,
                      " --kv-memory ", Quoted(flags.kv_memory), " --bench-prompt-tokens ",
                      flags.prompt_tokens, " --bench-decode-tokens ", flags.decode_tokens,
                      " --bench-batch ", flags.batch, " --max-model-len ",
                      flags.prompt_tokens + flags.decode_tokens);
}

// The JSON object that the ranks print, or nullopt after they have said why there is none.
std::optional<json> RunLayout(const BenchFlags& flags, const Layout& layout) {
  std::FILE* pipe = popen(CommandLine(flags, layout).c_str(), "r");
  if (pipe == nullptr) return std::nullopt;
  std::string output;
  std::array<char, 4096> chunk{};
  while (const size_t n = std::fread(chunk.data(), 1, chunk.size(), pipe)) {
    output.append(chunk.data(), n);
  }
  if (pclose(pipe) != 0) return std::nullopt;
  json report = json::parse(output, nullptr, /*allow_exceptions=*/false);
  if (!report.is_object()) return std::nullopt;
  return report;
}

// Measurements of one layout, and its share of what memory and the first layout allow.
json WithRatios(json report, const json* single) {
  const double bandwidth = report.value("read_bandwidth_gb_s", 0.0);
  const double weights = report.value("decode_weight_gb_s", 0.0);
  report["decode_bandwidth_share"] = bandwidth > 0 ? weights / bandwidth : 0.0;
  if (single != nullptr) {
    report["decode_vs_one_rank"] =
        report.value("decode_tokens_per_s", 0.0) / single->value("decode_tokens_per_s", 1.0);
  }
  return report;
}

void PrintRow(const json& report) {
  const std::string layout = absl::StrFormat("TP=%d x %d thread%s", report.value("ranks", 0),
                                             report.value("threads_per_rank", 0),
                                             report.value("threads_per_rank", 0) == 1 ? "" : "s");
  std::cout << absl::StrFormat(
      "%-20s %10.1f %10.1f %12.1f %14.1f %9.0f%% %10s\n", layout,
      report.value("prefill_tokens_per_s", 0.0), report.value("decode_tokens_per_s", 0.0),
      report.value("decode_weight_gb_s", 0.0), report.value("read_bandwidth_gb_s", 0.0),
      100 * report.value("decode_bandwidth_share", 0.0),
      report.contains("decode_vs_one_rank")
          ? absl::StrFormat("%.2f", report.value("decode_vs_one_rank", 0.0))
          : std::string("-"));
}

int RunBench(BenchFlags flags) {
  if (flags.threads == 0) flags.threads = static_cast<int>(std::thread::hardware_concurrency());
  std::vector<Layout> layouts = {{.tp = 1, .threads = flags.threads}};
  for (int tp = 2; tp <= flags.threads && tp <= 8; tp *= 2) {
    layouts.push_back({.tp = tp, .threads = flags.threads / tp});
  }
  json reports = json::array();
  if (!flags.json) {
    std::cout << absl::StrFormat("%-20s %10s %10s %12s %14s %10s %10s\n", "layout", "prefill/s",
                                 "decode/s", "weights GB/s", "memory GB/s", "share", "vs 1 rank");
  }
  for (const Layout& layout : layouts) {
    const std::optional<json> report = RunLayout(flags, layout);
    if (!report) {
      std::cerr << "trireme: the benchmark of tp " << layout.tp << " failed; see above"
                << std::endl;
      return 1;
    }
    reports.push_back(WithRatios(*report, reports.empty() ? nullptr : &reports[0]));
    if (!flags.json) PrintRow(reports.back());
  }
  if (flags.json) std::cout << reports.dump(1) << std::endl;
  return 0;
}

}  // namespace

void AddBenchCommand(CLI::App& app, Command& chosen) {
  CLI::App* bench = app.add_subcommand("bench", "Measure speed");
  bench->require_subcommand(1);
  AddBenchServeCommand(*bench, chosen);
  CLI::App* command = bench->add_subcommand(
      "offline",
      "Prefill and decode of the ranks alone: one rank with all threads, then tensor "
      "parallel ranks sharing them, beside the memory bandwidth measured in each run");
  auto flags = std::make_shared<BenchFlags>();
  command->add_option("--model", flags->model, "checkpoint directory, or a GGUF file")->required();
  command->add_option("--threads", flags->threads, "threads in all; 0: one for each CPU")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_option("--prompt-tokens", flags->prompt_tokens)
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--decode-tokens", flags->decode_tokens)
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  command->add_option("--batch", flags->batch)->check(CLI::Range(1, 256))->capture_default_str();
  command->add_option("--kv-memory", flags->kv_memory, "KV cache of each rank")
      ->capture_default_str();
  command->add_flag("--json", flags->json, "print JSON");
  command->callback([flags, &chosen] { chosen = [flags] { return RunBench(*flags); }; });
}

}  // namespace trireme
