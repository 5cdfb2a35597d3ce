#include "cluster/plan_simulate.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "cluster/bench_serve_random.h"
#include "cluster/planner/gang_model.h"
#include "cluster/planner/request_trace.h"
#include "cluster/planner/simulation.h"
#include "cluster/planner/simulation_report.h"

namespace trireme {
namespace {

constexpr double kSecondsPerHour = 3600;
// What a copy needs after a failure, if nothing else is said.
constexpr double kDetectionS = 5;
constexpr double kStartS = 15;
constexpr double kLoadBytesPerS = 2e9;  // of weights, by each rank

absl::StatusOr<ParallelLayout> ParseLayout(const std::string& text) {
  ParallelLayout layout;
  for (const std::string& part : std::vector<std::string>(absl::StrSplit(text, ','))) {
    int* size = part.starts_with("tp=")   ? &layout.tp
                : part.starts_with("pp=") ? &layout.pp
                                          : nullptr;
    if (size == nullptr || !absl::SimpleAtoi(part.substr(3), size) || *size < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("--layout ", text, ": write, for example, tp=8,pp=2"));
    }
  }
  return layout;
}

absl::StatusOr<LayoutPlan> ChooseLayout(const SimulateFlags& flags, const Plan& plan) {
  if (flags.layout.empty()) {
    if (!plan.layouts.empty()) return plan.layouts.front();
    return absl::InvalidArgumentError(
        "no layout fits the cluster; the plan without --simulate says why");
  }
  ASSIGN_OR_RETURN(const ParallelLayout layout, ParseLayout(flags.layout));
  for (const LayoutPlan& candidate : plan.layouts) {
    if (candidate.layout.tp == layout.tp && candidate.layout.pp == layout.pp) return candidate;
  }
  for (const Rejection& rejection : plan.rejections) {
    const bool all_pp = rejection.layout.pp == 0;
    if (rejection.layout.tp != layout.tp || (!all_pp && rejection.layout.pp != layout.pp)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("--layout ", flags.layout, " is not possible: ", rejection.reason));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--layout ", flags.layout, " is not possible on this cluster; the plan without ",
                   "--simulate lists those that are"));
}

absl::StatusOr<std::vector<TraceRequest>> MakeTrace(const SimulateFlags& flags,
                                                    const std::string& output_len,
                                                    const PlanOptions& options) {
  if (!flags.trace.empty()) return ReadTrace(flags.trace, options.context);
  if (flags.rate <= 0) {
    return absl::InvalidArgumentError(
        "--simulate needs requests: --request-rate R or --trace FILE");
  }
  const std::string input = flags.input_len.empty()
                                ? absl::StrCat(options.context - options.output_tokens)
                                : flags.input_len;
  ASSIGN_OR_RETURN(LengthDistribution input_len, LengthDistribution::Parse(input));
  ASSIGN_OR_RETURN(LengthDistribution outputs, LengthDistribution::Parse(output_len));
  return GenerateTrace({.requests = flags.requests,
                        .rate = flags.rate,
                        .input_len = std::move(input_len),
                        .output_len = std::move(outputs),
                        .seed = flags.seed},
                       options.context);
}

void DescribeTrace(const SimulateFlags& flags, const std::vector<TraceRequest>& trace,
                   SimulationSubject& subject) {
  subject.trace =
      flags.trace.empty() ? absl::StrFormat("Poisson, %g a second", flags.rate) : flags.trace;
  subject.requests = trace.size();
  for (const TraceRequest& request : trace) {
    subject.prompt_tokens += request.prompt_tokens;
    subject.output_tokens += request.output_tokens;
  }
  if (!trace.empty()) subject.last_arrival_s = trace.back().arrival_s;
}

void DescribeFailures(const SimulateFlags& flags, const LayoutPlan& layout,
                      SimulationSubject& subject) {
  subject.mtbf_hours = flags.mtbf_hours;
  SimulationOptions& options = subject.options;
  options.replica_mtbf_s = flags.mtbf_hours * kSecondsPerHour / layout.layout.world_size();
  int64_t bytes = 0;
  for (const StagePlan& stage : layout.stages) bytes = std::max(bytes, stage.max_weight_bytes());
  const double load_s = static_cast<double>(bytes) / kLoadBytesPerS;
  options.recovery_s = flags.recovery_s.value_or(kDetectionS + kStartS + load_s);
  subject.recovery =
      flags.recovery_s.has_value()
          ? "--recovery-s"
          : absl::StrFormat(
                "%g s until it is noticed, %g s to start, %.1f s for a rank's weights at "
                "%g GB/s",
                kDetectionS, kStartS, load_s, kLoadBytesPerS / 1e9);
}

// What was asked for, and how it would be without failures, with fewer copies and with more.
absl::StatusOr<std::vector<SimulatedCase>> RunCases(const std::vector<TraceRequest>& trace,
                                                    const SimulationSubject& subject) {
  const int replicas = subject.options.replicas;
  const bool failures = subject.options.replica_mtbf_s > 0;
  std::vector<SimulatedCase> cases = {
      {.name = "as asked", .replicas = replicas, .failures = failures}};
  if (failures) cases.push_back({.name = "without failures", .replicas = replicas});
  if (replicas > 1) {
    cases.push_back({.name = "half the copies", .replicas = replicas / 2, .failures = failures});
  }
  cases.push_back({.name = "twice the copies", .replicas = 2 * replicas, .failures = failures});
  for (SimulatedCase& one : cases) {
    SimulationOptions options = subject.options;
    options.replicas = one.replicas;
    if (!one.failures) options.replica_mtbf_s = 0;
    ASSIGN_OR_RETURN(one.result, Simulate(trace, options));
    one.load = Measure(one.result, subject.limits);
    one.result.requests = {};
  }
  return cases;
}

}  // namespace

