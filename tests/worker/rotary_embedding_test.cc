// Against transformers (tools/make_rope_golden.py).

#include "worker/layers/rotary_embedding.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"

namespace trireme {
namespace {

TEST(RotaryEmbeddingTest, EveryScalingIsThatOfTheReference) {
  const std::filesystem::path path =
      std::filesystem::path(TRIREME_SOURCE_DIR) / "tests/golden/rope.json";
  const nlohmann::json golden = nlohmann::json::parse(*ReadFile(path, 4 << 20));
  ASSERT_GT(golden.size(), 10u);
  for (const nlohmann::json& kind : golden) {
    const auto config = ModelConfig::Parse(kind["config"].dump(), "rope.json");
    ASSERT_TRUE(config.ok()) << config.status();
    const RotaryEmbedding rotary(*config);
    for (size_t i = 0; i < kind["positions"].size(); ++i) {
      const int64_t position = kind["positions"][i];
      RopeAngles angles;
      rotary.Append(position, angles);
      const auto cos = kind["cos"][i].get<std::vector<float>>();
      const auto sin = kind["sin"][i].get<std::vector<float>>();
      ASSERT_EQ(angles.cos.size(), cos.size());
      ASSERT_EQ(angles.sin.size(), sin.size());
      // A frequency's last bit counts as often as the position says.
      const double error = 1e-6 + 2e-7 * static_cast<double>(position);
      for (size_t pair = 0; pair < cos.size(); ++pair) {
        EXPECT_NEAR(angles.cos[pair], cos[pair], error)
            << kind["config"]["rope_parameters"] << " position " << position << " pair " << pair;
        EXPECT_NEAR(angles.sin[pair], sin[pair], error)
            << kind["config"]["rope_parameters"] << " position " << position << " pair " << pair;
      }
    }
  }
}

}  // namespace
}  // namespace trireme
