#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "parallel/communicator.h"
#include "parallel/layout.h"
#include "trireme/v1/worker.pb.h"
#include "worker/model_runner.h"

namespace trireme {

// A gang of real ranks, one thread each, that takes plans as they come and answers in order: what
// the workers are to the coordinator, without processes and gRPC.
class ThreadGang {
 public:
  struct Options {
    std::filesystem::path model_dir;
    ParallelLayout layout;
    int64_t kv_block_size = 16;
    int64_t kv_blocks = 64;
    int64_t swap_bytes_max = 0;
    KvDType kv_dtype = KvDType::kF32;
  };

  explicit ThreadGang(const Options& options);
  ~ThreadGang();

  // To every rank. Returns at once.
  void Send(const v1::StepPlan& plan);
  // The responder's next result; waits for it.
  absl::StatusOr<v1::StepResult> Receive();
  // The logits that the responder sampled a sequence's tokens from, in order, of the sequences
  // since the last call.
  std::map<uint64_t, std::vector<std::vector<float>>> TakeLogits();

 private:
  void Serve(int rank, std::unique_ptr<Communicator> world);
  bool NextPlan(int rank, v1::StepPlan& plan);

  const Options options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;                        // guarded by mutex_, as all below
  std::vector<std::deque<v1::StepPlan>> plans_;  // by rank
  std::deque<v1::StepResult> results_;
  absl::Status failure_;
  std::map<uint64_t, std::vector<std::vector<float>>> logits_;
  std::vector<std::thread> threads_;
};

}  // namespace trireme
