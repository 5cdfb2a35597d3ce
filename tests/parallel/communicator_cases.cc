#include "tests/parallel/communicator_cases.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

namespace trireme {
namespace {

const std::vector<size_t> kSizes = {0, 1, 7, 1000, (1 << 20) + 3};

std::byte Pattern(int rank, size_t i) {
  return static_cast<std::byte>((static_cast<size_t>(rank) * 131 + i * 7 + i / 251) & 0xff);
}

std::vector<std::byte> Message(int rank, size_t size) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = Pattern(rank, i);
  return bytes;
}

// Every rank passes its message to the next, around the ring; even ranks send first.
void CheckRing(Communicator& world) {
  if (world.size() < 2 || world.size() % 2 != 0) return;
  const int next = (world.rank() + 1) % world.size();
  const int previous = (world.rank() + world.size() - 1) % world.size();
  for (const size_t size : kSizes) {
    const std::vector<std::byte> mine = Message(world.rank(), size);
    std::vector<std::byte> got(size);
    if (world.rank() % 2 == 0) {
      EXPECT_TRUE(world.Send(mine, next).ok());
      EXPECT_TRUE(world.Recv(got, previous).ok());
    } else {
      EXPECT_TRUE(world.Recv(got, previous).ok());
      EXPECT_TRUE(world.Send(mine, next).ok());
    }
    EXPECT_EQ(got, Message(previous, size));
  }
}

void CheckSendRecv(Communicator& world) {
  const int peer = world.rank() ^ 1;
  if (peer >= world.size()) return;
  for (const size_t size : kSizes) {
    std::vector<std::byte> got(size);
    EXPECT_TRUE(world.SendRecv(Message(world.rank(), size), got, peer).ok());
    EXPECT_EQ(got, Message(peer, size));
  }
}

// Everyone posts to everyone before anyone takes; other traffic in between does not get mixed up.
void CheckPosted(Communicator& world) {
  const auto peers = [&](auto body) {
    for (int i = 1; i < world.size(); ++i) body((world.rank() + i) % world.size());
  };
  for (const size_t size : kSizes) {
    std::vector<std::byte> data = Message(world.rank(), size);
    peers([&](int peer) { EXPECT_TRUE(world.Post(data, peer).ok()); });
    std::fill(data.begin(), data.end(), std::byte{0xee});  // the copy is the communicator's
    EXPECT_TRUE(world.Barrier().ok());
    if ((world.rank() ^ 1) < world.size()) {
      const int peer = world.rank() ^ 1;
      std::vector<std::byte> got(3);
      EXPECT_TRUE(world.SendRecv(Message(world.rank() + 7, 3), got, peer).ok());
      EXPECT_EQ(got, Message(peer + 7, 3));
    }
    peers([&](int peer) {
      std::vector<std::byte> got(size);
      EXPECT_TRUE(world.Take(got, peer).ok());
      EXPECT_EQ(got, Message(peer, size));
    });
  }
  // Many, in order.
  constexpr int kMany = 200;
  for (int i = 0; i < kMany; ++i) {
    peers([&](int peer) { EXPECT_TRUE(world.Post(std::as_bytes(std::span(&i, 1)), peer).ok()); });
  }
  for (int i = 0; i < kMany; ++i) {
    peers([&](int peer) {
      int got = -1;
      EXPECT_TRUE(world.Take(std::as_writable_bytes(std::span(&got, 1)), peer).ok());
      EXPECT_EQ(got, i);
    });
  }
}

void CheckCollectives(Communicator& world) {
  for (const size_t size : kSizes) {
    for (int root = 0; root < world.size(); root += 3) {
      std::vector<std::byte> data = Message(world.rank(), size);
      EXPECT_TRUE(world.Broadcast(data, root).ok());
      EXPECT_EQ(data, Message(root, size));
    }
    std::vector<std::byte> all(size * static_cast<size_t>(world.size()));
    EXPECT_TRUE(world.AllGather(Message(world.rank(), size), all).ok());
    for (int rank = 0; rank < world.size(); ++rank) {
      const auto begin = all.begin() + static_cast<ptrdiff_t>(size) * rank;
      EXPECT_EQ(std::vector<std::byte>(begin, begin + static_cast<ptrdiff_t>(size)),
                Message(rank, size));
    }
    EXPECT_TRUE(world.Barrier().ok());
  }
}

// Values whose sum shows its order.
float Term(int rank, size_t i) {
  const float scale = rank % 2 == 0 ? 1e6f : 1.0f;
  return (static_cast<float>((i * 37 + static_cast<size_t>(rank) * 11) % 1009) - 500.3f) * scale /
         7;
}

float TreeSum(int begin, int end, size_t i) {
  if (end - begin == 1) return Term(begin, i);
  const int middle = (begin + end) / 2;
  return TreeSum(begin, middle, i) + TreeSum(middle, end, i);
}

void CheckAllReduce(Communicator& world) {
  const bool legal = (world.size() & (world.size() - 1)) == 0;
  for (const size_t count : {size_t{0}, size_t{1}, size_t{5}, size_t{300'001}}) {
    std::vector<float> data(count);
    for (size_t i = 0; i < count; ++i) data[i] = Term(world.rank(), i);
    const absl::Status status = world.AllReduceSum(data);
    EXPECT_EQ(status.ok(), legal) << status;
    if (!legal) continue;
    for (size_t i = 0; i < count; ++i) {
      const float want = TreeSum(0, world.size(), i);
      if (std::memcmp(&data[i], &want, sizeof(want)) != 0) {
        ADD_FAILURE() << "element " << i << " of " << count << ": " << data[i] << " for " << want;
        return;
      }
    }
  }
}

// Odd and even ranks apart, in reversed order.
void CheckSplit(Communicator& world) {
  auto group = world.Split(world.rank() % 2, -world.rank());
  ASSERT_TRUE(group.ok()) << group.status();
  const int members = (world.size() + 1 - world.rank() % 2) / 2;
  EXPECT_EQ((*group)->size(), members);
  EXPECT_EQ((*group)->rank(), members - 1 - world.rank() / 2);
  std::vector<int> all(static_cast<size_t>(members));
  const int mine = world.rank();
  ASSERT_TRUE(
      (*group)
          ->AllGather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)))
          .ok());
  for (int i = 0; i < members; ++i) {
    EXPECT_EQ(all[static_cast<size_t>(i)], 2 * (members - 1 - i) + world.rank() % 2);
  }
}

}  // namespace

void CheckCommunicator(Communicator& world) {
  CheckRing(world);
  CheckSendRecv(world);
  CheckPosted(world);
  CheckCollectives(world);
  CheckAllReduce(world);
  CheckSplit(world);
  CheckCollectives(world);
}

}  // namespace trireme
