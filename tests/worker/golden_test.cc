// Logits and greedy tokens against Hugging Face transformers in float32 (tools/make_golden.py).

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/escaping.h"
#include "base/file.h"
#include "tests/worker/gang_driver.h"

namespace trireme {
namespace {

const std::filesystem::path kRoot = TRIREME_SOURCE_DIR;

// Only the order of float32 sums differs from the reference; the files' logits reach 19.
constexpr float kLogitTolerance = 1e-4f;

class GoldenTest : public testing::TestWithParam<std::string> {};

TEST_P(GoldenTest, LogitsAndGreedyTokensAgreeWithTransformers) {
  const std::string text =
      *ReadFile(kRoot / "tests/golden/models" / (GetParam() + ".json"), 16 << 20);
  const auto golden = nlohmann::json::parse(text);
  TestRequest request;
  request.prompt = golden["prompt"].get<std::vector<int32_t>>();
  request.steps = static_cast<int64_t>(golden["greedy"].size());
  request.sampling = GreedySampling();
  DriverOptions options;
  options.model_dir = kRoot / golden["model"].get<std::string>();
  options.threads = 2;
  const auto outputs = DriveGang(options, {request});
  ASSERT_TRUE(outputs.ok()) << outputs.status();
  EXPECT_EQ(outputs->front().tokens, golden["greedy"].get<std::vector<int32_t>>());

  std::string bytes;
  ASSERT_TRUE(absl::Base64Unescape(golden["logits_f32_base64"].get<std::string>(), &bytes));
  const size_t vocab = golden["vocab_size"].get<size_t>();
  std::vector<float> want(bytes.size() / sizeof(float));
  std::memcpy(want.data(), bytes.data(), bytes.size());
  float worst = 0;
  size_t row = 0;
  for (const size_t step : golden["logit_steps"]) {
    const std::vector<float>& got = outputs->front().logits[step];
    ASSERT_EQ(got.size(), vocab);
    for (size_t i = 0; i < vocab; ++i) {
      worst = std::max(worst, std::abs(got[i] - want[row * vocab + i]));
    }
    ++row;
  }
  EXPECT_LE(worst, kLogitTolerance);
  RecordProperty("worst_logit_error", std::to_string(worst));
  std::printf("%s: largest logit error %.2e\n", GetParam().c_str(), worst);
}

INSTANTIATE_TEST_SUITE_P(Families, GoldenTest,
                         testing::Values("llama2", "llama3", "llama32", "llama_bias",
                                         "llama_linear_rope", "mistral", "mistral_window", "qwen2",
                                         "qwen3", "qwen3_mixed_window", "gemma3",
                                         "gemma3_linear_rope", "mixtral", "pilot_chat",
                                         "pilot_raw"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace trireme
