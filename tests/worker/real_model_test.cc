// Real GGUF models against llama.cpp (tools/make_llama_cpp_golden.py): the likelihood of a text and
// greedy continuations. tools/fetch_test_models.sh fetches the models, and
// make_llama_cpp_golden.py --files makes files in other formats of them; what is not there is
// skipped.

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

// Relative. Both round activations to 8 bits, llama.cpp more coarsely for its K formats: there ours
// may be further below its perplexity, if it is no further from exact arithmetic. Another order of
// sums alone may move a quantised file's by 0.2 % (docs/quantization.md).
constexpr double kPerplexityTolerance = 1e-3;

nlohmann::json ReadGolden(const std::string& name) {
  const absl::StatusOr<std::string> text = ReadFile(kGolden / (name + ".json"), 16 << 20);
  EXPECT_TRUE(text.ok()) << text.status();
  return nlohmann::json::parse(*text);
}

DriverOptions OptionsFor(const std::string& model) {
  DriverOptions options;
  options.model_dir = RealModelsDir() / (model + ".gguf");
  options.threads = 2;
  options.chunk = 512;
  options.kv_bytes = int64_t{512} << 20;
  return options;
}

// Of every token but the first, each given all before it.
absl::StatusOr<double> Perplexity(const DriverOptions& options,
                                  const std::vector<int32_t>& tokens) {
  TestRequest request;
  request.prompt = tokens;
  request.steps = 1;
  request.sampling = GreedySampling();
  request.sampling.set_prompt_logprobs(1);
  const auto output = RunPlans(options, MakePlans(options, {request}));
  if (!output.ok()) return output.status();
  double sum = 0;
  size_t count = 0;
  for (const v1::StepResult& result : output->results) {
    for (const v1::PromptLogprob& entry : result.prompt_logprobs()) {
      sum -= double{entry.logprob()};
      ++count;
    }
  }
  EXPECT_EQ(count, tokens.size() - 1);
  return std::exp(sum / static_cast<double>(count));
}

// `golden` has the likelihoods of these tokens. `as_exact`: no further from exact arithmetic than
// llama.cpp in any case.
void ExpectPerplexity(const std::string& model, const std::vector<int32_t>& tokens,
                      const nlohmann::json& golden, bool as_exact) {
  const auto got = Perplexity(OptionsFor(model), tokens);
  ASSERT_TRUE(got.ok()) << got.status();
  const double exact = std::exp(golden["exact_mean_nll"].get<double>());
  const double theirs = std::exp(golden["mean_nll"].get<double>());
  const double from_exact = *got / exact - 1;
  const double from_theirs = *got / theirs - 1;
  std::printf("%s: perplexity %.5f, llama.cpp %.5f (%+.4f %%), exactly %.5f (%+.4f %%)\n",
              model.c_str(), *got, theirs, from_theirs * 100, exact, from_exact * 100);
  EXPECT_LE(from_theirs, kPerplexityTolerance);
  if (as_exact || std::abs(from_theirs) > kPerplexityTolerance) {
    EXPECT_LE(std::abs(from_exact), std::max(kPerplexityTolerance, std::abs(theirs / exact - 1)));
  }
}

std::string TestName(std::string name) {
  for (char& c : name) c = c == '-' || c == '.' ? '_' : c;
  return name;
}

class RealModelTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const fs::path path = OptionsFor(GetParam()).model_dir;
    if (!fs::exists(path)) {
      GTEST_SKIP() << NotFetched(path) << ", make_llama_cpp_golden.py --files makes others of it";
    }
  }
};

using FetchedModelTest = RealModelTest;
using RequantisedModelTest = RealModelTest;

TEST_P(FetchedModelTest, PerplexityIsNoWorseThanLlamaCpps) {
  const nlohmann::json golden = ReadGolden(GetParam());
  ExpectPerplexity(GetParam(), golden["tokens"].get<std::vector<int32_t>>(), golden,
                   /*as_exact=*/true);
}

TEST_P(RequantisedModelTest, PerplexityIsLlamaCpps) {
  const nlohmann::json golden = ReadGolden("requantised")[GetParam()];
  const nlohmann::json source = ReadGolden(golden["tokens_of"].get<std::string>());
  ExpectPerplexity(GetParam(), source["tokens"].get<std::vector<int32_t>>(), golden,
                   /*as_exact=*/false);
}

TEST_P(FetchedModelTest, GreedyContinuationsAreLlamaCpps) {
  const nlohmann::json golden = ReadGolden(GetParam());
  std::vector<TestRequest> requests;
  for (const auto& entry : golden["greedy"]) {
    TestRequest& request = requests.emplace_back();
    request.prompt = entry["prompt"].get<std::vector<int32_t>>();
    request.steps = static_cast<int64_t>(entry["tokens"].size());
    request.sampling = GreedySampling();
  }
  const auto outputs = DriveGang(OptionsFor(GetParam()), requests);
  ASSERT_TRUE(outputs.ok()) << outputs.status();
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ((*outputs)[i].tokens, golden["greedy"][i]["tokens"].get<std::vector<int32_t>>())
        << golden["greedy"][i]["text"] << ", smallest margin " << golden["greedy"][i]["margin"];
  }
}

INSTANTIATE_TEST_SUITE_P(Models, FetchedModelTest,
                         testing::Values("gemma-3-270m", "qwen2.5-coder-1.5b"),
                         [](const auto& info) { return TestName(info.param); });

INSTANTIATE_TEST_SUITE_P(Models, RequantisedModelTest,
                         testing::Values("gemma-3-270m-f32", "gemma-3-270m-f16",
                                         "gemma-3-270m-bf16", "gemma-3-270m-q8_0",
                                         "gemma-3-270m-q4_0", "qwen2.5-coder-1.5b-q8_0",
                                         "qwen2.5-coder-1.5b-q4_0"),
                         [](const auto& info) { return TestName(info.param); });

}  // namespace
}  // namespace trireme
