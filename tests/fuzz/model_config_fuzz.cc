// Any text as config.json: parsed or refused, and what is parsed can be sharded.

#include <cstdlib>
#include <string_view>

#include "parallel/layout.h"
#include "parallel/model_config.h"
#include "parallel/shard.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = trireme::ModelConfig::Parse(text, "fuzz");
  if (!config.ok()) return 0;
  if (config->NumParameters() == 0) std::abort();
  for (const int tp : {-1, 0, 1, 3, 4, 1 << 30}) {
    for (const int pp : {-1, 0, 1, 3, 1 << 30}) {
      if (!trireme::CheckLayout(*config, {.tp = tp, .pp = pp}).ok()) continue;
      if (tp < 1 || pp < 1 || pp > config->num_layers) std::abort();
    }
  }
  if (config->num_layers > 64) return 0;  // slices are listed one by one
  for (const trireme::ParallelLayout& layout : trireme::LegalLayouts(*config, 4)) {
    for (int rank = 0; rank < layout.world_size(); ++rank) {
      const trireme::ModelShard shard =
          trireme::ComputeShard(*config, layout, trireme::CoordOf(layout, rank));
      if (trireme::ShardTensors(*config, shard).empty()) std::abort();
    }
  }
  return 0;
}
