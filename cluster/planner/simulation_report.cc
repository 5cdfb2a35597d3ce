#include "cluster/planner/simulation_report.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kMsPerS = 1e3;

Json ToJson(const Summary& summary) {
  return {{"mean", summary.mean},
          {"p50", summary.p50},
          {"p90", summary.p90},
          {"p99", summary.p99},
          {"max", summary.max}};
}

Json ToJson(const SimulatedCase& one) {
  const ServedLoad& load = one.load;
  const SimulationResult& result = one.result;
  return {{"name", one.name},
          {"replicas", one.replicas},
          {"with_failures", one.failures},
          {"duration_s", load.duration_s},
          {"completed", load.completed},
          {"failed", load.failed},
          {"requests_per_s", load.requests_per_s},
          {"output_tokens_per_s", load.output_tokens_per_s},
          {"goodput_requests_per_s", load.good_requests_per_s},
          {"goodput_share", load.good_share},
          {"queue_ms", ToJson(load.queue_ms)},
          {"ttft_ms", ToJson(load.ttft_ms)},
          {"tpot_ms", ToJson(load.tpot_ms)},
          {"e2e_ms", ToJson(load.e2e_ms)},
          {"mean_requests", result.mean_requests()},
          {"kv_use", result.kv_use},
          {"kv_use_max", result.kv_use_max},
          {"steps", result.counts.steps},
          {"preemptions", result.counts.preemptions},
          {"tokens_prefilled", result.counts.tokens_prefilled},
          {"tokens_recomputed", result.counts.tokens_recomputed},
          {"gang_failures", result.failures},
          {"availability", result.availability}};
}

Json OrNull(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }

std::string Fixed(double value) { return absl::StrFormat("%.1f", value); }
std::string Percent(double share) { return absl::StrFormat("%.3f %%", 100 * share); }

// One line for each measure.
class Table {
 public:
  explicit Table(const std::vector<SimulatedCase>& cases) : cases_(cases) {}

  void Row(const std::string& name, const std::function<std::string(const SimulatedCase&)>& value) {
    absl::StrAppend(&text_, absl::StrFormat("%-28s", name));
    for (const SimulatedCase& one : cases_)
      absl::StrAppend(&text_, absl::StrFormat(" %18s", value(one)));
    text_ += "\n";
  }
  void Summaries(const std::string& name, const Summary ServedLoad::*summary) {
    Row(name + " p50 ms", [&](const SimulatedCase& c) { return Fixed((c.load.*summary).p50); });
    Row(name + " p90 ms", [&](const SimulatedCase& c) { return Fixed((c.load.*summary).p90); });
    Row(name + " p99 ms", [&](const SimulatedCase& c) { return Fixed((c.load.*summary).p99); });
  }
  const std::string& text() const { return text_; }

 private:
  const std::vector<SimulatedCase>& cases_;
  std::string text_;
};

std::string Limits(const GoodputLimits& limits) {
  std::string text;
  if (limits.ttft_ms) absl::StrAppend(&text, ", TTFT <= ", *limits.ttft_ms, " ms");
  if (limits.tpot_ms) absl::StrAppend(&text, ", TPOT <= ", *limits.tpot_ms, " ms");
  return text.empty() ? "no limits: every completed request is good" : "good is" + text.substr(1);
}

}  // namespace

ServedLoad Measure(const SimulationResult& result, const GoodputLimits& limits) {
  ServedLoad load;
  std::vector<double> queue, ttft, tpot, e2e;
  int64_t tokens = 0;
  uint64_t good = 0;
  double last_s = 0;
  for (const SimulatedSequence& request : result.requests) {
    last_s = std::max(last_s, *request.end_s);
    if (request.failed) {
      ++load.failed;
      continue;
    }
    ++load.completed;
    tokens += request.output_tokens;
    queue.push_back((*request.admitted_s - request.arrival_s) * kMsPerS);
    ttft.push_back((*request.first_token_s - request.arrival_s) * kMsPerS);
    e2e.push_back((*request.end_s - request.arrival_s) * kMsPerS);
    bool meets = !limits.ttft_ms || ttft.back() <= *limits.ttft_ms;
    if (request.output_tokens > 1) {
      tpot.push_back((*request.end_s - *request.first_token_s) * kMsPerS /
                     static_cast<double>(request.output_tokens - 1));
      meets = meets && (!limits.tpot_ms || tpot.back() <= *limits.tpot_ms);
    }
    meets = meets && (!limits.e2e_ms || e2e.back() <= *limits.e2e_ms);
    good += meets;
  }
  load.queue_ms = Summary::Of(std::move(queue));
  load.ttft_ms = Summary::Of(std::move(ttft));
  load.tpot_ms = Summary::Of(std::move(tpot));
  load.e2e_ms = Summary::Of(std::move(e2e));
  if (result.requests.empty()) return load;
  load.duration_s = last_s - result.requests.front().arrival_s;
  load.good_share = static_cast<double>(good) / static_cast<double>(result.requests.size());
  if (load.duration_s <= 0) return load;
  load.requests_per_s = static_cast<double>(load.completed) / load.duration_s;
  load.output_tokens_per_s = static_cast<double>(tokens) / load.duration_s;
  load.good_requests_per_s = static_cast<double>(good) / load.duration_s;
  return load;
}

