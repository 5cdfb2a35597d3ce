#include "cluster/local_flags.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>

#include "absl/strings/str_cat.h"

namespace trireme {

namespace {

int UsableCpus() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

}  // namespace

void LocalFlags::Define(CLI::App& command) {
  const auto option = [&command](const char* name, auto& value, const char* env, const char* help) {
    return command.add_option(name, value, help)
        ->envname(env)
        ->capture_default_str()
        ->group("Cluster");
  };
  command.add_option("model", model_, "Hugging Face directory or GGUF file")
      ->required()
      ->check(CLI::ExistingPath);
  option("--tp,--tensor-parallel-size", tp_, "TRIREME_TENSOR_PARALLEL_SIZE",
         "tensor parallel workers")
      ->check(CLI::Range(1, 4096));
  option("--pp,--pipeline-parallel-size", pp_, "TRIREME_PIPELINE_PARALLEL_SIZE", "pipeline stages")
      ->check(CLI::Range(1, 4096));
  shard_.Define(command, "Cluster");
  option("--device", device_, "TRIREME_DEVICE",
         "what the workers compute on: cpu, or cuda: worker i on GPU i, modulo the machine's GPUs")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  option("--threads", threads_, "TRIREME_THREADS",
         "compute threads of each worker; 0: this machine's, shared among them")
      ->check(CLI::Range(0, 1024));
  option("--max-model-len", max_model_len_, "TRIREME_MAX_MODEL_LEN",
         "context in tokens; 0: the model's own, as far as the KV cache holds it")
      ->check(CLI::Range(0, 1 << 24));
  option("--kv-memory", kv_memory_, "TRIREME_KV_MEMORY",
         "each worker's KV cache: bytes (2GiB) or a share of the available memory (40%); auto: "
         "1GiB, or as much as --max-model-len or else 16384 tokens need, but at most a quarter of "
         "all memory");
  option("--kv-cache-dtype", kv_cache_dtype_, "TRIREME_KV_CACHE_DTYPE",
         "keys and values in the cache: auto (cpu: f32, exact; cuda: bf16), f32, bf16 or int8")
      ->check(CLI::IsMember({"auto", "f32", "bf16", "int8"}));
  option("--log-level", log_level_, "TRIREME_LOG_LEVEL",
         "what coordinator and workers log to standard error")
      ->check(CLI::IsMember({"debug", "info", "warning", "error", "off"}));
}

LocalClusterOptions LocalFlags::Options(int replicas) const {
  if (geteuid() == 0) {
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", /*overwrite=*/0);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", /*overwrite=*/0);
  }
  const std::string max_model_len = absl::StrCat(max_model_len_);
  // A worker knows only of its own gang.
  const int threads =
      threads_ > 0 || replicas == 1 ? threads_ : std::max(1, UsableCpus() / (replicas * tp_ * pp_));
  const bool shared_auto = kv_memory_ == "auto" && replicas > 1;
  const std::string kv_memory = shared_auto ? absl::StrCat(kv_memory_, "/", replicas) : kv_memory_;
  LocalClusterOptions options = {
      .model = model_,
      .address = "",
      .tp = tp_,
      .pp = pp_,
      .replicas = replicas,
      .coordinator_flags = {"--max-model-len", max_model_len, "--log-level", log_level_},
      .worker_flags = {"--device", device_, "--max-model-len", max_model_len, "--threads",
                       absl::StrCat(threads), "--kv-memory", kv_memory, "--kv-cache-dtype",
                       kv_cache_dtype_, "--log-level", log_level_}};
  const std::vector<std::string> shard = shard_.Arguments();
  options.worker_flags.insert(options.worker_flags.end(), shard.begin(), shard.end());
  return options;
}

void LocalFlags::TellContext(const v1::GetModelResponse& model) const {
  if (max_model_len_ > 0 || model.max_model_len() >= model.model_context()) return;
  std::cerr << "trireme: the context is " << model.max_model_len() << " of the model's "
            << model.model_context()
            << " tokens; --max-model-len and --kv-memory give more, --kv-cache-dtype bf16 halves "
               "the memory for it"
            << std::endl;
}

}  // namespace trireme
