#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace trireme {

// What this host's kernel says of its network. Stateless, thread safe.

std::string HostName();

// The interface through which packets to `host_port` ("HOST:PORT", "[::1]:PORT") leave.
// INVALID_ARGUMENT: the address means nothing here. UNAVAILABLE: there is no route.
absl::StatusOr<std::string> InterfaceTowards(const std::string& host_port);

// It is there, switched on and connected.
bool InterfaceIsUp(const std::string& interface);
bool IsLoopbackInterface(const std::string& interface);

// 0: unknown, as of many virtual interfaces.
int LinkMbitPerSecond(const std::string& interface);
// "10000 Mbit/s", or "speed unknown".
std::string LinkSpeed(const std::string& interface);

// RDMA ports ("mlx5_0:1") that are active; of one interface only unless that is empty.
std::vector<std::string> RdmaPorts(const std::string& interface);

}  // namespace trireme
