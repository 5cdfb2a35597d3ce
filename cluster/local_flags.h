#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "cluster/local_cluster.h"
#include "parallel/shard_flags.h"

namespace trireme {

// The flags of a cluster on this machine, the same words as the coordinator's and the worker's. A
// flag of theirs that is not here can be given by its variable, TRIREME_..., which they inherit.
class LocalFlags {
 public:
  // With these defaults.
  LocalFlags(std::string log_level, std::string load) : log_level_(std::move(log_level)) {
    shard_.load = std::move(load);
  }
  void Define(CLI::App& command);

  // What to start, with so many gangs, which share the machine's threads. Lets mpirun run for root,
  // whose wish it is if root starts it.
  LocalClusterOptions Options(int replicas) const;
  // Says on standard error that less than the model's context is served, if no one asked for it.
  void TellContext(const v1::GetModelResponse& model) const;
  const std::string& model() const { return model_; }
  const std::string& device() const { return device_; }

 private:
  std::string model_;
  int tp_ = 1;
  int pp_ = 1;
  ShardFlags shard_;
  std::string device_ = "cpu";
  int threads_ = 0;
  uint32_t max_model_len_ = 0;
  std::string kv_memory_ = "auto";
  std::string kv_cache_dtype_ = "auto";
  std::string log_level_;
};

}  // namespace trireme
