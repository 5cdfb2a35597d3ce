// trireme plan: which layouts of a model a cluster can run, and how fast.

#include <algorithm>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "cluster/bench_serve_random.h"
#include "cluster/command.h"
#include "cluster/plan_simulate.h"
#include "cluster/planner/planner.h"
#include "cluster/planner/report.h"

namespace trireme {
namespace {

constexpr int64_t kContextDefault = 8192;
constexpr int64_t kOutputDefault = 256;

struct PlanFlags {
  std::string model;
  int nodes = 1;
  int gpus_per_node = 1;
  std::vector<std::string> gpu;  // one, or one for each node; so the rates
  std::string link;
  std::string network;
  int nics_per_node = 1;
  std::vector<double> memory_gb;
  std::vector<double> memory_gb_per_s;
  std::vector<double> tflops;
  std::vector<double> tops_8bit;
  std::string dtype = "auto";
  std::string kv_dtype = "auto";
  PlanOptions options;
  std::optional<int64_t> images;
  int rows = 10;
  bool json = false;
  std::string output_len;  // a LengthDistribution; empty: by the context
  SimulateFlags simulation;
};

// A node's number of a flag that has one, or one for each node. 0: it was not given.
double Of(const std::vector<double>& values, size_t node) {
  if (values.empty()) return 0;
  return values.size() == 1 ? values.front() : values[node];
}

absl::StatusOr<DeviceSpec> DescribeDevice(const PlanFlags& flags, size_t node) {
  ASSIGN_OR_RETURN(DeviceSpec device,
                   FindDevice(flags.gpu.size() == 1 ? flags.gpu.front() : flags.gpu[node]));
  const auto replace = [&](double& rate, const std::vector<double>& values, double unit) {
    if (const double value = Of(values, node); value > 0) rate = value * unit;
  };
  replace(device.memory_bytes, flags.memory_gb, 1e9);
  replace(device.memory_bytes_per_s, flags.memory_gb_per_s, 1e9);
  replace(device.flops_16bit, flags.tflops, 1e12);
  replace(device.flops_8bit, flags.tops_8bit, 1e12);
  return device;
}

absl::StatusOr<ClusterSpec> DescribeCluster(const PlanFlags& flags) {
  const auto nodes = static_cast<size_t>(flags.nodes);
  bool unlike = false;
  for (const size_t count : {flags.gpu.size(), flags.memory_gb.size(), flags.memory_gb_per_s.size(),
                             flags.tflops.size(), flags.tops_8bit.size()}) {
    if (count > 1 && count != nodes) {
      return absl::InvalidArgumentError(absl::StrCat("a list of devices or of their rates has ",
                                                     count, " entries for --nodes ", flags.nodes,
                                                     "; give one, or one for each node"));
    }
    unlike |= count > 1;
  }
  ClusterSpec cluster;
  cluster.nodes = flags.nodes;
  cluster.devices_per_node = flags.gpus_per_node;
  cluster.nics_per_node = flags.nics_per_node;
  ASSIGN_OR_RETURN(cluster.device, DescribeDevice(flags, 0));
  for (size_t node = 0; unlike && node < nodes; ++node) {
    ASSIGN_OR_RETURN(DeviceSpec device, DescribeDevice(flags, node));
    if (device.gpu != cluster.device.gpu) {
      return absl::InvalidArgumentError("--gpu: a gang computes on GPUs or on CPUs, not on both");
    }
    cluster.node_devices.push_back(std::move(device));
  }
  const DeviceSpec& device = cluster.device;
  ASSIGN_OR_RETURN(cluster.link, FindLink(flags.link.empty() ? device.link : flags.link));
  const std::string network = device.gpu ? "ib-ndr" : "ethernet-25";
  ASSIGN_OR_RETURN(cluster.network, FindLink(flags.network.empty() ? network : flags.network));
  return cluster;
}

// What the plan, which is of one request, takes for a length that varies: the mean of some draws.
int64_t TypicalLength(const std::string& text) {
  constexpr int kDraws = 1000;
  const LengthDistribution length = *LengthDistribution::Parse(text);
  Random random(0);
  int64_t sum = 0;
  for (int i = 0; i < kDraws; ++i) sum += length.Draw(random);
  return (sum + kDraws / 2) / kDraws;
}

PlanOptions ResolveOptions(const PlanFlags& flags, const ModelShape& shape, bool gpu) {
  PlanOptions options = flags.options;
  if (options.context == 0) {
    options.context = std::min(kContextDefault, shape.config.max_position_embeddings);
  }
  if (!flags.output_len.empty()) {
    options.output_tokens = TypicalLength(flags.output_len);
  } else {
    options.output_tokens = std::max<int64_t>(1, std::min(kOutputDefault, options.context / 4));
  }
  options.images = flags.images.value_or(shape.image_tokens > 0 ? 1 : 0);
  options.kv_dtype = ParseKvDType(flags.kv_dtype).value_or(gpu ? KvDType::kBF16 : KvDType::kF32);
  return options;
}

absl::StatusOr<std::string> Report(const PlanFlags& flags) {
  ASSIGN_OR_RETURN(ClusterSpec cluster, DescribeCluster(flags));
  ASSIGN_OR_RETURN(ModelShape shape, ModelShape::Load(flags.model));
  WeightTypes types;
  if (flags.dtype == "auto") {
    ASSIGN_OR_RETURN(types, WeightTypes::Load(flags.model, shape));
  } else {
    ASSIGN_OR_RETURN(types, WeightTypes::Named(flags.dtype));
  }
  const PlanOptions options = ResolveOptions(flags, shape, cluster.device.gpu);
  ASSIGN_OR_RETURN(const Plan plan, MakePlan(shape, types, cluster, options));
  const PlanSubject subject = {.model = flags.model,
                               .shape = std::move(shape),
                               .weights = types.description(),
                               .cluster = std::move(cluster),
                               .options = options};
  if (flags.simulation.simulate) {
    const std::string output_len =
        flags.output_len.empty() ? absl::StrCat(options.output_tokens) : flags.output_len;
    return SimulatePlan(flags.simulation, output_len, subject, types, plan, flags.json);
  }
  if (!flags.json) return PlanText(subject, plan, static_cast<size_t>(flags.rows));
  return absl::StrCat(
      PlanJson(subject, plan).dump(1, ' ', false, nlohmann::json::error_handler_t::replace), "\n");
}

int RunPlan(const PlanFlags& flags) {
  const absl::StatusOr<std::string> report = Report(flags);
  if (!report.ok()) {
    std::cerr << "trireme: " << report.status().message() << std::endl;
    return 1;
  }
  std::cout << *report << std::flush;
  return 0;
}

void DefineCluster(CLI::App& command, PlanFlags& flags) {
  const auto count = [&command](const char* name, int& value, int max, const char* help) {
    command.add_option(name, value, help)->check(CLI::Range(1, max))->capture_default_str();
  };
  const auto rate = [&command](const char* name, std::vector<double>& values, const char* help) {
    command.add_option(name, values, help)
        ->delimiter(',')
        ->allow_extra_args(false)
        ->check(CLI::Range(1e-3, 1e6));
  };
  count("--nodes", flags.nodes, 4096, "hosts");
  count("--gpus-per-node", flags.gpus_per_node, 64, "devices of each, a rank on each");
  command
      .add_option("--gpu", flags.gpu,
                  absl::StrCat("one of ", DeviceNames(),
                               "; where nodes differ one for each, as h100,l40s, and so the rates"))
      ->delimiter(',')
      ->allow_extra_args(false)
      ->required();
  command.add_option(
      "--link", flags.link,
      absl::StrCat("between devices of a host, by default what the device has: ", LinkNames()));
  command.add_option("--network", flags.network,
                     "a network card's link, the same names; default: ib-ndr, for cpu ethernet-25");
  count("--nics-per-node", flags.nics_per_node, 64, "network cards of a host, shared by its ranks");
  rate("--device-memory-gb", flags.memory_gb, "in place of the table's: a device's memory");
  rate("--memory-bandwidth", flags.memory_gb_per_s, "its bandwidth in GB/s");
  rate("--tflops", flags.tflops, "its dense 16-bit rate");
  rate("--tops-8bit", flags.tops_8bit, "its dense 8-bit rate");
}

void DefineRequest(CLI::App& command, PlanFlags& flags) {
  PlanOptions& options = flags.options;
  const auto count = [&command](const char* name, int64_t& value, int64_t min, const char* help) {
    return command.add_option(name, value, help)->check(CLI::Range(min, int64_t{1} << 30));
  };
  count("--context", options.context, 2, "tokens of a request with its answer; default: 8192");
  command
      .add_option("--output-len", flags.output_len,
                  "of them the answer, a number or for --simulate a length as of bench serve; "
                  "default: 256")
      ->check([](const std::string& text) {
        const auto parsed = LengthDistribution::Parse(text);
        return parsed.ok() ? std::string() : std::string(parsed.status().message());
      });
  count("--concurrency", options.concurrency, 1, "requests at once in the cluster")
      ->capture_default_str();
  command.add_option("--images", flags.images, "of a request; default: 1 if the model takes them")
      ->check(CLI::Range(0, 1024));
  command
      .add_option("--dtype", flags.dtype,
                  "weights: auto (as the files or config.json say), or as if they were F32, F16, "
                  "BF16, FP8, INT8, INT4 or one of GGUF's, for example Q4_K")
      ->capture_default_str();
  command
      .add_option("--kv-cache-dtype", flags.kv_dtype, "auto (bf16, for cpu f32), f32, bf16 or int8")
      ->check(CLI::IsMember({"auto", "f32", "bf16", "int8"}))
      ->capture_default_str();
  command
      .add_option("--block-size", options.block_size,
                  "tokens in a KV cache block, a multiple of 16")
      ->check([](const std::string& text) {
        const long size = std::strtol(text.c_str(), nullptr, 10);
        return size >= 16 && size <= 4096 && size % 16 == 0
                   ? std::string()
                   : "it must be a multiple of 16 from 16 to 4096";
      })
      ->capture_default_str();
  count("--max-num-batched-tokens", options.max_num_batched_tokens, 1, "tokens in one step at most")
      ->capture_default_str();
  command
      .add_option("--memory-share", options.memory_share, "of a device's memory that may be used")
      ->check(CLI::Range(0.01, 1.0))
      ->capture_default_str();
}

}  // namespace

void AddPlanCommand(CLI::App& app, Command& chosen) {
  CLI::App* command = app.add_subcommand(
      "plan", "Which layouts of a model a cluster can run, how fast, and how to start the best");
  auto flags = std::make_shared<PlanFlags>();
  command
      ->add_option("model", flags->model,
                   "Hugging Face checkpoint directory, GGUF file, or a config.json alone")
      ->required();
  DefineCluster(*command, *flags);
  DefineRequest(*command, *flags);
  DefineSimulation(*command, flags->simulation);
  command->add_option("--rows", flags->rows, "layouts and reasons shown at most")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "print one JSON object");
  command->callback([flags, &chosen] { chosen = [flags] { return RunPlan(*flags); }; });
}

}  // namespace trireme
