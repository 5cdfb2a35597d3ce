// The Ops on CUDA: what is theirs beside the kernels, which have tests of their own.

#include "kernels/cuda/cuda_ops.h"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "kernels/memory.h"
#include "tests/kernels/reference.h"

namespace trireme::cuda {
namespace {

class CudaOpsTest : public testing::Test {
 protected:
  CudaOpsTest() : ops_(*MakeCudaOps(0)) {}

  template <class T>
  std::vector<T> Host(std::span<const T> values) {
    std::vector<T> host(values.size());
    EXPECT_TRUE(
        ops_->memory().CopyOut(std::as_writable_bytes(std::span(host)), values.data()).ok());
    return host;
  }

  std::unique_ptr<Ops> ops_;
};

// One token a sequence, whose id is its row of the table.
StepBatch Decode(const std::vector<int32_t>& ids, const std::vector<std::vector<int32_t>>& tables) {
  StepBatch batch;
  for (size_t t = 0; t < ids.size(); ++t) {
    batch.ids.push_back(ids[t]);
    batch.places.push_back({.position = 0, .block_table = tables[t]});
  }
  return batch;
}

TEST_F(CudaOpsTest, RecordsTheSecondStepOfAShapeAndRepeatsItWithTheNewBatch) {
  Memory& memory = ops_->memory();
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  DeviceVector<float> table, out;
  ASSERT_TRUE(table.Assign(memory, values).ok());
  const Weight weight{
      .data = table.span().data(), .dtype = DType::kF32, .rows = 3, .cols = 2, .row_stride = 2};
  ASSERT_TRUE(out.Resize(memory, 4).ok());
  int runs = 0;
  const std::vector<std::vector<int32_t>> tables = {{0}, {1}};
  const std::vector<std::vector<int32_t>> steps = {{0, 1}, {1, 2}, {2, 0}, {0, 0}};
  for (const std::vector<int32_t>& ids : steps) {
    const StepBatch batch = Decode(ids, tables);
    ASSERT_TRUE(ops_->BeginStep(batch).ok());
    const absl::Status status = ops_->Run([&] {
      ++runs;
      ops_->Embedding(batch, weight, 0, 1.0f, out.span());
      return absl::OkStatus();
    });
    ASSERT_TRUE(status.ok()) << status;
    std::vector<float> want;
    for (const int32_t id : ids) {
      want.push_back(values[static_cast<size_t>(2 * id)]);
      want.push_back(values[static_cast<size_t>(2 * id + 1)]);
    }
    EXPECT_EQ(Host(std::span<const float>(out.span())), want);
  }
  EXPECT_EQ(runs, 2);  // as it is, then recorded
  // Memory that goes back may be what a record reads.
  { const auto passing = memory.Allocate(64); }
  const StepBatch batch = Decode({1, 1}, tables);
  ASSERT_TRUE(ops_->BeginStep(batch).ok());
  ASSERT_TRUE(ops_->Run([&] {
                    ++runs;
                    ops_->Embedding(batch, weight, 0, 1.0f, out.span());
                    return absl::OkStatus();
                  })
                  .ok());
  EXPECT_EQ(runs, 3);
}

// Each step's tokens choose other experts, in a replayed record too; one token is padding. The
// choices are the CPU's, sums may differ in their order.
TEST_F(CudaOpsTest, ExpertsAreRoutedInARecord) {
  constexpr int64_t kExperts = 5, kChoices = 2, kCols = 32, kOut = 48, kTokens = 4;
  const std::vector<float> table = RandomFloats(8 * kCols, 1);
  const std::vector<float> router = RandomFloats(kExperts * kCols, 2);
  const std::vector<float> experts = RandomFloats(kExperts * kOut * kCols, 3);
  const std::vector<std::vector<int32_t>> tables(kTokens, std::vector<int32_t>{0});
  int runs = 0;
  // The step's outputs and choices.
  const auto steps = [&](Ops& ops) {
    Memory& memory = ops.memory();
    std::vector<std::pair<std::vector<float>, std::vector<int32_t>>> results;
    DeviceVector<float> d_table, d_router, d_experts, x, scores, weights, inputs, outputs, y;
    DeviceVector<int32_t> ids, first_row, token_of_row, row_of;
    const auto weight = [&](DeviceVector<float>& to, const std::vector<float>& values,
                            int64_t rows) {
      EXPECT_TRUE(to.Assign(memory, values).ok());
      return Weight{.data = to.span().data(),
                    .dtype = DType::kF32,
                    .rows = rows,
                    .cols = kCols,
                    .row_stride = kCols};
    };
    const Weight embedding = weight(d_table, table, 8), gate = weight(d_router, router, kExperts);
    Weight expert = weight(d_experts, experts, kOut);
    std::vector<Weight> matrices;
    for (int64_t e = 0; e < kExperts; ++e) {
      matrices.push_back(expert);
      matrices.back().data = d_experts.span().data() + e * kOut * kCols;
    }
    for (auto* vector : {&x, &scores, &weights, &inputs, &outputs, &y}) {
      EXPECT_TRUE(vector->Resize(memory, kTokens * kChoices * kOut).ok());
    }
    for (auto* vector : {&ids, &first_row, &token_of_row, &row_of}) {
      EXPECT_TRUE(vector->Resize(memory, 64).ok());
    }
    const auto rows = ids.span().first(kTokens * kChoices);
    std::vector<Ops::Product> products;
    for (const Weight& matrix : matrices) {
      products.push_back({.weight = matrix, .bias = {}, .y = outputs.span()});
    }
    for (const std::vector<int32_t>& tokens : {std::vector<int32_t>{0, 1, 2, 0},
                                               {3, 3, 3, 0},
                                               {4, 7, 6, 0},
                                               {5, 0, 6, 0},
                                               {1, 2, 3, 0}}) {
      StepBatch batch = Decode(tokens, tables);
      batch.places.back().position = TokenPlace::kPadding;
      EXPECT_TRUE(ops.BeginStep(batch).ok());
      const absl::Status status = ops.Run([&] {
        ++runs;
        const auto of = [](auto& vector, int64_t n) { return vector.span().first(n); };
        ops.Embedding(batch, embedding, 0, 1.0f, of(x, kTokens * kCols));
        ops.Linear(of(x, kTokens * kCols), gate, {}, 1, of(scores, kTokens * kExperts));
        ops.TopKSoftmax(of(scores, kTokens * kExperts), kExperts, kChoices, rows,
                        of(weights, kTokens * kChoices));
        ops.RouteExperts(batch, rows, of(first_row, kExperts + 1),
                         of(token_of_row, kTokens * kChoices), of(row_of, kTokens * kChoices));
        ops.GatherRows(of(x, kTokens * kCols), kCols, of(token_of_row, kTokens * kChoices),
                       of(inputs, kTokens * kChoices * kCols));
        ops.ExpertLinear(of(inputs, kTokens * kChoices * kCols), of(first_row, kExperts + 1),
                         products, 1);
        ops.CombineRows(outputs.span(), kOut, of(row_of, kTokens * kChoices),
                        of(weights, kTokens * kChoices), kChoices, of(y, kTokens * kOut));
        return absl::OkStatus();
      });
      EXPECT_TRUE(status.ok()) << status;
      std::vector<float> out(3 * kOut);
      std::vector<int32_t> chosen(3 * kChoices);
      EXPECT_TRUE(memory.CopyOut(std::as_writable_bytes(std::span(out)), y.span().data()).ok());
      EXPECT_TRUE(
          memory.CopyOut(std::as_writable_bytes(std::span(chosen)), ids.span().data()).ok());
      results.emplace_back(std::move(out), std::move(chosen));
    }
    return results;
  };
  const auto want = steps(**MakeCpuOps(1, "scalar"));
  runs = 0;
  const auto got = steps(*ops_);
  EXPECT_EQ(runs, 3);  // a workspace grew in the first step, which dropped its record
  for (size_t step = 0; step < want.size(); ++step) {
    EXPECT_EQ(got[step].second, want[step].second);
    for (size_t i = 0; i < want[step].first.size(); ++i) {
      ASSERT_NEAR(got[step].first[i], want[step].first[i], 1e-4) << step << " " << i;
    }
  }
  EXPECT_NE(want[1].second, want[2].second);
}

TEST_F(CudaOpsTest, PromptsAreNotRecorded) {
  const std::vector<int32_t> table = {0};
  StepBatch batch;
  batch.ids = {1, 2};
  batch.places = {{.position = 0, .block_table = table}, {.position = 1, .block_table = table}};
  int runs = 0;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(ops_->BeginStep(batch).ok());
    ASSERT_TRUE(ops_->Run([&] {
                      ++runs;
                      return absl::OkStatus();
                    })
                    .ok());
  }
  EXPECT_EQ(runs, 3);
}

TEST_F(CudaOpsTest, MemoryIsZeroedAndCopies) {
  Memory& memory = ops_->memory();
  const auto buffer = memory.Allocate(1000);
  ASSERT_TRUE(buffer.ok());
  const std::span<const std::byte> all(buffer->data(), 1000);
  EXPECT_EQ(Host(all), std::vector<std::byte>(1000));
  const std::vector<std::byte> sevens(10, std::byte{7});
  ASSERT_TRUE(memory.CopyIn(buffer->data() + 5, sevens).ok());
  ASSERT_TRUE(memory.Copy(buffer->data() + 500, buffer->data() + 5, 10).ok());
  ASSERT_TRUE(memory.Zero(buffer->data() + 5, 4).ok());
  std::vector<std::byte> want(1000);
  std::fill_n(want.begin() + 9, 6, std::byte{7});
  std::fill_n(want.begin() + 500, 10, std::byte{7});
  EXPECT_EQ(Host(all), want);
}

TEST_F(CudaOpsTest, WritersFillDifferentPiecesAtOnce) {
  Memory& memory = ops_->memory();
  constexpr size_t kPiece = 3000, kPieces = 12;
  const auto buffer = memory.Allocate(kPieces * kPiece);
  ASSERT_TRUE(buffer.ok());
  std::vector<std::thread> threads;
  for (size_t thread = 0; thread < 2; ++thread) {
    threads.emplace_back([&, thread] {
      const auto writer = memory.MakeWriter();
      ASSERT_TRUE(writer.ok()) << writer.status();
      for (size_t i = thread; i < kPieces; i += 2) {
        const auto to = (*writer)->Begin(buffer->data() + i * kPiece, kPiece);
        ASSERT_TRUE(to.ok());
        // Only the first half is written: the rest is zero, whatever the piece held before.
        std::memset(*to, static_cast<int>(i + 1), kPiece / 2);
        ASSERT_TRUE((*writer)->End().ok());
      }
      ASSERT_TRUE((*writer)->Finish().ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::vector<std::byte> got =
      Host(std::span<const std::byte>(buffer->data(), kPieces * kPiece));
  for (size_t i = 0; i < got.size(); ++i) {
    const bool written = i % kPiece < kPiece / 2;
    ASSERT_EQ(got[i], static_cast<std::byte>(written ? i / kPiece + 1 : 0)) << i;
  }
}

// A model may ask for it: an error that loading sees, not an abort.
// A lost peer's kernels are never done: only the caller's way of waiting can notice.
TEST_F(CudaOpsTest, WaitsForTheDeviceAsItIsTold) {
  Memory& memory = ops_->memory();
  DeviceVector<float> values;
  ASSERT_TRUE(values.Assign(memory, std::vector<float>{1, 2}).ok());
  const StepBatch batch = Decode({0}, {{0}});
  int waits = 0;
  memory.WaitBy([&](const auto& done) -> absl::Status {
    ++waits;
    while (true) {
      const absl::StatusOr<bool> is_done = done();
      if (!is_done.ok() || *is_done) return is_done.status();
    }
  });
  EXPECT_EQ(Host<float>(values.span()), std::vector<float>({1, 2}));
  EXPECT_TRUE(ops_->BeginStep(batch).ok());
  EXPECT_GE(waits, 2);
  memory.WaitBy([](const auto&) { return absl::UnavailableError("a peer is lost"); });
  std::vector<std::byte> host(8);
  EXPECT_EQ(memory.CopyOut(host, values.span().data()).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ops_->BeginStep(batch).code(), absl::StatusCode::kUnavailable);
  memory.WaitBy(nullptr);
  EXPECT_EQ(Host<float>(values.span()), std::vector<float>({1, 2}));
}

TEST_F(CudaOpsTest, AShapeThatNoKernelTakesIsAnError) {
  const StepBatch batch = Decode({0}, {{0}});
  ASSERT_TRUE(ops_->BeginStep(batch).ok());
  const KvLayer cache{
      .dtype = KvDType::kBF16, .num_kv_heads = 1, .block_size = 16, .head_dim = 8192};
  DeviceVector<float> q, out;
  ASSERT_TRUE(q.Resize(ops_->memory(), 8192).ok());
  ASSERT_TRUE(out.Resize(ops_->memory(), 8192).ok());
  ops_->Attention(q.span(), batch, cache, {.heads = 1}, out.span());
  float value = 0;
  const absl::Status status =
      ops_->memory().CopyOut(std::as_writable_bytes(std::span(&value, 1)), out.span().data());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
}

}  // namespace
}  // namespace trireme::cuda
