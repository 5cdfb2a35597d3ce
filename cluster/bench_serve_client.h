#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "cluster/bench_serve_measures.h"
#include "cluster/bench_serve_workload.h"
#include "trireme/v1/inference.grpc.pb.h"

namespace trireme {

struct LoadOptions {
  uint64_t requests = 100;  // at most
  std::optional<double> duration_s =
      {};  // nothing is sent after it; what is under way ends in peace
  uint32_t concurrency = std::numeric_limits<uint32_t>::max();  // open calls at most
  std::optional<double> deadline_s = {};                        // of each call
  std::optional<double> intrude_at_s = {};
};

// Sends requests and keeps what became of each. Streams are gRPC callbacks, so thousands may be
// open without a thread each; they are spread over the given channels.
class LoadGenerator {
 public:
  using Clock = std::chrono::steady_clock;
  using MakeRequest = std::function<Workload::Request(uint64_t number)>;
  struct Result {
    std::vector<RequestRecord> records;     // in the order in which they ended
    std::optional<RequestRecord> intruder;  // none if the others ended before its time
  };

  explicit LoadGenerator(const std::vector<std::shared_ptr<grpc::Channel>>& channels);
  LoadGenerator(const LoadGenerator&) = delete;
  LoadGenerator& operator=(const LoadGenerator&) = delete;

  // Sends `make(0)`, `make(1)`, ... each at the time that `next_arrival` gives (seconds,
  // ascending), or later if as many calls as allowed are open; returns when all have ended.
  // `intruder` enters at `intrude_at_s`, beyond the allowed number. One run at a time.
  Result Run(const LoadOptions& options, const MakeRequest& make,
             const std::function<double()>& next_arrival,
             const std::optional<Workload::Request>& intruder);

  // Ends the current run and all later ones: cancels open calls, sends no more. Any thread.
  void Stop();

 private:
  class Call;
  using CallPtr = std::shared_ptr<Call>;

  double Now() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  void Dispatch(const LoadOptions& options, const MakeRequest& make,
                const std::function<double()>& next_arrival,
                std::optional<Workload::Request> intruder);
  void StartCall(Workload::Request request, double due_s, std::optional<double> deadline_s,
                 bool intruder);
  void OnEnd(Call* call, RequestRecord record, bool intruder);

  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs_;
  size_t next_stub_ = 0;
  Clock::time_point start_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  uint32_t open_ = 0;  // without the intruder
  std::unordered_map<Call*, CallPtr> calls_;
  Result result_;
};

}  // namespace trireme
