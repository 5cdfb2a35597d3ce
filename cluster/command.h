#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace trireme {

// What a chosen command does; returns the exit code. Set by the command's callback, run by main
// after parsing, so that CLI11's exceptions stay in main.
using Command = std::function<int()>;

// Each adds its subcommand to `app`; `chosen` outlives the parse.
void AddRunCommand(CLI::App& app, Command& chosen);
void AddServeCommand(CLI::App& app, Command& chosen);
void AddGenerateCommand(CLI::App& app, Command& chosen);
void AddChatCommand(CLI::App& app, Command& chosen);
void AddNodesCommand(CLI::App& app, Command& chosen);
void AddDrainCommands(CLI::App& app, Command& chosen);
void AddPlanCommand(CLI::App& app, Command& chosen);
void AddStatsCommand(CLI::App& app, Command& chosen);
void AddBenchCommand(CLI::App& app, Command& chosen);
void AddBenchServeCommand(CLI::App& bench, Command& chosen);

}  // namespace trireme
