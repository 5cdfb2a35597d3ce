#pragma once

// NCCL on emulated GPUs, in place of parallel/backends/nccl_library.h's: ranks are threads of this
// process, and a collective is work of the rank's stream, done when the streams of all ranks have
// come to it. So it waits behind earlier work, and is captured and replayed, as NCCL's is.
namespace trireme::nccl_emulation {

// Of all ranks, since the last Reset.
struct Calls {
  int made = 0;  // to NCCL
  int done = 0;  // on streams, replays too
};
Calls CallsSoFar();

// From now on the group's rank `rank` finds a peer lost; until Reset.
void Lose(int rank);

void Reset();

}  // namespace trireme::nccl_emulation
