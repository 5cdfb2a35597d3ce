#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "trireme/v1/worker.pb.h"

namespace trireme {

// What decides the bits of an answer beside the request. On CPUs every layout and instruction set
// computes the same. On GPUs gangs of one model of GPU and one tensor parallel size do; those with
// unlike GPUs also need the same GPU and layers at each rank. Which of its host's GPUs a rank has
// makes no difference. Ranks are by number, all of a gang.

// Gangs with equal descriptions answer alike.
std::string DescribeBits(const std::vector<v1::Register>& ranks);

// FAILED_PRECONDITION, with what differs, if the rank's gang cannot answer as `first` does.
absl::Status CheckSameBits(const v1::Register& rank, const std::vector<v1::Register>& first);

}  // namespace trireme
