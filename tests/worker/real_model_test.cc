// Real GGUF models against llama.cpp (tools/make_llama_cpp_golden.py): the likelihood of a text and
// greedy continuations. The models are fetched with tools/fetch_test_models.sh; without them this
// is skipped.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "base/file.h"
#include "tests/real_models.h"
#include "tests/worker/gang_driver.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

const fs::path kGolden = fs::path(TRIREME_SOURCE_DIR) / "tests/golden/llama_cpp";

// Relative, or llama.cpp's own distance from exact arithmetic, which is up to 0.6 %: both round
// activations to 8 bits, it for 256 columns at a time, we for 32.
constexpr double kPerplexityTolerance = 1e-3;

class RealModelTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const absl::StatusOr<std::string> text = ReadFile(kGolden / (GetParam() + ".json"), 16 << 20);
    ASSERT_TRUE(text.ok()) << text.status();
    golden_ = nlohmann::json::parse(*text);
    options_.model_dir = RealModelsDir() / golden_["model"].get<std::string>();
    options_.threads = 2;
    options_.chunk = 512;
    options_.kv_bytes = int64_t{512} << 20;
    if (!fs::exists(options_.model_dir)) {
      GTEST_SKIP() << NotFetched(options_.model_dir);
    }
  }

  nlohmann::json golden_;
  DriverOptions options_;
};

TEST_P(RealModelTest, PerplexityIsThatOfExactArithmetic) {
  TestRequest request;
  request.prompt = golden_["tokens"].get<std::vector<int32_t>>();
  request.steps = 1;
  request.sampling = GreedySampling();
  request.sampling.set_prompt_logprobs(1);
  const auto output = RunPlans(options_, MakePlans(options_, {request}));
  ASSERT_TRUE(output.ok()) << output.status();
  double sum = 0;
  size_t count = 0;
  for (const v1::StepResult& result : output->results) {
    for (const v1::PromptLogprob& entry : result.prompt_logprobs()) {
      sum -= double{entry.logprob()};
      ++count;
    }
  }
  ASSERT_EQ(count, request.prompt.size() - 1);
  const double got = std::exp(sum / static_cast<double>(count));
  const double want = std::exp(golden_["exact_mean_nll"].get<double>());
  const double theirs = std::exp(golden_["mean_nll"].get<double>());
  std::printf("%s: perplexity %.5f, exactly %.5f (%+.4f %%; llama.cpp: %+.4f %%)\n",
              GetParam().c_str(), got, want, (got / want - 1) * 100, (theirs / want - 1) * 100);
  EXPECT_NEAR(got / want, 1.0, std::max(kPerplexityTolerance, std::abs(theirs / want - 1)));
}

TEST_P(RealModelTest, GreedyContinuationsAreLlamaCpps) {
  std::vector<TestRequest> requests;
  for (const auto& entry : golden_["greedy"]) {
    TestRequest& request = requests.emplace_back();
    request.prompt = entry["prompt"].get<std::vector<int32_t>>();
    request.steps = static_cast<int64_t>(entry["tokens"].size());
    request.sampling = GreedySampling();
  }
  const auto outputs = DriveGang(options_, requests);
  ASSERT_TRUE(outputs.ok()) << outputs.status();
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ((*outputs)[i].tokens, golden_["greedy"][i]["tokens"].get<std::vector<int32_t>>())
        << golden_["greedy"][i]["text"] << ", smallest margin " << golden_["greedy"][i]["margin"];
  }
}

INSTANTIATE_TEST_SUITE_P(Models, RealModelTest,
                         testing::Values("gemma-3-270m", "qwen2.5-coder-1.5b"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '-' || c == '.' ? '_' : c;
                           return name;
                         });

}  // namespace
}  // namespace trireme
