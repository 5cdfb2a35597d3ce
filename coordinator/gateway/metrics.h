#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/engine.h"

namespace prometheus {
class Collectable;
class Exposer;
}  // namespace prometheus

namespace trireme {

// The engine's numbers for Prometheus, as text over HTTP at /metrics. Every scrape asks the engine;
// nothing is counted twice. The engine must outlive it.
class MetricsEndpoint {
 public:
  // UNAVAILABLE if HOST:PORT cannot be listened on; port 0 takes a free one.
  static absl::StatusOr<std::unique_ptr<MetricsEndpoint>> Listen(const std::string& address,
                                                                 const Engine& engine);
  ~MetricsEndpoint();

  int port() const;

 private:
  MetricsEndpoint() = default;

  std::shared_ptr<prometheus::Collectable> collectable_;
  std::unique_ptr<prometheus::Exposer> exposer_;
};

}  // namespace trireme
