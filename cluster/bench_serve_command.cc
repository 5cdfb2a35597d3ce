// trireme bench serve: the speed and the latencies of a running server under a load.

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iostream>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "cluster/bench_serve_client.h"
#include "cluster/bench_serve_random.h"
#include "cluster/bench_serve_report.h"
#include "cluster/bench_serve_workload.h"
#include "cluster/client.h"
#include "cluster/command.h"
#include "cluster/sampling_flags.h"
#include "cluster/server_stats.h"

namespace trireme {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kRequestsMax = 1'000'000;
constexpr uint64_t kRequestsDefault = 100;

struct ServeFlags {
  std::string server = kDefaultServer;
  int channels = 4;
  std::string request_rate = "inf";
  double burstiness = 1;
  uint32_t concurrency = 0;
  uint64_t num_requests = 0;
  double duration_s = 0;
  uint32_t warmup = 0;
  uint64_t seed = 0;
  std::string input_len = "128";
  std::string output_len = "64";
  bool ignore_eos = true;
  uint32_t prefix_len = 0;
  uint32_t prefix_count = 1;
  uint32_t tenants = 0;
  std::string priority;
  double deadline_s = 0;
  std::string sampling = "greedy";
  uint32_t intrude_len = 0;
  double intrude_at_s = 0;
  std::string goodput;
  bool json = false;
  std::string json_file;
};

// The flags as they are used, and what they do not say.
struct ServePlan {
  WorkloadOptions workload;
  LoadOptions load;
  double rate = 0;
  std::optional<GoodputLimits> limits;
};

// A length or rate that the flags' checks have already accepted.
LengthDistribution Length(const std::string& text) { return *LengthDistribution::Parse(text); }

std::optional<double> Rate(const std::string& text) {
  double rate = 0;
  if (text == "inf") return std::numeric_limits<double>::infinity();
  if (!absl::SimpleAtod(text, &rate) || !(rate > 0 && rate <= 1e6)) return std::nullopt;
  return rate;
}

ServePlan MakePlan(const ServeFlags& flags) {
  ServePlan plan;
  plan.workload = {.input_len = Length(flags.input_len),
                   .output_len = Length(flags.output_len),
                   .prefix_len = flags.prefix_len,
                   .prefix_count = flags.prefix_count,
                   .tenants = flags.tenants,
                   .intrude_len = flags.intrude_len,
                   .ignore_eos = flags.ignore_eos,
                   .random_sampling = flags.sampling == "random",
                   .priority = ParsePriority(flags.priority),
                   .seed = flags.seed};
  const bool timed = flags.duration_s > 0;
  plan.load.requests = flags.num_requests > 0 ? flags.num_requests
                       : timed                ? kRequestsMax
                                              : kRequestsDefault;
  if (timed) plan.load.duration_s = flags.duration_s;
  if (flags.concurrency > 0) plan.load.concurrency = flags.concurrency;
  if (flags.deadline_s > 0) plan.load.deadline_s = flags.deadline_s;
  if (flags.intrude_len > 0) plan.load.intrude_at_s = flags.intrude_at_s;
  plan.rate = *Rate(flags.request_rate);
  if (!flags.goodput.empty()) plan.limits = *GoodputLimits::Parse(flags.goodput);
  return plan;
}

Json ConfigJson(const ServeFlags& flags, const ServePlan& plan, const v1::GetModelResponse& model) {
  return {{"server", flags.server},
          {"model", model.name()},
          {"max_model_len", model.max_model_len()},
          {"vocab_size", model.vocab_size()},
          {"request_rate", flags.request_rate},
          {"burstiness", flags.burstiness},
          {"concurrency", flags.concurrency > 0 ? Json(flags.concurrency) : Json(nullptr)},
          {"num_requests", plan.load.requests},
          {"max_duration_s", plan.load.duration_s ? Json(*plan.load.duration_s) : Json(nullptr)},
          {"seed", flags.seed},
          {"warmup", flags.warmup},
          {"input_len", flags.input_len},
          {"output_len", flags.output_len},
          {"ignore_eos", flags.ignore_eos},
          {"prefix_len", flags.prefix_len},
          {"prefix_count", flags.prefix_count},
          {"tenants", flags.tenants},
          {"priority", flags.priority.empty() ? "normal" : flags.priority},
          {"deadline_s", flags.deadline_s > 0 ? Json(flags.deadline_s) : Json(nullptr)},
          {"sampling", flags.sampling},
          {"intrude_len", flags.intrude_len},
          {"intrude_at_s", flags.intrude_at_s},
          {"goodput", flags.goodput}};
}

// Everything that is done before the first request; on failure the exit code, after a message.
int GetReadyModel(const std::string& server, const std::shared_ptr<grpc::Channel>& channel,
                  v1::GetModelResponse& model) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  const grpc::Status status = v1::Inference::NewStub(channel)->GetModel(&context, {}, &model);
  if (!status.ok()) return ReportError(server, status);
  if (model.ready()) return 0;
  std::cerr << "trireme: the model is not ready: no gang is serving; start workers with: mpirun "
               "-np N trireme-worker --coordinator "
            << server << " --model DIR --tp N" << std::endl;
  return 1;
}

