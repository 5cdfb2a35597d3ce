#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "parallel/backends/nccl_api.h"
#include "parallel/communicator.h"
#include "tests/parallel/test_device.h"

namespace trireme {

// NCCL as one rank sees it: moves data between fake devices over `wires`, which are not the ranks'
// host communicator, and fails as it is told. Outlives the communicators that use its api().
class FakeNccl {
 public:
  FakeNccl(Communicator* wires, FakeDevice* device) : wires_(*wires), device_(*device) {}

  NcclApi api();

  // Waits until communicators have been aborted `count` times.
  void AwaitAborts(int count) {
    for (int n = aborted; n < count; n = aborted) aborted.wait(n);
  }

  // What to do.
  int version = 22809;
  NcclResult unique_id_result = NcclResult::kSuccess;
  NcclResult init_result = NcclResult::kInProgress;
  NcclResult call_result = NcclResult::kInProgress;
  NcclResult finalize_result = NcclResult::kInProgress;
  // The state, once asked more than `polls` times since the last call.
  NcclResult state = NcclResult::kSuccess;
  int polls = 3;
  std::string last_error;
  std::atomic<bool> hold_aborts = false;  // as a graph would; then hold_aborts.notify_all()

  // What was done.
  std::vector<std::string> calls;  // "AllReduce 3" and the like, by elements
  std::vector<NcclUniqueId> ids;   // of the inits
  NcclStream stream = nullptr;     // of the last call
  int finalized = 0;
  int destroyed = 0;
  std::atomic<int> aborted = 0;  // on another thread: see AwaitAborts
  int asked = 0;                 // times the state was asked for

 private:
  NcclResult Init(NcclComm* comm, int ranks, const NcclUniqueId& id, int rank);
  NcclResult AllReduce(const void* send, void* receive, size_t count);
  NcclResult AllGather(const void* send, void* receive, size_t count);
  NcclResult Send(const void* data, size_t count, int peer);
  NcclResult Receive(void* data, size_t count, int peer);
  // Notes the call. False if it does not happen, but ends with call_result.
  bool Begin(std::string call, NcclComm comm, NcclStream on);

  Communicator& wires_;
  FakeDevice& device_;
  std::atomic<int> live_ = 0;  // the number of the communicator that may be used; 0: none
  int made_ = 0;
  int polls_left_ = 0;
};

}  // namespace trireme
