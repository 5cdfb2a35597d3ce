#include "parallel/stage_split.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

namespace trireme {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<int64_t> Layers(const StageSplit& split) {
  return {split.layers().begin(), split.layers().end()};
}

// Every way to give `layers` to `stages`, each at least one.
void ForEachSplit(int64_t layers, int64_t stages, std::vector<int64_t>& prefix,
                  const std::function<void(const std::vector<int64_t>&)>& visit) {
  if (stages == 1) {
    prefix.push_back(layers);
    visit(prefix);
    prefix.pop_back();
    return;
  }
  for (int64_t first = 1; first <= layers - (stages - 1); ++first) {
    prefix.push_back(first);
    ForEachSplit(layers - first, stages - 1, prefix, visit);
    prefix.pop_back();
  }
}

// What a split is worth, by its definition, one layer at a time.
struct Worth {
  std::vector<int64_t> layers;
  double slowest = 0, total = 0, units = 0;
};
std::optional<Worth> WorthOf(const SplitDemand& demand, const std::vector<int64_t>& layers) {
  Worth worth{.layers = layers, .units = demand.units_enough};
  size_t layer = 0;
  for (size_t s = 0; s < layers.size(); ++s) {
    const StageRoom& room = demand.stages[s];
    double weights = s == 0 ? demand.costs.first_bytes : 0, read = 0, unit = 0;
    if (s + 1 == layers.size()) {
      weights += demand.costs.last_bytes;
      read += demand.costs.last_bytes;
    }
    for (int64_t i = 0; i < layers[s]; ++i, ++layer) {
      weights += demand.costs.bytes[layer];
      read += demand.costs.read[layer];
      unit += demand.costs.kv_bytes[layer];
    }
    const double free = room.memory_bytes - weights;
    const double cache = room.kv_share > 0 ? free * room.kv_share : room.kv_bytes;
    if (free < 0 || cache > free || cache < unit * demand.units_min) return std::nullopt;
    worth.slowest = std::max(worth.slowest, read / room.speed);
    worth.total += read / room.speed;
    worth.units = std::min(worth.units, cache / unit);
  }
  return worth;
}

// Of all splits.
std::optional<Worth> BruteForce(const SplitDemand& demand) {
  std::vector<Worth> all;
  std::vector<int64_t> prefix;
  ForEachSplit(static_cast<int64_t>(demand.costs.bytes.size()),
               static_cast<int64_t>(demand.stages.size()), prefix, [&](const auto& layers) {
                 if (auto worth = WorthOf(demand, layers)) all.push_back(*worth);
               });
  if (all.empty()) return std::nullopt;
  double fastest = all[0].slowest, most = 0;
  for (const Worth& worth : all) {
    fastest = std::min(fastest, worth.slowest);
    most = std::max(most, worth.units);
  }
  const auto loss = [&](const Worth& w) { return std::max(w.slowest / fastest, most / w.units); };
  constexpr double kEqual = 1 + 1e-12;
  return *std::min_element(all.begin(), all.end(), [&](const Worth& a, const Worth& b) {
    if (loss(a) * kEqual < loss(b) || loss(b) * kEqual < loss(a)) return loss(a) < loss(b);
    if (a.total * kEqual < b.total || b.total * kEqual < a.total) return a.total < b.total;
    return a.layers > b.layers;
  });
}

// Whole numbers, so that sums are exact in any order.
SplitDemand RandomDemand(std::mt19937& random) {
  const auto draw = [&](int low, int high) {
    return static_cast<double>(std::uniform_int_distribution<int>(low, high)(random));
  };
  SplitDemand demand;
  const auto layers = static_cast<size_t>(draw(2, 11));
  const auto stages = static_cast<size_t>(draw(1, std::min<int>(5, static_cast<int>(layers))));
  const bool equal_layers = draw(0, 1) == 0;
  for (size_t i = 0; i < layers; ++i) {
    demand.costs.bytes.push_back(equal_layers ? 40 : draw(20, 60));
    demand.costs.read.push_back(demand.costs.bytes.back() / (draw(0, 3) == 0 ? 2 : 1));
    demand.costs.kv_bytes.push_back(equal_layers ? 4 : draw(1, 6));
  }
  demand.costs.first_bytes = draw(0, 100);
  demand.costs.last_bytes = draw(0, 100);
  for (size_t i = 0; i < stages; ++i) {
    const bool share = draw(0, 1) == 0;
    demand.stages.push_back({.memory_bytes = draw(100, 600),
                             .kv_bytes = share ? 0 : draw(10, 100),
                             .kv_share = share ? draw(1, 4) / 4 : 0,
                             .speed = std::exp2(draw(0, 3))});
  }
  if (draw(0, 2) == 0) demand.units_enough = draw(1, 4);
  return demand;
}

TEST(BestSplit, IsTheBestOfAll) {
  std::mt19937 random(7);
  int fit = 0;
  for (int i = 0; i < 3000; ++i) {
    const SplitDemand demand = RandomDemand(random);
    const std::optional<Worth> want = BruteForce(demand);
    const std::optional<StageSplit> got = BestSplit(demand);
    ASSERT_EQ(got.has_value(), want.has_value()) << i;
    if (!want) continue;
    ++fit;
    EXPECT_EQ(Layers(*got), want->layers) << i;
    const std::optional<SplitValue> value = ValueOf(demand, want->layers);
    ASSERT_TRUE(value.has_value());
    EXPECT_DOUBLE_EQ(value->slowest, want->slowest);
    EXPECT_DOUBLE_EQ(value->total, want->total);
    EXPECT_DOUBLE_EQ(value->units, want->units);
  }
  EXPECT_GT(fit, 1000);
}

// 16 layers of 60 bytes and a head of 240, as 1B models have about.
SplitDemand Equal(int64_t stages) {
  SplitDemand demand;
  demand.costs = {.bytes = std::vector<double>(16, 60),
                  .read = std::vector<double>(16, 60),
                  .kv_bytes = std::vector<double>(16, 1),
                  .first_bytes = 240,
                  .last_bytes = 240};
  demand.stages.assign(static_cast<size_t>(stages), {.memory_bytes = 2000, .kv_bytes = 100});
  return demand;
}

TEST(ChooseSplit, EqualStagesGetEvenOnes) {
  for (const int64_t stages : {1, 2, 3, 5, 16}) {
    const ChosenSplit chosen = ChooseSplit(Equal(stages));
    EXPECT_THAT(Layers(chosen.split), IsEmpty());
    EXPECT_THAT(chosen.reason, HasSubstr("equal speed and room"));
  }
  SplitDemand nearly = Equal(3);
  nearly.stages[1].kv_bytes = 91;  // the rest is noise
  EXPECT_THAT(Layers(ChooseSplit(nearly).split), IsEmpty());
  EXPECT_THAT(EvenLayers(16, 5), ElementsAre(4, 3, 3, 3, 3));
}

// At half the speed 3 layers and the head take (180 + 240) x 2 = 840, beside 13 that take 780; with
// 2 it is 720 beside 840: of the two, the second has the shorter way (1560, not 1620).
TEST(ChooseSplit, ASlowStageGetsFewerLayersAndTheHeadCounts) {
  SplitDemand demand = Equal(2);
  demand.units_enough = 1;
  demand.stages[1].speed = 0.5;
  const ChosenSplit chosen = ChooseSplit(demand);
  EXPECT_THAT(Layers(chosen.split), ElementsAre(14, 2));
  EXPECT_THAT(chosen.reason, HasSubstr("stages of 14,2 layers: they differ in speed (1, 0.5)"));
  EXPECT_THAT(chosen.reason, HasSubstr("to 8,8, the slowest takes 0.58 times as long"));
  std::reverse(demand.stages.begin(), demand.stages.end());
  // 5: 600 beside 900; 6: 720 beside 840; 7: 840 beside 780.
  EXPECT_THAT(Layers(ChooseSplit(demand).split), ElementsAre(6, 10));
}

// The fastest is 10,6, of 600; the most cache, 30.8 units, has 13,3, of 780. 12,4 takes 1.2 times
// as long as the one and holds 1.23 times less than the other; 11,5 holds 1.54 times less.
TEST(ChooseSplit, AStageWithLessKvCacheGetsFewerLayers) {
  SplitDemand demand = Equal(2);
  demand.stages[0].kv_bytes = 400;
  const ChosenSplit chosen = ChooseSplit(demand);
  EXPECT_THAT(Layers(chosen.split), ElementsAre(12, 4));
  EXPECT_THAT(chosen.reason, HasSubstr("room for KV cache (4e-07, 1e-07 GB)"));
  EXPECT_THAT(chosen.reason, HasSubstr("holds 2.00 times as much"));
}

// 550 bytes beside the cache: 6 layers with the embedding are 600, 5 with the head 540, 9 without
// either 540.
TEST(ChooseSplit, EqualStagesThatDoNotFitEvenOnesGetOthers) {
  SplitDemand demand = Equal(3);
  demand.stages.assign(3, {.memory_bytes = 560, .kv_bytes = 10});
  const ChosenSplit chosen = ChooseSplit(demand);
  EXPECT_THAT(Layers(chosen.split), ElementsAre(5, 6, 5));
  EXPECT_THAT(chosen.reason, HasSubstr("even ones do not fit"));
  demand.stages.assign(3, {.memory_bytes = 400, .kv_bytes = 10});
  EXPECT_THAT(Layers(ChooseSplit(demand).split), IsEmpty());
  EXPECT_THAT(ChooseSplit(demand).reason, HasSubstr("no other ones fit"));
}

TEST(ChooseSplit, ManyLayersAndStagesAreQuick) {
  SplitDemand demand = Equal(256);
  demand.costs.bytes.assign(500, 60);
  demand.costs.read.assign(500, 60);
  demand.costs.kv_bytes.assign(500, 1);
  demand.stages[3].speed = 0.5;
  EXPECT_FALSE(ChooseSplit(demand).split.empty());
  demand.costs.bytes.assign(4096, 60);
  EXPECT_THAT(ChooseSplit(demand).reason, HasSubstr("too many"));
}

}  // namespace
}  // namespace trireme