Json SimulationJson(const SimulationSubject& subject, const std::vector<SimulatedCase>& cases) {
  const ReplicaSpec& replica = subject.options.replica;
  Json report = {
      {"model", subject.model},
      {"device", subject.device},
      {"devices", subject.devices},
      {"layout", {{"tp", subject.layout.tp}, {"pp", subject.layout.pp}}},
      {"replica",
       {{"kv_blocks", replica.kv_blocks},
        {"block_size", replica.block_size},
        {"max_num_seqs", replica.max_num_seqs},
        {"max_num_batched_tokens", replica.max_num_batched_tokens},
        {"max_step_ms", replica.max_step_s * kMsPerS}}},
      {"trace",
       {{"source", subject.trace},
        {"requests", subject.requests},
        {"prompt_tokens", subject.prompt_tokens},
        {"output_tokens", subject.output_tokens},
        {"last_arrival_s", subject.last_arrival_s}}},
      {"slo",
       {{"ttft_ms", OrNull(subject.limits.ttft_ms)}, {"tpot_ms", OrNull(subject.limits.tpot_ms)}}},
      {"mtbf_hours", subject.mtbf_hours > 0 ? Json(subject.mtbf_hours) : Json(nullptr)},
      {"recovery_s", subject.options.recovery_s},
      {"seed", subject.options.seed},
      {"cases", Json::array()}};
  for (const SimulatedCase& one : cases) report["cases"].push_back(ToJson(one));
  return report;
}

std::string SimulationText(const SimulationSubject& subject,
                           const std::vector<SimulatedCase>& cases) {
  const ReplicaSpec& replica = subject.options.replica;
  const int copies = subject.options.replicas;
  std::string text = absl::StrFormat(
      "Simulated: %s, %d cop%s of tp %d pp %d on %d of %d %s, seed %d\n", subject.model, copies,
      copies == 1 ? "y" : "ies", subject.layout.tp, subject.layout.pp,
      copies * subject.layout.world_size(), subject.devices, subject.device, subject.options.seed);
  absl::StrAppend(&text,
                  absl::StrFormat("  %s: %d requests in %.1f s, %d prompt and %d answer tokens\n",
                                  subject.trace, subject.requests, subject.last_arrival_s,
                                  subject.prompt_tokens, subject.output_tokens));
  absl::StrAppend(&text, "  a copy: KV cache of ", replica.kv_blocks * replica.block_size,
                  " tokens, ", replica.max_num_seqs, " sequences at once, ",
                  replica.max_num_batched_tokens, " tokens in a step; ", Limits(subject.limits),
                  "\n");
  if (subject.mtbf_hours > 0) {
    absl::StrAppend(
        &text, absl::StrFormat("  a device fails every %g hours on average, its copy is away for "
                               "%.1f s: %s\n",
                               subject.mtbf_hours, subject.options.recovery_s, subject.recovery));
  }
  Table table(cases);
  const auto number = [](auto value) { return absl::StrCat(value); };
  table.Row("", [](const SimulatedCase& c) { return c.name; });
  table.Row("copies", [&](const SimulatedCase& c) { return number(c.replicas); });
  table.Row("completed", [&](const SimulatedCase& c) { return number(c.load.completed); });
  table.Row("failed", [&](const SimulatedCase& c) { return number(c.load.failed); });
  table.Row("requests/s",
            [](const SimulatedCase& c) { return absl::StrFormat("%.2f", c.load.requests_per_s); });
  table.Row("output tokens/s",
            [](const SimulatedCase& c) { return Fixed(c.load.output_tokens_per_s); });
  table.Row("goodput requests/s", [](const SimulatedCase& c) {
    return absl::StrFormat("%.2f", c.load.good_requests_per_s);
  });
  table.Row("goodput of all", [](const SimulatedCase& c) { return Percent(c.load.good_share); });
  table.Summaries("queue", &ServedLoad::queue_ms);
  table.Summaries("TTFT", &ServedLoad::ttft_ms);
  table.Summaries("TPOT", &ServedLoad::tpot_ms);
  table.Summaries("E2E", &ServedLoad::e2e_ms);
  table.Row("requests in the cluster",
            [](const SimulatedCase& c) { return Fixed(c.result.mean_requests()); });
  table.Row("KV cache used, mean", [](const SimulatedCase& c) { return Percent(c.result.kv_use); });
  table.Row("KV cache used, most",
            [](const SimulatedCase& c) { return Percent(c.result.kv_use_max); });
  table.Row("preemptions",
            [&](const SimulatedCase& c) { return number(c.result.counts.preemptions); });
  table.Row("gang failures", [&](const SimulatedCase& c) { return number(c.result.failures); });
  table.Row("tokens recomputed",
            [&](const SimulatedCase& c) { return number(c.result.counts.tokens_recomputed); });
  table.Row("availability", [](const SimulatedCase& c) { return Percent(c.result.availability); });
  return absl::StrCat(text, "\n", table.text());
}

}  // namespace trireme
