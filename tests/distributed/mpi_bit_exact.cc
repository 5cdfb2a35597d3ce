// mpi_bit_exact MODEL TP PP: run by mpirun on TP x PP processes. Generates over MPI, each rank
// going ahead of the others as far as it can and all in lockstep, in one batch and in micro-batches
// that take turns; and, in each process, with a gang of one. The bits of every logit must be the
// same.

#include <cstdlib>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "parallel/communicator.h"
#include "tests/worker/gang_driver.h"

namespace trireme {
namespace {

std::vector<TestRequest> Requests() {
  std::vector<TestRequest> requests(3);
  for (int32_t i = 0; i < 45; ++i) requests[0].prompt.push_back((i * 37 + 11) % 150);
  for (int32_t i = 0; i < 9; ++i) requests[1].prompt.push_back((i * 53 + 5) % 150);
  for (int32_t i = 0; i < 20; ++i) requests[2].prompt.push_back((i * 41 + 3) % 150);
  requests[0].steps = 6;
  requests[2].steps = 7;
  requests[1].steps = 8;
  requests[1].start_after = 2;
  for (TestRequest& request : requests) request.sampling = GreedySampling();
  requests[2].sampling.set_temperature(0.8f);
  requests[2].sampling.set_repetition_penalty(1.2f);
  return requests;
}

absl::Status Compare(DriverOptions options, Communicator& world) {
  const auto sharded = DriveRank(options, Requests(), world);
  if (!sharded.ok()) return sharded.status();
  // Ranks of the last stage have logits, the first of them tokens.
  const int tp = options.layout.tp;
  const int first = tp * (options.layout.pp - 1);
  options.layout = {};
  const auto whole = DriveGang(options, Requests());
  if (!whole.ok()) return whole.status();
  for (size_t i = 0; i < whole->size(); ++i) {
    const TestOutput& want = (*whole)[i];
    const TestOutput& got = (*sharded)[i];
    const bool same = world.rank() == first  ? want == got
                      : world.rank() > first ? want.SameLogits(got)
                                             : got.tokens.empty() && got.logits.empty();
    if (!same) return absl::InternalError(absl::StrCat("request ", i, " differs"));
  }
  return absl::OkStatus();
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
  for (const bool lockstep : {true, false}) {
    for (const int64_t micro_batches : {1, 2, 3}) {
      options.lockstep = lockstep;
      options.micro_batches = micro_batches;
      const absl::Status status = Compare(options, **world);
      if (status.ok()) continue;
      std::cerr << "rank " << (*world)->rank() << ", lockstep " << lockstep << ", micro-batches "
                << micro_batches << ": " << status << "\n";
      std::_Exit(1);
    }
  }
  return 0;
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) { return trireme::Run(argc, argv); }
