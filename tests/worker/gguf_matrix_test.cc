// Every architecture in every GGUF tensor type: logits against numpy in float64 on the weights as
// the gguf package dequantises them (tools/make_gguf_matrix.py).

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/escaping.h"
#include "base/file.h"
#include "tests/worker/gang_driver.h"
#include "tests/worker/gguf_matrix.h"

namespace trireme {
namespace {

// Root mean square of the error, relative to that of the logits. F32 and F16 weights are multiplied
// in float32. With BF16 the activations may be rounded to it, with quantised weights they are
// rounded to 8 bits, which in these models of random numbers moves llama.cpp's logits by up to
// 0.011 and 0.06; a wrong bit of a format makes it about 1. Where rounding changes the choice of an
// expert it is more (llama.cpp: 0.18).
double Tolerance(const std::string& model, const std::string& type) {
  if (type == "F32" || type == "F16") return 1e-5;
  if (type == "BF16") return 0.02;
  return model == "mixtral" ? 0.3 : 0.1;
}

const nlohmann::json& Golden() {
  static const auto golden = nlohmann::json::parse(*ReadFile(
      std::filesystem::path(TRIREME_SOURCE_DIR) / "tests/golden/gguf_matrix.json", 1 << 20));
  return golden;
}

std::vector<float> WantedLogits(const std::string& name) {
  std::string bytes;
  const std::string text = Golden()["logits_f32_base64"].value(name, "");
  EXPECT_TRUE(absl::Base64Unescape(text, &bytes));
  std::vector<float> logits(bytes.size() / sizeof(float));
  std::memcpy(logits.data(), bytes.data(), bytes.size());
  return logits;
}

double RelativeError(const std::vector<float>& got, const std::vector<float>& want) {
  double error = 0;
  double size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += std::pow(double{got[i]} - want[i], 2);
    size += std::pow(double{want[i]}, 2);
  }
  return std::sqrt(error / size);
}

using Case = std::tuple<std::string, std::string>;

class GgufMatrixTest : public testing::TestWithParam<Case> {};

// A file while it lives.
class TemporaryModel {
 public:
  TemporaryModel(const std::string& model, const std::string& type)
      : path_(std::filesystem::temp_directory_path() /
              ("trireme-" + std::to_string(getpid()) + "-" + model + "-" + type + ".gguf")) {
    WriteGgufMatrixModel(path_, model, type);
  }
  TemporaryModel(const TemporaryModel&) = delete;
  TemporaryModel& operator=(const TemporaryModel&) = delete;
  ~TemporaryModel() { std::filesystem::remove(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  const std::filesystem::path path_;
};

// Decision 0001 for every format: super-blocks of 256 columns are cut by tp 4, prompts by chunks.
TEST_P(GgufMatrixTest, EveryLayoutHasTheSameBits) {
  const auto& [model, type] = GetParam();
  const TemporaryModel file(model, type);
  TestRequest request;
  request.prompt = Golden()["prompt"].get<std::vector<int32_t>>();
  request.steps = 3;
  request.sampling = GreedySampling();
  const auto want = DriveGang({.model_dir = file.path(), .layout = {}}, {request});
  ASSERT_TRUE(want.ok()) << want.status();
  for (const ParallelLayout& layout : {ParallelLayout{.tp = 2, .pp = 2}, {.tp = 4, .pp = 1}}) {
    for (const bool mapped : {false, true}) {
      // With mapped weights, one step for the whole prompt: the next ones pack to stay.
      const DriverOptions options{
          .model_dir = file.path(), .layout = layout, .chunk = mapped ? 64 : 7, .mapped = mapped};
      const auto got = DriveGang(options, {request});
      ASSERT_TRUE(got.ok()) << got.status();
      EXPECT_TRUE(got->front() == want->front())
          << "tp " << layout.tp << " pp " << layout.pp << (mapped ? ", mapped" : "");
    }
  }
}

TEST_P(GgufMatrixTest, LogitsAgreeWithDequantisedWeights) {
  const auto& [model, type] = GetParam();
  const std::vector<float> want = WantedLogits(model + "/" + type);
  ASSERT_FALSE(want.empty());
  const TemporaryModel file(model, type);
  TestRequest request;
  request.prompt = Golden()["prompt"].get<std::vector<int32_t>>();
  request.steps = 1;
  request.sampling = GreedySampling();
  DriverOptions options;
  options.model_dir = file.path();
  const auto outputs = DriveGang(options, {request});
  ASSERT_TRUE(outputs.ok()) << outputs.status();
  const std::vector<float>& got = outputs->front().logits.front();
  ASSERT_EQ(got.size(), want.size());
  const double error = RelativeError(got, want);
  std::printf("%s/%s: relative error %.1e\n", model.c_str(), type.c_str(), error);
  EXPECT_LE(error, Tolerance(model, type));
}

INSTANTIATE_TEST_SUITE_P(All, GgufMatrixTest,
                         testing::Combine(testing::ValuesIn(GgufMatrixModels()),
                                          testing::ValuesIn(GgufMatrixTypes())),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" + std::get<1>(info.param);
                         });

}  // namespace
}  // namespace trireme
