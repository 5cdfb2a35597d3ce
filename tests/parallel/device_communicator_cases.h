#pragma once

#include <gtest/gtest.h>

#include "parallel/device_communicator.h"
#include "tests/parallel/test_device.h"

namespace trireme {

// What every device communicator must do, called by each rank of it; `device` is the rank's memory.
void CheckDeviceCommunicator(DeviceCommunicator& world, TestDevice& device);

}  // namespace trireme
