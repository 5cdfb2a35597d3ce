#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "parallel/layout.h"

namespace trireme {

// What layers cost a rank of their pipeline stage. Of the tensor parallel ranks, the first one's,
// which has most.
struct LayerCosts {
  std::vector<double> bytes;     // weights of each layer
  std::vector<double> read;      // of them, what a step with one token reads
  std::vector<double> kv_bytes;  // KV cache of one unit in each layer: a block, or a request
  double first_bytes = 0;        // besides, in the first stage: the embedding, hardly read
  double last_bytes = 0;         // in the last one: the head, all read
};

// What each rank of a stage has, the least of theirs.
struct StageRoom {
  double memory_bytes = 0;  // for weights and KV cache
  double kv_bytes = 0;      // the KV cache's size, or
  double kv_share = 0;      // if above 0, which part of what the weights leave
  double speed = 1;         // bytes read in a second, or in any other time

  bool operator==(const StageRoom&) const = default;
};

// Which split of the layers over the stages is wanted.
struct SplitDemand {
  LayerCosts costs;
  std::vector<StageRoom> stages;
  double units_min = 1;                                           // of the KV cache, that must fit
  double units_enough = std::numeric_limits<double>::infinity();  // more are of no use
};

// What a split comes to.
struct SplitValue {
  double slowest = 0;  // time of the slowest stage to read what it has
  double total = 0;    // of all of them, one after the other: a token's way
  double units = 0;    // of KV cache that every stage has room for, at most units_enough
};

// Nothing if a stage has no room for its weights or units_min. `layers` are of each stage.
std::optional<SplitValue> ValueOf(const SplitDemand& demand, std::span<const int64_t> layers);

// The best of all splits that fit, by the larger of two ratios: the slowest stage's time to that of
// the fastest split, and the KV cache of the split with most to this one's. So neither is given up
// for a little of the other. Of equals, the one with the shortest way of a token. Nothing if none
// fits. The same arguments give the same split.
std::optional<StageSplit> BestSplit(const SplitDemand& demand);

// How pipeline stages share the layers where nobody says it.
struct ChosenSplit {
  StageSplit split;    // empty: as even as can be
  std::string reason;  // "stages of 5,3 layers: they differ in speed (1.0, 0.5); ..."
};

// As even as can be for stages of equal speed and, but for a tenth, equal room for KV cache, as
// long as that fits; else BestSplit. With more than kSplitWorkMax layers x layers x stages, too.
ChosenSplit ChooseSplit(const SplitDemand& demand);
inline constexpr int64_t kSplitWorkMax = int64_t{1} << 27;

// The sizes of stages that are as even as can be.
std::vector<int64_t> EvenLayers(int64_t layers, int64_t stages);

}  // namespace trireme
