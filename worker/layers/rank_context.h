#pragma once

#include "kernels/memory.h"
#include "kernels/ops.h"
#include "parallel/device_communicator.h"
#include "parallel/shard.h"
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
  DeviceCommunicator* tp = nullptr;  // the tensor parallel group
  const Weights* weights = nullptr;
  LayerScratch* scratch = nullptr;
  ModelShard shard;
};

}  // namespace trireme
