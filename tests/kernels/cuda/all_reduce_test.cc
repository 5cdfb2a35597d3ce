#include "kernels/cuda/all_reduce.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "kernels/cuda/rms_norm.h"
#include "tests/kernels/cuda/device_array.h"

namespace trireme::cuda {
namespace {

// Ranks as threads. On one GPU their kernels would wait for each other without running together,
// so that there these tests are of one rank.
int RanksMax() {
  int devices = 0;
  EXPECT_EQ(cudaGetDeviceCount(&devices), cudaSuccess);
  cudaDeviceProp properties;
  EXPECT_EQ(cudaGetDeviceProperties(&properties, 0), cudaSuccess);
  return std::strcmp(properties.name, "emulated device") == 0 ? kPeersMax : 1;
}

class Group {
 public:
  explicit Group(int size) : failure_(size) {
    for (int rank = 0; rank < size; ++rank) {
      buffers_.push_back(std::make_unique<DeviceArray<std::byte>>(sizeof(PeerBuffer)));
      EXPECT_EQ(cudaMemset(buffers_.back()->data(), 0, offsetof(PeerBuffer, parts)), cudaSuccess);
      void* failure = nullptr;
      EXPECT_EQ(cudaMallocHost(&failure, sizeof(uint32_t)), cudaSuccess);
      failure_[static_cast<size_t>(rank)] = static_cast<uint32_t*>(failure);
      *failure_[static_cast<size_t>(rank)] = 0;
    }
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }
  ~Group() {
    for (uint32_t* failure : failure_) cudaFreeHost(failure);
  }

