// What the kernels of a GPU do, as shares of what the same GPU did in the same run: copied bytes
// for work bound by memory, a large bfloat16 product for work bound by arithmetic.
//
//   cuda_bench [--json FILE]
//
// Shapes are Llama 3 8B's, operands random. Decode products take turns over copies of the weights
// that are together larger than the GPU's cache. Times are medians of a captured graph's replays.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "kernels/bfloat16.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/runtime.h"
#include "kernels/quant/packed.h"

namespace trireme::cuda {
namespace {

// Device memory that starts as copies of `pattern`.
absl::StatusOr<DeviceMemory> Filled(int64_t bytes, std::span<const std::byte> pattern) {
  ASSIGN_OR_RETURN(DeviceMemory memory, DeviceMemory::Allocate(bytes, {.purpose = "operands"}));
  for (int64_t at = 0; at < bytes; at += static_cast<int64_t>(pattern.size())) {
    const auto n = std::min(static_cast<int64_t>(pattern.size()), bytes - at);
    RETURN_IF_ERROR(ToStatus(cudaMemcpy(memory.data() + at, pattern.data(), static_cast<size_t>(n),
                                        cudaMemcpyHostToDevice),
                             "cudaMemcpy"));
  }
  return memory;
}

template <class T>
std::span<const std::byte> BytesOf(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

std::vector<float> RandomFloats(size_t n) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = normal(random);
  return values;
}

std::vector<uint16_t> RandomBf16(size_t n) {
  std::vector<uint16_t> bits;
  for (const float value : RandomFloats(n)) bits.push_back(RoundToBf16(value));
  return bits;
}

// Units of Q4_0 panels: 256 bytes of nibbles, then the scales of 16 rows, 2^-7 here.
std::vector<std::byte> RandomQ4Units(size_t n) {
  std::mt19937 random(2);
  std::vector<std::byte> units(n * 288);
  for (size_t unit = 0; unit < n; ++unit) {
    std::byte* at = units.data() + unit * 288;
    for (int i = 0; i < 256; ++i) at[i] = static_cast<std::byte>(random());
    for (int row = 0; row < 16; ++row) {
      const uint16_t scale = 0x2000;
      std::memcpy(at + 256 + 2 * row, &scale, 2);
    }
  }
  return units;
}

// Seconds of one run of `work`, which only queues on the stream.
absl::StatusOr<double> MedianSeconds(const Stream& stream,
                                     const std::function<absl::Status()>& work) {
  RETURN_IF_ERROR(work());  // what is looked up or loaded once
  RETURN_IF_ERROR(stream.Synchronize());
  ASSIGN_OR_RETURN(const Graph graph, Graph::Capture(stream, work));
  ASSIGN_OR_RETURN(const Event begin, Event::Create(Event::Timing::kOn));
  ASSIGN_OR_RETURN(const Event end, Event::Create(Event::Timing::kOn));
  constexpr int kWarm = 5, kRuns = 31;
  std::vector<float> ms;
  for (int i = 0; i < kWarm + kRuns; ++i) {
    RETURN_IF_ERROR(begin.Record(stream.get()));
    RETURN_IF_ERROR(graph.Launch(stream));
    RETURN_IF_ERROR(end.Record(stream.get()));
    RETURN_IF_ERROR(end.Synchronize());
    ASSIGN_OR_RETURN(const float elapsed, Event::Milliseconds(begin, end));
    if (i >= kWarm) ms.push_back(elapsed);
  }
  std::nth_element(ms.begin(), ms.begin() + kRuns / 2, ms.end());
  return ms[kRuns / 2] / 1e3;
}

class Bench {
 public:
  static absl::StatusOr<Bench> Create() {
    Bench bench;
    ASSIGN_OR_RETURN(bench.stream_, Stream::Create());
    ASSIGN_OR_RETURN(bench.gemm_, Gemm::Create());
    return bench;
  }

