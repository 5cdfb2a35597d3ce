#pragma once

#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "trireme/v1/rendezvous.pb.h"
#include "worker/gang_world.h"

namespace trireme {

v1::Setting MakeSetting(std::string name, std::string value);
// One that may differ, but is then probably not meant to.
v1::Setting MakeSoftSetting(std::string name, std::string value);

// What tells one checkpoint from another: config.json and the index or file of the weights, or the
// GGUF file. Errors name the file.
// With `weights` false of a directory only config.json, which is all that a rank needs that does
// not read the weights.
absl::StatusOr<std::vector<v1::Setting>> ModelSettings(const std::string& model,
                                                       bool weights = true);

// Compares this rank's settings with rank 0's, of whatever version. Collective. Logs the soft ones
// that differ. FAILED_PRECONDITION, on the rank that differs, for the others; the message names
// both hosts and values. An error of `mine` is returned, too.
absl::Status CompareSettings(const absl::StatusOr<std::vector<v1::Setting>>& mine,
                             const GangWorld& world);

}  // namespace trireme
