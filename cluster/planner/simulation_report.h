#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cluster/bench_serve_measures.h"
#include "cluster/planner/simulation.h"
#include "parallel/layout.h"

namespace trireme {

// What clients saw of a simulated cluster; the measures are those of bench_serve_measures.h.
struct ServedLoad {
  double duration_s = 0;  // from the first arrival to the last end
  uint64_t completed = 0;
  uint64_t failed = 0;
  double requests_per_s = 0;  // completed ones
  double output_tokens_per_s = 0;
  double good_requests_per_s = 0;  // goodput: completed within the limits
  double good_share = 0;           // of all requests
  Summary queue_ms;                // until first admitted to a step; of completed requests, as all
  Summary ttft_ms, tpot_ms, e2e_ms;
};

ServedLoad Measure(const SimulationResult& result, const GoodputLimits& limits);

// One run with what is different in it.
struct SimulatedCase {
  std::string name;
  int replicas = 1;
  bool failures = false;
  ServedLoad load = {};
  SimulationResult result = {};  // its `requests` may have been dropped
};

// What was simulated, beside the cases, of which the first is what was asked for.
struct SimulationSubject {
  std::string model;
  std::string device;
  int devices = 1;  // of the cluster
  ParallelLayout layout;
  SimulationOptions options;
  GoodputLimits limits;
  double mtbf_hours = 0;  // of one device; 0: none fails
  std::string recovery;   // how recovery_s came about
  std::string trace;      // where the requests came from
  uint64_t requests = 0;
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  double last_arrival_s = 0;
};

nlohmann::ordered_json SimulationJson(const SimulationSubject& subject,
                                      const std::vector<SimulatedCase>& cases);
// The same for people, a column for each case.
std::string SimulationText(const SimulationSubject& subject,
                           const std::vector<SimulatedCase>& cases);

}  // namespace trireme