  absl::Status Run() {
    RETURN_IF_ERROR(MeasureLimits());
    for (const int64_t tokens : {1, 16}) {
      for (const DType dtype : {DType::kBF16, DType::kQ4_0, DType::kQ8_0}) {
        RETURN_IF_ERROR(Layer(dtype, tokens));
      }
    }
    for (const DType dtype : {DType::kBF16, DType::kQ4_0}) RETURN_IF_ERROR(Layer(dtype, 4096));
    RETURN_IF_ERROR(DecodeAttention());
    return PrefillAttention();
  }
  const nlohmann::json& results() const { return results_; }

 private:
  absl::Status MeasureLimits() {
    constexpr int64_t kBytes = int64_t{1} << 30;
    const std::vector<float> pattern = RandomFloats(1 << 20);
    ASSIGN_OR_RETURN(const DeviceMemory from, Filled(kBytes, BytesOf(pattern)));
    ASSIGN_OR_RETURN(const DeviceMemory to, Filled(kBytes, BytesOf(pattern)));
    ASSIGN_OR_RETURN(const double copy, MedianSeconds(stream_, [&] {
                       return stream_.Copy(to.data(), from.data(), kBytes);
                     }));
    bytes_per_s_ = 2 * kBytes / copy;
    Report("copy", copy, absl::StrFormat("%.0f GB/s", bytes_per_s_ / 1e9), 1);

    constexpr int64_t kSize = 8192;
    ASSIGN_OR_RETURN(const DeviceMemory x, Filled(2 * kSize * kSize, BytesOf(RandomBf16(1 << 20))));
    ASSIGN_OR_RETURN(const DeviceMemory w, Filled(2 * kSize * kSize, BytesOf(RandomBf16(1 << 20))));
    ASSIGN_OR_RETURN(const DeviceMemory y, Filled(4 * kSize * kSize, BytesOf(pattern)));
    ASSIGN_OR_RETURN(const DeviceMemory workspace, Filled(kGemmWorkspaceBytes, BytesOf(pattern)));
    const GemmArgs args{.type = GemmType::kBF16,
                        .tokens = kSize,
                        .rows = kSize,
                        .cols = kSize,
                        .x = x.data(),
                        .x_stride = kSize,
                        .weight = w.data(),
                        .weight_stride = kSize,
                        .y = y.As<float>(),
                        .y_stride = kSize,
                        .workspace = workspace.data(),
                        .stream = stream_.get()};
    ASSIGN_OR_RETURN(const double product,
                     MedianSeconds(stream_, [&] { return gemm_->Run(args); }));
    flops_per_s_ = 2.0 * kSize * kSize * kSize / product;
    Report("bf16 product 8192^3", product, absl::StrFormat("%.0f TFLOP/s", flops_per_s_ / 1e12), 1);
    return absl::OkStatus();
  }

  // The four products of an 8B layer.
  absl::Status Layer(DType dtype, int64_t tokens) {
    struct Shape {
      int64_t rows, cols;
    };
    constexpr Shape kShapes[] = {{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}};
    constexpr int kLayers = 4;
    std::vector<std::byte> pattern;
    if (dtype == DType::kQ4_0) {
      pattern = RandomQ4Units(1 << 12);
    } else {
      const std::vector<uint16_t> bits = RandomBf16(1 << 20);
      pattern.assign(BytesOf(bits).begin(), BytesOf(bits).end());
    }
    std::vector<DeviceMemory> owned;
    std::vector<Weight> weights;
    double bytes = 0, flops = 0;
    for (int layer = 0; layer < kLayers; ++layer) {
      for (const Shape& shape : kShapes) {
        const bool packed = IsQuantized(dtype);
        const int64_t size = packed ? quant::PackedLayout(dtype, shape.rows, shape.cols, 0).bytes()
                                    : 2 * shape.rows * shape.cols;
        ASSIGN_OR_RETURN(DeviceMemory data, Filled(size, pattern));
        weights.push_back({.data = data.data(),
                           .dtype = dtype,
                           .rows = shape.rows,
                           .cols = shape.cols,
                           .row_stride = shape.cols,
                           .packed = packed});
        owned.push_back(std::move(data));
        bytes += static_cast<double>(size);
        flops += 2.0 * static_cast<double>(tokens * shape.rows * shape.cols);
      }
    }
    const std::vector<float> values = RandomFloats(1 << 20);
    const int64_t workspace_bytes = LinearWorkspaceBytes(tokens, weights);
    ASSIGN_OR_RETURN(const DeviceMemory x, Filled(4 * tokens * 14336, BytesOf(values)));
    ASSIGN_OR_RETURN(const DeviceMemory y, Filled(4 * tokens * 28672, BytesOf(values)));
    ASSIGN_OR_RETURN(const DeviceMemory workspace,
                     Filled(workspace_bytes, std::vector<std::byte>(1 << 20)));
    const auto work = [&]() -> absl::Status {
      for (const Weight& weight : weights) {
        const LinearProduct product{.weight = weight, .y = y.As<float>()};
        RETURN_IF_ERROR(Linear({.x = x.As<float>(),
                                .tokens = tokens,
                                .products = std::span(&product, 1),
                                .workspace = workspace.data(),
                                .workspace_bytes = workspace_bytes,
                                .gemm = gemm_.get(),
                                .stream = stream_.get()}));
      }
      return absl::OkStatus();
    };
    ASSIGN_OR_RETURN(const double seconds, MedianSeconds(stream_, work));
    const double share = std::max(bytes / bytes_per_s_, flops / flops_per_s_) / seconds;
    Report(
        absl::StrCat("layer of 8B, ", std::string(DTypeName(dtype)), ", ", tokens, " tokens"),
        seconds / kLayers,
        absl::StrFormat("%.0f GB/s, %.0f TFLOP/s", bytes / seconds / 1e9, flops / seconds / 1e12),
        share);
    return absl::OkStatus();
  }

