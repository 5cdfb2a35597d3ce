#pragma once

#include <filesystem>
#include <string>

#include "cluster/planner/planner.h"

namespace trireme {

// Llama-3.2-90B-Vision's config.json.
inline std::filesystem::path VisionConfigPath() {
  return std::filesystem::path(TRIREME_SOURCE_DIR) /
         "tests/cluster/planner/llama-3.2-90b-vision.json";
}

// Llama-3.1-8B's shape, with `more` keys: they begin with a comma.
inline ModelShape Llama8B(const std::string& more = "") {
  return *ModelShape::Parse(R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 4096,
      "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
      "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
      "torch_dtype": "bfloat16")" +
                                more + "}",
                            "config.json");
}

inline ClusterSpec Gpus(const std::string& device, int nodes, int per_node) {
  ClusterSpec cluster;
  cluster.nodes = nodes;
  cluster.devices_per_node = per_node;
  cluster.device = *FindDevice(device);
  cluster.link = *FindLink(cluster.device.link);
  cluster.network = *FindLink("ib-ndr");
  return cluster;
}

inline PlanOptions Request(int64_t context, int64_t concurrency = 1) {
  PlanOptions options;
  options.context = context;
  options.output_tokens = 256;
  options.concurrency = concurrency;
  options.kv_dtype = KvDType::kBF16;
  return options;
}

inline const LayoutPlan* FindLayout(const Plan& plan, int tp, int pp) {
  for (const LayoutPlan& layout : plan.layouts) {
    if (layout.layout == ParallelLayout{.tp = tp, .pp = pp}) return &layout;
  }
  return nullptr;
}

// Empty if the layout was not rejected.
inline std::string WhyRejected(const Plan& plan, int tp, int pp) {
  for (const Rejection& rejection : plan.rejections) {
    if (rejection.layout == ParallelLayout{.tp = tp, .pp = pp}) return rejection.reason;
  }
  return "";
}

}  // namespace trireme
