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
constexpr float kRoundedTolerance = 0.1f;

class GoldenTest : public testing::TestWithParam<std::string> {};

// A name ending in ".gguf" is the same model behind llama.cpp's converter
// (tools/make_gguf_golden.py).
struct Golden {
  explicit Golden(const std::string& file) {
    const std::string name = file.substr(0, file.find(".gguf"));
    const std::string text = *ReadFile(kRoot / "tests/golden/models" / (name + ".json"), 16 << 20);
    json = nlohmann::json::parse(text);
    model = name != file ? kRoot / "tests/golden/gguf" / file
                         : kRoot / json["model"].get<std::string>();
    std::string bytes;
    EXPECT_TRUE(absl::Base64Unescape(json["logits_f32_base64"].get<std::string>(), &bytes));
    logits.resize(bytes.size() / sizeof(float));
    std::memcpy(logits.data(), bytes.data(), bytes.size());
  }

  TestOutput Run(bool float32) const {
    TestRequest request;
    request.prompt = json["prompt"].get<std::vector<int32_t>>();
    request.steps = static_cast<int64_t>(json["greedy"].size());
    request.sampling = GreedySampling();
    DriverOptions options;
    options.model_dir = model;
    options.threads = 2;
    options.float32 = float32;
    const auto outputs = DriveGang(options, {request});
    EXPECT_TRUE(outputs.ok()) << outputs.status();
    return outputs.ok() ? outputs->front() : TestOutput{};
  }

  // Row `row` of the file's logits against what we got.
  float WorstError(size_t row, const std::vector<float>& got) const {
    float worst = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      worst = std::max(worst, std::abs(got[i] - logits[row * got.size() + i]));
    }
    return worst;
  }

  nlohmann::json json;
  std::filesystem::path model;
  std::vector<float> logits;  // [steps that the file has, vocabulary]
};

TEST_P(GoldenTest, LogitsAndGreedyTokensAgreeWithTransformers) {
  const Golden golden(GetParam());
  const TestOutput output = golden.Run(/*float32=*/true);
  EXPECT_EQ(output.tokens, golden.json["greedy"].get<std::vector<int32_t>>());
  ASSERT_EQ(output.logits.size(), golden.json["greedy"].size());
  float worst = 0;
  size_t row = 0;
  for (const size_t step : golden.json["logit_steps"]) {
    ASSERT_EQ(output.logits[step].size(), golden.json["vocab_size"].get<size_t>());
    worst = std::max(worst, golden.WorstError(row++, output.logits[step]));
  }
  EXPECT_LE(worst, kLogitTolerance);
  RecordProperty("worst_logit_error", std::to_string(worst));
  std::printf("%s: largest logit error %.2e\n", GetParam().c_str(), worst);
}

// As the checkpoint has it: with bfloat16 weights, activations are rounded to eight bits of
// mantissa. Later tokens may differ where two are about as likely, so only the first step is
// compared.
TEST_P(GoldenTest, FirstLogitsAgreeInTheStoredType) {
  const Golden golden(GetParam());
  const TestOutput output = golden.Run(/*float32=*/false);
  ASSERT_FALSE(output.logits.empty());
  ASSERT_EQ(golden.json["logit_steps"][0].get<size_t>(), 0u);
  EXPECT_LE(golden.WorstError(0, output.logits[0]), kRoundedTolerance);
}

INSTANTIATE_TEST_SUITE_P(Families, GoldenTest,
                         testing::Values("llama2", "llama3", "llama32", "llama_bias",
                                         "llama_linear_rope", "mistral", "mistral_window", "qwen2",
                                         "qwen2_yarn", "qwen3", "qwen3_mixed_window", "gemma3",
                                         "gemma3_linear_rope", "mixtral", "pilot_chat",
                                         "pilot_raw"),
                         [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Gguf, GoldenTest,
                         testing::Values("llama32.gguf", "llama_bias.gguf",
                                         "llama_linear_rope.gguf", "mixtral.gguf",
                                         "qwen2_yarn.gguf", "qwen3.gguf"),
                         [](const auto& info) {
                           return info.param.substr(0, info.param.find(".gguf"));
                         });

}  // namespace
}  // namespace trireme
