// trireme: the command line.

#include <CLI/CLI.hpp>

#include "cluster/command.h"

int main(int argc, char** argv) {
  CLI::App app("Trireme: tensor, pipeline and data parallel inference of large language models.");
  app.set_version_flag("--version", "trireme " TRIREME_VERSION);
  app.require_subcommand(1);
  trireme::Command chosen;
  trireme::AddRunCommand(app, chosen);
  trireme::AddServeCommand(app, chosen);
  trireme::AddGenerateCommand(app, chosen);
  trireme::AddChatCommand(app, chosen);
  trireme::AddNodesCommand(app, chosen);
  trireme::AddDrainCommands(app, chosen);
  trireme::AddStatsCommand(app, chosen);
  trireme::AddPlanCommand(app, chosen);
  trireme::AddBenchCommand(app, chosen);
  CLI11_PARSE(app, argc, argv);
  return chosen();
}