  struct AttentionShape {
    int64_t sequences, query, context;
  };

  // 8 query heads for each of 8 KV heads, head_dim 128, bf16.
  absl::StatusOr<double> AttentionSeconds(const AttentionShape& shape) {
    constexpr int64_t kHeads = 64, kKvHeads = 8, kHeadDim = 128, kBlock = 32;
    const int64_t tokens = shape.sequences * shape.query;
    const int64_t blocks = shape.context / kBlock;
    KvLayer cache{.dtype = KvDType::kBF16,
                  .num_kv_heads = kKvHeads,
                  .block_size = kBlock,
                  .head_dim = kHeadDim};
    const std::vector<uint16_t> bits = RandomBf16(1 << 20);
    const int64_t pool = shape.sequences * blocks * cache.page_bytes();
    ASSIGN_OR_RETURN(const DeviceMemory k, Filled(pool, BytesOf(bits)));
    ASSIGN_OR_RETURN(const DeviceMemory v, Filled(pool, BytesOf(bits)));
    cache.k = k.data();
    cache.v = v.data();
    std::vector<int32_t> positions, sequence_of_token, query_start = {0}, tables;
    for (int64_t s = 0; s < shape.sequences; ++s) {
      for (int64_t i = 0; i < shape.query; ++i) {
        positions.push_back(static_cast<int32_t>(shape.context - shape.query + i));
        sequence_of_token.push_back(static_cast<int32_t>(s));
      }
      query_start.push_back(static_cast<int32_t>((s + 1) * shape.query));
      // Pages of a sequence lie apart, as after a while of serving.
      for (int64_t b = 0; b < blocks; ++b) {
        tables.push_back(static_cast<int32_t>(b * shape.sequences + s));
      }
    }
    const auto upload = [](const std::vector<int32_t>& values) {
      return Filled(static_cast<int64_t>(values.size() * 4), BytesOf(values));
    };
    ASSIGN_OR_RETURN(const DeviceMemory d_positions, upload(positions));
    ASSIGN_OR_RETURN(const DeviceMemory d_sequences, upload(sequence_of_token));
    ASSIGN_OR_RETURN(const DeviceMemory d_start, upload(query_start));
    ASSIGN_OR_RETURN(const DeviceMemory d_tables, upload(tables));
    const std::vector<float> values = RandomFloats(1 << 20);
    ASSIGN_OR_RETURN(const DeviceMemory q, Filled(4 * tokens * kHeads * kHeadDim, BytesOf(values)));
    ASSIGN_OR_RETURN(const DeviceMemory out,
                     Filled(4 * tokens * kHeads * kHeadDim, BytesOf(values)));
    AttentionArgs args{.q = q.As<float>(),
                       .out = out.As<float>(),
                       .cache = cache,
                       .heads = kHeads,
                       .scale = 0.0884f,
                       .window = 0,
                       .step = {.positions = d_positions.As<int32_t>(),
                                .sequence_of_token = d_sequences.As<int32_t>(),
                                .query_start = d_start.As<int32_t>(),
                                .block_tables = d_tables.As<int32_t>(),
                                .tokens = static_cast<int>(tokens),
                                .sequences = static_cast<int>(shape.sequences),
                                .blocks_max = static_cast<int>(blocks),
                                .context_max = static_cast<int>(shape.context),
                                .query_max = static_cast<int>(shape.query)},
                       .workspace = nullptr,
                       .stream = stream_.get()};
    RETURN_IF_ERROR(CheckAttention(cache, kHeads));
    const int64_t workspace_bytes =
        std::max<int64_t>(16, AttentionWorkspaceBytes(cache, kHeads, args.step));
    ASSIGN_OR_RETURN(const DeviceMemory workspace, Filled(workspace_bytes, BytesOf(values)));
    args.workspace = workspace.data();
    return MedianSeconds(stream_, [&] {
      Attention(args);
      return LaunchStatus("attention");
    });
  }

