#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace trireme::cuda {

// Sums and gathers over the GPUs of one host by kernels that read the peers' memory (CUDA IPC), for
// messages too small for NCCL to be fast. The sum's order is the tree over the ranks,
// ((r0 + r1) + (r2 + r3)) ...: the bits of Communicator::AllReduceSum.
//
// Each rank has one PeerBuffer in its device's memory, which all can address. A launch has the same
// grid on every rank; block b talks to the peers' blocks b only, through places of its own, and
// counts its launches in `epochs`, in device memory: so a launch can be captured in a graph and
// replayed. A flag is the sender's epoch. Places are used in turns of two: who begins epoch e has
// the peers' flags of e - 1, so they have read all of e - 2, whose place it writes.
//
// Every rank's kernel must be able to run while the others do: one rank on each GPU.
inline constexpr int kPeersMax = 8;
inline constexpr int kPeerBlocks = 32;
inline constexpr int kPeerBlockFloats = 8192;

struct PeerBuffer {
  uint32_t epochs[kPeerBlocks];                 // of the owner alone
  uint32_t arrived[2][kPeerBlocks][kPeersMax];  // written by the peers: their parts, their sums
  alignas(256) float parts[kPeerBlocks][2][kPeerBlockFloats];
  float sums[kPeerBlocks][2][kPeerBlockFloats];  // of the two-shot sum
};

struct PeerGroup {
  int rank = 0;
  int size = 1;                         // a power of two, at most kPeersMax
  PeerBuffer* buffers[kPeersMax] = {};  // of every rank, by this device's addresses; zeroed once
  // Host memory that the device can write: 0, or 1 + the rank that did not come within the time.
  // Then what the launch wrote is worthless, and later launches do not wait.
  uint32_t* failure = nullptr;
  uint64_t timeout_ns = 30'000'000'000;
  cudaStream_t stream = nullptr;
};

// What one launch takes of one rank.
inline constexpr int64_t kPeerFloatsMax = int64_t{kPeerBlocks} * kPeerBlockFloats;
inline constexpr int64_t kPeerBytesMax = kPeerFloatsMax * static_cast<int64_t>(sizeof(float));

// data[i] = sum over ranks, in place. One-shot: every rank reads all of its peers' parts. Two-shot:
// every rank sums a share, and reads the peers' sums: less traffic, one more wait. 0 <= count <=
// kPeerFloatsMax.
void AllReduceOneShot(const PeerGroup& group, float* data, int64_t count);
void AllReduceTwoShot(const PeerGroup& group, float* data, int64_t count);

// Byte i of rank r's `mine` becomes byte r * stride + i of `all`. 0 <= bytes <= kPeerBytesMax.
// `mine` may be this rank's place in `all`.
void AllGatherPeers(const PeerGroup& group, const void* mine, void* all, int64_t bytes,
                    int64_t stride);

// One-shot sum of delta over the ranks, and with it hidden[t, :] += sum (+ bias) and out[t, :] =
// RMSNorm of it: the bits of AllReduceOneShot followed by RmsNorm. Shapes are those of
// CanFuseRmsNorm, pointers aligned to 16 bytes.
struct AllReduceRmsNormArgs {
  const float* delta = nullptr;   // [rows, cols], this rank's part
  float* hidden = nullptr;        // [rows, cols]
  const float* bias = nullptr;    // [cols], or null
  const float* weight = nullptr;  // [cols]
  float eps = 0.0f;
  float* out = nullptr;  // [rows, cols]
  int64_t rows = 0;
  int64_t cols = 0;
};
// The few rows of a decode step, of the lengths that models have.
bool CanFuseRmsNorm(int64_t rows, int64_t cols);
void AllReduceRmsNorm(const PeerGroup& group, const AllReduceRmsNormArgs& args);

}  // namespace trireme::cuda
