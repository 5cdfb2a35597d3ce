// trireme-worker: one rank of a gang. Started by mpirun, or by anything else and joined with the
// others through the coordinator, or alone as a gang of one.

#include <sched.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/file_fingerprint.h"
#include "base/listen_address.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "kernels/ops.h"
#include "parallel/collective_watch.h"
#include "parallel/communicator.h"
#include "parallel/link_test.h"
#include "parallel/network_devices.h"
#include "parallel/shard_flags.h"
#include "worker/agreement.h"
#include "worker/checksums.h"
#include "worker/cpu_binding.h"
#include "worker/device.h"
#include "worker/gang_network.h"
#include "worker/gang_placement.h"
#include "worker/gang_settings.h"
#include "worker/gang_world.h"
#include "worker/load_reporter.h"
#include "worker/memory_amount.h"
#include "worker/model_runner.h"
#include "worker/offline_bench.h"
#include "worker/rank_health.h"
#include "worker/stage_choice.h"
#include "worker/start_lease.h"
#include "worker/start_phases.h"
#include "worker/stop_signal.h"
#include "worker/worker_service.h"

namespace trireme {
namespace {

struct Flags {
  RunnerOptions runner;
  ShardFlags shard;
  std::string kv_memory = "auto";
  std::string swap_memory = "0";
  std::string kv_cache_dtype = "auto";
  std::string dtype = "auto";
  std::string model_version;
  ControlOptions control;
  JoinOptions join;
  std::string health = "127.0.0.1:0";
  int health_timeout_s = 150;
  bool insecure = false;
  std::string network;  // what was told MPI and NCCL of it, for the log
  int peer_timeout_s = 600;
  std::string link_test = "auto";
  OfflineBenchOptions bench;
  bool offline_bench = false;
  int threads = 0;
  std::string device = "cpu";
  std::string wire = "auto";
  bool deterministic = false;
  std::string cpu_variant;
  std::string cpu_bind = "auto";
  std::string log_level = "info";
};

// A check of CLI11: empty if it is fine.
std::string MemoryText(const std::string& text) {
  return std::string(ParseMemoryAmount(text).status().message());
}

void DefineGangFlags(CLI::App& app, Flags& flags) {
  app.add_option("--gang", flags.join.gang,
                 "form a gang of this name through the coordinator, without mpirun")
      ->envname("TRIREME_GANG");
  app.add_option("--rank", flags.join.rank,
                 "this worker's rank in the gang; default: --placement's choice")
      ->envname("TRIREME_RANK")
      ->check(CLI::Range(0, 4095))
      ->needs("--gang");
  app.add_option("--net-interface", flags.join.network.net_interface,
                 "interface (eth0) or RDMA port (mlx5_0:1) between the gang's hosts; default: the "
                 "interface that leads to the coordinator")
      ->envname("TRIREME_NET_INTERFACE");
  app.add_flag("--require-rdma", flags.join.network.require_rdma,
               "end with an error instead of using TCP where a --gang has no RDMA")
      ->envname("TRIREME_REQUIRE_RDMA");
  app.add_option("--peer-timeout-s", flags.peer_timeout_s,
                 "how long a rank of a --gang waits for another that is silent, as one is that "
                 "loads; one that has ended is noticed at once")
      ->envname("TRIREME_PEER_TIMEOUT_S")
      ->check(CLI::Range(1, 86'400))
      ->capture_default_str();
  app.add_option("--link-test", flags.link_test,
                 "measure the links between all ranks at start and warn of slow ones: on, off, or "
                 "auto (where there are several hosts)")
      ->envname("TRIREME_LINK_TEST")
      ->check(CLI::IsMember({"auto", "on", "off"}))
      ->capture_default_str();
}

void DefineHealthFlags(CLI::App& app, Flags& flags) {
  app.add_option("--health", flags.health,
                 "HOST:PORT where this rank answers grpc.health.v1, with mpirun PORT + the rank's "
                 "number on its host; port 0: a free one, which the log tells; off: nowhere")
      ->envname("TRIREME_HEALTH")
      ->capture_default_str();
  app.add_flag("--insecure", flags.insecure,
               "allow a --health that other machines reach: there is no encryption or password")
      ->envname("TRIREME_INSECURE");
  app.add_option(
         "--health-timeout-s", flags.health_timeout_s,
         "a rank that has ended no step for longer, nor a self-test, is not ready; more than "
         "the coordinator's --step-timeout-s, within which a step may take its time")
      ->envname("TRIREME_HEALTH_TIMEOUT_S")
      ->check(CLI::Range(1, 86'400))
      ->capture_default_str();
}

void DefineFlags(CLI::App& app, Flags& flags) {
  const auto option = [&app](const char* name, auto& value, const char* env, const char* help) {
    return app.add_option(name, value, help)->envname(env)->capture_default_str();
  };
  option("--model", flags.runner.model_dir, "TRIREME_MODEL",
         "Hugging Face checkpoint directory, or a GGUF file")
      ->required();
  option("--model-version", flags.model_version, "TRIREME_MODEL_VERSION",
         "any word; answers that have begun go on only at gangs with the same. New weights need "
         "another one, as files are told apart by their size and first MiB");
  option("--coordinator", flags.control.coordinator, "TRIREME_COORDINATOR",
         "HOST:PORT of trireme-coordinator");
  option("--tp,--tensor-parallel-size", flags.runner.layout.tp, "TRIREME_TENSOR_PARALLEL_SIZE",
         "tensor parallel ranks");
  option("--pp,--pipeline-parallel-size", flags.runner.layout.pp, "TRIREME_PIPELINE_PARALLEL_SIZE",
         "pipeline stages");
  flags.shard.Define(app);
  option("--threads", flags.threads, "TRIREME_THREADS",
         "compute threads of this rank; 0: the CPUs it may run on, shared among the host's ranks")
      ->check(CLI::Range(0, 1024));
  option("--max-model-len", flags.runner.max_model_len, "TRIREME_MAX_MODEL_LEN",
         "context in tokens; 0: the model's own, as far as the KV cache holds it")
      ->check(CLI::Range(0, 1 << 24));
  option("--max-num-batched-tokens", flags.runner.max_num_batched_tokens,
         "TRIREME_MAX_NUM_BATCHED_TOKENS", "tokens in one step at most")
      ->check(CLI::Range(1, 1 << 20));
  option("--block-size", flags.runner.kv_block_size, "TRIREME_BLOCK_SIZE",
         "tokens in a KV cache block");
  option("--kv-memory", flags.kv_memory, "TRIREME_KV_MEMORY",
         "this rank's KV cache: bytes (2GiB), or a share of the memory that is available when the "
         "weights are loaded (0.4 or 40%), which the host's ranks divide among them; auto: 1GiB, "
         "or as much as --max-model-len or else 16384 tokens need, but at most a quarter of all "
         "memory (auto/4: a sixteenth, for one of four gangs of a host)")
      ->check(MemoryText);
  option(
      "--dtype", flags.dtype, "TRIREME_DTYPE",
      "arithmetic of weights of 16 bits: auto (activations are rounded to bfloat16 where weights "
      "are) or float32 (twice the memory, exact)")
      ->check(CLI::IsMember({"auto", "float32"}));
  option("--kv-cache-dtype", flags.kv_cache_dtype, "TRIREME_KV_CACHE_DTYPE",
         "keys and values in the cache: auto (cpu: f32, exact; cuda: bf16), f32, bf16 (half the "
         "memory) or "
         "int8 (a bit over a quarter)")
      ->check(CLI::IsMember({"auto", "f32", "bf16", "int8"}));
  option("--swap-memory", flags.swap_memory, "TRIREME_SWAP_MEMORY",
         "this rank's host memory behind the KV cache for requests that must wait: bytes (8GiB)")
      ->check(MemoryText);
  option("--device", flags.device, "TRIREME_DEVICE",
         "cpu, or cuda: GPU number local rank modulo GPUs of the host");
  option("--wire", flags.wire, "TRIREME_WIRE",
         "what connects GPUs: auto, nccl, ipc (GPUs of one host that address each other's memory) "
         "or staged (through the host)")
      ->check(CLI::IsMember({"auto", "nccl", "ipc", "staged"}));
  app.add_flag("--deterministic", flags.deterministic,
               "sums over GPUs only in the fixed order that every layout and CPU has: not by NCCL")
      ->envname("TRIREME_DETERMINISTIC");
  option("--cpu-variant", flags.cpu_variant, "TRIREME_CPU_VARIANT",
         "instruction set: avx512bf16, avx512vnni, avx512, avx2 or scalar; default: the best this "
         "machine has");
  option("--cpu-bind", flags.cpu_bind, "TRIREME_CPU_BIND",
         "auto: threads stay on CPUs of their own where the gang takes all of the host's; none")
      ->check(CLI::IsMember({"auto", "none"}));
  option("--connect-timeout-ms", flags.control.connect_timeout_ms, "TRIREME_CONNECT_TIMEOUT_MS",
         "how long to wait for the coordinator")
      ->check(CLI::Range(1, 3'600'000));
  option("--reconnect-timeout-s", flags.control.reconnect_timeout_s, "TRIREME_RECONNECT_TIMEOUT_S",
         "how long the weights stay loaded for a coordinator that has gone and may come back; 0: "
         "the worker ends")
      ->check(CLI::Range(0, 86'400));
  DefineGangFlags(app, flags);
  DefineHealthFlags(app, flags);
  option("--log-level", flags.log_level, "TRIREME_LOG_LEVEL", "debug, info, warning, error or off");
  app.add_flag(
      "--offline-bench", flags.offline_bench,
      "measure this gang without a coordinator and print JSON (see trireme bench offline)");
  app.add_option("--bench-prompt-tokens", flags.bench.prompt_tokens)->group("Benchmark");
  app.add_option("--bench-decode-tokens", flags.bench.decode_tokens)->group("Benchmark");
  app.add_option("--bench-batch", flags.bench.batch)->group("Benchmark");
  app.add_option("--bench-temperature", flags.bench.temperature)->group("Benchmark");
  app.add_option("--bench-top-p", flags.bench.top_p)->group("Benchmark");
}

// The CPUs this process may run on; if no launcher bound it to some, its share of the host's.
int DefaultThreads(int local_size) {
  cpu_set_t set;
  CPU_ZERO(&set);
  const int online = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return std::max(1, online);
  const int allowed = CPU_COUNT(&set);
  if (allowed < online) return std::max(1, allowed);
  return std::max(1, allowed / local_size);
}

// Fills in what follows from flags that are text, and the environment.
absl::Status ResolveFlags(Flags& flags) {
  ASSIGN_OR_RETURN(flags.runner.kv_memory, ParseMemoryAmount(flags.kv_memory));
  ASSIGN_OR_RETURN(const MemoryAmount swap, ParseMemoryAmount(flags.swap_memory));
  if (swap.fraction > 0) {
    return absl::InvalidArgumentError("--swap-memory must be in bytes, for example 8GiB");
  }
  flags.runner.swap_bytes_max = swap.bytes;
  flags.runner.float32 = flags.dtype == "float32";
  flags.runner.broadcast = flags.shard.load == "broadcast";
  flags.runner.mapped = flags.shard.load == "mapped";
  flags.bench.micro_batches = std::min<int64_t>(flags.runner.layout.pp, flags.bench.batch);
  flags.bench.chunk = flags.runner.max_num_batched_tokens;
  return absl::OkStatus();
}

absl::Status CheckFlags(const Flags& flags, const GangWorld& gang) {
  const Communicator& world = *gang.ranks;
  const ParallelLayout& layout = flags.runner.layout;
  if (layout.tp < 1 || layout.pp < 1 || layout.tp > 4096 || layout.pp > 4096) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tp ", layout.tp, " --pp ", layout.pp, ": both must be from 1 to 4096"));
  }
  if (layout.world_size() != world.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tp ", layout.tp, " x --pp ", layout.pp, " needs ", layout.world_size(),
                     " ranks, but ", world.size(), " are running; start them with: mpirun -np ",
                     layout.world_size(), " trireme-worker ..."));
  }
  if (flags.control.coordinator.empty() && !flags.offline_bench) {
    return absl::InvalidArgumentError("--coordinator HOST:PORT is required");
  }
  if (gang.local_size < world.size() && IsLoopbackInterface(flags.join.network.net_interface)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--net-interface ", flags.join.network.net_interface,
                     " is a loopback interface, but the gang has several hosts"));
  }
  return absl::OkStatus();
}

// What the ranks of a gang compare before they load anything.
absl::StatusOr<std::vector<v1::Setting>> GangSettings(const Flags& flags) {
  ASSIGN_OR_RETURN(const ModelConfig config, ModelConfig::Load(flags.runner.model_dir));
  const RunnerOptions& runner = flags.runner;
  std::vector<v1::Setting> settings = {
      MakeSetting("the version", TRIREME_VERSION),
      MakeSetting("--tp", absl::StrCat(runner.layout.tp)),
      MakeSetting("--pp", absl::StrCat(runner.layout.pp)),
      MakeSetting("--stage-layers", absl::StrJoin(flags.shard.stage_layers, ",")),
      MakeSetting("the model",
                  absl::StrCat(config.architecture, " of ", config.NumParameters(), " parameters")),
      MakeSetting("--device", flags.device),
      MakeSetting("--model-version", flags.model_version),
      MakeSetting("--dtype", flags.dtype),
      MakeSetting("--kv-cache-dtype", flags.kv_cache_dtype),
      MakeSetting("--block-size", absl::StrCat(runner.kv_block_size)),
      MakeSetting("--max-model-len", absl::StrCat(runner.max_model_len)),
      MakeSetting("--max-num-batched-tokens", absl::StrCat(runner.max_num_batched_tokens)),
      MakeSetting("--placement", flags.shard.placement),
      MakeSetting("--link-test", flags.link_test),
      MakeSetting("--load", flags.shard.load),
      MakeSetting("--verify-checksum", flags.shard.verify_checksum ? "on" : "off"),
  };
  ASSIGN_OR_RETURN(std::vector<v1::Setting> model,
                   ModelSettings(runner.model_dir, /*weights=*/!runner.broadcast));
  std::move(model.begin(), model.end(), std::back_inserter(settings));
  ASSIGN_OR_RETURN(std::string program, FileFingerprint("/proc/self/exe"));
  settings.push_back(MakeSoftSetting("the program's build", std::move(program)));
  if (flags.device == "cuda") {
    ASSIGN_OR_RETURN(GpuFacts gpus, DescribeGpus());
    settings.push_back(MakeSoftSetting("the GPU", std::move(gpus.model)));
    settings.push_back(MakeSoftSetting("the GPU's driver", std::move(gpus.driver)));
  } else {
    settings.push_back(MakeSoftSetting("the CPU's instruction set", flags.cpu_variant.empty()
                                                                        ? CpuVariants().front()
                                                                        : flags.cpu_variant));
  }
  return settings;
}

absl::StatusOr<GangWorld> JoinWorld(Flags& flags,
                                    const absl::StatusOr<std::vector<v1::Setting>>& settings) {
  JoinOptions& join = flags.join;
  if (join.gang.empty()) return SingleRankWorld();
  if (flags.control.coordinator.empty()) {
    return absl::InvalidArgumentError(
        "--gang forms through the coordinator: --coordinator is missing");
  }
  join.coordinator = flags.control.coordinator;
  join.connect_timeout = std::chrono::milliseconds(flags.control.connect_timeout_ms);
  join.world_size = flags.runner.layout.world_size();
  join.network.wait_timeout = std::chrono::seconds(flags.peer_timeout_s);
  ASSIGN_OR_RETURN(join.settings, settings);
  return JoinGang(join);
}

// Gives the ranks their places in the layout, and says where they are.
absl::Status Place(const Flags& flags, GangWorld& world) {
  const ParallelLayout& layout = flags.runner.layout;
  PlacementOptions options{.layout = layout,
                           .topology = flags.shard.placement == "topology",
                           .rank_asked = flags.join.rank.has_value()};
  // Where a device cannot be had, loading will say so.
  if (flags.device == "cuda") {
    options.place = FindGpu(world.local_rank).value_or(RankPlace());
  } else {
    options.place.numa_node = NumaNodeOfProcess();
  }
  ASSIGN_OR_RETURN(const std::vector<RankPlace> places, PlaceRanks(options, world));
  InitLog(absl::StrCat("rank ", world.ranks->rank()), ParseLogLevel(flags.log_level));
  if (world.ranks->rank() != 0 || places.size() == 1) return absl::OkStatus();
  LogInfo(DescribePlacement(places, layout));
  if (const std::string warning = WarnOfPlacement(places, layout); !warning.empty()) {
    LogWarning(warning);
  }
  return absl::OkStatus();
}

absl::Status TestLinks(const Flags& flags, const GangWorld& world) {
  const bool several_hosts = world.local_size < world.ranks->size();
  if (flags.link_test == "off" || (flags.link_test == "auto" && !several_hosts)) {
    return absl::OkStatus();
  }
  const std::string interface = flags.join.network.net_interface.empty()
                                    ? InterfaceTowards(flags.control.coordinator).value_or("")
                                    : flags.join.network.net_interface;
  const double wire_gb_s = LinkMbitPerSecond(interface) / 8e3;
  ASSIGN_OR_RETURN(const LinkTable table, MeasureLinks(*world.ranks, world.hosts, wire_gb_s));
  if (world.ranks->rank() != 0) return absl::OkStatus();
  LogInfo(DescribeLinks(table));
  for (const std::string& line : SlowLinks(table)) LogWarning(line);
  return absl::OkStatus();
}

// Ranks that one launcher started with the same flags have ports of their own.
absl::Status ListenForHealth(const Flags& flags, int local_rank, RankHealth& health) {
  if (flags.health == "off" || flags.offline_bench) return absl::OkStatus();
  RETURN_IF_ERROR(CheckListenAddress("--health", flags.health, flags.insecure));
  const size_t colon = flags.health.rfind(':');
  const int port = std::stoi(flags.health.substr(colon + 1));
  const std::string host = flags.health.substr(0, colon);
  ASSIGN_OR_RETURN(const int listening,
                   health.Listen(absl::StrCat(host, ":", port == 0 ? 0 : port + local_rank)));
  LogInfo(absl::StrCat("health at ", host, ":", listening));
  return absl::OkStatus();
}

// Peers may wait for this rank inside a collective, where an orderly end would wait for them: it
// leaves at once, and the launcher ends them.
[[noreturn]] void LeaveAtOnce(const Communicator& ranks, const absl::Status& status) {
  std::cerr << "trireme-worker: rank " << ranks.rank() << ": " << status.message() << std::endl;
  std::_Exit(1);
}

// Agrees (worker/agreement.h); a rank that cannot tell the others leaves.
absl::Status AgreeOrLeave(const absl::Status& mine, Communicator& world) {
  absl::Status agreed = Agree(mine, world);
  if (!agreed.ok() && !IsAgreed(agreed)) LeaveAtOnce(world, agreed);
  return agreed;
}

// A name for this incarnation of the gang, the same on every rank.
absl::StatusOr<std::string> MakeGangId(Communicator& world) {
  std::random_device random;
  uint64_t id = (uint64_t{random()} << 32) | random();
  RETURN_IF_ERROR(world.Broadcast(std::as_writable_bytes(std::span(&id, 1)), 0));
  return absl::StrFormat("%016x", id);
}

v1::LoadingRank DescribeLoading(const Communicator& ranks, const std::string& gang_id) {
  v1::LoadingRank rank;
  rank.set_gang_id(gang_id);
  rank.set_rank(static_cast<uint32_t>(ranks.rank()));
  rank.set_world_size(static_cast<uint32_t>(ranks.size()));
  rank.set_host(HostName());
  rank.set_pid(static_cast<uint32_t>(getpid()));
  return rank;
}

struct Rank {
  std::unique_ptr<Ops> ops;
  std::unique_ptr<ModelRunner> runner;
};

absl::StatusOr<Device> MakeRanksDevice(const Flags& flags, const GangWorld& world) {
  const int threads = flags.threads > 0 ? flags.threads : DefaultThreads(world.local_size);
  std::vector<int> cpus;
  if (flags.cpu_bind == "auto" && flags.device == "cpu") {
    ASSIGN_OR_RETURN(cpus, ChooseCpus(threads, world.local_rank, world.local_size));
  }
  ASSIGN_OR_RETURN(const Wire wire, ParseWire(flags.wire));
  return MakeDevice({.name = flags.device,
                     .local_rank = world.local_rank,
                     .local_size = world.local_size,
                     .threads = threads,
                     .cpu_variant = flags.cpu_variant,
                     .cpus = cpus,
                     .wire = wire,
                     .deterministic = flags.deterministic});
}

absl::StatusOr<Rank> LoadRank(Flags& flags, const GangWorld& world, StartPhases& phases) {
  absl::StatusOr<Device> made = MakeRanksDevice(flags, world);
  RETURN_IF_ERROR(Agree(made.status(), *world.ranks));
  Device& device = *made;
  phases.End("device");
  Rank rank;
  flags.runner.phase_ended = [&](std::string_view phase) { phases.End(phase); };
  flags.runner.link = device.link;
  flags.runner.sampler = device.sampler;
  rank.ops = std::move(device.ops);
  flags.runner.ranks_sharing_memory = device.ranks;
  flags.runner.load_threads = DefaultThreads(world.local_size);
  flags.runner.kv_dtype = ParseKvDType(flags.kv_cache_dtype).value_or(device.kv_dtype_auto);
  if (flags.runner.layout.pp > 1 && flags.shard.stage_layers.empty()) {
    ASSIGN_OR_RETURN(flags.runner.layout.stage_layers,
                     ChooseStages(flags.runner, *rank.ops, *world.ranks));
    phases.End("stages");
  }
  // In the file cache of a host that all its ranks read from, what is verified is what is loaded.
  absl::Status verified;
  std::thread verify;
  const bool reads = flags.runner.broadcast ? world.ranks->rank() == 0 : world.local_rank == 0;
  if (flags.shard.verify_checksum && reads) {
    verify = std::thread(
        [&] { verified = VerifyChecksums(flags.runner.model_dir, flags.runner.load_threads); });
  }
  absl::StatusOr<std::unique_ptr<ModelRunner>> runner =
      ModelRunner::Load(flags.runner, rank.ops.get(), world.ranks.get());
  if (verify.joinable()) {
    verify.join();
    phases.End("checksums");
  }
  if (IsAgreed(runner.status())) {  // as the others do, which do not know of the checksums
    if (!verified.ok()) LogError(std::string(verified.message()));
    return runner.status();
  }
  RETURN_IF_ERROR(verified);
  ASSIGN_OR_RETURN(rank.runner, std::move(runner));
  return rank;
}

std::string DescribeKvCache(const RunnerOptions& options, const ModelRunner& runner) {
  constexpr double kMiB = 1 << 20;
  const int64_t tokens = runner.pool_blocks() * options.kv_block_size;
  const double block_mib = static_cast<double>(runner.block_bytes()) / kMiB;
  return absl::StrFormat(
      "KV cache: %d tokens, %.1f requests of the full context of %d at once; %s, blocks of %d, "
      "%.1f "
      "MiB, and %.1f MiB to swap to",
      tokens, static_cast<double>(tokens) / static_cast<double>(runner.max_model_len()),
      runner.max_model_len(), std::string(KvDTypeName(options.kv_dtype)), options.kv_block_size,
      static_cast<double>(runner.pool_blocks()) * block_mib,
      static_cast<double>(runner.swap_blocks()) * block_mib);
}

// What tells this gang's answers from those of another version of the model: rank 0's, which always
// has the weights' files.
absl::StatusOr<std::string> ModelVersion(const Flags& flags, Communicator& world) {
  std::string version = absl::StrCat(flags.model_version, "; ", flags.dtype);
  ASSIGN_OR_RETURN(const std::vector<v1::Setting> files, ModelSettings(flags.runner.model_dir));
  for (const v1::Setting& file : files) absl::StrAppend(&version, "; ", file.value());
  uint64_t size = version.size();
  RETURN_IF_ERROR(world.Broadcast(std::as_writable_bytes(std::span(&size, 1)), 0));
  version.resize(size);
  RETURN_IF_ERROR(world.Broadcast(std::as_writable_bytes(std::span(version)), 0));
  return version;
}

absl::Status RunRank(const Flags& flags, const std::string& gang_id, Rank& rank,
                     Communicator& world, RankHealth& health) {
  const LoadReport& report = rank.runner->load_report();
  const std::string mapped =
      report.mapped_bytes == 0
          ? ""
          : absl::StrFormat(", mapped %.1f", static_cast<double>(report.mapped_bytes) / 1e6);
  LogInfo(absl::StrFormat("loaded %.1f%s MB in %.0f ms (%.2f GB/s), %s, %d threads",
                          static_cast<double>(report.shard_bytes - report.mapped_bytes) / 1e6,
                          mapped, report.load_ms,
                          static_cast<double>(report.bytes_read) / report.load_ms / 1e6,
                          std::string(rank.ops->name()), rank.ops->threads()));
  if (flags.offline_bench) return RunOfflineBench(flags.bench, *rank.runner, *rank.ops, world);
  LogInfo(DescribeKvCache(flags.runner, *rank.runner));
  v1::Register registration = MakeRegister(flags.runner, *rank.runner, *rank.ops, world, gang_id);
  ASSIGN_OR_RETURN(*registration.mutable_model()->mutable_version(), ModelVersion(flags, world));
  return ServeCoordinator(flags.control, registration, *rank.runner, health);
}

int Complain(const absl::Status& status) {
  std::cerr << "trireme-worker: " << status.message() << std::endl;
  return 1;
}

// What a rank can tell before it meets the others, once its flags are parsed.
absl::Status Begin(Flags& flags, bool mpi, std::unique_ptr<StartLease>& start_lease) {
  if (mpi && !flags.join.gang.empty()) {
    return absl::InvalidArgumentError(
        "--gang is for workers that are not started by mpirun or srun, which form a gang "
        "themselves");
  }
  flags.runner.layout.stage_layers = StageSplit(flags.shard.stage_layers);
  if (!flags.offline_bench) {
    ASSIGN_OR_RETURN(start_lease, StartLease::Take());
  }
  ASSIGN_OR_RETURN(flags.network, PrepareGangNetwork({.network = flags.join.network,
                                                      .gang = flags.join.gang,
                                                      .coordinator = flags.control.coordinator,
                                                      .mpi = mpi,
                                                      .gpus = flags.device == "cuda"}));
  return ResolveFlags(flags);
}

int Run(int argc, char** argv) {
  StartPhases phases;
  StopSignal stop_signal;
  if (UnderMpiLauncher()) EndWithLauncher();
  Flags flags;
  flags.control.stop_signal = &stop_signal;
  LoadCount load_count;
  flags.runner.load_count = &load_count;
  std::optional<LoadReporter> load_reporter;
  std::unique_ptr<StartLease> start_lease;
  flags.control.on_ready = [&] {
    load_reporter.reset();
    start_lease.reset();
    phases.End("coordinator");
    LogInfo(phases.Describe());
  };
  CLI::App app("One rank of a Trireme gang: holds a shard of the model and computes its steps.");
  app.set_version_flag("--version", "trireme-worker " TRIREME_VERSION);
  DefineFlags(app, flags);
  CollectiveWatch watch;  // outlives the ranks that it watches
  absl::StatusOr<GangWorld> world;
  const bool mpi = UnderMpiLauncher();
  absl::Status begun;
  std::optional<CLI::ParseError> unparsed;
  try {
    app.parse(argc, argv);
    begun = Begin(flags, mpi, start_lease);
  } catch (const CLI::ParseError& error) {
    if (!mpi) return app.exit(error);
    unparsed = error;
    begun = absl::InvalidArgumentError(absl::StrCat(error.what(), "; see --help"));
  }
  if (mpi) world = JoinMpiWorld(&argc, &argv);
  if (mpi && !world.ok()) return Complain(world.status());
  phases.End("gang");
  if (unparsed.has_value() && unparsed->get_exit_code() == 0) {
    return world->ranks->rank() > 0 ? 0 : app.exit(*unparsed);
  }
  // The ranks of mpirun may have an environment each, but share its output: rank 0 speaks.
  if (mpi) begun = AgreeOrLeave(begun, *world->ranks);
  if (!begun.ok()) return !mpi || world->ranks->rank() == 0 ? Complain(begun) : 1;
  const LogLevel log_level = ParseLogLevel(flags.log_level);
  const absl::StatusOr<std::vector<v1::Setting>> settings = GangSettings(flags);
  phases.End("settings");
  RankHealth health{std::chrono::seconds(flags.health_timeout_s)};
  if (!mpi) {
    InitLog("worker", log_level);
    if (const absl::Status listens = ListenForHealth(flags, 0, health); !listens.ok()) {
      return Complain(listens);
    }
    world = JoinWorld(flags, settings);
    if (!world.ok()) return Complain(world.status());
  }
  InitLog(absl::StrCat("rank ", world->ranks->rank()), log_level);
  if (!flags.network.empty()) LogInfo(flags.network);
  if (mpi) {
    const absl::Status listens = ListenForHealth(flags, world->local_rank, health);
    if (!listens.ok()) LeaveAtOnce(*world->ranks, listens);
  }
  absl::Status same = CompareSettings(settings, *world);
  same.Update(CheckFlags(flags, *world));
  same = AgreeOrLeave(same, *world->ranks);
  const bool speaks = !mpi || world->ranks->rank() == 0;
  if (!same.ok()) return speaks ? Complain(same) : 1;
  if (const absl::Status placed = Place(flags, *world); !placed.ok()) {
    LeaveAtOnce(*world->ranks, placed);
  }
  // Made before the others are watched: a second thread's waits are not what computing waits for.
  absl::StatusOr<std::unique_ptr<Communicator>> control =
      world->ranks->Split(0, world->ranks->rank());
  if (!control.ok()) LeaveAtOnce(*world->ranks, control.status());
  flags.control.ranks = control->get();
  world->ranks = WatchCollectives(std::move(world->ranks), watch);
  Communicator& ranks = *world->ranks;
  const absl::StatusOr<std::string> gang_id = MakeGangId(ranks);
  if (!gang_id.ok()) LeaveAtOnce(ranks, gang_id.status());
  if (!flags.offline_bench) {
    load_reporter.emplace(flags.control.coordinator, DescribeLoading(ranks, *gang_id), load_count);
  }
  phases.End("gang");
  if (const absl::Status linked = TestLinks(flags, *world); !linked.ok())
    LeaveAtOnce(ranks, linked);
  phases.End("link test");
  absl::StatusOr<Rank> rank = LoadRank(flags, *world, phases);
  const absl::Status loaded = AgreeOrLeave(rank.status(), ranks);
  if (!loaded.ok()) return speaks ? Complain(loaded) : 1;
  flags.control.watch = &watch;
  if (flags.offline_bench) LogInfo(phases.Describe());
  const absl::Status status = RunRank(flags, *gang_id, *rank, ranks, health);
  if (!status.ok()) LeaveAtOnce(ranks, status);
  return 0;
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) { return trireme::Run(argc, argv); }
