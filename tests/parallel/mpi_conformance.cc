// The conformance suite on MPI: every process of mpirun is one rank.

#include <gtest/gtest.h>

#include "tests/parallel/communicator_cases.h"

namespace {

trireme::Communicator* world = nullptr;

TEST(Mpi, Conforms) { trireme::CheckCommunicator(*world); }

}  // namespace

int main(int argc, char** argv) {
  auto communicator = trireme::MakeMpiCommunicator(&argc, &argv);
  if (!communicator.ok()) return 2;
  world = communicator->get();
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
