#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cluster/planner/hardware.h"
#include "kernels/kv_layer.h"
#include "parallel/layout.h"
#include "parallel/model_shape.h"
#include "parallel/weight_types.h"

namespace trireme {

// Hosts with equally many devices, which are equal inside a host.
struct ClusterSpec {
  int nodes = 1;
  int devices_per_node = 1;
  DeviceSpec device;                     // of each host, but where
  std::vector<DeviceSpec> node_devices;  // hosts differ: of the first, the second, ...
  LinkSpec link;                         // between devices of a host
  LinkSpec network;                      // of one network card
  int nics_per_node = 1;

  int devices() const { return nodes * devices_per_node; }
  const DeviceSpec& DeviceOf(int node) const {
    return node_devices.empty() ? device : node_devices[static_cast<size_t>(node)];
  }
};

struct PlanOptions {
  int64_t context = 0;  // tokens of a request, its answer included
  int64_t output_tokens = 0;
  int64_t concurrency = 1;  // requests at once in the whole cluster
  int64_t images = 0;       // of a request
  KvDType kv_dtype = KvDType::kF32;
  int64_t block_size = 32;               // tokens of a KV cache block
  int64_t max_num_batched_tokens = 512;  // in a step; more if a copy has more requests
  double memory_share = 0.9;             // of a device's memory that a rank may use
};

// One pipeline stage. Bytes are of one rank.
struct StagePlan {
  IndexRange layers;
  std::vector<int64_t> weight_bytes;  // of each tensor parallel rank
  int64_t block_bytes = 0;            // a block of KV cache, in all layers of self-attention
  int64_t request_bytes = 0;          // KV cache of one request of the whole context
  int64_t workspace_bytes = 0;        // activations of a step, an upper bound
  int64_t kv_bytes_max = 0;           // left for the KV cache; negative: the weights do not fit

  int64_t max_weight_bytes() const;
};

// A layout that the cluster can run, with what to expect of it.
struct LayoutPlan {
  ParallelLayout layout;
  int replicas = 1;
  int idle_devices = 0;
  bool tp_across_nodes = false;
  // What a copy is told to compute at once: its share of the requests, and not below the defaults.
  int64_t max_num_seqs = 0;
  int64_t max_num_batched_tokens = 0;
  std::vector<StagePlan> stages;
  int64_t requests_per_gang = 0;  // of the whole context, at once
  double ttft_s = 0;              // time to first token, of a request that does not wait
  double tpot_s = 0;              // time of each token after it, with `concurrency` requests
  double tokens_per_s = 0;        // of answers, in the cluster, with `concurrency` requests

  int64_t requests() const { return requests_per_gang * replicas; }
  int64_t kv_blocks() const;        // that a gang has room for, of tokens alone
  int64_t kv_memory_bytes() const;  // of each rank, what --kv-memory may be
};

// A split that the layout's own is slower than.
struct FasterSplit {
  StageSplit layers;  // empty: there is none
  double ratio = 1;   // of its slowest stage's time to read its weights, to that of the layout
};

struct Rejection {
  ParallelLayout layout;  // pp 0: whatever it is
  std::string reason;
};

struct Plan {
  std::vector<LayoutPlan> layouts;  // that fit, the recommended one first
  std::vector<Rejection> rejections;
  int64_t total_weight_bytes = 0;  // of one copy of the model
  FasterSplit faster;              // than the recommended layout's
};

// Every way to lay copies of the model over the cluster. The layouts are ordered by predicted
// tokens per second, then by time per token; those with tensor parallelism across nodes come last.
// INVALID_ARGUMENT if the options contradict the model or its files. A cluster that nothing fits is
// a Plan without layouts.
absl::StatusOr<Plan> MakePlan(const ModelShape& shape, const WeightTypes& types,
                              const ClusterSpec& cluster, const PlanOptions& options);

}  // namespace trireme
