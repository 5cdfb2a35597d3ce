#include "parallel/shard_flags.h"

#include "absl/strings/str_join.h"
#include "parallel/layout.h"

namespace trireme {

void ShardFlags::Define(CLI::App& app, const std::string& group) {
  app.add_option("--stage-layers", stage_layers,
                 "layers of each pipeline stage, as 22,20,20,18; default: as even as can be where "
                 "stages are alike, else by their memory and speed")
      ->envname("TRIREME_STAGE_LAYERS")
      ->delimiter(',')
      ->expected(1, StageSplit::kStagesMax)
      ->allow_extra_args(false)
      ->check(CLI::Range(1, StageSplit::kLayersMax))
      ->group(group);
  app.add_option("--placement", placement,
                 "topology: ranks are numbered such that tensor parallel groups lie inside a host, "
                 "and there on GPUs with NVLink or in a NUMA node, and stages follow hosts; "
                 "as-given: as mpirun or --rank says, or the order of the hosts' names; so also "
                 "where any rank has --rank")
      ->envname("TRIREME_PLACEMENT")
      ->check(CLI::IsMember({"topology", "as-given"}))
      ->capture_default_str()
      ->group(group);
  app.add_option(
         "--load", load,
         "slices: each rank reads its own part of the weights; broadcast: rank 0 alone reads them "
         "and sends the others theirs, which need no more of a model's directory than config.json; "
         "mapped: as slices, but what the file cache has, CPUs pack when steps use it, so that the "
         "first answer comes sooner; the files must stay as they are")
      ->envname("TRIREME_LOAD")
      ->check(CLI::IsMember({"slices", "broadcast", "mapped"}))
      ->capture_default_str()
      ->group(group);
  app.add_flag("--verify-checksum", verify_checksum,
               "while loading, compare the model's files with SHA256SUMS beside them, as sha256sum "
               "writes it: once on each host that reads them")
      ->envname("TRIREME_VERIFY_CHECKSUM")
      ->group(group);
}

std::vector<std::string> ShardFlags::Arguments() const {
  std::vector<std::string> arguments = {"--placement", placement, "--load", load};
  if (!stage_layers.empty()) {
    arguments.insert(arguments.end(), {"--stage-layers", absl::StrJoin(stage_layers, ",")});
  }
  if (verify_checksum) arguments.emplace_back("--verify-checksum");
  return arguments;
}

}  // namespace trireme
