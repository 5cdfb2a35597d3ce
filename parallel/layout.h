#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "parallel/model_config.h"

namespace trireme {

// A half-open range of indices.
struct IndexRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const IndexRange&) const = default;
};

// How many layers each pipeline stage has; empty: as StageLayers splits them. Trivially copyable.
class StageSplit {
 public:
  static constexpr int kStagesMax = 256;
  static constexpr int kLayersMax = 65'535;  // of a stage

  StageSplit() = default;
  StageSplit(std::initializer_list<int64_t> layers)
      : StageSplit(std::span(layers.begin(), layers.size())) {}
  // At most kStagesMax numbers from 0 to kLayersMax.
  explicit StageSplit(std::span<const int64_t> layers);

  bool empty() const { return count_ == 0; }
  std::span<const uint16_t> layers() const { return std::span(layers_).first(count_); }
  bool operator==(const StageSplit&) const = default;

 private:
  std::array<uint16_t, kStagesMax> layers_{};
  size_t count_ = 0;
};

// How one copy of the model is spread over the ranks of a gang: rank = pp_rank * tp + tp_rank.
struct ParallelLayout {
  int tp = 1;  // tensor parallel size
  int pp = 1;  // pipeline parallel size
  StageSplit stage_layers = {};
  int world_size() const { return tp * pp; }
  bool operator==(const ParallelLayout&) const = default;
};

// A rank's place in the layout.
struct RankCoord {
  int tp_rank = 0;
  int pp_rank = 0;
  bool operator==(const RankCoord&) const = default;
};

RankCoord CoordOf(const ParallelLayout& layout, int rank);
int RankOf(const ParallelLayout& layout, const RankCoord& coord);

// A sum over a dimension that tensor parallelism splits is always computed as this many partial
// sums, combined in one binary tree, so that its bits do not depend on tp (docs/decisions/0001).
// `blocks` is the number of units that cannot be split: heads for attention, columns for the MLP.
// Returns the largest power of two, at most kReductionGroupsMax, that divides `blocks`.
inline constexpr int kReductionGroupsMax = 8;
int ReductionGroups(int64_t blocks);

// Why the model's shape does not allow this tensor parallel size ("it must divide the 6 attention
// heads"), or nothing if it does.
std::optional<std::string> WhyNotTp(const ModelConfig& config, int tp);

// Refuses a layout that the model's shape does not allow, with the reason and the nearest legal
// ones. Legal: tp a power of two that divides both reduction group counts, and divides the KV heads
// or is a multiple of them (then they are replicated); pp from 1 to num_layers; stage_layers empty,
// or of pp stages with at least one layer each and num_layers in all.
absl::Status CheckLayout(const ModelConfig& config, const ParallelLayout& layout);

// Every legal layout with exactly `world_size` ranks, smallest tp first.
std::vector<ParallelLayout> LegalLayouts(const ModelConfig& config, int world_size);

// The layers of one pipeline stage: those of stage_layers, or else sizes differ by one at most, and
// earlier stages take the remainder.
IndexRange StageLayers(const ModelConfig& config, const ParallelLayout& layout, int pp_rank);

}  // namespace trireme
