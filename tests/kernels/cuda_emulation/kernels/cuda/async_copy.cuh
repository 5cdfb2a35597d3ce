#pragma once

// kernels/cuda/async_copy.cuh for the emulation: what was copied is there only after the wait.

#include "simt.h"

namespace trireme::cuda {

inline void CopyAsync16(void* shared, const void* global) {
  cuda_emulation::CopyLater(shared, global, 16, 16);
}
inline void CopyAsync16(void* shared, const void* global, bool valid) {
  cuda_emulation::CopyLater(shared, global, 16, valid ? 16 : 0);
}
inline void CommitCopies() { cuda_emulation::CommitCopies(); }
template <int kLeft>
void WaitCopies() {
  cuda_emulation::WaitCopies(kLeft);
}

}  // namespace trireme::cuda
