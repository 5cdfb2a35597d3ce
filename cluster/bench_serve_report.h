#pragma once

#include <iosfwd>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "cluster/bench_serve_measures.h"
#include "cluster/server_stats.h"

namespace trireme {

// What a run measured, as it is printed.
struct ServeOutcome {
  Report report;
  std::optional<StatsDelta> server;  // none from a coordinator without GetStats
  std::string no_server_reason;
  bool interrupted = false;
  nlohmann::ordered_json config;  // the flags, and the model that was served
};

// One object; a part that was not measured is null. Times are in the unit their names end with.
nlohmann::ordered_json ToJson(const ServeOutcome& outcome);

void PrintTable(const ServeOutcome& outcome, std::ostream& out);

}  // namespace trireme