std::vector<std::shared_ptr<grpc::Channel>> Connect(const ServeFlags& flags) {
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (int i = 0; i < flags.channels; ++i) {
    channels.push_back(ConnectTo(flags.server));
    channels.back()->GetState(/*try_to_connect=*/true);
  }
  return channels;
}

// Connecting is not part of a request's latency.
void WaitForConnections(const std::vector<std::shared_ptr<grpc::Channel>>& channels) {
  const auto deadline = std::chrono::system_clock::now() + std::chrono::seconds(5);
  for (const auto& channel : channels) channel->WaitForConnected(deadline);
}

// False after a message, if one of the requests failed.
bool WarmUp(const ServeFlags& flags, const ServePlan& plan, const Workload& workload,
            LoadGenerator& generator) {
  if (flags.warmup == 0) return true;
  LoadOptions load = plan.load;
  load.requests = flags.warmup;
  load.duration_s.reset();
  load.intrude_at_s.reset();
  const auto result = generator.Run(
      load, [&](uint64_t number) { return workload.MakeWarmup(number); }, [] { return 0.0; },
      std::nullopt);
  for (const RequestRecord& record : result.records) {
    if (record.code == grpc::StatusCode::OK || record.code == grpc::StatusCode::CANCELLED) continue;
    std::cerr << "trireme: a warm-up request failed: ";
    ReportError(flags.server, grpc::Status(record.code, record.error));
    return false;
  }
  return true;
}

// Fills the server's part of `outcome` from its counters before and after the run.
void TakeServerStats(const grpc::Status& status_before, const v1::GetStatsResponse& before,
                     v1::Cluster::Stub& stub, ServeOutcome& outcome) {
  v1::GetStatsResponse after;
  const grpc::Status status = status_before.ok() ? GetStats(stub, after) : status_before;
  if (status.error_code() == grpc::StatusCode::UNIMPLEMENTED) {
    outcome.no_server_reason = "this coordinator has no GetStats";
  } else if (!status.ok()) {
    outcome.no_server_reason = status.error_message();
  } else if (outcome.server = StatsDelta::Between(before, after); !outcome.server) {
    outcome.no_server_reason = "the coordinator was started anew during the run";
  }
}

int Print(const ServeFlags& flags, const ServeOutcome& outcome) {
  if (flags.json) {
    std::cout << ToJson(outcome).dump() << std::endl;
  } else {
    PrintTable(outcome, std::cout);
  }
  if (!flags.json_file.empty()) {
    std::ofstream file(flags.json_file);
    file << ToJson(outcome).dump(1) << "\n";
    if (!file.flush()) {
      std::cerr << "trireme: cannot write " << flags.json_file << std::endl;
      return 1;
    }
  }
  if (outcome.interrupted) return 130;
  const Report& report = outcome.report;
  if (report.requests == 0 || report.failed < report.requests) return 0;
  const auto& [code, message] = *report.error_examples.begin();
  std::cerr << "trireme: every request failed: " << code << ": " << message << std::endl;
  return 1;
}

