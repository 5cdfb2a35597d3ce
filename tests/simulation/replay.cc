// simulate SEED [--trace]: one seed of the simulation. See scripts/simulate.sh.

#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/simulation/simulation.h"

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: simulate SEED [--trace]\n");
    return 2;
  }
  const uint64_t seed = std::strtoull(argv[1], nullptr, 10);
  const bool trace = argc > 2 && std::string(argv[2]) == "--trace";
  const absl::Status status = trireme::simulation::Simulation(seed, trace).Run();
  std::printf("seed %s: %s\n", argv[1], status.ok() ? "ok" : std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
