#pragma once

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/memory.h"
#include "parallel/communicator.h"
#include "parallel/device_communicator.h"
#include "parallel/wire.h"

namespace trireme {

// Connects the ranks of a group for what lies in their Ops' memory. Collective; the group outlives
// the result.
using DeviceLink = std::function<absl::StatusOr<std::unique_ptr<DeviceCommunicator>>(
    Communicator& group, LinkUse use)>;

// Through the group itself: without copies where the host reaches the memory, else by way of the
// host. `memory` outlives what the link makes.
DeviceLink LinkThroughHost(Memory& memory);

}  // namespace trireme