int RunServe(const ServeFlags& flags) {
  const InterruptBlocked blocked;
  const ServePlan plan = MakePlan(flags);
  const auto channels = Connect(flags);
  v1::GetModelResponse model;
  if (const int code = GetReadyModel(flags.server, channels[0], model); code != 0) return code;
  const absl::StatusOr<Workload> workload =
      Workload::Create(plan.workload, model.max_model_len(), model.vocab_size());
  if (!workload.ok()) {
    std::cerr << "trireme: " << workload.status().message() << std::endl;
    return 1;
  }
  WaitForConnections(channels);
  LoadGenerator generator(channels);
  const InterruptScope interrupt([&generator] { generator.Stop(); });
  if (!WarmUp(flags, plan, *workload, generator)) return interrupt.interrupted() ? 130 : 1;

  const auto cluster = v1::Cluster::NewStub(channels[0]);
  v1::GetStatsResponse before;
  const grpc::Status status_before = GetStats(*cluster, before);
  ArrivalProcess arrivals(plan.rate, flags.burstiness, flags.seed);
  std::optional<Workload::Request> intruder;
  if (plan.load.intrude_at_s) intruder = workload->MakeIntruder();
  const LoadGenerator::Result result = generator.Run(
      plan.load, [&](uint64_t number) { return workload->Make(number); },
      [&arrivals] { return arrivals.Next(); }, intruder);

  ServeOutcome outcome;
  outcome.report = MakeReport(result.records, plan.limits, result.intruder);
  outcome.interrupted = interrupt.interrupted();
  outcome.config = ConfigJson(flags, plan, model);
  TakeServerStats(status_before, before, *cluster, outcome);
  if (intruder && !result.intruder && !outcome.interrupted) {
    std::cerr << "trireme: the intruding prompt never entered: the others had ended before "
              << flags.intrude_at_s << " s" << std::endl;
  }
  return Print(flags, outcome);
}

// A check for CLI11: the parser's message, or nothing.
template <typename T>
CLI::Validator Parses(absl::StatusOr<T> (*parse)(const std::string&)) {
  return {[parse](std::string& text) {
            const absl::StatusOr<T> parsed = parse(text);
            return parsed.ok() ? std::string() : std::string(parsed.status().message());
          },
          ""};
}

