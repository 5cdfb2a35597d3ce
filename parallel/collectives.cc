#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "parallel/communicator.h"

namespace trireme {

absl::Status Communicator::AllReduceSum(std::span<float> data) {
  const int ranks = size();
  if ((ranks & (ranks - 1)) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("AllReduceSum needs a power of two of ranks, not ", ranks));
  }
  if (ranks == 1) return absl::OkStatus();
  scratch_.resize(data.size());
  // After level l every rank holds the sum of its block of 2^(l+1) ranks: a subtree of the one
  // tree.
  for (int step = 1; step < ranks; step *= 2) {
    const int peer = rank() ^ step;
    RETURN_IF_ERROR(
        SendRecv(std::as_bytes(data), std::as_writable_bytes(std::span(scratch_)), peer));
    // The lower ranks' sum stays on the left, although IEEE addition commutes: it does not for
    // NaNs.
    if (rank() < peer) {
      for (size_t i = 0; i < data.size(); ++i) data[i] = data[i] + scratch_[i];
    } else {
      for (size_t i = 0; i < data.size(); ++i) data[i] = scratch_[i] + data[i];
    }
  }
  return absl::OkStatus();
}

}  // namespace trireme
