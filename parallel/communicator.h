#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace trireme {

// A group of ranks that exchange data. Every rank of the group makes the same collective calls in
// the same order. Not thread safe: one thread at a time uses a communicator, but different threads
// may use different communicators. Host memory only. Errors: UNAVAILABLE if a peer is gone,
// INVALID_ARGUMENT for sizes or ranks that cannot be, INTERNAL for what the backend reports; after
// an error the communicator is of no further use and the gang ends.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual std::string_view name() const = 0;  // "loopback", "mpi"

  // Point to point with another rank, in order, blocking: Send may wait for the Recv. Sizes must
  // agree.
  virtual absl::Status Send(std::span<const std::byte> data, int destination) = 0;
  virtual absl::Status Recv(std::span<std::byte> data, int source) = 0;
  // Sends and receives at once; cannot deadlock against the peer's SendRecv.
  virtual absl::Status SendRecv(std::span<const std::byte> send, std::span<std::byte> receive,
                                int peer) = 0;

  // Messages on a channel of their own, apart from Send and Recv; of one pair of ranks in order.
  // Post returns at once: it keeps a copy of `data` until that is delivered. Take waits for the
  // next message of `source`; sizes must agree. Every message must be taken before the
  // communicators are destroyed in an orderly end.
  virtual absl::Status Post(std::span<const std::byte> data, int destination) = 0;
  virtual absl::Status Take(std::span<std::byte> data, int source) = 0;

  virtual absl::Status Barrier() = 0;
  virtual absl::Status Broadcast(std::span<std::byte> data, int root) = 0;
  // `all` holds size() blocks of mine.size() bytes, in rank order.
  virtual absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all) = 0;

  // Ranks with the same color form a new group, ordered by key, then by old rank. Collective. The
  // new communicator may outlive this one. `color` is not negative.
  virtual absl::StatusOr<std::unique_ptr<Communicator>> Split(int color, int key) = 0;

  // Sums element by element, in place, in the order of one binary tree over the ranks:
  // ((r0 + r1) + (r2 + r3)) + ..., so that every backend and every rank gets the same bits
  // (docs/decisions/0001). size() must be a power of two. Recursive doubling: log2(size())
  // exchanges.
  absl::Status AllReduceSum(std::span<float> data);

 private:
  std::vector<float> scratch_;
};

// N ranks as threads of this process: communicator i of the result is for rank i's thread.
// A rank that stops must destroy its communicator; peers waiting on it get UNAVAILABLE.
std::vector<std::unique_ptr<Communicator>> MakeLoopbackCommunicators(int size);

// The ranks of mpirun. Initialises MPI, which a process can do once, and finalises it when the last
// communicator of it is destroyed. After an error MPI is not finalised: that would wait for the
// peers, while a process that exits without it makes mpirun end the job. A rank that leaves while
// its peers may wait for it must therefore exit without destroying its communicators (std::_Exit).
absl::StatusOr<std::unique_ptr<Communicator>> MakeMpiCommunicator(int* argc, char*** argv);

// True if this process was started by an MPI launcher (mpirun sets OMPI_COMM_WORLD_SIZE and the
// like).
bool UnderMpiLauncher();

}  // namespace trireme