void AddLoadFlags(CLI::App& command, ServeFlags& flags) {
  command
      .add_option("--request-rate", flags.request_rate,
                  "requests per second as a Poisson process; inf: all at once")
      ->check([](const std::string& text) {
        return Rate(text) ? std::string() : "\"" + text + "\" is not a rate: above 0, or inf";
      })
      ->capture_default_str()
      ->group("Load");
  const auto option = [&command](const char* name, auto& value, const char* help) {
    return command.add_option(name, value, help)->capture_default_str()->group("Load");
  };
  option("--burstiness", flags.burstiness,
         "shape of gamma distributed gaps: 1 is Poisson, less comes in bursts")
      ->check(CLI::Range(0.001, 1e6));
  option("--concurrency,--max-concurrency", flags.concurrency,
         "requests under way at most; alone: a closed loop; 0: no bound")
      ->check(CLI::Range(0, 100'000));
  option("--num-requests,--num-prompts", flags.num_requests,
         "requests in all (0: 100, or as many as --duration-s takes)")
      ->check(CLI::Range(uint64_t{0}, kRequestsMax));
  option("--duration-s", flags.duration_s,
         "send nothing after so many seconds; what is under way ends in peace; 0: no bound")
      ->check(CLI::Range(0.0, 86400.0));
  option("--deadline-s", flags.deadline_s, "deadline of each request; 0: none")
      ->check(CLI::Range(0.0, 86400.0));
  option("--warmup", flags.warmup, "requests before the measured ones, with the same prefixes")
      ->check(CLI::Range(0, 10'000));
  option("--seed", flags.seed, "same seed, same requests at the same times");
  option("--intrude-len", flags.intrude_len,
         "a further request with a prompt of so many tokens; inter-token latencies of the others "
         "are shown apart while it is prefilled");
  option("--intrude-at-s", flags.intrude_at_s, "when it enters")->check(CLI::Range(0.0, 86400.0));
}

void AddRequestFlags(CLI::App& command, ServeFlags& flags) {
  const auto option = [&command](const char* name, auto& value, const char* help) {
    return command.add_option(name, value, help)->capture_default_str()->group("Requests");
  };
  constexpr const char* kLengths =
      "N, uniform:A:B, normal:MEAN:STD, lognormal:MEDIAN:SIGMA, exponential:MEAN or choice:A,B,C; "
      "at most what fits the context";
  option("--input-len", flags.input_len, "random prompt tokens behind the shared prefix: ")
      ->description(absl::StrCat("random prompt tokens behind the shared prefix: ", kLengths))
      ->check(Parses(&LengthDistribution::Parse));
  option("--output-len", flags.output_len, "")
      ->description(absl::StrCat("tokens of each answer: ", kLengths))
      ->check(Parses(&LengthDistribution::Parse));
  command
      .add_flag("--ignore-eos,!--no-ignore-eos", flags.ignore_eos,
                "go on past the model's end token, so that lengths are exact (default)")
      ->group("Requests");
  option("--prefix-len", flags.prefix_len, "tokens of a prefix that requests share");
  option("--prefix-count", flags.prefix_count, "different prefixes, chosen at random")
      ->check(CLI::Range(1, 10'000));
  option("--tenants", flags.tenants, "tenants that take turns; 0: requests name none")
      ->check(CLI::Range(0, 10'000));
  option("--priority", flags.priority, "batch, normal or high")
      ->check(CLI::IsMember({"batch", "normal", "high"}));
  option("--sampling", flags.sampling, "greedy, or random: temperature 1 and a seed")
      ->check(CLI::IsMember({"greedy", "random"}));
}

void CheckTogether(const ServeFlags& flags) {
  const bool open_end = flags.num_requests == 0 && flags.duration_s > 0;
  if (open_end && flags.request_rate == "inf" && flags.concurrency == 0) {
    throw CLI::ValidationError(
        "--duration-s alone would send requests without end; add --request-rate, --concurrency or "
        "--num-requests");
  }
  if (flags.intrude_at_s > 0 && flags.intrude_len == 0) {
    throw CLI::ValidationError("--intrude-at-s needs --intrude-len");
  }
}

}  // namespace

void AddBenchServeCommand(CLI::App& bench, Command& chosen) {
  CLI::App* command = bench.add_subcommand(
      "serve",
      "A load on a running server: random prompts at a rate or in a closed loop; throughput, time "
      "to first token and between tokens, refusals, and what the server did meanwhile");
  auto flags = std::make_shared<ServeFlags>();
  AddServerFlag(*command, flags->server);
  command->add_option("--channels", flags->channels, "connections")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  AddLoadFlags(*command, *flags);
  AddRequestFlags(*command, *flags);
  command
      ->add_option("--goodput", flags->goodput,
                   "count the answers within ttft:MS,tpot:MS,e2e:MS (any of them)")
      ->check(Parses(&GoodputLimits::Parse));
  command->add_flag("--json", flags->json, "print one object of JSON instead of a table");
  command->add_option("--json-file", flags->json_file, "write the JSON to this file too");
  command->callback([flags, &chosen] {
    CheckTogether(*flags);
    chosen = [flags] { return RunServe(*flags); };
  });
}

}  // namespace trireme
