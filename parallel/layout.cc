#include "parallel/layout.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"

namespace trireme {
namespace {

bool IsPowerOfTwo(int value) { return value > 0 && (value & (value - 1)) == 0; }

std::vector<int> LegalTps(const ModelConfig& config) {
  std::vector<int> legal;
  for (int tp = 1; tp <= kReductionGroupsMax; tp *= 2) {
    if (!WhyNotTp(config, tp).has_value()) legal.push_back(tp);
  }
  return legal;
}

// The next smaller and the next larger legal tp, and pp moved into its bounds.
std::vector<ParallelLayout> NearestLegal(const ModelConfig& config, const ParallelLayout& layout) {
  const int pp = std::clamp(layout.pp, 1, static_cast<int>(config.num_layers));
  const std::vector<int> tps = LegalTps(config);
  const auto above = std::lower_bound(tps.begin(), tps.end(), layout.tp);
  std::vector<ParallelLayout> nearest;
  if (above != tps.end() && *above == layout.tp) return {{.tp = *above, .pp = pp}};
  if (above != tps.begin()) nearest.push_back({.tp = *(above - 1), .pp = pp});
  if (above != tps.end()) nearest.push_back({.tp = *above, .pp = pp});
  return nearest;
}

absl::Status CheckStageLayers(const ModelConfig& config, const ParallelLayout& layout) {
  const std::span<const uint16_t> layers = layout.stage_layers.layers();
  if (layers.empty()) return absl::OkStatus();
  const bool fits =
      layers.size() == static_cast<size_t>(layout.pp) &&
      std::accumulate(layers.begin(), layers.end(), int64_t{0}) == config.num_layers &&
      *std::min_element(layers.begin(), layers.end()) > 0;
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--stage-layers ", absl::StrJoin(layers, ","), " does not fit this ",
                   config.architecture, ": it must be --pp ", layout.pp,
                   " numbers of at least 1, which make its ", config.num_layers, " layers"));
}

}  // namespace

StageSplit::StageSplit(std::span<const int64_t> layers) : count_(layers.size()) {
  CHECK(layers.size() <= layers_.size());
  for (size_t stage = 0; stage < layers.size(); ++stage) {
    CHECK(layers[stage] >= 0 && layers[stage] <= kLayersMax);
    layers_[stage] = static_cast<uint16_t>(layers[stage]);
  }
}

std::optional<std::string> WhyNotTp(const ModelConfig& config, int tp) {
  if (!IsPowerOfTwo(tp)) return "it must be a power of two";
  if (tp > kReductionGroupsMax) return absl::StrCat("it must be at most ", kReductionGroupsMax);
  if (ReductionGroups(config.num_heads) % tp != 0) {
    return absl::StrCat("it must divide the ", config.num_heads, " attention heads");
  }
  if (ReductionGroups(config.intermediate_size) % tp != 0) {
    return absl::StrCat("it must divide the intermediate size ", config.intermediate_size);
  }
  if (config.num_kv_heads % tp != 0 && tp % config.num_kv_heads != 0) {
    return absl::StrCat("it must divide the ", config.num_kv_heads,
                        " KV heads or be a multiple of them");
  }
  return std::nullopt;
}

RankCoord CoordOf(const ParallelLayout& layout, int rank) {
  CHECK(rank >= 0 && rank < layout.world_size());
  return {.tp_rank = rank % layout.tp, .pp_rank = rank / layout.tp};
}

int RankOf(const ParallelLayout& layout, const RankCoord& coord) {
  CHECK(coord.tp_rank >= 0 && coord.tp_rank < layout.tp);
  CHECK(coord.pp_rank >= 0 && coord.pp_rank < layout.pp);
  return coord.pp_rank * layout.tp + coord.tp_rank;
}

int ReductionGroups(int64_t blocks) {
  CHECK(blocks > 0);
  return static_cast<int>(std::gcd(blocks, int64_t{kReductionGroupsMax}));
}

absl::Status CheckLayout(const ModelConfig& config, const ParallelLayout& layout) {
  std::string reason;
  if (const std::optional<std::string> why = WhyNotTp(config, layout.tp); why.has_value()) {
    reason =
        absl::StrCat("--tp ", layout.tp, " does not fit this ", config.architecture, ": ", *why);
  } else if (layout.pp < 1 || layout.pp > config.num_layers) {
    reason = absl::StrCat("--pp ", layout.pp, " does not fit this ", config.architecture,
                          ": it must be from 1 to its ", config.num_layers, " layers");
  } else {
    return CheckStageLayers(config, layout);
  }
  const std::string nearest = absl::StrJoin(
      NearestLegal(config, layout), " or ", [](std::string* out, const ParallelLayout& legal) {
        absl::StrAppend(out, "--tp ", legal.tp, " --pp ", legal.pp);
      });
  return absl::InvalidArgumentError(absl::StrCat(reason, "; nearest legal: ", nearest));
}

std::vector<ParallelLayout> LegalLayouts(const ModelConfig& config, int world_size) {
  std::vector<ParallelLayout> legal;
  for (const int tp : LegalTps(config)) {
    if (world_size < tp || world_size % tp != 0 || world_size / tp > config.num_layers) continue;
    legal.push_back({.tp = tp, .pp = world_size / tp});
  }
  return legal;
}

IndexRange StageLayers(const ModelConfig& config, const ParallelLayout& layout, int pp_rank) {
  CHECK(pp_rank >= 0 && pp_rank < layout.pp);
  if (!layout.stage_layers.empty()) {
    const std::span<const uint16_t> layers = layout.stage_layers.layers();
    const auto own = layers.begin() + pp_rank;
    const int64_t first = std::accumulate(layers.begin(), own, int64_t{0});
    return {.begin = first, .end = first + *own};
  }
  const int64_t base = config.num_layers / layout.pp;
  const int64_t remainder = config.num_layers % layout.pp;
  const int64_t begin = pp_rank * base + std::min<int64_t>(pp_rank, remainder);
  return {.begin = begin, .end = begin + base + (pp_rank < remainder ? 1 : 0)};
}

}  // namespace trireme
