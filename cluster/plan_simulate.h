#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "cluster/planner/report.h"
#include "parallel/weight_types.h"

namespace trireme {

// `trireme plan --simulate`: what the command line says beside the plan's own flags.
struct SimulateFlags {
  bool simulate = false;
  std::string layout;  // "tp=8,pp=2"; empty: the recommended one
  int replicas = 0;    // 0: as many as the cluster has devices for
  std::string trace;
  double rate = 0;
  uint64_t requests = 1000;
  std::string input_len;                // empty: what --context leaves beside the answer
  std::optional<int64_t> max_num_seqs;  // unset: the layout's
  double max_step_ms = 250;
  double step_overhead_us = 0;
  std::optional<double> slo_ttft_ms;
  std::optional<double> slo_tpot_ms;
  double mtbf_hours = 0;
  std::optional<double> recovery_s;
  double duration_s = 0;
  uint64_t seed = 0;
};

void DefineSimulation(CLI::App& command, SimulateFlags& flags);

// The report, text or one JSON object, of the subject's plan; `output_len` is a LengthDistribution.
// INVALID_ARGUMENT says what to change.
absl::StatusOr<std::string> SimulatePlan(const SimulateFlags& flags, const std::string& output_len,
                                         const PlanSubject& subject, const WeightTypes& types,
                                         const Plan& plan, bool json);

}  // namespace trireme
