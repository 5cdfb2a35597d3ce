// What must end a job of mpirun, one failure a run: `mpi_failures death`, `sizes` or
// `posted`.

#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "parallel/communicator.h"

namespace trireme {
namespace {

// The last rank exits as a crashed one does, while the others wait for it.
int Death(Communicator& world) {
  if (!world.Barrier().ok()) return 1;
  if (world.rank() == world.size() - 1) {
    std::puts("leaving");
    std::fflush(stdout);
    std::_Exit(7);
  }
  std::byte byte{};
  if (world.Recv({&byte, 1}, world.size() - 1).ok()) return 1;
  return 0;
}

// Rank 1 expects more bytes than rank 0 sends: an error is returned, MPI does not abort.
int Sizes(Communicator& world) {
  std::vector<std::byte> bytes(4 + static_cast<size_t>(world.rank()));
  if (world.rank() == 0) return world.Send(bytes, 1).ok() ? 0 : 1;
  const absl::Status status = world.Recv(bytes, 0);
  std::printf("%s\n", status.ToString().c_str());
  return absl::IsInternal(status) ? 0 : 1;
}

// The same for what was posted.
int Posted(Communicator& world) {
  std::vector<std::byte> bytes(4 + static_cast<size_t>(world.rank()));
  if (world.rank() == 0) return world.Post(bytes, 1).ok() ? 0 : 1;
  const absl::Status status = world.Take(bytes, 0);
  std::printf("%s\n", status.ToString().c_str());
  return absl::IsInternal(status) ? 0 : 1;
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  const auto world = trireme::MakeMpiCommunicator(&argc, &argv);
  if (!world.ok() || argc != 2) return 2;
  const std::string_view failure = argv[1];
  if (failure == "death") return trireme::Death(**world);
  return failure == "sizes" ? trireme::Sizes(**world) : trireme::Posted(**world);
}
