#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "trireme/v1/worker.pb.h"
#include "worker/model_runner.h"
#include "worker/rank_health.h"
#include "worker/stop_signal.h"

namespace trireme {

struct ControlOptions {
  std::string coordinator;  // host:port
  int64_t connect_timeout_ms = 30'000;
  StopSignal* stop_signal = nullptr;  // not owned; asks to drain
};

// What the rank tells of itself when it registers.
v1::Register MakeRegister(const RunnerOptions& options, const ModelRunner& runner, const Ops& ops,
                          const Communicator& world, const std::string& gang_id);

// Joins the coordinator and computes its step plans until it says Shutdown (returns OK), the stream
// ends (UNAVAILABLE) or a step fails (the step's error), and tells `health` how it goes. Blocks.
// Ends the process if the coordinator falls silent (see ControlStream::KeepLease).
absl::Status ServeCoordinator(const ControlOptions& options, const v1::Register& registration,
                              ModelRunner& runner, RankHealth& health);

}  // namespace trireme
