#include "cluster/bench_serve_measures.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace trireme {
namespace {

struct Window {
  double begin_s = 0;
  double end_s = 0;
};

// Inter-token latencies, apart for the time of an intruder's prefill.
struct Gaps {
  std::vector<double> during_ms;
  std::vector<double> outside_ms;

  void Add(const RequestRecord& record, const std::optional<Window>& window) {
    double before_s = 0;
    for (size_t i = 0; i < record.messages.size(); ++i) {
      const RequestRecord::Message& message = record.messages[i];
      const double begin_s = i == 0 ? message.at_s : before_s;
      const uint32_t count = i == 0 ? message.tokens - 1 : message.tokens;
      const bool during = window && begin_s < window->end_s && message.at_s > window->begin_s;
      std::vector<double>& gaps = during ? during_ms : outside_ms;
      gaps.insert(gaps.end(), count, (message.at_s - begin_s) * 1e3 / std::max(count, 1u));
      before_s = message.at_s;
    }
  }
};

double TtftMs(const RequestRecord& record) {
  return (record.messages.front().at_s - record.start_s) * 1e3;
}

// nullopt for an answer of one token.
std::optional<double> TpotMs(const RequestRecord& record) {
  const uint64_t tokens = record.Tokens();
  if (tokens < 2) return std::nullopt;
  return (record.messages.back().at_s - record.messages.front().at_s) * 1e3 /
         static_cast<double>(tokens - 1);
}

double E2eMs(const RequestRecord& record) { return (record.end_s - record.start_s) * 1e3; }

bool IsGood(const RequestRecord& record, const GoodputLimits& limits) {
  if (record.code != grpc::StatusCode::OK || record.messages.empty()) return false;
  if (limits.ttft_ms && TtftMs(record) > *limits.ttft_ms) return false;
  if (limits.tpot_ms && TpotMs(record).value_or(0) > *limits.tpot_ms) return false;
  return !limits.e2e_ms || E2eMs(record) <= *limits.e2e_ms;
}

void CountOutcome(const RequestRecord& record, Report& report) {
  ++report.requests;
  report.clamped += record.clamped;
  report.lag_ms_max = std::max(report.lag_ms_max, record.lag_s * 1e3);
  const uint64_t tokens = record.Tokens();
  if (record.code == grpc::StatusCode::OK) {
    ++report.completed;
    report.short_answers += tokens < record.wanted_tokens;
    report.input_tokens += record.prompt_tokens;
    report.output_tokens += tokens;
    report.cached_tokens += record.cached_tokens;
    return;
  }
  report.partial_tokens += tokens;
  const std::string code = CodeName(record.code);
  report.error_examples.emplace(code, record.error);
  if (record.Refused()) {
    ++report.refused;
    report.refused_with_retry_after += record.retry_after.has_value();
  } else {
    ++report.failed;
    ++report.failed_by_code[code];
  }
}

Window IntrusionWindow(const RequestRecord& intruder) {
  return {.begin_s = intruder.start_s,
          .end_s = intruder.messages.empty() ? intruder.end_s : intruder.messages.front().at_s};
}

}  // namespace

uint64_t RequestRecord::Tokens() const {
  return std::accumulate(messages.begin(), messages.end(), uint64_t{0},
                         [](uint64_t sum, const Message& m) { return sum + m.tokens; });
}

bool RequestRecord::Refused() const {
  return code == grpc::StatusCode::RESOURCE_EXHAUSTED && messages.empty();
}

double Percentile(const std::vector<double>& sorted, double percent) {
  if (sorted.empty()) return 0;
  const double rank = percent / 100 * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(rank);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above], rank - static_cast<double>(below));
}

Summary Summary::Of(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return {.count = values.size(),
          .mean = sum / static_cast<double>(values.size()),
          .p50 = Percentile(values, 50),
          .p90 = Percentile(values, 90),
          .p95 = Percentile(values, 95),
          .p99 = Percentile(values, 99),
          .max = values.back()};
}

