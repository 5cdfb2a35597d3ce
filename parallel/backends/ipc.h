#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "parallel/device_communicator.h"

namespace trireme {

// How a sum over the GPUs of one host is done.
enum class AllReduceWay { kOneShot, kTwoShot, kTwoShotPieces, kLarge };

// One-shot moves (ranks - 1) times the data to every rank and waits once; two-shot moves about
// twice the data whatever the ranks, and waits twice. So the first is for what costs less than a
// wait, a few microseconds of the links. What one launch does not hold is for NCCL (kLarge), whose
// rings and trees use the links better, unless the order of the sum matters (`deterministic`) or
// there is no NCCL: then it is done in pieces. The borders are estimates that no machine has
// confirmed.
AllReduceWay ChooseAllReduce(size_t bytes, int ranks, bool deterministic, bool has_large);

struct IpcOptions {
  // Every sum in the tree's order, whatever it costs.
  bool deterministic = false;
  // For which a kernel waits for the peers' kernels.
  std::chrono::milliseconds timeout{30'000};
};

// Ranks on one host, each with a GPU of its own: small messages by kernels that read the peers'
// memory over CUDA IPC (kernels/cuda/all_reduce.h), large ones by another communicator. Calls can
// be captured in a graph if that one's can, and always where there is none. Small sums, and all of
// them if `deterministic` or without another communicator, have the bits of
// Communicator::AllReduceSum (docs/decisions/0001); those of the other communicator have its order.
class IpcCommunicator : public DeviceCommunicator {
 public:
  // With the sum over ranks of delta: hidden[t, :] += sum (+ bias; none if empty), and out = the
  // RMSNorm of hidden. The bits of AllReduceSum and what follows it.
  struct SumAndNorm {
    std::span<const float> delta;
    std::span<float> hidden;
    std::span<const float> bias;
    std::span<const float> weight;  // as long as a row
    float eps = 0.0f;
    std::span<float> out;
  };
  // True for the few rows of a decode step, of the lengths that models have; the operands must be
  // aligned to 16 bytes.
  virtual bool CanFuse(int64_t rows, int64_t row_length) const = 0;
  virtual absl::Status AllReduceRmsNorm(const SumAndNorm& operands) = 0;
};

// Collective over `host`, which must outlive the result. The calling thread's current device is the
// rank's; `stream` is a cudaStream_t. `large` does what IPC does not, point to point included;
// null: large sums go in pieces, and Send and Recv are an error. Destroyed by all ranks together,
// as memory that a peer reads must live: the destructor waits for the stream and the peers. Graphs
// that hold its calls are destroyed before it.
// FAILED_PRECONDITION if the GPUs cannot address each other's memory.
absl::StatusOr<std::unique_ptr<IpcCommunicator>> MakeIpcCommunicator(
    Communicator* host, void* stream, std::unique_ptr<DeviceCommunicator> large,
    const IpcOptions& options = {});

}  // namespace trireme
