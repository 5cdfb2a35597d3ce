// Linked with a scheduler that has a planted bug: ends well if the simulation sees it.

#include <unistd.h>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/simulation/simulation.h"

namespace {

constexpr uint64_t kSeeds = 1000;
constexpr unsigned kPatienceSeconds = 60;

uint64_t seed = 0;

// A CHECK, a crash or a loop without end is a bug seen, too.
void OnSignal(int signal) {
  std::printf("caught at seed %llu: signal %d\n", static_cast<unsigned long long>(seed), signal);
  std::fflush(stdout);
  _exit(0);
}

// So is what a sanitizer sees.
void OnDeath() { OnSignal(0); }

}  // namespace

extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));

int main() {
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(OnDeath);
  for (const int signal : {SIGABRT, SIGSEGV, SIGALRM}) std::signal(signal, OnSignal);
  alarm(kPatienceSeconds);
  const absl::Status status = trireme::simulation::RunSeeds(1, kSeeds, seed);
  if (status.ok()) {
    std::printf("not caught within %llu seeds\n", static_cast<unsigned long long>(kSeeds));
    return 1;
  }
  std::printf("caught at %s\n", std::string(status.message()).c_str());
  return 0;
}
