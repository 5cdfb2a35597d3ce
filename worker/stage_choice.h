#pragma once

#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "parallel/communicator.h"
#include "parallel/layout.h"
#include "worker/model_runner.h"

namespace trireme {

// How many layers each pipeline stage is to have where --stage-layers does not say it, from what
// all ranks tell of themselves before they load: the memory they have, their KV cache, and, where
// their devices or threads differ, the bandwidth of their memory, which is measured then. Rank 0
// reads the headers of the model's files, chooses (parallel/stage_split.h) and says why in a line
// of the log. Collective; the same on every rank. Empty: as even as can be, also where the model
// cannot be read, which loading it will say.
absl::StatusOr<StageSplit> ChooseStages(const RunnerOptions& options, Ops& ops,
                                        Communicator& world);

}  // namespace trireme
