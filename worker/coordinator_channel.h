#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace trireme {

// A connected channel to the coordinator at HOST:PORT, which may start later than we do.
// UNAVAILABLE if it cannot be reached in time. Thread safe.
absl::StatusOr<std::shared_ptr<grpc::Channel>> ConnectCoordinator(
    const std::string& address, std::chrono::milliseconds timeout);

// One that connects when it is used, with the first call or after a failure.
std::shared_ptr<grpc::Channel> MakeCoordinatorChannel(const std::string& address);

}  // namespace trireme