absl::StatusOr<GoodputLimits> GoodputLimits::Parse(const std::string& text) {
  GoodputLimits limits;
  const std::vector<std::string> parts = absl::StrSplit(text, ',');
  for (const std::string& part : parts) {
    const std::vector<std::string> pair = absl::StrSplit(part, ':');
    double value = 0;
    if (pair.size() != 2 || !absl::SimpleAtod(pair[1], &value) || !(value > 0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", part, "\" is not a limit: use ttft:MS, tpot:MS or e2e:MS"));
    }
    if (pair[0] == "ttft") {
      limits.ttft_ms = value;
    } else if (pair[0] == "tpot") {
      limits.tpot_ms = value;
    } else if (pair[0] == "e2e" || pair[0] == "e2el") {
      limits.e2e_ms = value;
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", pair[0], "\" cannot be limited; use ttft, tpot or e2e"));
    }
  }
  return limits;
}

Report MakeReport(const std::vector<RequestRecord>& records,
                  const std::optional<GoodputLimits>& limits,
                  const std::optional<RequestRecord>& intruder) {
  Report report;
  std::optional<Window> window;
  if (intruder) window = IntrusionWindow(*intruder);
  std::vector<double> ttft, tpot, e2e;
  Gaps gaps;
  Report::Goodput goodput;
  double first_s = std::numeric_limits<double>::max();
  double last_s = 0;
  for (const RequestRecord& record : records) {
    CountOutcome(record, report);
    first_s = std::min(first_s, record.start_s);
    last_s = std::max(last_s, record.end_s);
    gaps.Add(record, window);
    if (limits) goodput.good += IsGood(record, *limits);
    if (record.code != grpc::StatusCode::OK) continue;
    e2e.push_back(E2eMs(record));
    if (!record.messages.empty()) ttft.push_back(TtftMs(record));
    if (const std::optional<double> each = TpotMs(record)) tpot.push_back(*each);
  }
  report.duration_s = std::max(0.0, last_s - first_s);
  report.ttft_ms = Summary::Of(std::move(ttft));
  report.tpot_ms = Summary::Of(std::move(tpot));
  report.e2e_ms = Summary::Of(std::move(e2e));
  if (intruder) {
    report.intrusion = {.record = *intruder,
                        .window_s = window->end_s - window->begin_s,
                        .itl_during = Summary::Of(gaps.during_ms),
                        .itl_outside = Summary::Of(gaps.outside_ms)};
  }
  gaps.during_ms.insert(gaps.during_ms.end(), gaps.outside_ms.begin(), gaps.outside_ms.end());
  report.itl_ms = Summary::Of(std::move(gaps.during_ms));
  if (limits) {
    const auto good = static_cast<double>(goodput.good);
    goodput.share = records.empty() ? 0 : good / static_cast<double>(records.size());
    goodput.requests_per_s = report.duration_s > 0 ? good / report.duration_s : 0;
    report.goodput = goodput;
  }
  return report;
}

std::string CodeName(grpc::StatusCode code) {
  constexpr std::array<const char*, 17> kNames = {"OK",
                                                  "CANCELLED",
                                                  "UNKNOWN",
                                                  "INVALID_ARGUMENT",
                                                  "DEADLINE_EXCEEDED",
                                                  "NOT_FOUND",
                                                  "ALREADY_EXISTS",
                                                  "PERMISSION_DENIED",
                                                  "RESOURCE_EXHAUSTED",
                                                  "FAILED_PRECONDITION",
                                                  "ABORTED",
                                                  "OUT_OF_RANGE",
                                                  "UNIMPLEMENTED",
                                                  "INTERNAL",
                                                  "UNAVAILABLE",
                                                  "DATA_LOSS",
                                                  "UNAUTHENTICATED"};
  const auto number = static_cast<size_t>(code);
  return number < kNames.size() ? kNames[number] : absl::StrCat("CODE_", static_cast<int>(code));
}

}  // namespace trireme