  PeerGroup Of(int rank) const {
    PeerGroup group;
    group.rank = rank;
    group.size = static_cast<int>(buffers_.size());
    for (size_t peer = 0; peer < buffers_.size(); ++peer) {
      group.buffers[peer] = reinterpret_cast<PeerBuffer*>(buffers_[peer]->data());
    }
    group.failure = failure_[static_cast<size_t>(rank)];
    return group;
  }
  // Runs every rank on a thread, with a stream of its own.
  void Run(const std::function<void(const PeerGroup&)>& body) const {
    std::vector<std::thread> threads;
    for (size_t rank = 0; rank < buffers_.size(); ++rank) {
      threads.emplace_back([&, rank] {
        PeerGroup group = Of(static_cast<int>(rank));
        EXPECT_EQ(cudaStreamCreate(&group.stream), cudaSuccess);
        body(group);
        EXPECT_EQ(cudaStreamSynchronize(group.stream), cudaSuccess);
        EXPECT_EQ(*group.failure, 0u);
        EXPECT_EQ(cudaStreamDestroy(group.stream), cudaSuccess);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

 private:
  std::vector<std::unique_ptr<DeviceArray<std::byte>>> buffers_;
  std::vector<uint32_t*> failure_;
};

// Values whose sum shows its order.
float Term(int rank, size_t i, int round) {
  const float scale = rank % 2 == 0 ? 1e6f : 1.0f;
  const size_t mixed = i * 37 + static_cast<size_t>(rank) * 11 + static_cast<size_t>(round) * 53;
  return (static_cast<float>(mixed % 1009) - 500.3f) * scale / 7;
}
std::vector<float> Terms(int rank, size_t count, int round) {
  std::vector<float> terms(count);
  for (size_t i = 0; i < count; ++i) terms[i] = Term(rank, i, round);
  return terms;
}
float TreeSum(int begin, int end, size_t i, int round) {
  if (end - begin == 1) return Term(begin, i, round);
  const int middle = (begin + end) / 2;
  return TreeSum(begin, middle, i, round) + TreeSum(middle, end, i, round);
}
std::vector<float> Sums(int ranks, size_t count, int round) {
  std::vector<float> sums(count);
  for (size_t i = 0; i < count; ++i) sums[i] = TreeSum(0, ranks, i, round);
  return sums;
}

class AllReduceOf : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (GetParam() > RanksMax()) GTEST_SKIP() << "needs a GPU for each rank";
  }
};

// Sizes change from launch to launch, and with them the blocks; both ways take turns.
TEST_P(AllReduceOf, IsTheTreeForEverySize) {
  const Group group(GetParam());
  group.Run([&](const PeerGroup& g) {
    int round = 0;
    for (const size_t count : {1u, 100'000u, 3u, 4u, 1023u, 1024u, 4100u, 65'536u, 2u, 32'769u,
                               static_cast<unsigned>(kPeerFloatsMax)}) {
      for (const auto reduce : {AllReduceOneShot, AllReduceTwoShot}) {
        const DeviceArray<float> data(Terms(g.rank, count, ++round));
        reduce(g, data.data(), static_cast<int64_t>(count));
        ASSERT_EQ(data.ToHost(), Sums(g.size, count, round)) << count;
      }
    }
  });
}

TEST_P(AllReduceOf, ManyInARow) {
  const Group group(GetParam());
  group.Run([&](const PeerGroup& g) {
    for (int round = 0; round < 100; ++round) {
      const size_t count = 1 + static_cast<size_t>(round * round * 7 % 5000);
      const DeviceArray<float> data(Terms(g.rank, count, round));
      (round % 3 == 0 ? AllReduceTwoShot : AllReduceOneShot)(g, data.data(),
                                                             static_cast<int64_t>(count));
      ASSERT_EQ(data.ToHost(), Sums(g.size, count, round)) << count;
    }
  });
}

// One rank's data is not aligned for wide accesses, and touches nothing around it.
TEST_P(AllReduceOf, AlignmentMayDiffer) {
  const Group group(GetParam());
  group.Run([&](const PeerGroup& g) {
    const size_t offset = g.rank == 0 ? 1 : 0;
    for (const auto reduce : {AllReduceOneShot, AllReduceTwoShot}) {
      constexpr size_t kCount = 5000;
      std::vector<float> padded(kCount + 2, -7.0f);
      const std::vector<float> terms = Terms(g.rank, kCount, 1), sums = Sums(g.size, kCount, 1);
      std::copy(terms.begin(), terms.end(), padded.begin() + static_cast<ptrdiff_t>(offset));
      const DeviceArray<float> data(padded);
      reduce(g, data.data() + offset, kCount);
      std::copy(sums.begin(), sums.end(), padded.begin() + static_cast<ptrdiff_t>(offset));
      ASSERT_EQ(data.ToHost(), padded);
    }
  });
}

TEST_P(AllReduceOf, ReplaysOfAGraphAreNewLaunches) {
  const Group group(GetParam());
  group.Run([&](const PeerGroup& g) {
    constexpr size_t kCount = 3000;
    const DeviceArray<float> data(kCount);
    ASSERT_EQ(cudaStreamBeginCapture(g.stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    AllReduceOneShot(g, data.data(), kCount);
    AllReduceTwoShot(g, data.data(), kCount);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    ASSERT_EQ(cudaStreamEndCapture(g.stream, &graph), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    for (int round = 0; round < 20; ++round) {
      const std::vector<float> terms = Terms(g.rank, kCount, round);
      ASSERT_EQ(
          cudaMemcpy(data.data(), terms.data(), kCount * sizeof(float), cudaMemcpyHostToDevice),
          cudaSuccess);
      ASSERT_EQ(cudaGraphLaunch(exec, g.stream), cudaSuccess);
      std::vector<float> want = Sums(g.size, kCount, round);
      for (float& value : want) value *= static_cast<float>(g.size);  // a power of two: exact
      ASSERT_EQ(cudaStreamSynchronize(g.stream), cudaSuccess);
      ASSERT_EQ(data.ToHost(), want);
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
  });
}

TEST_P(AllReduceOf, GathersInRankOrder) {
  const Group group(GetParam());
  group.Run([&](const PeerGroup& g) {
    for (const size_t bytes : {size_t{1}, size_t{4000}, size_t{4001}, size_t{500'000}}) {
      for (const bool in_place : {false, true}) {
        const size_t stride = bytes + 8, ranks = static_cast<size_t>(g.size);
        std::vector<uint8_t> all(ranks * stride, 0xee), mine(bytes);
        const auto at = [&](size_t rank, size_t i) {
          return static_cast<uint8_t>(rank * 131 + i * 7 + i / 251);
        };
        const size_t own = static_cast<size_t>(g.rank);
        for (size_t i = 0; i < bytes; ++i) mine[i] = at(own, i);
        std::copy(mine.begin(), mine.end(), all.begin() + static_cast<ptrdiff_t>(own * stride));
        const DeviceArray<uint8_t> d_all(all), d_mine(mine);
        AllGatherPeers(g, in_place ? d_all.data() + own * stride : d_mine.data(), d_all.data(),
                       static_cast<int64_t>(bytes), static_cast<int64_t>(stride));
        for (size_t rank = 0; rank < ranks; ++rank) {
          for (size_t i = 0; i < bytes; ++i) all[rank * stride + i] = at(rank, i);
        }
        ASSERT_EQ(d_all.ToHost(), all);
      }
    }
  });
}

TEST_P(AllReduceOf, FusedWithTheNormHasTheSameBits) {
  const Group group(GetParam());
  group.Run([&](const PeerGroup& g) {
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    const auto values = [&](size_t n) {
      std::vector<float> made(n);
      for (float& value : made) value = normal(random);
      return made;
    };
    for (const auto& [rows, cols] :
         {std::pair{1, 260}, {3, 516}, {32, 1024}, {2, 4096}, {2, 8192}}) {
      for (const bool has_bias : {false, true}) {
        const size_t n = static_cast<size_t>(rows) * static_cast<size_t>(cols);
        const std::vector<float> hidden = values(n);
        const DeviceArray<float> bias(values(static_cast<size_t>(cols))),
            weight(values(static_cast<size_t>(cols)));
        const DeviceArray<float> delta(Terms(g.rank, n, rows)), h(hidden), out(n);
        AllReduceRmsNorm(g, {.delta = delta.data(),
                             .hidden = h.data(),
                             .bias = has_bias ? bias.data() : nullptr,
                             .weight = weight.data(),
                             .eps = 1e-5f,
                             .out = out.data(),
                             .rows = rows,
                             .cols = cols});
        const DeviceArray<float> sum(Sums(g.size, n, rows)), want_h(hidden), want(n);
        RmsNorm({.hidden = want_h.data(),
                 .delta = sum.data(),
                 .bias = has_bias ? bias.data() : nullptr,
                 .weight = weight.data(),
                 .eps = 1e-5f,
                 .out = want.data(),
                 .rows = rows,
                 .cols = cols});
        ASSERT_EQ(h.ToHost(), want_h.ToHost());
        ASSERT_EQ(out.ToHost(), want.ToHost());
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, AllReduceOf, testing::Values(1, 2, 4, 8));

TEST(AllReduce, EpochsWrapAround) {
  if (RanksMax() < 2) GTEST_SKIP() << "needs a GPU for each rank";
  const Group group(2);
  const uint32_t almost = 0xfffffffeu;
  for (int rank = 0; rank < 2; ++rank) {
    PeerBuffer* const buffer = group.Of(rank).buffers[rank];
    for (int block = 0; block < kPeerBlocks; ++block) {
      buffer->epochs[block] = almost;
      for (int peer = 0; peer < 2; ++peer) buffer->arrived[0][block][peer] = almost;
    }
  }
  group.Run([&](const PeerGroup& g) {
    for (int round = 0; round < 6; ++round) {
      const DeviceArray<float> data(Terms(g.rank, 5000, round));
      AllReduceOneShot(g, data.data(), 5000);
      ASSERT_EQ(data.ToHost(), Sums(2, 5000, round));
    }
  });
}

TEST(AllReduce, APeerThatDoesNotComeIsNamed) {
  const Group group(2);
  PeerGroup g = group.Of(0);
  g.timeout_ns = 2'000'000;
  const DeviceArray<float> data(Terms(0, 4096, 0));
  AllReduceOneShot(g, data.data(), 4096);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(*g.failure, 2u);  // 1 + rank 1
  // Later launches do not wait.
  g.timeout_ns = 1'000'000'000'000;
  AllReduceTwoShot(g, data.data(), 4096);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

}  // namespace
}  // namespace trireme::cuda
