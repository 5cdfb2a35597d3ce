// mpi_bit_exact MODEL TP PP: run by mpirun on TP x PP processes. Generates greedily over MPI and,
// on rank 0's own threads, with a gang of one; the bits of every logit must be the same.

#include <cstdlib>
#include <iostream>

#include "parallel/communicator.h"
#include "tests/worker/gang_driver.h"

namespace trireme {
namespace {

std::vector<TestRequest> Requests() {
  std::vector<TestRequest> requests(2);
  for (int32_t i = 0; i < 45; ++i) requests[0].prompt.push_back((i * 37 + 11) % 150);
  for (int32_t i = 0; i < 9; ++i) requests[1].prompt.push_back((i * 53 + 5) % 150);
  requests[0].steps = 6;
  requests[1].steps = 8;
  requests[1].start_after = 2;
  for (TestRequest& request : requests) request.sampling = GreedySampling();
  return requests;
}

int Run(int argc, char** argv) {
  auto world = MakeMpiCommunicator(&argc, &argv);
  if (!world.ok() || argc != 4) {
    std::cerr << "usage: mpirun -np TPxPP mpi_bit_exact MODEL TP PP\n" << world.status() << "\n";
    return 2;
  }
  DriverOptions options{.model_dir = argv[1],
                        .layout = {.tp = std::atoi(argv[2]), .pp = std::atoi(argv[3])},
                        .threads = 1,
                        .chunk = 16};
  const auto sharded = DriveRank(options, Requests(), **world);
  if (!sharded.ok()) {
    std::cerr << "rank " << (*world)->rank() << ": " << sharded.status() << "\n";
    std::_Exit(1);
  }
  options.layout = {};
  const auto whole = DriveGang(options, Requests());
  if (!whole.ok()) {
    std::cerr << whole.status() << "\n";
    return 1;
  }
  const bool has_logits = !sharded->front().logits.empty();
  for (size_t i = 0; i < whole->size(); ++i) {
    const bool same =
        has_logits ? (*whole)[i] == (*sharded)[i] : (*whole)[i].tokens == (*sharded)[i].tokens;
    if (!same) {
      std::cerr << "rank " << (*world)->rank() << ": request " << i << " differs\n";
      return 1;
    }
  }
  return 0;
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) { return trireme::Run(argc, argv); }