absl::StatusOr<std::string> SimulatePlan(const SimulateFlags& flags, const std::string& output_len,
                                         const PlanSubject& planned, const WeightTypes& types,
                                         const Plan& plan, bool json) {
  const PlanOptions& options = planned.options;
  if (options.images > 0) {
    return absl::InvalidArgumentError(
        "unsupported: --simulate of requests with images; add --images 0");
  }
  ASSIGN_OR_RETURN(const LayoutPlan layout, ChooseLayout(flags, plan));
  if (flags.replicas > layout.replicas) {
    return absl::InvalidArgumentError(absl::StrCat("--replicas ", flags.replicas,
                                                   ": the cluster has devices for ",
                                                   layout.replicas, " of this layout"));
  }
  ASSIGN_OR_RETURN(const GangModel gang, GangModel::Create(planned.shape, types, planned.cluster,
                                                           planned.options, layout));
  ASSIGN_OR_RETURN(const std::vector<TraceRequest> trace, MakeTrace(flags, output_len, options));

  SimulationSubject subject;
  subject.model = planned.model;
  subject.device = planned.cluster.device.name;
  subject.devices = planned.cluster.devices();
  subject.layout = layout.layout;
  subject.limits = {.ttft_ms = flags.slo_ttft_ms, .tpot_ms = flags.slo_tpot_ms};
  subject.options.replicas = flags.replicas > 0 ? flags.replicas : layout.replicas;
  subject.options.duration_s = flags.duration_s;
  subject.options.seed = flags.seed;
  const double overhead_s = flags.step_overhead_us * 1e-6;
  subject.options.replica = {.stages = layout.layout.pp,
                             .block_size = options.block_size,
                             .kv_blocks = layout.kv_blocks(),
                             .max_num_seqs = flags.max_num_seqs.value_or(layout.max_num_seqs),
                             .max_num_batched_tokens = layout.max_num_batched_tokens,
                             .max_step_s = flags.max_step_ms * 1e-3,
                             .step_times = [&gang, overhead_s](std::span<const StepTokens> parts) {
                               StepTimes times = gang.Pass(parts, /*back=*/true);
                               times.latency_s += overhead_s;
                               times.busy_s += overhead_s;
                               return times;
                             }};
  DescribeTrace(flags, trace, subject);
  DescribeFailures(flags, layout, subject);
  ASSIGN_OR_RETURN(const std::vector<SimulatedCase> cases, RunCases(trace, subject));
  if (!json) return SimulationText(subject, cases);
  return absl::StrCat(
      SimulationJson(subject, cases).dump(1, ' ', false, nlohmann::json::error_handler_t::replace),
      "\n");
}

void DefineSimulation(CLI::App& command, SimulateFlags& flags) {
  CLI::Option* simulate = command.add_flag(
      "--simulate", flags.simulate, "serve a trace of requests with the layout, in simulated time");
  const auto option = [&](const char* name, auto& value, const char* help) {
    return command.add_option(name, value, help)->needs(simulate)->group("Simulation");
  };
  option("--layout", flags.layout, "tp=N,pp=N; default: the recommended one");
  option("--replicas", flags.replicas, "copies; default: as many as there are devices for")
      ->check(CLI::Range(1, 1 << 18));
  option("--trace", flags.trace,
         "requests, a line each: {\"arrival_s\": 0.5, \"prompt_tokens\": 8, \"output_tokens\": 8}");
  option("--request-rate,--rate", flags.rate,
         "in place of --trace: requests a second as a Poisson process")
      ->check(CLI::Range(1e-6, 1e6));
  option("--num-requests,--requests", flags.requests, "of them")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  option("--input-len", flags.input_len,
         "tokens of a prompt, a length as of bench serve; default: --context less the answer");
  option("--max-num-seqs", flags.max_num_seqs,
         "sequences computed at once by a copy; default: its share of --concurrency, at least 64")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  option("--max-step-ms", flags.max_step_ms,
         "prompts are cut so that a step that also decodes takes about so long; 0: no bound")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  option("--step-overhead-us", flags.step_overhead_us, "added to every step of every stage")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  option("--slo-ttft-ms", flags.slo_ttft_ms, "a good answer's first token comes within")
      ->check(CLI::Range(0.0, 1e9));
  option("--slo-tpot-ms", flags.slo_tpot_ms, "and each token after it, on average")
      ->check(CLI::Range(0.0, 1e9));
  option("--mtbf-hours", flags.mtbf_hours,
         "mean time between failures of one device, each of which ends its copy; default: none")
      ->check(CLI::Range(0.01, 1e9));
  option(
      "--recovery-s", flags.recovery_s,
      "until the copy serves again; default: 20 s and the time to read a rank's weights at 2 GB/s")
      ->check(CLI::Range(0.0, 1e6));
  option("--duration-s", flags.duration_s, "simulate at least so long, for the availability")
      ->check(CLI::Range(0.0, 1e8));
  option("--seed", flags.seed, "of requests and failures: the same seed, the same result")
      ->capture_default_str();
}

}  // namespace trireme
