#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "parallel/model_config.h"
#include "trireme/v1/worker.grpc.pb.h"

namespace trireme {

// The letter that follows these tokens: a function of all of them and the seed, so that a wrong
// replay or a mixed up sequence shows.
int32_t NextFakeToken(const std::vector<int32_t>& tokens, uint64_t seed);

struct FakeGangOptions {
  std::string server;
  ModelConfig config;
  std::string gang_id = "gang";
  std::string version = "1";  // of the model
  uint32_t tp = 1;
  uint32_t pp = 1;
  uint32_t kv_block_size = 16;
  uint32_t kv_blocks = 64;
  uint32_t max_model_len = 512;
  std::chrono::milliseconds step_delay{0};
  bool cheap_tokens = false;  // for benchmarks: tokens that depend on the position alone
  std::function<void(v1::Register&)> change = [](v1::Register&) {};  // spoils registrations
  std::function<void(v1::StepResult&)> spoil = [](v1::StepResult&) {};
};

// Ranks that speak the workers' side of WorkerControl without a model: a thread and a stream each.
// They keep state by delta as workers do and fail the test's gang if a plan does not fit it.
class FakeGang {
 public:
  explicit FakeGang(FakeGangOptions options);
  ~FakeGang();  // kills

  // Waits until every rank is welcome; false if a stream ends or ten seconds pass.
  bool WaitReady() const;
  // Its ranks ask to be drained, with the next answer: they were told to end.
  void Drain() { drain_ = true; }
  // Cuts every stream, as if the processes were gone.
  void Kill();
  // Waits for the end of every stream, and how that of `rank` was.
  grpc::Status Join(uint32_t rank);

  // False when a stream has ended.
  bool lives() const { return ended_ == 0; }
  uint64_t steps() const { return steps_; }
  uint64_t epoch() const { return epoch_; }
  const std::string& shutdown_reason(uint32_t rank) const { return ranks_[rank]->shutdown_reason; }

 private:
  struct Rank {
    grpc::ClientContext context;
    std::thread thread;
    std::string shutdown_reason;
    grpc::Status status;
  };

  v1::Register MakeRegister(uint32_t rank) const;
  void Serve(uint32_t rank);

  const FakeGangOptions options_;
  std::shared_ptr<grpc::Channel> channel_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  std::atomic<bool> drain_{false};
  std::atomic<uint32_t> welcome_{0};
  std::atomic<uint32_t> ended_{0};
  std::atomic<uint64_t> steps_{0};
  std::atomic<uint64_t> epoch_{0};
};

}  // namespace trireme
