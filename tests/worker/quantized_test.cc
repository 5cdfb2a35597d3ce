// Hugging Face's quantised checkpoints (tools/make_quantized_golden.py): the values of every matrix
// bit for bit, and logits against transformers in float32 on the dequantised weights.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/escaping.h"
#include "base/file.h"
#include "parallel/shard.h"
#include "tests/worker/gang_driver.h"
#include "worker/weights.h"

namespace trireme {
namespace {

const std::filesystem::path kRoot = TRIREME_SOURCE_DIR;

// As zlib has it.
uint32_t Crc32(const std::vector<float>& values) {
  uint32_t crc = 0xffffffff;
  for (const float value : values) {
    const float no_minus_zero = value + 0.0f;
    unsigned char bytes[4];
    std::memcpy(bytes, &no_minus_zero, sizeof(bytes));
    for (const unsigned char byte : bytes) {
      crc ^= byte;
      for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0xedb88320 : 0);
    }
  }
  return ~crc;
}

class QuantizedTest : public testing::TestWithParam<std::string> {
 protected:
  QuantizedTest()
      : golden_(nlohmann::json::parse(
            *ReadFile(kRoot / "tests/golden/quantized" / (GetParam() + ".json"), 1 << 20))),
        model_(kRoot / golden_["model"].get<std::string>()),
        config_(*ModelConfig::Load(model_)),
        checkpoint_(*Checkpoint::Open(model_)) {}

  // One rank's share of the quantised matrices.
  std::vector<TensorSlice> Slices(const ParallelLayout& layout, int rank) const {
    std::vector<TensorSlice> slices;
    const ModelShard shard = ComputeShard(config_, layout, {.tp_rank = rank, .pp_rank = 0});
    for (TensorSlice& slice : ShardTensors(config_, shard)) {
      if (golden_["matrices"].contains(slice.name)) slices.push_back(std::move(slice));
    }
    return slices;
  }

  const nlohmann::json golden_;
  const std::filesystem::path model_;
  const ModelConfig config_;
  const std::unique_ptr<Checkpoint> checkpoint_;
  const std::unique_ptr<Ops> ops_ = *MakeCpuOps(1);
};

TEST_P(QuantizedTest, EveryValueIsThatOfTheReference) {
  const std::vector<TensorSlice> slices = Slices({}, 0);
  ASSERT_EQ(slices.size(), golden_["matrices"].size());
  const auto weights = Weights::Load(*checkpoint_, slices, *ops_, {.threads = 2});
  ASSERT_TRUE(weights.ok()) << weights.status();
  for (const TensorSlice& slice : slices) {
    const std::vector<float> values = ToFloats(*weights->Find(slice.name));
    EXPECT_EQ(Crc32(values), golden_["matrices"][slice.name].get<uint32_t>()) << slice.name;
  }
}

TEST_P(QuantizedTest, SharesOfRowsAndColumnsHaveTheSameValues) {
  const auto whole = Weights::Load(*checkpoint_, Slices({}, 0), *ops_);
  ASSERT_TRUE(whole.ok());
  for (const int tp : {2, 4, 8}) {
    for (int rank = 0; rank < tp; ++rank) {
      const std::vector<TensorSlice> slices = Slices({.tp = tp, .pp = 1}, rank);
      const auto share = Weights::Load(*checkpoint_, slices, *ops_);
      ASSERT_TRUE(share.ok()) << share.status();
      for (const TensorSlice& slice : slices) {
        const std::vector<float> want = ToFloats(*whole->Find(slice.name));
        const std::vector<float> got = ToFloats(*share->Find(slice.name));
        ASSERT_EQ(got.size(), static_cast<size_t>(slice.elements()));
        for (int64_t r = 0; r < slice.rows.size(); ++r) {
          const float* from =
              want.data() + (slice.rows.begin + r) * slice.full_cols + slice.cols.begin;
          ASSERT_EQ(std::memcmp(got.data() + r * slice.cols.size(), from,
                                static_cast<size_t>(slice.cols.size()) * sizeof(float)),
                    0)
              << slice.name << " tp " << tp << " rank " << rank << " row " << r;
        }
      }
    }
  }
}

// Root mean square of the error, relative to that of the logits: activations are rounded to 8 bits,
// or with weights that are widened to bfloat16, as in gguf_matrix_test.cc.
TEST_P(QuantizedTest, LogitsAgreeWithDequantisedWeights) {
  std::string bytes;
  ASSERT_TRUE(absl::Base64Unescape(golden_["logits_f32_base64"].get<std::string>(), &bytes));
  std::vector<float> want(bytes.size() / sizeof(float));
  std::memcpy(want.data(), bytes.data(), bytes.size());
  TestRequest request;
  request.prompt = golden_["prompt"].get<std::vector<int32_t>>();
  request.steps = 1;
  request.sampling = GreedySampling();
  DriverOptions options;
  options.model_dir = model_;
  const auto outputs = DriveGang(options, {request});
  ASSERT_TRUE(outputs.ok()) << outputs.status();
  const std::vector<float>& got = outputs->front().logits.front();
  ASSERT_EQ(got.size(), want.size());
  double error = 0;
  double size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += std::pow(double{got[i]} - want[i], 2);
    size += std::pow(double{want[i]}, 2);
  }
  std::printf("%s: relative error %.1e\n", GetParam().c_str(), std::sqrt(error / size));
  const bool widened = GetParam().starts_with("fp8") || GetParam() == "gptq_act_order";
  EXPECT_LE(std::sqrt(error / size), widened ? 0.02 : 0.1);
}

INSTANTIATE_TEST_SUITE_P(Models, QuantizedTest,
                         testing::Values("int8", "fp8", "fp8_block", "awq", "gptq",
                                         "gptq_act_order"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace trireme
