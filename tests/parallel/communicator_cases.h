#pragma once

#include <gtest/gtest.h>

#include "parallel/communicator.h"

namespace trireme {

// What every communicator must do, called by each rank of it with the same arguments. Failures are
// GoogleTest's (loopback) or counted by the caller (MPI: a process of its own per rank).
void CheckCommunicator(Communicator& world);

}  // namespace trireme
