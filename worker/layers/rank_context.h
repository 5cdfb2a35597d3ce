#pragma once

#include <cstdint>
#include <vector>

#include "kernels/ops.h"
#include "parallel/communicator.h"
#include "parallel/shard.h"
#include "worker/layers/rotary_embedding.h"
#include "worker/weights.h"

namespace trireme {

// Intermediate results of a step. The layers of a rank take turns, so one is enough for all.
struct LayerScratch {
  struct {
    DeviceVector<float> q, k, v, attended;  // [tokens, heads, head_dim]
  } attention;
  struct {
    DeviceVector<float> gate, up;  // [tokens, intermediate]
  } mlp;
};

// What a rank's layers work with. Does not own; outlives the model.
struct RankContext {
  Ops* ops = nullptr;
  Communicator* tp = nullptr;  // the tensor parallel group
  const Weights* weights = nullptr;
  LayerScratch* scratch = nullptr;
  ModelShard shard;
};

// The tokens of one step, the same on every rank.
struct StepBatch {
  std::vector<int32_t> ids;        // one per token; unknown ones only behind the first stage
  std::vector<TokenPlace> places;  // one per token
  RopeAngles rope;
  RopeAngles local_rope;  // of windowed layers, if the model has a base of their own

  int64_t tokens() const { return static_cast<int64_t>(ids.size()); }
};

}  // namespace trireme
