#pragma once

#include <gtest/gtest.h>

#include "parallel/device_communicator.h"
#include "tests/parallel/fake_device.h"

namespace trireme {

// What every device communicator must do, called by each rank of it; `device` is the rank's memory.
void CheckDeviceCommunicator(DeviceCommunicator& world, FakeDevice& device);

}  // namespace trireme