  absl::Status DecodeAttention() {
    ASSIGN_OR_RETURN(const double seconds,
                     AttentionSeconds({.sequences = 64, .query = 1, .context = 4096}));
    const double bytes = 64.0 * 4096 * 8 * 128 * 2 * 2;
    Report("decode attention, 64 x 4096, GQA 8", seconds,
           absl::StrFormat("%.0f GB/s", bytes / seconds / 1e9), bytes / seconds / bytes_per_s_);
    return absl::OkStatus();
  }

  absl::Status PrefillAttention() {
    ASSIGN_OR_RETURN(const double seconds,
                     AttentionSeconds({.sequences = 1, .query = 4096, .context = 4096}));
    const double flops = 4.0 * 64 * 128 * 4096 * 4096 / 2;
    Report("prefill attention, 4096, GQA 8", seconds,
           absl::StrFormat("%.0f TFLOP/s", flops / seconds / 1e12), flops / seconds / flops_per_s_);
    return absl::OkStatus();
  }

  void Report(const std::string& work, double seconds, const std::string& rate, double share) {
    std::cout << absl::StrFormat("%-40s %10.1f us  %-26s %4.0f%%", work, seconds * 1e6, rate,
                                 share * 100)
              << std::endl;
    results_.push_back({{"work", work}, {"us", seconds * 1e6}, {"rate", rate}, {"share", share}});
  }

  Stream stream_;
  std::unique_ptr<Gemm> gemm_;
  double bytes_per_s_ = 0;
  double flops_per_s_ = 0;
  nlohmann::json results_ = nlohmann::json::array();
};

absl::Status Main(const char* json_path) {
  cudaDeviceProp device{};
  RETURN_IF_ERROR(ToStatus(cudaGetDeviceProperties(&device, 0), "no GPU"));
  std::cout << device.name << ", " << device.multiProcessorCount << " multiprocessors\n";
  ASSIGN_OR_RETURN(Bench bench, Bench::Create());
  RETURN_IF_ERROR(bench.Run());
  if (json_path == nullptr) return absl::OkStatus();
  std::ofstream out(json_path);
  out << nlohmann::json{{"device", device.name}, {"results", bench.results()}}.dump(1) << "\n";
  if (out.flush()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(json_path, ": cannot be written"));
}

}  // namespace
}  // namespace trireme::cuda

int main(int argc, char** argv) {
  const bool json = argc == 3 && std::string_view(argv[1]) == "--json";
  if (argc != 1 && !json) {
    std::cerr << "usage: cuda_bench [--json FILE]" << std::endl;
    return 2;
  }
  const absl::Status status = trireme::cuda::Main(json ? argv[2] : nullptr);
  if (status.ok()) return 0;
  std::cerr << "cuda_bench: " << status.message() << std::endl;
  return 1;
}
