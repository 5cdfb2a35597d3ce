#include "cluster/bench_serve_report.h"

#include <ostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

Json ToJson(const Summary& summary) {
  return {{"count", summary.count}, {"mean", summary.mean}, {"p50", summary.p50},
          {"p90", summary.p90},     {"p95", summary.p95},   {"p99", summary.p99},
          {"max", summary.max}};
}

Json ToJson(const Report::Intrusion& intrusion) {
  const RequestRecord& record = intrusion.record;
  return {{"status", CodeName(record.code)},
          {"prompt_tokens", record.prompt_tokens},
          {"sent_at_s", record.start_s},
          {"window_s", intrusion.window_s},
          {"first_token", !record.messages.empty()},
          {"itl_during_ms", ToJson(intrusion.itl_during)},
          {"itl_outside_ms", ToJson(intrusion.itl_outside)}};
}

Json ToJson(const StatsDelta& delta) {
  return {{"steps", delta.steps},
          {"mean_step_ms", delta.MeanStepMs()},
          {"tokens_prefilled", delta.tokens_prefilled},
          {"tokens_generated", delta.tokens_generated},
          {"prefix_tokens_asked", delta.prefix_tokens_asked},
          {"prefix_tokens_hit", delta.prefix_tokens_hit},
          {"prefix_hit_share", delta.HitShare()},
          {"preemptions", delta.preemptions},
          {"swaps", delta.swaps},
          {"requests_finished", delta.requests_finished},
          {"requests_cancelled", delta.requests_cancelled},
          {"requests_refused", delta.requests_refused},
          {"requests_failed", delta.requests_failed},
          {"step_ms", delta.step_ms},
          {"idle_ms", delta.idle_ms},
          {"idle_share", delta.IdleShare()},
          {"bubble_ms", delta.bubble_ms},
          {"bubble_share", delta.BubbleShare()}};
}

class Table {
 public:
  explicit Table(std::ostream& out) : out_(out) {}

  void Heading(const char* text) { out_ << "\n" << text << "\n"; }
  void Row(const std::string& name, const std::string& value) {
    out_ << absl::StrFormat("  %-34s %12s\n", name, value);
  }
  void Row(const std::string& name, uint64_t value) { Row(name, absl::StrCat(value)); }
  void Row(const std::string& name, double value) { Row(name, absl::StrFormat("%.2f", value)); }
  void Share(const std::string& name, double share) {
    Row(name, absl::StrFormat("%.1f %%", 100 * share));
  }
  void SummaryHeading() {
    out_ << absl::StrFormat("\n%-22s %8s %10s %10s %10s %10s %10s %10s\n", "Latency (ms)", "count",
                            "mean", "p50", "p90", "p95", "p99", "max");
  }
  void SummaryRow(const char* name, const Summary& s) {
    out_ << absl::StrFormat("  %-20s %8d %10.1f %10.1f %10.1f %10.1f %10.1f %10.1f\n", name,
                            s.count, s.mean, s.p50, s.p90, s.p95, s.p99, s.max);
  }

 private:
  std::ostream& out_;
};

void PrintRequests(const Report& report, Table& table) {
  table.Heading("Requests");
  table.Row("answered", report.requests);
  table.Row("completed", report.completed);
  if (report.short_answers > 0) table.Row("  with fewer tokens than asked", report.short_answers);
  table.Row("refused", report.refused);
  if (report.refused > 0) table.Row("  with retry-after", report.refused_with_retry_after);
  table.Row("failed", report.failed);
  for (const auto& [code, count] : report.failed_by_code) {
    table.Row(absl::StrCat("  ", code), count);
  }
  if (report.clamped > 0) table.Row("shortened to the context", report.clamped);
  table.Row("sent late by at most (ms)", report.lag_ms_max);
}

void PrintThroughput(const Report& report, Table& table) {
  table.Heading("Throughput of completed requests");
  table.Row("duration (s)", report.duration_s);
  table.Row("input tokens", report.input_tokens);
  table.Row("  found in the prefix cache", report.cached_tokens);
  table.Row("output tokens", report.output_tokens);
  if (report.partial_tokens > 0) table.Row("tokens of failed requests", report.partial_tokens);
  table.Row("requests/s", report.RequestsPerS());
  table.Row("output tokens/s", report.OutputTokensPerS());
  table.Row("total tokens/s", report.TotalTokensPerS());
  if (!report.goodput) return;
  table.Share("good", report.goodput->share);
  table.Row("good requests/s", report.goodput->requests_per_s);
}

