// The whole engine on the CUDA kernels, emulated, against the engine on the CPU: prompts cut into
// chunks, batches that come and go, padded steps that are replayed from a graph, two ranks.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <mutex>
#include <ostream>
#include <set>
#include <string>

#include "tests/worker/gang_driver.h"

namespace trireme {
namespace {

const std::filesystem::path kRoot = TRIREME_SOURCE_DIR;

struct Case {
  std::string model;
  bool float32 = false;
  KvDType kv_dtype = KvDType::kF32;
  double tolerance = 0;  // root mean square of the error, relative to that of the logits
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.model << (c.float32 ? " float32" : "") << ", cache "
             << std::string(KvDTypeName(c.kv_dtype));
}

std::vector<TestRequest> Requests() {
  std::vector<TestRequest> requests;
  for (const int64_t length : {21, 3, 9}) {
    TestRequest request;
    for (int64_t i = 0; i < length; ++i) {
      request.prompt.push_back(static_cast<int32_t>((i * 37 + length * 11) % 120 + 3));
    }
    request.steps = 7;
    request.start_after = length % 5;
    request.sampling = GreedySampling();
    requests.push_back(std::move(request));
  }
  return requests;
}

// Logits of equal histories; where rounding made another token win, the rest is another text.
double RelativeError(const TestOutput& got, const TestOutput& want, int64_t& compared) {
  double error = 0;
  double size = 0;
  for (size_t step = 0; step < want.logits.size(); ++step) {
    for (size_t i = 0; i < want.logits[step].size(); ++i) {
      const double reference = want.logits[step][i];
      error += std::pow(got.logits[step][i] - reference, 2);
      size += std::pow(reference, 2);
    }
    ++compared;
    if (got.tokens[step] != want.tokens[step]) break;
  }
  return std::sqrt(error / size);
}

class CudaEngineTest : public testing::TestWithParam<Case> {
 protected:
  void Compare(const ParallelLayout& layout) {
    DriverOptions options;
    options.model_dir = kRoot / GetParam().model;
    options.layout = layout;
    options.float32 = GetParam().float32;
    options.kv_dtype = GetParam().kv_dtype;
    options.chunk = 8;
    options.max_batched_tokens = 32;
    options.kv_bytes = int64_t{1} << 20;
    options.kv_blocks_max = 8;
    const auto want = DriveGang(options, Requests());
    ASSERT_TRUE(want.ok()) << want.status();
    options.make_device = [](int rank) { return MakeDevice({.name = "cuda", .local_rank = rank}); };
    const auto got = DriveGang(options, Requests(), layout.tp > 1 ? 0 : -1);
    ASSERT_TRUE(got.ok()) << got.status();
    for (size_t i = 0; i < want->size(); ++i) {
      int64_t compared = 0;
      const double error = RelativeError((*got)[i], (*want)[i], compared);
      std::printf("request %zu: %lld steps, relative error %.1e\n", i,
                  static_cast<long long>(compared), error);
      EXPECT_LE(error, GetParam().tolerance);
    }
  }
};

TEST_P(CudaEngineTest, LogitsAreNearTheCpus) { Compare({.tp = 1, .pp = 1}); }
TEST_P(CudaEngineTest, LogitsOfTwoRanksAreNearTheCpus) { Compare({.tp = 2, .pp = 1}); }

// Float32 weights and cache: only the order of sums differs. Otherwise activations are rounded to
// bfloat16, 2^-9 of a value, in other places than on the CPU.
INSTANTIATE_TEST_SUITE_P(
    Models, CudaEngineTest,
    testing::Values(Case{"tests/golden/models/llama3", true, KvDType::kF32, 1e-5},
                    Case{"tests/golden/models/llama3", false, KvDType::kBF16, 0.02},
                    Case{"tests/golden/models/qwen3", false, KvDType::kInt8, 0.05},
                    // Activations are rounded to E4M3, by up to 2^-4 of a value.
                    Case{"tests/golden/quantized/fp8", false, KvDType::kBF16, 0.2},
                    Case{"tests/golden/models/gemma3", true, KvDType::kF32, 1e-5},
                    Case{"tests/golden/models/mixtral", true, KvDType::kF32, 1e-5}),
    [](const auto& info) { return std::to_string(info.index); });

// On the emulated GPU that multiplies no fp8, and on the others.
TEST(CudaFp8, IsWidenedWhereADeviceDoesNotMultiplyIt) {
  DriverOptions options;
  options.model_dir = kRoot / "tests/golden/quantized/fp8";
  options.max_batched_tokens = 32;
  options.kv_bytes = int64_t{1} << 20;
  options.kv_blocks_max = 8;
  const auto want = DriveGang(options, Requests());
  ASSERT_TRUE(want.ok()) << want.status();
  for (const int gpu : {0, 3}) {
    options.make_device = [gpu](int) { return MakeDevice({.name = "cuda", .local_rank = gpu}); };
    const auto got = DriveGang(options, Requests());
    ASSERT_TRUE(got.ok()) << got.status();
    int64_t compared = 0;
    const double error = RelativeError((*got)[0], (*want)[0], compared);
    std::printf("GPU %d: relative error %.1e\n", gpu, error);
    EXPECT_LE(error, gpu == 3 ? 0.02 : 0.2);
    if (gpu != 3) {
      EXPECT_GT(error, 0.01);
    }
  }
}

// What a gang computes over one wire, and the names of the communicators it got.
struct OverWire {
  std::vector<TestOutput> outputs;
  std::set<std::string> names;
};

OverWire Drive(const ParallelLayout& layout, Wire wire, int gpus) {
  OverWire result;
  std::mutex mutex;
  DriverOptions options;
  options.model_dir = kRoot / "tests/golden/models/llama3";
  options.layout = layout;
  options.chunk = 8;
  options.max_batched_tokens = 32;
  options.kv_bytes = int64_t{1} << 20;
  options.kv_blocks_max = 8;
  options.make_device = [&](int rank) -> absl::StatusOr<Device> {
    absl::StatusOr<Device> device =
        MakeDevice({.name = "cuda", .local_rank = rank % gpus, .wire = wire});
    if (!device.ok()) return device;
    device->link = [&, link = device->link](Communicator& group, LinkUse use) {
      auto made = link(group, use);
      if (made.ok() && group.size() > 1) {
        const std::lock_guard lock(mutex);
        result.names.emplace((*made)->name());
      }
      return made;
    };
    return device;
  };
  auto outputs = DriveGang(options, Requests());
  EXPECT_TRUE(outputs.ok()) << outputs.status();
  if (outputs.ok()) result.outputs = *std::move(outputs);
  return result;
}

// By ipc decode steps are replayed from graphs; staged ones never are. Both sum in the same order.
TEST(CudaWires, IpcHasTheBitsOfStaged) {
  const OverWire staged = Drive({.tp = 2, .pp = 1}, Wire::kStaged, 2);
  const OverWire ipc = Drive({.tp = 2, .pp = 1}, Wire::kAuto, 2);
  EXPECT_EQ(staged.names, std::set<std::string>({"staged loopback"}));
  EXPECT_EQ(ipc.names, std::set<std::string>({"ipc"}));
  ASSERT_EQ(ipc.outputs.size(), Requests().size());
  EXPECT_TRUE(ipc.outputs == staged.outputs);
}

TEST(CudaWires, StagesHandOverThroughTheHostWithoutNccl) {
  const OverWire staged = Drive({.tp = 2, .pp = 2}, Wire::kStaged, 4);
  const OverWire ipc = Drive({.tp = 2, .pp = 2}, Wire::kIpc, 4);
  EXPECT_EQ(ipc.names, std::set<std::string>({"ipc", "staged loopback"}));
  ASSERT_EQ(ipc.outputs.size(), Requests().size());
  EXPECT_TRUE(ipc.outputs == staged.outputs);
}

TEST(CudaWires, RanksThatShareAGpuAreStaged) {
  EXPECT_EQ(Drive({.tp = 2, .pp = 1}, Wire::kAuto, 1).names,
            std::set<std::string>({"staged loopback"}));
}

// Greedy, seeded, cut, penalised, biased, with log probabilities of output and prompt.
std::vector<TestRequest> SampledRequests() {
  std::vector<TestRequest> requests = Requests();
  std::vector<TestRequest> more = Requests();
  requests.insert(requests.end(), more.begin(), more.end());
  for (TestRequest& request : requests) request.steps = 5;
  // More logits are wanted in one step than are computed at once.
  while (requests[0].prompt.size() < 80) requests[0].prompt.push_back(requests[0].prompt[7] + 1);
  requests[0].sampling.set_logprobs(3);
  requests[0].sampling.set_prompt_logprobs(2);
  for (size_t i = 1; i < requests.size(); ++i) {
    requests[i].sampling.set_temperature(1.5f);
    requests[i].sampling.set_seed(i);
  }
  requests[2].sampling.set_top_k(20);
  requests[2].sampling.set_top_p(0.9f);
  requests[3].sampling.set_min_p(0.01f);
  requests[3].sampling.set_logprobs(20);
  requests[4].sampling.set_repetition_penalty(1.3f);
  requests[4].sampling.set_presence_penalty(0.5f);
  requests[4].sampling.set_frequency_penalty(0.25f);
  requests[4].sampling.set_logprobs(0);
  requests[5].sampling.set_temperature(0);
  requests[5].sampling.set_repetition_penalty(2);
  for (const int32_t id : {7, 3, 7}) {
    requests[5].sampling.add_bias_ids(id);
    requests[5].sampling.add_bias(6.5f);
  }
  return requests;
}

std::vector<std::string> Results(const ParallelLayout& layout, bool on_device) {
  DriverOptions options;
  options.model_dir = kRoot / "tests/golden/models/llama3";
  options.layout = layout;
  options.chunk = 80;
  options.max_batched_tokens = 128;
  options.kv_bytes = int64_t{1} << 20;
  options.kv_blocks_max = 16;
  options.make_device = [&](int rank) -> absl::StatusOr<Device> {
    absl::StatusOr<Device> device = MakeDevice({.name = "cuda", .local_rank = rank});
    if (device.ok() && !on_device) device->sampler = MakeHostSampler;
    return device;
  };
  const absl::StatusOr<GangOutput> output =
      RunPlans(options, MakePlans(options, SampledRequests()));
  EXPECT_TRUE(output.ok()) << output.status();
  std::vector<std::string> results;
  if (!output.ok()) return results;
  for (v1::StepResult result : output->results) {
    result.clear_step_ms();
    result.clear_bubble_ms();
    results.push_back(result.ShortDebugString());
  }
  return results;
}

TEST(CudaSampling, TheDeviceHasTheResultsOfTheHost) {
  for (const ParallelLayout& layout :
       {ParallelLayout{.tp = 1, .pp = 1}, {.tp = 2, .pp = 1}, {.tp = 1, .pp = 2}}) {
    const std::vector<std::string> host = Results(layout, false);
    ASSERT_FALSE(host.empty());
    EXPECT_EQ(Results(layout, true), host);
  }
}

TEST(CudaSampling, MoreLogprobsThanThereIsRoomForAreAnError) {
  for (const bool prompt : {false, true}) {
    DriverOptions options;
    options.model_dir = kRoot / "tests/golden/models/llama3";
    options.kv_bytes = int64_t{1} << 20;
    options.make_device = [](int) { return MakeDevice({.name = "cuda"}); };
    std::vector<TestRequest> requests = Requests();
    if (prompt) {
      requests[0].sampling.set_prompt_logprobs(21);
    } else {
      requests[0].sampling.set_logprobs(uint32_t{1} << 31);
    }
    EXPECT_EQ(DriveGang(options, requests).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace trireme
