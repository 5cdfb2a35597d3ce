#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "parallel/collective_watch.h"
#include "trireme/v1/worker.pb.h"
#include "worker/model_runner.h"
#include "worker/rank_health.h"
#include "worker/stop_signal.h"

namespace trireme {

struct ControlOptions {
  std::string coordinator;  // host:port
  int64_t connect_timeout_ms = 30'000;
  // How long ranks that have lost the coordinator keep what they have loaded, until it is back and
  // they all serve again; 0: they end.
  int64_t reconnect_timeout_s = 300;
  StopSignal* stop_signal = nullptr;       // not owned; asks to drain
  const CollectiveWatch* watch = nullptr;  // not owned; what the ranks exchange
  Communicator* ranks = nullptr;  // not owned; the gang's, for nothing else; null: a rank alone
  std::function<void()> on_ready = [] {};  // called when it serves for the first time
};

// What the rank tells of itself when it registers.
v1::Register MakeRegister(const RunnerOptions& options, const ModelRunner& runner, const Ops& ops,
                          const Communicator& world, const std::string& gang_id);

// Joins the coordinator and computes its step plans until it says Shutdown (returns OK), a step
// fails (the step's error), or it goes away and does not come back in time (UNAVAILABLE). If it
// does, all ranks of the gang join it anew as another gang, with nothing but their weights. Tells
// `health` how it goes. Blocks. Ends the process if the coordinator says that the gang is lost or
// falls silent while it computes, or if the ranks do not agree in time what to do without a
// coordinator (see ControlStream::KeepLease).
absl::Status ServeCoordinator(const ControlOptions& options, const v1::Register& registration,
                              ModelRunner& runner, RankHealth& health);

}  // namespace trireme