void PrintLatencies(const Report& report, Table& table) {
  table.SummaryHeading();
  table.SummaryRow("TTFT", report.ttft_ms);
  table.SummaryRow("TPOT", report.tpot_ms);
  table.SummaryRow("ITL", report.itl_ms);
  if (report.intrusion) {
    table.SummaryRow("ITL, intruded", report.intrusion->itl_during);
    table.SummaryRow("ITL, otherwise", report.intrusion->itl_outside);
  }
  table.SummaryRow("E2E", report.e2e_ms);
}

void PrintServer(const StatsDelta& server, Table& table) {
  table.Heading("Server meanwhile");
  table.Row("steps", server.steps);
  table.Row("mean step (ms)", server.MeanStepMs());
  table.Row("prompt tokens computed", server.tokens_prefilled);
  table.Row("prefix cache hits (tokens)", server.prefix_tokens_hit);
  table.Share("  of those asked", server.HitShare());
  table.Row("preemptions", server.preemptions);
  table.Row("  swapped to host memory", server.swaps);
  table.Row("idle between steps (ms)", server.idle_ms);
  table.Share("  of the time with work", server.IdleShare());
  table.Row("pipeline bubbles (ms)", server.bubble_ms);
}

}  // namespace

Json ToJson(const ServeOutcome& outcome) {
  const Report& report = outcome.report;
  Json json;
  json["config"] = outcome.config;
  json["interrupted"] = outcome.interrupted;
  json["duration_s"] = report.duration_s;
  json["requests"] = {{"answered", report.requests},
                      {"completed", report.completed},
                      {"completed_short", report.short_answers},
                      {"refused", report.refused},
                      {"refused_with_retry_after", report.refused_with_retry_after},
                      {"failed", report.failed},
                      {"failed_by_code", report.failed_by_code},
                      {"clamped", report.clamped},
                      {"sent_late_ms_max", report.lag_ms_max},
                      {"error_examples", report.error_examples}};
  json["tokens"] = {{"input", report.input_tokens},
                    {"cached", report.cached_tokens},
                    {"output", report.output_tokens},
                    {"output_of_failed", report.partial_tokens}};
  json["throughput"] = {{"requests_per_s", report.RequestsPerS()},
                        {"output_tokens_per_s", report.OutputTokensPerS()},
                        {"total_tokens_per_s", report.TotalTokensPerS()}};
  json["ttft_ms"] = ToJson(report.ttft_ms);
  json["tpot_ms"] = ToJson(report.tpot_ms);
  json["itl_ms"] = ToJson(report.itl_ms);
  json["e2e_ms"] = ToJson(report.e2e_ms);
  json["goodput"] = nullptr;
  if (report.goodput) {
    json["goodput"] = {{"good", report.goodput->good},
                       {"share", report.goodput->share},
                       {"requests_per_s", report.goodput->requests_per_s}};
  }
  json["intrusion"] = report.intrusion ? ToJson(*report.intrusion) : Json(nullptr);
  json["server"] = outcome.server ? ToJson(*outcome.server) : Json(nullptr);
  return json;
}

void PrintTable(const ServeOutcome& outcome, std::ostream& out) {
  Table table(out);
  const Report& report = outcome.report;
  PrintRequests(report, table);
  for (const auto& [code, message] : report.error_examples) {
    out << "  " << code << ": " << message << "\n";
  }
  PrintThroughput(report, table);
  PrintLatencies(report, table);
  if (report.intrusion) {
    const Report::Intrusion& intrusion = *report.intrusion;
    table.Heading("Intruding prompt");
    table.Row("tokens", uint64_t{intrusion.record.prompt_tokens});
    table.Row("sent at (s)", intrusion.record.start_s);
    table.Row(intrusion.record.messages.empty() ? "no first token; ended after (s)"
                                                : "first token after (s)",
              intrusion.window_s);
    table.Row("status", CodeName(intrusion.record.code));
  }
  if (outcome.server) {
    PrintServer(*outcome.server, table);
  } else if (!outcome.no_server_reason.empty()) {
    out << "\nNo numbers of the server: " << outcome.no_server_reason << "\n";
  }
  out.flush();
}

}  // namespace trireme
